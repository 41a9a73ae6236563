"""``kpframe compare``: exit codes, files, messages."""

from __future__ import annotations

import json
import re
import sys
import types
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

import kpframe.study._rules.compare_source
from kpframe import LearningRule, Readout, create_model, create_task
from kpframe.cli import _app as app
from kpframe.plugin import RuleSpec, hookimpl, temporary
from kpframe.rules._parse import parse_rule
from kpframe.study._disk.results import read_dataset
from kpframe.study._networks.checkpoint import save_checkpoint
from kpframe.study._rules.compare_source import compare_source

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


@pytest.mark.slow
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
    names = ["comparison.html", "comparison.nc", "run.json", "steps"]
    assert sorted(path.name for path in output.iterdir()) == names


@pytest.mark.slow
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
        arguments = ["compare", str(source), "--rules", "bent", *SMALL]
        assert app.run([*arguments, "--output", str(tmp_path / "o")]) == 2
    err = capsys.readouterr().err
    assert "Bent() is not linear in the error, so it has no operator; gradient() gives its update" in err


def test_sources_that_are_none(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["compare", str(tmp_path / "nowhere"), "--rules", "bptt"]) == 2
    assert "does not exist" in capsys.readouterr().err
    assert app.run(["compare", str(tmp_path), "--rules", "bptt"]) == 2
    assert "source: expected a checkpoint (*.safetensors), or the folder" in capsys.readouterr().err
    assert app.run(["compare", str(tmp_path)]) == 2
    assert "Missing option '--rules'" in capsys.readouterr().err


def run_of(folder: Path, *models: str, run: str = "0123456789abcdef") -> Path:
    """Write the folder of a run with checkpoints of these models."""
    task = create_task("memory_pro", **TASK)
    (folder / "checkpoints").mkdir(parents=True, exist_ok=True)
    for model in models:
        settings = {"input_size": task.input_size, "hidden_size": 4, "seed": 0}
        network = create_model(model, **settings)
        save_checkpoint(
            folder / "checkpoints" / f"{model}-000000.safetensors",
            network,
            Readout(network.width, task.output_size, generator=0),
            name=model,
            settings=settings,
            extra={"task": {"name": "memory_pro", "settings": TASK}, "run": run},
        )
    return folder


@pytest.mark.slow
def test_a_rule_that_does_not_apply_to_a_model_costs_its_own_figures(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, output = run_of(tmp_path / "run", "gru", "rnn"), tmp_path / "o"
    rules = ["--rules", "bptt; rflo; truncated_bptt(window=1)"]
    assert app.run(["compare", str(run), *rules, *SMALL, "--output", str(output)]) == 0
    out, err = capsys.readouterr()
    said = "Skipped: rflo does not apply to gru-000000 (model gru): rflo needs"
    assert err.splitlines()[-1].startswith(said)
    data = read_dataset(output / "comparison.nc")
    assert data.failure.values[:, [0, 2]].tolist() == [["", ""], ["", ""]]
    assert data.failure.values[1, 1] == ""
    assert data.failure.values[0, 1].startswith("UnsupportedError: rflo needs")
    assert data.update_cosine.isnull().values.tolist() == [[False, True, False], [False, False, False]]
    page = (output / "comparison.html").read_text(encoding="utf-8")
    assert said in page
    assert ">nan<" not in page
    assert "nan" not in out.split()
    others = ["compare", str(run), "--rules", "bptt; truncated_bptt(window=1)", *SMALL]
    assert app.run([*others, "--output", str(tmp_path / "others")]) == 0
    alone = read_dataset(tmp_path / "others" / "comparison.nc")
    np.testing.assert_array_equal(alone.update_cosine, data.update_cosine[:, [0, 2]])
    np.testing.assert_array_equal(alone.rule_cosine, data.rule_cosine[:, [0, 2]][:, :, [0, 2]])


@pytest.mark.slow
def test_a_checkpoint_on_which_no_rule_can_be_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, output = run_of(tmp_path / "run", "gru", "rnn"), tmp_path / "o"
    assert app.run(["compare", str(run), "--rules", "rflo", *SMALL, "--output", str(output)]) == 0
    said = "Skipped: rflo does not apply to gru-000000 (model gru): rflo needs"
    assert said in capsys.readouterr().err.splitlines()[-1]
    assert read_dataset(output / "comparison.nc").checkpoint.values.tolist() == ["rnn-000000"]
    assert said in (output / "comparison.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_what_was_compared_before_ctrl_c_can_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run, output = run_of(tmp_path / "run", "gru", "rnn"), tmp_path / "o"
    load = kpframe.study._rules.compare_source.load_network

    def interrupted(path: Path):
        if path.stem.startswith("rnn"):
            raise KeyboardInterrupt
        return load(path)

    arguments = ["compare", str(run), "--rules", "bptt", *SMALL, "--output", str(output)]
    with monkeypatch.context() as patched:
        patched.setattr(kpframe.study._rules.compare_source, "load_network", interrupted)
        assert app.run(arguments) == 130
    assert read_dataset(output / "comparison.nc").checkpoint.values.tolist() == ["gru-000000"]
    assert sorted(path.name for path in output.iterdir()) == ["comparison.nc", "run.json", "steps"]
    assert app.run(arguments) == 0  # the same again, in the same folder
    assert read_dataset(output / "comparison.nc").sizes["checkpoint"] == 2


@pytest.mark.slow
def test_what_was_compared_is_not_compared_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever was there when it was killed, the figures are those of an undisturbed comparison."""
    run, output = run_of(tmp_path / "a run", "gru", "rnn"), tmp_path / "o"
    arguments = ["compare", str(run), "--rules", "bptt; rflo", *SMALL, "--output"]
    monkeypatch.setattr("kpframe.study._rules.run_comparison.write_comparison", lambda data, path: path)
    assert app.run([*arguments, str(tmp_path / "whole")]) == 0
    whole = read_dataset(tmp_path / "whole" / "comparison.nc")
    load = kpframe.study._rules.compare_source.load_network

    def interrupted(path: Path):
        if path.stem.startswith("rnn"):
            raise KeyboardInterrupt
        return load(path)

    def compared() -> list[str]:
        said = re.findall(r"comparing on (\w+)-", capsys.readouterr().err)
        data = read_dataset(output / "comparison.nc")
        xr.testing.assert_equal(data, whole)
        for name, array in whole.variables.items():
            assert (data[name].dtype, data[name].attrs) == (array.dtype, array.attrs), name
        return said

    with monkeypatch.context() as patched:
        patched.setattr(kpframe.study._rules.compare_source, "load_network", interrupted)
        assert app.run([*arguments, str(output)]) == 130
    (record,) = output.glob("steps/gru*.nc")
    content = record.read_bytes()
    capsys.readouterr()
    assert app.run([*arguments, str(output)]) == 0
    assert compared() == ["rnn"]

    def unfinished() -> None:
        settings = json.loads((output / "run.json").read_text())
        (output / "run.json").write_text(json.dumps(settings | {"state": "running"}))

    record.write_bytes(content[: len(content) // 2])
    unfinished()
    assert app.run([*arguments, str(output)]) == 0
    assert compared() == ["gru"]
    record.write_bytes((output / "steps" / "rnn-000000-000000.nc").read_bytes())  # of another checkpoint
    unfinished()
    assert app.run([*arguments, str(output)]) == 0
    assert compared() == ["gru"]
    assert app.run([*arguments, str(output)]) == 2
    assert "this run, finished" in capsys.readouterr().err


@pytest.mark.slow
def test_several_sources_that_were_interrupted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs and single networks stand beside each other; of trainings the last network, if that is asked."""
    one, other = run_of(tmp_path / "one", "rnn"), run_of(tmp_path / "other", "gru", "rnn")
    later = other / "checkpoints" / "rnn-000300.safetensors"
    late = create_model("rnn", input_size=7, hidden_size=4, seed=5)
    extra = {"task": {"name": "memory_pro", "settings": TASK}, "run": "0123456789abcdef"}
    settings = {"input_size": 7, "hidden_size": 4}
    save_checkpoint(
        later, late, Readout(4, 3, generator=1), name="rnn", settings=settings, step=300, extra=extra
    )
    sources = [one, other, saved(tmp_path / "alone.safetensors"), one]
    arguments = ["compare", *map(str, sources), "--last", "--rules", "bptt; rflo", *SMALL, "--output"]
    monkeypatch.setattr("kpframe.study._rules.run_comparison.write_comparison", lambda data, path: path)
    assert app.run([*arguments, str(tmp_path / "whole")]) == 0
    err = capsys.readouterr().err
    assert "Skipped: rflo does not apply to other/gru-000000 (model gru): rflo needs" in err
    whole = read_dataset(tmp_path / "whole" / "comparison.nc")
    labels = ["one/rnn-000000", "other/gru-000000", "other/rnn-000300", "alone"]
    assert whole.checkpoint.values.tolist() == labels
    assert whole.step.values.tolist() == [0, 0, 300, 0]
    assert [Path(text).name for text in whole.source.values] == ["one", "other", "other", sources[2].name]
    alone = compare_source(later, {"rflo": parse_rule("rflo")}, trials=2, budget=16)
    assert whole.update_cosine.sel(checkpoint=labels[2], rule="rflo").item() == alone.update_cosine.item()
    assert whole.update_cosine.sel(rule="rflo").values[0] != alone.update_cosine.item()
    load = kpframe.study._rules.compare_source.load_network

    def interrupted(path: Path):
        if path == later:
            raise KeyboardInterrupt
        return load(path)

    output = tmp_path / "o"
    with monkeypatch.context() as patched:
        patched.setattr(kpframe.study._rules.compare_source, "load_network", interrupted)
        assert app.run([*arguments, str(output)]) == 130
    assert read_dataset(output / "comparison.nc").checkpoint.values.tolist() == labels[:2]
    capsys.readouterr()
    assert app.run(["resume", str(output)]) == 0
    assert "one/rnn" not in capsys.readouterr().err
    xr.testing.assert_equal(read_dataset(output / "comparison.nc"), whole)


def test_tasks_of_different_losses_do_not_share_a_variable(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    paths = []
    for name, task in (("digits", create_task("digits")), ("memory_pro", create_task("memory_pro", **TASK))):
        settings = {"input_size": task.input_size, "hidden_size": 4, "seed": 0}
        head = Readout(4, task.output_size, generator=0)
        paths.append(tmp_path / f"{name}.safetensors")
        extra = {"task": {"name": name, "settings": TASK if name == "memory_pro" else {}}}
        model = create_model("rnn", **settings)
        save_checkpoint(paths[-1], model, head, name="rnn", settings=settings, extra=extra)
    arguments = ["compare", *map(str, paths), "--rules", "bptt", *SMALL, "--output", str(tmp_path / "o")]
    assert app.run(arguments) == 2
    said = "one kind of loss, got cross_entropy of 'digits', mse of 'memory_pro'; compare them one after"
    assert said in capsys.readouterr().err


@pytest.mark.slow
def test_checkpoints_are_of_the_run_that_holds_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(run_of(tmp_path / "run", "gru"), "rnn", run="fedcba9876543210")
    arguments = ["compare", str(run), "--rules", "bptt", *SMALL, "--output", str(tmp_path / "o")]
    assert app.run(arguments) == 2
    said = "of run 0123456789abcdef in .*, got 'rnn-000000.safetensors' of run fedcba9876543210; compare"
    assert re.search(said, capsys.readouterr().err)
    run_of(run, "rnn")
    (run / "run.json").write_text(json.dumps(RECORD | {"id": "fedcba9876543210"}))
    assert app.run(arguments) == 2
    assert "of run fedcba9876543210" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()
    (run / "run.json").write_text(json.dumps(RECORD))
    assert app.run(arguments) == 0


RECORD = {
    "format": 1,
    "id": "0123456789abcdef",
    "command": "train",
    "state": "finished",
    "created": "",
    "settings": {},
}


def test_the_checkpoints_that_are_compared_are_not_overwritten(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = run_of(tmp_path / "run", "gru")
    (run / "run.json").write_text(json.dumps(RECORD))
    before = sorted(run.rglob("*"))
    for source in (run, run / "checkpoints" / "gru-000000.safetensors"):
        arguments = ["compare", str(source), "--rules", "bptt", *SMALL, "--output", str(run), "--overwrite"]
        assert app.run(arguments) == 2
        assert "holds the checkpoints that are compared; give another --output" in capsys.readouterr().err
    assert sorted(run.rglob("*")) == before


@pytest.mark.parametrize(
    ("extra", "message"),
    [
        ({"reads": [0, 9]}, "expected two places within the 4 of the state as 'reads' in"),
        ({"reads": [2, 2]}, "expected two places within the 4 of the state as 'reads' in"),
        ({"reads": "h"}, "expected two places within the 4 of the state as 'reads' in"),
        ({"reads": [0, 2.0]}, "expected two places within the 4 of the state as 'reads' in"),
        ({"task": "memory_pro"}, "expected a name and settings as 'task' in"),
        ({"task": {"name": 3, "settings": {}}}, "expected a name and settings as 'task' in"),
        ({"task": {"name": "memory_pro", "settings": [1]}}, "expected a name and settings as 'task' in"),
    ],
)
def test_headers_of_other_types(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], extra: dict[str, object], message: str
) -> None:
    network, heads = create_model("rnn", input_size=5, hidden_size=4), Readout(4, 3, generator=0)
    path = tmp_path / "one.safetensors"
    settings = {"input_size": 5, "hidden_size": 4}
    save_checkpoint(path, network, heads, name="rnn", settings=settings, extra=extra)
    assert app.run(["compare", str(path), "--rules", "bptt", *SMALL, "--output", str(tmp_path / "o")]) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Error: ")]
    assert message in line
    assert not (tmp_path / "o").exists()


@pytest.mark.skipif(sys.platform == "darwin", reason="names of files are UTF-8 there")
@pytest.mark.slow
def test_a_name_that_is_not_utf_8(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    source = saved(tmp_path / "one.safetensors")
    arguments = ["--rules", "bptt", *SMALL, "--output", str(tmp_path / "o\udcff")]
    assert app.run(["compare", str(source), *arguments]) == 0
    assert "/comparison.nc" in capfd.readouterr().out
    data = read_dataset(tmp_path / "o\udcff" / "comparison.nc")
    assert data.checkpoint.values.tolist() == ["one"]
    source = source.rename(tmp_path / "one\udcff.safetensors")
    assert app.run(["compare", str(source), *arguments, "--overwrite"]) == 2
    (line,) = capfd.readouterr().err.splitlines()
    assert "is not valid UTF-8" in line
