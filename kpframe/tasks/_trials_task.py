"""A task made of trials that one has: a training set and a test set."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from kpframe.errors import ArgumentError, DtypeError, ShapeError, mismatch, shown, whole
from kpframe.tasks._task import SPLITS, Split, Task, Trials, check_split, seeded_generator


class TrialsTask(Task):
    """Trials of one's own as a task, from which ``sample`` draws without replacement::

        train = Trials.from_tensors(x, y)
        task = TrialsTask(train, 0.2)  # a fifth of the trials, drawn by the seed, is for testing
        task = TrialsTask(train, Trials.from_tensors(x_test, y_test))

    The loss is ``"cross_entropy"`` where targets are classes, else ``"mse"``.

    Args:
        train: the trials to learn from.
        test: those to test on, or the share of ``train`` that is held out: rounded to a whole number of
            trials, at least one.
        output_size: the number of classes, where the largest one that is scored does not tell it.
        seed: seed of the held-out trials, and of those that are drawn without a generator.

    Raises:
        ArgumentError: for a share outside of (0, 1) or that leaves nothing to learn from, for fewer outputs
            than classes, and where no step is scored.
        ShapeError, DtypeError: for test trials that are unlike the training trials.
    """

    def __init__(
        self, train: Trials, test: Trials | float, *, output_size: int | None = None, seed: int = 0
    ) -> None:
        _check_trials(train)
        classes = not train.targets.is_floating_point()
        if isinstance(test, Trials):
            _check_alike(train, test)
        kept = train.to("cpu")
        if isinstance(test, Trials):
            split = {"train": kept, "test": test.to("cpu")}
        else:
            split = _held_out(kept, test, seed)
        for name, trials in split.items():
            if not bool(trials.scored.any()):
                raise ArgumentError(mismatch(f"{name} trials", "at least one scored step", "none"))
        super().__init__(
            input_size=kept.inputs.shape[2],
            output_size=_output_size(split.values(), output_size) if classes else _width(kept, output_size),
            loss="cross_entropy" if classes else "mse",
            seed=seed,
        )
        self._split = split

    def num_trials(self, split: Split = "train") -> int:
        """Return the number of trials in ``split``."""
        return self._split[check_split(split)].num_trials

    def dataset(
        self,
        split: Split = "train",
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Trials:
        """Return every trial of a split, in the order in which they were given."""
        return self._split[check_split(split)].to(device=device, dtype=dtype or torch.get_default_dtype())

    def draw(self, batch_size: int, generator: torch.Generator, split: Split) -> Trials:
        """Return ``batch_size`` different trials of a split, in random order.

        Raises:
            ArgumentError: for more than there are.
        """
        trials = self._split[split]
        if batch_size > trials.num_trials:
            expected = f"at most {trials.num_trials}, the trials of the {split} split"
            raise ArgumentError(mismatch("batch_size", expected, batch_size))
        return trials.select(torch.randperm(trials.num_trials, generator=generator)[:batch_size])

    def __repr__(self) -> str:
        counts = ", ".join(f"{name}={trials.num_trials}" for name, trials in self._split.items())
        return f"TrialsTask({counts}, loss={self.loss!r}, I={self.input_size}, O={self.output_size})"


def _check_trials(value: object) -> None:
    if not isinstance(value, Trials):
        expected = "Trials, as Trials.from_tensors(x, y) makes them"
        raise ArgumentError(mismatch("train", expected, type(value).__name__))


def _check_alike(train: Trials, test: Trials) -> None:
    """Raise unless two sets of trials have the same inputs and targets but for trials and steps."""
    for name in ("inputs", "targets"):
        own, other = getattr(train, name), getattr(test, name)
        if other.dtype != own.dtype:
            raise DtypeError(mismatch(f"test: {name}", f"{own.dtype}, as of train", other.dtype))
        if other.shape[2:] != own.shape[2:]:
            expected = f"width {own.shape[2]}, as of train"
            raise ShapeError(mismatch(f"test: {name}", expected, other.shape[2]))


def _held_out(trials: Trials, share: object, seed: int) -> dict[str, Trials]:
    """Return the splits that a share of the trials for testing makes, each in the order of the trials."""
    expected = "Trials, or a share in (0, 1) of those to learn from"
    if not isinstance(share, float) or not 0 < share < 1:
        raise ArgumentError(mismatch("test", expected, shown(share)))
    count = max(1, round(share * trials.num_trials))
    if count >= trials.num_trials:
        expected = f"a share that leaves some of {trials.num_trials} trials to learn from"
        raise ArgumentError(mismatch("test", expected, share))
    generator = seeded_generator(seed, len(SPLITS))  # apart from the splits' own streams
    order = torch.randperm(trials.num_trials, generator=generator, device="cpu")
    test, train = order[:count].sort().values, order[count:].sort().values
    return {"train": trials.select(train), "test": trials.select(test)}


def _output_size(splits: Iterable[Trials], given: int | None) -> int:
    """Return the number of classes: what was given, or what the scored ones tell."""
    least = max(int(trials.targets[trials.scored].max()) for trials in splits) + 1
    if given is None:
        return least
    return whole(
        given, "output_size", least, expected=f"a whole number >= {least}, the classes of the trials"
    )


def _width(trials: Trials, given: int | None) -> int:
    own = trials.targets.shape[2]
    if given is not None:
        whole(given, "output_size", own, own, expected=f"{own}, the width of the targets")
    return own
