"""What tests of whole runs share."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch

from kpframe import LearningRule, Update
from kpframe.plugin import RuleSpec, hookimpl, temporary


@pytest.fixture
def failing_rule(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], AbstractContextManager[object]]:
    """A function that offers a rule ``failing``, exact but for an error of LAPACK's at its n-th use."""

    def offered(at: int) -> AbstractContextManager[object]:
        class Failing(LearningRule):
            calls = 0

            def change(self, update: Update) -> Update:
                Failing.calls += 1
                if Failing.calls == at:
                    raise torch.linalg.LinAlgError("did not converge")
                return update

        module = types.ModuleType("kpf_failing")
        module.build = Failing  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, "kpf_failing", module)

        class Offers:
            @hookimpl
            def kpframe_rules(self):
                yield RuleSpec("failing", "kpf_failing:build")

        return temporary(Offers())

    return offered
