"""``kpframe compare``: exit codes, files, messages."""

from __future__ import annotations

import sys
import types
from pathlib import Path

import pytest
import torch

from kpframe import LearningRule, Readout, create_model, create_task
from kpframe.checkpoint import save_checkpoint
from kpframe.cli import app
from kpframe.plugin import RuleSpec, hookimpl, temporary
from kpframe.study.results import read_dataset

SMALL = ["--trials", "2", "--budget", "16"]
TASK = {"fixation": 1, "stimulus": 1, "memory": 1, "response": 2, "grace": 0}


class Bent(LearningRule):
    linear = False

    def change(self, update):
        return update


@pytest.fixture(autouse=True)
def threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def saved(path: Path, model: str = "rnn", *, readout: bool = True, named: bool = True) -> Path:
    task = create_task("memory_pro", **TASK)
    settings = {"input_size": task.input_size, "hidden_size": 4, "seed": 0}
    network = create_model(model, **settings)
    heads = Readout(network.width, task.output_size, generator=0) if readout else None
    extra = {"task": {"name": "memory_pro", "settings": TASK}} if named else {}
    path.parent.mkdir(parents=True, exist_ok=True)
    return save_checkpoint(path, network, heads, name=model, settings=settings, extra=extra)


def test_a_checkpoint(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = saved(tmp_path / "one.safetensors"), tmp_path / "out"
    rules = ["--rules", "bptt; truncated_bptt(window=2);", "--rules", "truncated_bptt(window=1) @ bptt"]
    assert app.run(["compare", str(source), *rules, *SMALL, "--output", str(output)]) == 0
    out, err = capsys.readouterr()
    assert out.rstrip().endswith(str((output / "comparison.html").resolve()))
    assert "comparing on one" in err
    data = read_dataset(output / "comparison.nc")
    labels = ["bptt", "truncated_bptt(window=2)", "truncated_bptt(window=1) @ bptt"]
    assert data.rule.values.tolist() == labels
    assert data.attrs["title"] == "Learning rules compared on one.safetensors"
    assert data.attrs["kpframe_version"]
    assert data.update_cosine.sel(rule="bptt").item() == pytest.approx(1, abs=1e-5)
    assert data.update_cosine.sel(rule=labels[1]).item() < 0.999
    assert sorted(path.name for path in output.iterdir()) == ["comparison.html", "comparison.nc"]


def test_a_folder_with_another_task(tmp_path: Path) -> None:
    for name in ("a", "b"):
        saved(tmp_path / "run" / "checkpoints" / f"{name}.safetensors", named=False)
    arguments = ["compare", str(tmp_path / "run"), "--rules", "bptt", *SMALL, "--output", str(tmp_path / "o")]
    assert app.run([*arguments, "--task", "memory_pro"]) == 0
    data = read_dataset(tmp_path / "o" / "comparison.nc")
    assert data.checkpoint.values.tolist() == ["a", "b"]
    assert data.sizes["time"] == 25  # the task's own default, not that of the fixture
    assert app.run(arguments) == 2


@pytest.mark.parametrize(
    ("rules", "options", "settings", "message"),
    [
        ("bpt", [], {}, "no rule 'bpt'"),
        ("bptt(", [], {}, "expected a rule such as bptt, truncated_bptt(window=5) or two joined by @"),
        ("truncated_bptt(windows=3)", [], {}, "did you mean 'window'?"),
        (";", [], {}, "rules: expected at least one learning rule, got none"),
        ("bptt", ["--task", "memory_pr"], {}, "did you mean 'memory_pro'?"),
        ("bptt", [], {"named": False}, "task: expected a task, as"),
        ("bptt", [], {"readout": False}, "holds no readout, through which the error comes"),
        ("rflo", [], {"model": "gru"}, "rflo needs"),
        ("bptt", ["--budget", "3"], {}, "3 is not in the range x>=16"),
    ],
)
def test_one_line_says_what_is_wrong(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], rules, options, settings, message
) -> None:
    source, output = saved(tmp_path / "one.safetensors", **settings), tmp_path / "out"
    small = SMALL if not options else ["--trials", "2"]
    code = app.run(["compare", str(source), "--rules", rules, *small, *options, "--output", str(output)])
    err = capsys.readouterr().err
    (line,) = [line for line in err.splitlines() if line.startswith("Error: ")]
    assert code == 2
    assert message in line
    assert not output.exists()


def test_a_rule_that_is_not_linear(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    module = types.ModuleType("kpf_bent")
    module.build = Bent  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "kpf_bent", module)

    class Offers:
        @hookimpl
        def kpframe_rules(self):
            yield RuleSpec("bent", "kpf_bent:build")

    with temporary(Offers()):
        source = saved(tmp_path / "one.safetensors")
        assert app.run(["compare", str(source), "--rules", "bent", *SMALL]) == 2
    err = capsys.readouterr().err
    assert "Bent() is not linear in the error, so it has no operator; gradient() gives its update" in err


def test_sources_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["compare", str(tmp_path / "nowhere"), "--rules", "bptt"]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert app.run(["compare", str(tmp_path), "--rules", "bptt"]) == 2
    assert "source: expected a checkpoint (*.safetensors), or the folder" in capsys.readouterr().err
    assert app.run(["compare", str(tmp_path)]) == 2
    assert "Missing option '--rules'" in capsys.readouterr().err
