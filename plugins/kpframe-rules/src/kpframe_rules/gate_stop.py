"""Paths that errors do not take: stopped gates, and h-detach."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import torch

from kpframe import Flow, LearningRule, Operator, Readout, StepJacobian, StochasticRule, Update
from kpframe.errors import UnsupportedError
from kpframe.plugin import takes_settings
from kpframe_rules.leak import DECLARE
from kpframe_rules.specs_structural import GateStopSettings, HDetachSettings


class GateStop(LearningRule):
    """Errors do not travel through some gates, or other paths of a step. Ours.

    The path is cut in A, as ``detach()`` on the state in that one product would do: ``paths=["z"]`` makes
    the update gate of a GRU a constant of the state, ``["weight_hh_l0"]`` leaves what goes around that
    weight (the cell path of an LSTM), ``["direct"]`` takes that away instead. The parameters of a stopped
    gate learn on, through J. With nothing cut it is backpropagation through time; with all recurrent weights
    cut, ``eprop`` with errors through the readout. A trainable initial state learns by the paths that are
    left in the first step. Cost: that of backpropagation through time.

    A path is named by a preactivation that the state reaches (``"r"``, ``"z"``), by a weight through which it
    does so, or ``"direct"``; ``*`` and ``?`` match as in file names.

    Raises:
        SettingsError: for a string in place of a list.
        ArgumentError: when it is applied, for a name that is no path of the model; lists those there are.
        UnsupportedError: when it is applied, for a model whose paths are not known apart.
    """

    @takes_settings(GateStopSettings)
    def __init__(self, settings: GateStopSettings) -> None:
        self.paths = settings.paths

    def change(self, update: Update) -> Update:
        """Return the update without the paths."""
        if not self.paths:
            return update
        return update.through(cut(update, self.paths, "gate_stop"), name=f"P[cut {', '.join(self.paths)}]")

    def __repr__(self) -> str:
        return f"GateStop(paths={list(self.paths)})"


class HDetach(StochasticRule):
    """h-detach (Arpit et al. 2018, ICLR 2019): at random steps, errors do not travel through the weights.

    Each step, for all trials alike, is cut with the given probability, independently of the others: there
    ``h_{t-1}`` is detached where a weight reads it, and only what goes around the weights (the cell path of
    an LSTM) is left; so is a trainable ``h_0`` in the first step. As each ``A_t`` is drawn by itself and no
    path takes one twice, the mean of the update is that of the mean step Jacobian, ``(1-p) A + p A_cut``, so
    that ``expectation`` is exact at any length. With probability 0 it is backpropagation through time, with 1
    ``eprop``. Cost: that of backpropagation through time.

    Raises:
        SettingsError: for a probability outside of [0, 1], an unusable seed, or a string in place of a list.
        ArgumentError, UnsupportedError: as ``gate_stop``.
    """

    @takes_settings(HDetachSettings)
    def __init__(self, settings: HDetachSettings) -> None:
        super().__init__(settings.seed)
        self.probability, self.paths = settings.probability, settings.paths

    def change(self, update: Update) -> Update:
        """Return the update with this seed's draw of cut steps."""
        time = update.A.steps
        at = (
            torch.rand(time, generator=self.generator(), dtype=torch.float64, device="cpu") < self.probability
        )
        return self._at(update, self._cut(update), at)

    def outcomes(self, update: Update) -> Iterator[tuple[float, Update]]:
        """Yield each choice of cut steps with its probability; the first step counts where h_0 learns."""
        p, without = self.probability, self._cut(update)
        first = [] if update.initial_state_parameters else [False]
        for at in product((False, True), repeat=update.A.steps - len(first)):
            probability = p ** sum(at) * (1 - p) ** (len(at) - sum(at))
            yield probability, self._at(update, without, torch.tensor([*first, *at], device="cpu"))

    def expectation(self, flow: Flow, readout: Readout | None = None) -> Operator:
        """Return the exact mean of the update operator, one scan with the mean step Jacobian."""
        update = Update.exact(flow, readout)
        p = self.probability
        mean = (1 - p) * update.A + p * self._cut(update)
        return update.through(mean, name="E[P_detach]").operator

    def _cut(self, update: Update) -> StepJacobian:
        return cut(update, self.paths, "h_detach")

    @staticmethod
    def _at(update: Update, without: StepJacobian, at: torch.Tensor) -> Update:
        return update.through(update.A.switched(without, at.to(update.A.device)), name="P_detach")

    def __repr__(self) -> str:
        paths = None if self.paths is None else list(self.paths)
        return f"HDetach(probability={self.probability}, paths={paths}, seed={self.seed})"


def cut(update: Update, paths: Sequence[str] | None, rule: str) -> StepJacobian:
    """Return the update's step Jacobian without some paths; padded steps still hold the state.

    None stands for all recurrent weights.

    Raises:
        UnsupportedError: for a model whose paths are not known apart.
        ArgumentError: for a name that is no path.
    """
    try:
        without = update.A.direct() if paths is None else update.A.cut(paths)
    except UnsupportedError as error:
        raise UnsupportedError(
            f"{rule} needs a model that knows its paths apart, one written as a SiteModel; got {update.A!r} "
            f"({update.A.method} form). {DECLARE}. snap1 and truncated_bptt work on any model"
        ) from error
    mask = update.flow.trajectory.mask
    return without if mask is None else without.switched(update.A, ~mask)
