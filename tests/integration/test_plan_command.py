"""``kpframe plan``: what it prints, and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from attrs import evolve

from kpframe.cli import _app as app
from kpframe.study._quantity import create_quantity
from kpframe.study._scaling.machine import DEFAULT, Machine, save_machine, this_host

STUDY = """
title = "Small"
dtype = "float64"
seeds = 2
[task]
name = "memory_pro"
stimulus = 2
memory = 2
response = 2
[[network]]
name = "rnn"
hidden_size = 5
[training]
steps = 3
[measure]
steps = [0, 3]
trials = 4
budget = 4
operators = ["K", "P P*"]
[[quantity]]
name = "trace"
"""
HERE = Machine(1e-5, 1e9, 5e10, 1e10, *this_host(), ranks=2, torch="2")


@pytest.fixture
def study(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA", "HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "caches"))
    monkeypatch.setattr(type(create_quantity("trace")), "on_ranks", "all")
    path = tmp_path / "study.toml"
    path.write_text(STUDY)
    return path


def test_a_study_on_ranks(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.run(["plan", str(study), "--ranks", "3", "--json"]) == 0
    out, err = capsys.readouterr()
    assert f"Not measured on this machine, but assumed: {DEFAULT.text()}" in err
    document = json.loads(out)
    (network,) = document["networks"]
    parameters = network["parameters"]
    assert (network["trainings"], network["updates"], network["records"]) == (2, 3, 4)
    sent = network["operators"]["K"]["sent_bytes"]  # two biases that act together may go as one
    assert 8 * (parameters - 5) <= sent <= 8 * (parameters + 1)
    assert network["operators"]["P P*"]["sent_bytes"] <= 16
    assert [one["ranks"] for one in network["ranks"]] == [1, 2, 3]
    assert [one["trials"] for one in network["ranks"]] == [4, 2, 2]
    assert network["quantities"]["trace"]["products"] == network["record"]["products"] > 0
    # K alone sends: each of its products all parameters
    assert network["record"]["sent_bytes"] >= sent * (network["record"]["products"] // 2)
    for on, whole in zip(network["ranks"], document["study"], strict=True):
        assert whole["seconds"] == pytest.approx(on["all_seconds"])
        assert whole["seconds"] > 4 * on["seconds"]  # four records, and the updates
        one = document["study"][0]["seconds"]
        assert whole["efficiency"] == pytest.approx(one / (whole["ranks"] * whole["seconds"]))
    assert list(study.parent.iterdir()) == [study]


def test_its_tables_and_whose_figures_they_are(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = study.parent / "caches" / "kpframe" / "machine.json"
    save_machine(HERE, path)
    assert app.run(["plan", str(study), "--ranks", "2"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    lines = out.splitlines()
    assert lines[0] == "Small"
    assert any(line.startswith("trace\tall ranks\t") for line in lines)
    assert any(line.startswith("2\t2\t") for line in lines)
    assert "communicating takes less than computing up to 4 ranks, one for each trial" in out
    other = study.parent / "other.json"
    save_machine(evolve(HERE, processor="Abacus", processors=3), other)
    assert app.run(["plan", str(study), "--ranks", "2", "--calibration", str(other)]) == 0
    assert f"{other}: of another machine, 3 x Abacus" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--ranks", "0"], "Invalid value for '--ranks': 0 is not in the range x>=1"),
        (["--ranks", "5"], "ranks: expected at most 4, a trial for each (measure.trials), got 5"),
        (["--calibration", "nowhere.json"], "calibration nowhere.json: No such file or directory"),
    ],
)
def test_what_is_refused(study: Path, capsys: pytest.CaptureFixture[str], arguments, message) -> None:
    assert app.run(["plan", str(study), *arguments]) == 2
    assert f"Error: {message}" in capsys.readouterr().err


def test_keys_that_no_study_has(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    study.write_text(STUDY.replace("trials = 4", "trails = 4"))
    assert app.run(["plan", str(study)]) == 2
    assert "measure.trails" in capsys.readouterr().err
    assert app.run(["plan"]) == 2
    assert "expected a study file, or --calibrate to measure this machine" in capsys.readouterr().err
