"""What a network is asked to do: ``Trials`` (one batch of data) and the abstract ``Task``.

A task's author writes one method, ``Task.draw``, a function of a random generator. Seeds, splits,
dtypes and devices are the base class's business, and the global random state is never touched.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
import torch
from attrs import evolve, field, frozen

from kpframe.errors import ArgumentError, DeviceError, DtypeError, NonFiniteError, ShapeError, mismatch, whole
from kpframe.operators._isolation import in_isolation, isolated
from kpframe.plugin._manager import create
from kpframe.tasks._own_data import read_own_data, where_non_finite

Loss: TypeAlias = Literal["cross_entropy", "mse"]
Split: TypeAlias = Literal["train", "test"]

LOSSES: tuple[str, ...] = get_args(Loss)
#: Names of the parts of a task's trials.
SPLITS: tuple[str, ...] = get_args(Split)


def _coordinates(given: Mapping[str, np.ndarray[Any, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    return dict(given)


@frozen(eq=False, repr=False)
class Trials:
    """One batch of ``B`` trials of at most ``T`` steps, checked when it is built.

    Attributes:
        inputs: ``[B, T, I]``, floating point and finite.
        targets: ``[B, T, O]`` of the inputs' dtype (regression), or ``[B, T]`` int64 classes. What
            stands at steps that are not scored has no effect.
        mask: ``[B, T]`` bool, the steps that exist. A trial starts at step 0 and is padded at its end.
        scored: ``[B, T]`` bool, the steps whose output counts in the loss; a subset of ``mask``.
        epoch: ``[B, T]`` strings, the name of the epoch at each step (``"stimulus"``, ``"padding"`` ...).
        trial: per-trial coordinates, name -> ``[B]`` (label, angle, delay ...).

    Raises:
        ShapeError, DtypeError, DeviceError, NonFiniteError, ArgumentError: naming the field, what was
            expected and what came.
    """

    inputs: torch.Tensor
    targets: torch.Tensor
    mask: torch.Tensor
    scored: torch.Tensor
    epoch: np.ndarray[Any, Any]
    trial: Mapping[str, np.ndarray[Any, Any]] = field(factory=dict, converter=_coordinates)

    def __attrs_post_init__(self) -> None:
        for name in ("inputs", "targets", "mask", "scored"):
            _check_tensor(name, getattr(self, name), self.inputs)
        shape = list(self.inputs.shape)
        if len(shape) != 3 or 0 in shape[:2]:
            raise ShapeError(mismatch("inputs", "shape [B, T, I] with B >= 1 and T >= 1", f"shape {shape}"))
        if not self.inputs.is_floating_point():
            raise DtypeError(mismatch("inputs", "a floating-point dtype", self.inputs.dtype))
        if not bool(self.inputs.isfinite().all()):
            raise NonFiniteError(mismatch("inputs", "finite values", where_non_finite(self.inputs)))
        self._check_targets()
        for name in ("mask", "scored"):
            steps = getattr(self, name)
            if steps.dtype != torch.bool:
                raise DtypeError(mismatch(name, "dtype torch.bool", steps.dtype))
            if list(steps.shape) != shape[:2]:
                raise ShapeError(mismatch(name, f"shape {shape[:2]}", f"shape {list(steps.shape)}"))
        ragged = ~self.mask[:, 0] | (self.mask[:, 1:] & ~self.mask[:, :-1]).any(dim=1)
        if bool(ragged.any()):
            trial = int(ragged.nonzero()[0])
            raise ArgumentError(
                mismatch(
                    "mask", "True from step 0 to a trial's end, then False", f"another order in trial {trial}"
                )
            )
        if bool((self.scored & ~self.mask).any()):
            trial, step = (self.scored & ~self.mask).nonzero()[0].tolist()
            raise ArgumentError(
                mismatch("scored", "a subset of mask", f"a padded step at trial {trial}, step {step}")
            )
        self._check_coordinates(shape)
        if self.targets.is_floating_point() and not bool(self.targets[self.scored].isfinite().all()):
            counted = self.targets.masked_fill(~self.scored[..., None], 0)
            raise NonFiniteError(
                mismatch("targets", "finite values at scored steps", where_non_finite(counted))
            )

    def _check_targets(self) -> None:
        targets, steps = self.targets, list(self.inputs.shape[:2])
        if targets.is_floating_point():
            if targets.ndim != 3 or list(targets.shape[:2]) != steps:
                raise ShapeError(mismatch("targets", f"shape {steps} + [O]", f"shape {list(targets.shape)}"))
            if targets.dtype != self.inputs.dtype:
                raise DtypeError(mismatch("targets", f"the inputs' dtype {self.inputs.dtype}", targets.dtype))
        elif targets.dtype != torch.int64:
            raise DtypeError(mismatch("targets", "a floating-point dtype or torch.int64", targets.dtype))
        elif list(targets.shape) != steps:
            raise ShapeError(mismatch("targets", f"classes of shape {steps}", f"shape {list(targets.shape)}"))

    def _check_coordinates(self, shape: list[int]) -> None:
        if not isinstance(self.epoch, np.ndarray) or self.epoch.dtype.kind != "U":
            got = getattr(self.epoch, "dtype", type(self.epoch).__name__)
            raise DtypeError(mismatch("epoch", "a numpy array of strings", got))
        if list(self.epoch.shape) != shape[:2]:
            raise ShapeError(mismatch("epoch", f"shape {shape[:2]}", f"shape {list(self.epoch.shape)}"))
        for name, values in self.trial.items():
            if np.shape(values) != (shape[0],):
                raise ShapeError(
                    mismatch(f"trial[{name!r}]", f"shape {shape[:1]}", f"shape {list(np.shape(values))}")
                )

    @classmethod
    def from_tensors(
        cls,
        x: torch.Tensor | np.ndarray[Any, Any],
        y: torch.Tensor | np.ndarray[Any, Any],
        mask: torch.Tensor | np.ndarray[Any, Any] | None = None,
        scored: torch.Tensor | np.ndarray[Any, Any] | None = None,
        *,
        trial: Mapping[str, np.ndarray[Any, Any]] | None = None,
    ) -> Trials:
        """Return trials of one's own data, tensors or NumPy arrays::

            Trials.from_tensors(x, y)  # every step exists and, as y has a target for each, is scored
            Trials.from_tensors(x, labels)  # one class a trial: the last step is scored
            Trials.from_tensors(x, labels, lengths)  # trials of several lengths, padded at their end

        Nothing is cast but classes to int64, and nothing is moved: arrays go beside ``x``. What stands at
        padded steps of ``x`` is replaced by 0, so that it may be NaN. Epochs are named ``"response"`` where
        a step is scored, ``"trial"`` and ``"padding"``.

        Args:
            x: inputs ``[B, T, I]``, floating point.
            y: targets: numbers ``[B, T, O]`` of the dtype of ``x``, or classes ``[B, T]`` of any integer
                dtype. Or one target a trial, numbers ``[B, O]`` or classes ``[B]``, which stands at all steps
                and is scored at the trial's last one.
            mask: the steps that exist, bool ``[B, T]``, or the number of them, integers ``[B]``; all when
                left out.
            scored: bool ``[B, T]``, the steps whose output counts; all that exist, or the last of each trial,
                when left out.
            trial: per-trial coordinates, name -> ``[B]``. Classes ``[B]`` become the coordinate ``label``.

        Raises:
            ShapeError, DtypeError, DeviceError, NonFiniteError, ArgumentError: naming the argument, what was
                expected and what came; also for numbers ``[B, T]``, which could be T outputs of a trial, and
                for negative classes at scored steps.

        Examples:
            >>> import kpframe, torch
            >>> trials = kpframe.Trials.from_tensors(torch.zeros(3, 5, 1), torch.tensor([0, 1, 1]))
            >>> trials.targets.shape, trials.scored.sum(1).tolist()
            (torch.Size([3, 5]), [1, 1, 1])
        """
        own = read_own_data(x, y, mask, scored)
        labels = {} if own.labels is None else {"label": own.labels}
        return cls(own.inputs, own.targets, own.mask, own.scored, own.epoch, {**labels, **(trial or {})})

    def __repr__(self) -> str:
        batch, time, width = self.inputs.shape
        return (
            f"Trials(B={batch}, T={time}, I={width}, scored={int(self.scored.sum())} of {batch * time} steps)"
        )

    @property
    def num_trials(self) -> int:
        """The number of trials, ``B``."""
        return self.inputs.shape[0]

    @property
    def lengths(self) -> torch.Tensor:
        """The number of existing steps of each trial, ``[B]`` int64."""
        return self.mask.sum(dim=1)

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Trials:
        """Return the trials on ``device``, inputs and regression targets in ``dtype`` (None: unchanged).

        Raises:
            DtypeError: if ``dtype`` is not floating point.
        """
        if dtype is not None and not dtype.is_floating_point:
            raise DtypeError(mismatch("dtype", "a floating-point dtype", dtype))
        regression = self.targets.is_floating_point()
        return evolve(
            self,
            inputs=self.inputs.to(device=device, dtype=dtype),
            targets=self.targets.to(device=device, dtype=dtype if regression else None),
            mask=self.mask.to(device=device),
            scored=self.scored.to(device=device),
        )

    def select(self, indices: Any) -> Trials:
        """Return the trials at ``indices``: integers, a slice, or one bool per trial; ``T`` stays.

        Raises:
            ArgumentError: if an index does not exist or none is left.
        """
        if isinstance(indices, torch.Tensor):
            indices = indices.cpu().numpy()
        try:
            rows = np.atleast_1d(np.arange(self.num_trials)[indices]).copy()  # torch has no negative strides
        except IndexError as error:
            raise ArgumentError(mismatch("indices", f"trials 0 to {self.num_trials - 1}", error)) from error
        if rows.ndim != 1 or rows.size == 0:
            raise ArgumentError(
                mismatch("indices", "one axis with at least one trial", f"shape {list(rows.shape)}")
            )
        at = torch.from_numpy(rows).to(self.inputs.device)
        return evolve(
            self,
            inputs=self.inputs[at],
            targets=self.targets[at],
            mask=self.mask[at],
            scored=self.scored[at],
            epoch=self.epoch[rows],
            trial={name: np.asarray(values)[rows] for name, values in self.trial.items()},
        )


class Task(ABC):
    """A source of trials; a subclass writes ``draw``.

    Attributes:
        input_size: number of input channels, ``I``.
        output_size: number of outputs or classes, ``O``.
        loss: ``"cross_entropy"`` or ``"mse"``.
        seed: seed of the trials that are drawn without a generator.

    Raises:
        ArgumentError: for a size below 1, an unknown loss or a negative seed.
    """

    def __init__(self, *, input_size: int, output_size: int, loss: Loss, seed: int = 0) -> None:
        input_size, output_size = whole(input_size, "input_size"), whole(output_size, "output_size")
        if loss not in LOSSES:
            raise ArgumentError(mismatch("loss", f"one of {', '.join(LOSSES)}", repr(loss)))
        self.input_size = input_size
        self.output_size = output_size
        self.loss: Loss = loss
        self.seed = whole(seed, "seed", 0)
        # One stream per split: looking at test trials leaves the training trials that follow unchanged.
        self._streams = {split: seeded_generator(seed, place) for place, split in enumerate(SPLITS)}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if "dataset" in vars(cls):  # what a caller has switched on in torch changes nothing in it
            cls.dataset = in_isolation(cls.dataset)  # type: ignore[method-assign]

    @abstractmethod
    def draw(self, batch_size: int, generator: torch.Generator, split: Split) -> Trials:
        """Return ``batch_size`` trials of ``split``, by ``generator`` alone, in float64 on the CPU."""

    def sample(
        self,
        batch_size: int,
        *,
        generator: torch.Generator | int | None = None,
        split: Split = "train",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Trials:
        """Return ``batch_size`` random trials.

        Args:
            batch_size: number of trials, ``B``.
            generator: a seed (the same seed gives the same trials, other ones in each split), a CPU
                generator, which advances, or None for the task's own stream, which advances.
            split: ``"train"`` or ``"test"``.
            dtype: of inputs and regression targets; None for torch's default. The draw itself does not
                depend on it.
            device: where the trials go; None for the CPU.

        Raises:
            ArgumentError, DeviceError, DtypeError: naming the argument, what was expected and what came.
        """
        batch_size = whole(batch_size, "batch_size")
        place = SPLITS.index(check_split(split))
        if generator is None:
            generator = self._streams[split]
        elif not isinstance(generator, torch.Generator):
            generator = seeded_generator(generator, place)
        elif generator.device.type != "cpu":
            raise DeviceError(
                mismatch("generator", "a CPU generator (trials are moved later)", generator.device)
            )
        with isolated(torch.device("cpu"), "sample"):
            trials = self.draw(batch_size, generator, split)
            return trials.to(device=device, dtype=dtype or torch.get_default_dtype())

    def dataset(
        self,
        split: Split = "train",
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Trials:
        """Return every trial of a finite data set, in a fixed order; see ``sample`` for the arguments.

        Raises:
            ArgumentError: if the task has no end of trials.
        """
        raise ArgumentError(f"dataset: {type(self).__name__} has no end of trials; draw some with sample()")

    def num_trials(self, split: Split = "train") -> int | None:
        """Return how many different trials ``split`` has, or None when there is no end of them."""
        return None


def seeded_generator(seed: int, *key: int) -> torch.Generator:
    """Return a CPU generator of its own for ``seed``; other ``key`` values give unrelated streams.

    Raises:
        ArgumentError: if ``seed`` is not a whole number >= 0.
    """
    seed = whole(seed, "seed", 0)
    # torch seeds its Mersenne twister with 32 bits only, so the words are mixed first.
    (word,) = np.random.SeedSequence([seed, *key]).generate_state(1)
    return torch.Generator().manual_seed(int(word))


def check_split(split: str) -> str:
    """Return ``split``; raises ``ArgumentError`` unless it is ``"train"`` or ``"test"``."""
    if split not in SPLITS:
        raise ArgumentError(mismatch("split", f"one of {', '.join(SPLITS)}", repr(split)))
    return split


def _check_tensor(name: str, tensor: object, inputs: object) -> None:
    if not isinstance(tensor, torch.Tensor):
        raise ShapeError(mismatch(name, "a tensor", type(tensor).__name__))
    if isinstance(inputs, torch.Tensor) and tensor.device != inputs.device:
        raise DeviceError(mismatch(name, f"the inputs' device {inputs.device}", tensor.device))


def create_task(name: str, /, **settings: Any) -> Task:
    """Return the task called ``name``, of its ``settings``; raises like ``create_model``.

    Examples:
        >>> import kpframe
        >>> task = kpframe.create_task("flip_flop")
        >>> task.sample(2, generator=0).inputs.shape
        torch.Size([2, 50, 3])
    """
    made: Task = create("task", name, settings, Task)
    return made
