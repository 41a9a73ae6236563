"""``kpframe train``: exit codes, files, messages."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch

from kpframe.cli import _app as app
from kpframe.study._disk.results import read_dataset
from kpframe.study._networks.checkpoint import load_checkpoint

TASK = [f"--task-set={pair}" for pair in ("fixation=1", "stimulus=1", "memory=1", "response=2", "grace=0")]
SMALL = ["--model", "rnn", "--set", "hidden_size=5", "--task", "memory_pro", *TASK]
SMALL += ["--steps", "6", "--batch-size", "4", "--trials", "3", "--budget", "16"]


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_files_that_compare_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rules = ["--rule", "bptt", "--rule", "truncated_bptt(window=1)"]
    output = tmp_path / "out"
    options = ["--set", "nonlinearity=relu", "--optimizer", "sgd", "--momentum", "0.5"]
    assert app.run(["train", *rules, *SMALL, *options, "--seed", "3", "--output", str(output)]) == 0
    out, err = capsys.readouterr()
    assert out.rstrip().endswith(str((output / "training.html").resolve()))
    assert "truncated_bptt(window=1): update 6 of 6, loss" in err
    data = read_dataset(output / "training.nc")
    assert data.rule.values.tolist() == ["bptt", "truncated_bptt(window=1)"]
    last = data.checkpoint.values.tolist()
    assert [re.sub("-[0-9a-f]{8}-", "-", name) for name in last] == [
        "rnn-bptt-000006",
        "rnn-truncated_bptt-window=1-000006",
    ]
    settings = json.loads(data.attrs["settings"])
    assert settings["model_settings"] == {"hidden_size": 5, "nonlinearity": "relu"}
    assert settings["training"]["momentum"] == 0.5
    assert settings["seed"] == 3
    names = sorted(path.stem for path in (output / "checkpoints").iterdir())
    assert names == ["rnn-bptt-000000", *last]
    header = load_checkpoint(output / "checkpoints" / f"{names[2]}.safetensors")
    assert header.extra["rule"] == "truncated_bptt(window=1)"
    assert header.extra["task"]["settings"]["memory"] == 1
    assert (header.model, header.step) == ("rnn", 6)
    page = (output / "training.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 2
    assert "<title>rnn trained on memory_pro by 2 learning rules</title>" in page
    compared = ["compare", str(output), "--rules", "bptt", "--trials", "2", "--budget", "16"]
    assert app.run([*compared, "--output", str(tmp_path / "compared")]) == 0
    assert read_dataset(tmp_path / "compared" / "comparison.nc").step.values.tolist() == [0, 6, 6]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--rule", "bpt"], "no rule 'bpt'"),
        (["--rule", "bptt("], "expected a rule such as bptt, truncated_bptt(window=5) or two joined by @"),
        (["--rule", "rflo", "--model", "gru"], "rflo needs"),
        (["--rule", "bptt", "--model", "rnnn"], "did you mean 'rnn'?"),
        (["--rule", "bptt", "--task", "memory_pr"], "did you mean 'memory_pro'?"),
        (["--rule", "bptt", "--set", "hidden"], "expected KEY=VALUE, got 'hidden'"),
        (["--rule", "bptt", "--set", "hidden_size=6"], "'hidden_size' is given twice"),
        (["--rule", "bptt", "--set", "hidden_sizes=6"], "hidden_sizes: expected one of its settings"),
        (["--rule", "bptt", "--task-set", "delay=3"], "delay: expected one of its settings"),
        (["--rule", "bptt", "--reads", "c"], "component: expected one of 'h', got 'c'"),
        (["--rule", "bptt", "--steps", "0"], "0 is not in the range x>=1"),
        ([], "Missing option '--rule'"),
    ],
)
def test_one_line_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments, message
) -> None:
    output = tmp_path / "out"
    assert app.run(["train", *SMALL, *arguments, "--output", str(output)]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error: ")]
    assert message in line
    assert not output.exists()


def test_a_rule_that_diverges_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--set", "nonlinearity=relu", "--optimizer", "sgd", "--learning-rate", "1e20"]
    output = tmp_path / "out"
    assert app.run(["train", "--rule", "bptt", *SMALL, *options, "--output", str(output)]) == 0
    assert "update " in capsys.readouterr().out
    assert [path.stem for path in (output / "checkpoints").iterdir()] == ["rnn-bptt-000000"]
    assert "Diverged, at the crosses: bptt." in (output / "training.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_a_rule_that_fails_is_told_and_the_others_go_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], failing_rule
) -> None:
    output = tmp_path / "out"
    with failing_rule(3):
        rules = ["--rule", "failing", "--rule", "bptt"]
        assert app.run(["train", *rules, *SMALL, "--output", str(output)]) == 1
    out, err = capsys.readouterr()
    at = int(read_dataset(output / "training.nc").failed_at[0])
    assert err.splitlines()[-1] == f"Failed: failing, at update {at} (LinAlgError: did not converge)"
    assert 1 <= at <= 3
    assert "numbers: " in out
    data = read_dataset(output / "training.nc")
    assert data.outcome.values.tolist() == ["failed", "trained"]
    assert bool(data.test_loss.sel(rule="bptt").notnull())
    assert f"Failed: failing, at update {at} (" in (output / "training.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_one_folder_holds_one_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "out"
    one = ["train", "--rule", "bptt", *SMALL, "--output", str(output)]
    other = ["train", "--rule", "truncated_bptt(window=1)", *SMALL, "--output", str(output)]
    assert app.run(one) == 0
    before = {path: path.read_bytes() for path in output.rglob("*") if path.is_file()}
    capsys.readouterr()
    for arguments in (one, other):
        assert app.run(arguments) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("Error: ")
        assert "another --output" in line
        assert {path: path.read_bytes() for path in output.rglob("*") if path.is_file()} == before
    assert app.run([*other, "--overwrite"]) == 0
    data = read_dataset(output / "training.nc")
    assert data.rule.values.tolist() == ["truncated_bptt(window=1)"]
    names = sorted(path.stem for path in (output / "checkpoints").iterdir())
    (last,) = data.checkpoint.values.tolist()
    assert names == [last.replace("000006", "000000"), last]
    for name in names:
        checkpoint = load_checkpoint(output / "checkpoints" / f"{name}.safetensors")
        assert checkpoint.extra["run"] == data.attrs["run_id"]
    assert data.attrs["run_id"] in (output / "training.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("label", ["bptt", " bptt "])
def test_rules_that_are_given_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str], label: str) -> None:
    output = tmp_path / "out"
    assert app.run(["train", "--rule", "bptt", "--rule", label, *SMALL, "--output", str(output)]) == 2
    assert "Error: --rule: label: expected another one for each, got 'bptt' more" in capsys.readouterr().err
    assert not output.exists()
