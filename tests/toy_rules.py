"""Small learning rules that tests share: the exact one, one that is cut in time, and one uphill."""

from __future__ import annotations

from kpframe import LearningRule, Update


class Exact(LearningRule):
    """Backpropagation through time."""

    def change(self, update: Update) -> Update:
        return update


class Window(LearningRule):
    """Errors travel back by at most ``window`` steps."""

    def __init__(self, window: int = 2) -> None:
        self.window = window

    def change(self, update: Update) -> Update:
        return update.replace(P=update.propagator.truncated(self.window))


class Uphill(LearningRule):
    """The exact gradient with its sign turned."""

    def change(self, update: Update) -> Update:
        return update.replace(P=-update.P)
