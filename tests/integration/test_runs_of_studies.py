"""Studies with labels of any text, with a rule that fails, and in folders of their own."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from kpframe.errors import KpframeError, OutputError, SettingsError
from kpframe.rules._parse import parse_rule
from kpframe.study._disk.folder import read_record
from kpframe.study._disk.results import read_dataset
from kpframe.study._networks.checkpoint import load_checkpoint
from kpframe.study._report.captions_of_rules import failed_rules
from kpframe.study._report.comparison import write_comparison
from kpframe.study._report.html import write_report
from kpframe.study._report.training import write_training
from kpframe.study._rules.compare_source import compare_source
from kpframe.study._rules.experiment import Experiment
from kpframe.study._rules.train_rules import train_rules
from kpframe.study._running.run_study import run_study
from kpframe.study._running.training import TrainingSettings
from kpframe.study._settings import StudySettings
from kpframe.study._study_file.reading import parse_study

TASK = {"name": "memory_pro", "fixation": 1, "stimulus": 1, "memory": 1, "response": 2, "grace": 0}
AWKWARD = ["../../$x_$ of $y", "_φ/*" * 100]


def study(labels: list[str], rules: list[dict[str, object]] | None = None, **more: object) -> StudySettings:
    table = {
        "title": "t",
        "task": TASK,
        "network": [{"name": "rnn", "label": label, "hidden_size": 3} for label in labels],
        "rule": rules or [{"name": "bptt", "label": label} for label in labels],
        "training": {"steps": 2, "batch_size": 3},
        "measure": {"steps": [0, 2], "trials": 2, "budget": 8, "values": 2},
    }
    return parse_study(table | more, "here")


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.filterwarnings("ignore:Glyph")
@pytest.mark.slow
def test_labels_of_any_text(tmp_path: Path) -> None:
    output = tmp_path / "deep" / "run"
    returned = run_study(study(AWKWARD), output)
    data = read_dataset(output / "results.nc")
    assert data.network.values.tolist() == data.rule.values.tolist() == AWKWARD
    assert bool(data.gradient_cosine.notnull().all())
    assert [path for path in files(tmp_path) if output not in path.parents] == []
    assert len(list((output / "steps").iterdir())) == len(list((output / "checkpoints").iterdir())) == 4
    record = read_record(output)
    run, names = record["id"], {cell["name"]: cell["coordinates"] for cell in record["cells"]}
    seen = {names[read_dataset(path).attrs["cell"]]["network"] for path in (output / "steps").iterdir()}
    assert seen == set(AWKWARD)
    assert {load_checkpoint(path).extra["run"] for path in (output / "checkpoints").iterdir()} == {run}
    assert {read_dataset(path).attrs["run_id"] for path in (output / "steps").iterdir()} == {run}
    assert data.attrs["run_id"] == returned.attrs["run_id"] == run
    page = write_report(data, output / "report.html").read_text(encoding="utf-8")
    assert run in page
    assert "../../$x_$ of $y" in page
    rules = {label: parse_rule("bptt") for label in AWKWARD}
    one = next((output / "checkpoints").iterdir())
    write_comparison(compare_source(one, rules, trials=2, budget=16), output / "comparison.html")
    settings = {name: value for name, value in TASK.items() if name != "name"}
    experiment = Experiment(
        "rnn", "memory_pro", TrainingSettings(steps=2, batch_size=2), {"hidden_size": 3}, settings
    )
    trained = train_rules(rules, experiment, tmp_path / "trained")
    assert len(list((tmp_path / "trained" / "checkpoints").iterdir())) == 3
    write_training(trained, tmp_path / "trained" / "training.html")


def test_labels_are_checked_before_anything_is_computed() -> None:
    for labels, said in (
        (["a", "a"], r"network\[1\]\.label: expected another one than network\[0\], got 'a' again"),
        (["a\n"], r"network\[0\]\.label: expected .*printable"),
    ):
        with pytest.raises(SettingsError, match=f"here: {said}"):
            study(labels, rules=[{"name": "bptt"}])
    two = [{"name": "bptt", "label": "r"}, {"name": "rflo", "label": "r"}]
    with pytest.raises(SettingsError, match=r"here: rule\[1\]\.label: expected another one than rule\[0\]"):
        study(["a"], rules=two)


def test_every_network_and_rule_is_made_before_any_is_trained(tmp_path: Path) -> None:
    networks = [{"name": "rnn", "hidden_size": 3}, {"name": "gru", "hidden_size": 3, "leek": 1}]
    seen: list[str] = []
    for table in (
        {"network": networks},
        {"network": [*networks[:1], {"name": "no_such"}]},
        {"rule": [{"name": "bptt"}, {"name": "truncated_bptt", "windows": 1}]},
        {"task": TASK | {"dealy": 1}},
    ):
        with pytest.raises(KpframeError):
            run_study(study(["a"], **table), tmp_path / "run", report=lambda label, *_: seen.append(label))
    assert seen == []
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_rule_that_fails_costs_its_own_figures(tmp_path: Path, failing_rule) -> None:
    rules = [{"name": "bptt"}, {"name": "failing"}]
    with failing_rule(2):
        run_study(study(["a"], rules=rules), tmp_path / "run")
    data = read_dataset(tmp_path / "run" / "results.nc")
    missing = data.gradient_cosine.isnull().sel(network="a")
    assert missing.sel(rule="bptt").values.tolist() == [False, False]
    assert int(missing.sel(rule="failing").sum()) == 1
    step = int(data.step[missing.sel(rule="failing")].item())
    when = f"after {step} update{'' if step == 1 else 's'}"
    assert failed_rules(data) == [f"failing on a {when} (LinAlgError: did not converge)"]
    page = write_report(data, tmp_path / "report.html").read_text(encoding="utf-8")
    assert f"Failed: failing on a {when} (" in page
    run_study(study(["a"], rules=rules[:1]), tmp_path / "alone")
    alone = read_dataset(tmp_path / "alone" / "results.nc")
    for name in ("gradient_cosine", "flow_alignment", "effective_rank"):
        one = data[name].sel(rule="bptt") if "rule" in data[name].dims else data[name]
        other = alone[name].sel(rule="bptt") if "rule" in alone[name].dims else alone[name]
        np.testing.assert_array_equal(one, other)


@pytest.mark.slow
def test_one_folder_holds_one_study(tmp_path: Path) -> None:
    run_study(study(["a", "b"]), tmp_path)
    before = {path: path.read_bytes() for path in files(tmp_path)}
    for other in (study(["a"]), study(["a", "b"], seed=1), study(["a", "b"])):
        with pytest.raises(OutputError, match="--overwrite replaces it, or give another --output"):
            run_study(other, tmp_path)
    assert {path: path.read_bytes() for path in files(tmp_path)} == before
    assert json.loads(read_dataset(tmp_path / "results.nc").attrs["settings"])["seeds"] == [0]
