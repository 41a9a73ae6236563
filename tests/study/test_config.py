"""Studies are checked before anything runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from kpframe.errors import ArgumentError, SettingsError
from kpframe.study._config import bundled_study, load_study, parse_study

GOOD = {
    "task": {"name": "digits", "test_fraction": 0.5},
    "network": [{"name": "gru", "hidden_size": 4}],
    "rule": [{"name": "bptt", "label": "exact"}],
    "training": {"steps": 10},
    "measure": {"steps": [0, 10]},
}


def test_names_labels_and_settings_are_told_apart() -> None:
    study = parse_study(GOOD, "here")
    assert study.task_settings == {"test_fraction": 0.5}
    assert (study.networks[0].label, study.networks[0].settings) == ("gru", {"hidden_size": 4})
    assert (study.rules[0].label, study.rules[0].settings) == ("exact", {})
    assert study.training.batch_size == 64


def test_what_is_read_out_is_no_setting_of_the_model() -> None:
    row = {"name": "lstm", "hidden_size": 4, "reads": "h"}
    study = parse_study({**GOOD, "network": [row]}, "here")
    assert (study.networks[0].reads, study.networks[0].settings) == ("h", {"hidden_size": 4})
    assert parse_study(GOOD, "here").networks[0].reads is None


@pytest.mark.parametrize("name", ["demo", "demo_quick"])
def test_the_bundled_studies_are_valid(name: str) -> None:
    study = bundled_study(name)
    assert study.measure.steps[0] == 0
    assert study.measure.steps[-1] == study.training.steps
    assert {network.name for network in study.networks} == {"gru", "rnn"}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"netwrk": []}, ["unknown", "'netwrk'", "'network'"]),
        ({"measure": {"steps": [0, 11]}}, ["steps", "[0, 10]", "11"]),
        ({"training": {"step": 3, "batch_size": 0}}, ["step: ", "'steps'", "batch_size", ">= 1"]),
        ({"threads": 0}, ["threads", ">= 1", "0"]),
        ({"dtype": "float16"}, ["dtype", "float32", "float16"]),
        ({"task": {}}, ["[task]", "name"]),
        ({"network": [{"hidden_size": 3}]}, ["[[network]]", "name"]),
    ],
)
def test_what_does_not_fit_is_named(change: dict[str, object], words: list[str]) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_study({**GOOD, **change}, "here")
    assert "here" in str(caught.value)
    for word in words:
        assert word in str(caught.value)


def test_a_file_that_is_missing_or_no_toml(tmp_path: Path) -> None:
    with pytest.raises(ArgumentError, match="does not exist"):
        load_study(tmp_path / "none.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("steps = ")
    with pytest.raises(ArgumentError, match="a TOML file"):
        load_study(broken)
    good = tmp_path / "good.toml"
    good.write_text(
        '[task]\nname = "t"\n[[network]]\nname = "n"\n[training]\nsteps=4\n[measure]\nsteps = [4]\n'
    )
    assert load_study(good).measure.steps == (4,)
