"""Truncated backpropagation through time."""

from __future__ import annotations

from kpframe import LearningRule, Update
from kpframe.errors import ArgumentError, mismatch


class TruncatedBPTT(LearningRule):
    """The error travels a limited number of steps back (Williams & Peng 1990).

    ``mode="sliding"``: each step's error reaches the ``window`` steps that end with its own,
    ``P_k = Sum_{j<k} (A Z)^j``; ``k = 1`` is ``P = I``, ``k >= T`` is P, and ``P - P_k = (A Z)^k P``.
    Cost: ``min(k, T)`` products with ``A*`` over all steps at once, and one with ``J*``.

    ``mode="chunked"``: the error stops at the starts ``offset, offset + window, ...`` of chunks, as
    ``detach()`` does: ``A_t := 0`` there. The mean over the k offsets is ``Sum_{j<k} (1 - j/k) (A Z)^j``.
    A cut at step 0 changes nothing: a trainable initial state enters the first step through J.
    Cost: one backward scan and one product with ``J*``.

    Args:
        window: number of terms (sliding) or of steps in a chunk (chunked), >= 1.
        mode: ``"sliding"`` or ``"chunked"``.
        offset: step at which the first cut lies, in [0, window); chunked only.

    Raises:
        ArgumentError: for an unknown mode, a window below 1 or an offset that is not below the window.
    """

    def __init__(self, window: int, mode: str = "sliding", offset: int = 0) -> None:
        if isinstance(window, bool) or not isinstance(window, int) or window < 1:
            raise ArgumentError(mismatch("window", "a whole number >= 1", repr(window)))
        if mode not in ("sliding", "chunked"):
            raise ArgumentError(mismatch("mode", "'sliding' or 'chunked'", repr(mode)))
        bound = window if mode == "chunked" else 1
        if isinstance(offset, bool) or not isinstance(offset, int) or not 0 <= offset < bound:
            raise ArgumentError(mismatch("offset", f"a whole number in [0, {bound - 1}]", repr(offset)))
        self.window, self.mode, self.offset = window, mode, offset

    def change(self, update: Update) -> Update:
        """Return the update with a truncated propagator."""
        if self.mode == "sliding":
            return update.replace(P=update.propagator.truncated(self.window))
        return update.replace(P=update.propagator.chunked(self.window, self.offset))

    def __repr__(self) -> str:
        return f"TruncatedBPTT(window={self.window}, mode={self.mode!r}, offset={self.offset})"
