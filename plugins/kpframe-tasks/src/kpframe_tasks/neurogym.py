"""The environments of neurogym as tasks: whole trials, padded and masked."""

from __future__ import annotations

import warnings
from types import ModuleType
from typing import Any

import numpy as np
import torch

from kpframe.errors import ArgumentError, MissingDependencyError, closest, mismatch
from kpframe.plugin import takes_settings
from kpframe.tasks import Loss, Split, Task, Trials
from kpframe_tasks import NeurogymSettings

BETWEEN, PADDING = "between", "padding"


class Neurogym(Task):
    """Trials of an environment of neurogym, with what is right at each step as the target.

    Inputs ``[B, T, I]``: the environment's observations, a step every ``dt`` ms, by default the environment's
    own. Targets: its ground truth, ``[B, T]`` int64 with ``loss = "cross_entropy"`` where its actions are
    discrete (0 is fixation, in most), or ``[B, T, O]`` with ``"mse"`` where they are a box. Every existing
    step is scored. A batch holds whole trials, each from its own first step; shorter ones are padded with
    zeros to the longest of the batch, or to ``steps``. Wrappers of an environment are left out. Epochs: the
    name of the environment's period at each step, of the later one where two overlap, ``"between"`` in
    none, and ``"padding"``. Coordinates: what the environment says of every trial as a number or a name
    (``ground_truth``, ``coh`` ...).

    Each draw makes the environment anew and seeds it from the generator, so that trials depend on nothing
    else; in environments whose trials follow one upon another the sequence starts again with each batch.

    Source: Molano-Mazon, Barbosa, Pastor-Ciurana et al. (2022), NeuroGym: an open resource for developing and
    sharing neuroscience tasks, doi:10.31234/osf.io/aqc9n. Its own ``Dataset`` joins trials to one stream and
    cuts it anywhere; trials here are never cut.

    Raises:
        MissingDependencyError: without neurogym; ``pip install 'kpframe-tasks[neurogym]'``.
        ArgumentError: for an unknown environment, one without ground truth, or a trial longer than ``steps``.
        SettingsError: for a setting out of bounds.
    """

    @takes_settings(NeurogymSettings)
    def __init__(self, settings: NeurogymSettings) -> None:
        self.environment, self.dt, self.steps = settings.environment, settings.dt, settings.steps
        one = self._environment()
        try:
            one.seed(0)
            one.new_trial()
            width, truth = one.ob.shape[1:], one.gt
        except (AttributeError, TypeError, ValueError) as error:
            expected = "an environment with observations and ground truth at each step"
            raise ArgumentError(
                mismatch("environment", expected, f"{self.environment!r} ({error})")
            ) from error
        if len(width) != 1 or truth.ndim > 2 or not len(truth):
            expected = f"an environment of channels, with trials of a step or more at dt={one.dt}"
            got = f"{self.environment!r} with observations {list(one.ob.shape)}, actions {list(truth.shape)}"
            raise ArgumentError(mismatch("environment", expected, got))
        loss: Loss = "cross_entropy" if truth.ndim == 1 else "mse"
        size = int(one.action_space.n) if truth.ndim == 1 else truth.shape[1]
        super().__init__(input_size=width[0], output_size=size, loss=loss, seed=settings.seed)

    def draw(self, batch_size: int, generator: torch.Generator, split: Split) -> Trials:
        """Return random trials; the splits differ in their random stream only."""
        environment = self._environment()
        environment.seed(int(torch.randint(2**31, (1,), generator=generator)))
        drawn = [_trial(environment) for _ in range(batch_size)]
        longest = max(len(inputs) for inputs, *_ in drawn)
        if self.steps and longest > self.steps:
            expected = f"at least the longest trial of the batch, {longest}, or 0"
            raise ArgumentError(mismatch("steps", expected, self.steps))
        shape = (batch_size, self.steps or longest)
        inputs = torch.zeros(*shape, self.input_size, dtype=torch.float64)
        classes = self.loss == "cross_entropy"
        targets = torch.zeros(shape, dtype=torch.int64)
        if not classes:
            targets = torch.zeros(*shape, self.output_size, dtype=torch.float64)
        mask = torch.zeros(shape, dtype=torch.bool)
        names = max((name for *_, epoch, _ in drawn for name in epoch), key=len)
        epochs = np.full(shape, PADDING, dtype=f"<U{max(len(names), len(PADDING))}")
        for b, (seen, right, epoch, _) in enumerate(drawn):
            length = len(seen)
            inputs[b, :length] = torch.from_numpy(seen.astype(np.float64))
            targets[b, :length] = torch.from_numpy(right.astype(np.int64 if classes else np.float64))
            mask[b, :length] = True
            epochs[b, :length] = epoch
        return Trials(
            inputs=inputs,
            targets=targets,
            mask=mask,
            scored=mask.clone(),
            epoch=epochs,
            trial=_coordinates([said for *_, said in drawn]),
        )

    def _environment(self) -> Any:
        """Return a new environment, without the wrappers that stand between it and its trials."""
        package = _neurogym()
        from neurogym.envs.registration import ALL_EXTENDED_ENVS as known

        if self.environment not in known:
            expected = f"an environment of neurogym {package.__version__}"
            got = f"{self.environment!r}{closest(self.environment, known)}"
            raise ArgumentError(mismatch("environment", expected, got))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # that it cannot be rendered
            try:
                made = package.make(self.environment, **({"dt": self.dt} if self.dt else {}))
            except (TypeError, ValueError) as error:  # it wants other arguments, or a smaller dt
                expected = "an environment that can be made with dt, or nothing, alone"
                got = f"{self.environment!r} with dt={self.dt} ({error})"
                raise ArgumentError(mismatch("environment", expected, got)) from error
        return made.unwrapped


def _neurogym() -> ModuleType:
    try:
        import neurogym
    except ImportError as error:
        raise MissingDependencyError(
            f"the task 'neurogym' needs neurogym ({error}): pip install 'kpframe-tasks[neurogym]'"
        ) from error
    return neurogym  # type: ignore[no-any-return]


def _trial(environment: Any) -> tuple[Any, Any, list[str], dict[str, Any]]:
    """Return a new trial's observations, ground truth, period at each step, and description."""
    environment.start_ind.clear()  # a trial may leave out a period of the one before
    environment.end_ind.clear()
    said = environment.new_trial()
    epoch = [BETWEEN] * len(environment.ob)
    for name in sorted(environment.start_ind, key=environment.start_ind.__getitem__):
        steps = range(environment.start_ind[name], min(environment.end_ind[name], len(epoch)))
        epoch[steps.start : steps.stop] = [name] * len(steps)
    return environment.ob.copy(), environment.gt.copy(), epoch, dict(said or {})


def _coordinates(said: list[dict[str, Any]]) -> dict[str, np.ndarray[Any, Any]]:
    """Return what is a number, a truth value or a text in every trial, as ``[B]``."""
    found = {}
    for name in said[0]:
        values = [one.get(name) for one in said]
        if all(isinstance(value, bool | int | float | str | np.generic) for value in values):
            found[str(name)] = np.array(values)
    return found
