"""The conformance kit on a bundled model and on rules, and on the core's reducers."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import patch

import pytest
from kpframe_rules.frozen import Frozen

from kpframe import create_model
from kpframe.cli import _app as app
from kpframe.plugin._core import core
from kpframe.study._networks.checkpoint import save_checkpoint
from kpframe.testing import check_rule, parametrize_with_checks

REDUCERS = [f"reducer:{spec.name}" for spec in core().specs if spec.kind == "reducer"]
RULES = ["rule:bptt", "rule:frozen", "rule:truncated_bptt"]


@parametrize_with_checks(["rnn", *RULES, *REDUCERS])
@pytest.mark.rows(10)
def test_conformance(check) -> None:
    check()


@pytest.mark.slow
def test_bptt_is_exact() -> None:
    assert check_rule("bptt")["exact_rule_equals_backward"].verdict == "passed"
    assert check_rule("frozen")["exact_rule_equals_backward"].verdict == "not applicable"
    with patch.object(Frozen, "exact", True):
        assert check_rule("frozen")["exact_rule_equals_backward"].verdict == "failed"


def test_a_checkpoint_is_verified(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {"input_size": 2, "hidden_size": 3, "seed": 1}
    path = save_checkpoint(
        tmp_path / "trained.safetensors", create_model("gru", **settings), name="gru", settings=settings
    )
    assert app.run(["verify", str(path), "--examples", "1"]) == 0
    assert capsys.readouterr().out.startswith("model:trained\n")
