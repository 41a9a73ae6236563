"""Backpropagation through time."""

from __future__ import annotations

from kpframe import LearningRule, Update


class BPTT(LearningRule):
    """Backpropagation through time (Werbos 1990): nothing is replaced, ``g = J* P* Err``.

    The update is the exact gradient, and ``Phi_rule`` is Phi itself. Cost: one backward scan and one
    product with ``J*``.
    """

    exact = True

    def change(self, update: Update) -> Update:
        """Return the update as it is."""
        return update
