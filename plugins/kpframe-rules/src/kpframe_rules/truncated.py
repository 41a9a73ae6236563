"""Truncated backpropagation through time."""

from __future__ import annotations

from kpframe import LearningRule, Update
from kpframe.flow import WindowedPropagator
from kpframe.plugin import takes_settings
from kpframe_rules.specs_structural import TruncatedBPTTSettings


class TruncatedBPTT(LearningRule):
    """The error travels a limited number of steps back (Williams & Peng 1990, Neural Computation 2:490).

    ``mode="sliding"``: each step's error reaches the ``window`` steps that end with its own,
    ``P_k = Sum_{j<k} (A Z)^j``; ``k = 1`` is ``P = I``, ``k >= T`` is P, and ``P - P_k = (A Z)^k P``.
    Cost: ``k - 1`` products with ``A*`` over all steps at once for a short window; one scan for
    ``k >= T``, and one with ``T - k + 1`` vectors riding where that is less. A general A has no form whose
    cost does not grow with k: what a window drops, ``(A Z)^k P``, takes as many products as what it keeps.

    ``mode="chunked"``: the error stops at the starts ``offset, offset + window, ...`` of chunks, as
    ``detach()`` does: ``A_t := 0`` there. The mean over the k offsets is ``Sum_{j<k} (1 - j/k) (A Z)^j``.
    Step 0 is never cut.
    Cost: one backward scan and one product with ``J*``.

    ``mode="k1k2"``: every ``k1`` steps, the errors of the last k1 steps go back through the last ``k2``
    (the paper's BPTT(h; h') with h = k2, h' = k1): those of steps ``m k1 .. (m+1) k1 - 1`` go as far as
    step ``(m+1) k1 - k2``. ``(1, k)`` is the sliding window and ``(k, k)`` are chunks. Cost: one backward
    scan in which ``ceil(k2 / k1)`` vectors ride.

    In all modes a trainable initial state is reached from the first step by all of ``A_1``, as the parameters
    of that step are: by the errors whose window or chunk has the first step in it.

    Raises:
        SettingsError, ArgumentError: for an unknown mode, a number out of bounds, or one that the mode does
            not take.
    """

    @takes_settings(TruncatedBPTTSettings)
    def __init__(self, settings: TruncatedBPTTSettings) -> None:
        self.window, self.mode, self.offset = settings.window, settings.mode, settings.offset
        self.k1, self.k2 = settings.k1, settings.k2

    def change(self, update: Update) -> Update:
        """Return the update with a truncated propagator."""
        if self.window is None:
            assert self.k1 is not None  # checked on construction
            assert self.k2 is not None
            return _blocked(update, self.k1, self.k2)
        if self.mode == "chunked":
            return update.replace(P=update.propagator.chunked(self.window, self.offset))
        return update.replace(P=update.propagator.truncated(self.window))

    def __repr__(self) -> str:
        if self.mode == "k1k2":
            return f"TruncatedBPTT(mode='k1k2', k1={self.k1}, k2={self.k2})"
        return f"TruncatedBPTT(window={self.window}, mode={self.mode!r}, offset={self.offset})"


def _blocked(update: Update, k1: int, k2: int) -> Update:
    if k1 == 1:
        return update.replace(P=update.propagator.truncated(k2))
    if k1 == k2:
        return update.replace(P=update.propagator.chunked(k1))
    starts = [max(0, (t // k1 + 1) * k1 - k2) for t in range(update.A.steps)]
    return update.replace(P=WindowedPropagator(update.A, starts, name=f"P_({k1},{k2})"))
