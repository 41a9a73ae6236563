"""Truncated backpropagation through time."""

from __future__ import annotations

from kpframe import LearningRule, Update
from kpframe.errors import ArgumentError, mismatch, whole
from kpframe.flow import WindowedPropagator

MODES = ("sliding", "chunked", "k1k2")


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

    Args:
        window: number of terms (sliding) or of steps in a chunk (chunked), >= 1.
        mode: ``"sliding"``, ``"chunked"`` or ``"k1k2"``.
        offset: step at which the first cut lies, in [0, window); chunked only.
        k1: steps between two backward passes, >= 1; k1k2 only.
        k2: steps that a backward pass goes through, >= k1; k1k2 only.

    Raises:
        ArgumentError: for an unknown mode, a number out of bounds, or one that the mode does not take.
    """

    def __init__(
        self,
        window: int | None = None,
        mode: str = "sliding",
        offset: int = 0,
        k1: int | None = None,
        k2: int | None = None,
    ) -> None:
        if mode not in MODES:
            raise ArgumentError(mismatch("mode", f"one of {', '.join(map(repr, MODES))}", repr(mode)))
        if mode == "k1k2":
            _refuse("window", window, mode)
            k1 = whole(k1, "k1", expected=f"a whole number >= 1 with mode={mode!r}")
            k2 = whole(k2, "k2", k1, expected=f"a whole number >= {k1} (k1) with mode={mode!r}")
        else:
            _refuse("k1", k1, mode)
            _refuse("k2", k2, mode)
            window = whole(window, "window", expected=f"a whole number >= 1 with mode={mode!r}")
        bound = window if mode == "chunked" and window is not None else 1
        offset = whole(offset, "offset", 0, bound - 1)
        self.window, self.mode, self.offset, self.k1, self.k2 = window, mode, offset, k1, k2

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


def _refuse(argument: str, value: object, mode: str) -> None:
    if value is not None:
        raise ArgumentError(mismatch(argument, f"nothing with mode={mode!r}", repr(value)))
