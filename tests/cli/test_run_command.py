"""``kpframe run``: what it says of a study before it runs, and what it leaves."""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest
import torch

from kpframe.cli import _app as app
from kpframe.cli._run import time_of
from kpframe.plugin import ModelSpec, QuantitySpec, RuleSpec, TaskSpec, hookimpl, temporary
from kpframe.study._disk.results import read_dataset
from kpframe.study._running.run_study import resumed_folder
from kpframe.study._study_file.reading import load_study, template_text

from ..study.conftest import Exact, Noise, Sizes, Small, Sum, Twice  # noqa: TID252

Command = Callable[..., tuple[int, str, str]]

STUDY = """
title = "Two <b>nets</b>"
dtype = "float64"
quantity = [{ name = "cli_noise" }]
[task]
name = "cli_sum"
[[network]]
name = "cli_small"
label = "<i>one</i>"
[[network]]
name = "cli_small"
label = "two"
[training]
steps = 4
batch_size = 3
rules = ["cli_exact", "cli_twice"]
[measure]
steps = { every = 2 }
trials = 3
"""


class Offers:
    @hookimpl
    def kpframe_models(self):
        yield ModelSpec("cli_small", "kpf_cli:Small", settings=Sizes)

    @hookimpl
    def kpframe_tasks(self):
        yield TaskSpec("cli_sum", "kpf_cli:Sum")

    @hookimpl
    def kpframe_rules(self):
        yield RuleSpec("cli_exact", "kpf_cli:Exact")
        yield RuleSpec("cli_twice", "kpf_cli:Twice")

    @hookimpl
    def kpframe_quantities(self):
        yield QuantitySpec("cli_noise", "kpf_cli:Noise")


@pytest.fixture(scope="module")
def toys() -> Iterator[ModuleType]:
    """Offer a model, a task, rules and a quantity by name; yields the module that has them."""
    module = ModuleType("kpf_cli")
    for part in (Small, Sum, Exact, Twice, Noise):
        setattr(module, part.__name__, part)
    sys.modules["kpf_cli"] = module
    try:
        with temporary(Offers()):
            yield module
    finally:
        del sys.modules["kpf_cli"]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder with a space in its name, which the process is in."""
    folder = tmp_path / "a place"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Command:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = app.run(["run", *arguments])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_the_template_goes_to_the_terminal(run: Command) -> None:
    assert run("--template") == (0, template_text(), "")


def test_without_a_study_it_says_how_to_get_one(run: Command, here: Path) -> None:
    code, out, err = run()
    assert (code, out) == (2, "")
    assert err.startswith("Error: expected a study file, or --template for one to start from")
    code, out, err = run("none.toml")
    assert (code, out) == (2, "")
    assert "'none.toml', which does not exist; kpframe run --template" in err


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize("arguments", [(), ("--dry-run",)])
def test_all_that_is_wrong_is_said_and_nothing_is_made(
    run: Command, here: Path, arguments: tuple[str, ...]
) -> None:
    (here / "wrong study.toml").write_text(STUDY.replace("cli_small", "cli_smal").replace("every", "evry"))
    code, out, err = run("wrong study.toml", *arguments)
    assert (code, out) == (2, "")
    lines = err.removeprefix("Error: ").splitlines()
    assert [line.split(": ")[:2] for line in lines] == [
        ["wrong study.toml", path] for path in ("network[0].name", "network[1].name", "measure.steps")
    ]
    assert [path.name for path in here.iterdir()] == ["wrong study.toml"]


@pytest.mark.usefixtures("toys")
@pytest.mark.parametrize("arguments", [(), ("--dry-run",)])
def test_what_is_impossible_is_said_before_any_training(
    run: Command, here: Path, arguments: tuple[str, ...]
) -> None:
    (here / "study.toml").write_text(STUDY.replace('label = "two"', 'label = "two"\nreads = "c"'))
    code, out, err = run("study.toml", *arguments)
    assert (code, out) == (2, "")
    assert "network[1].reads: component: expected one of 'h', got 'c'" in err
    assert [path.name for path in here.iterdir()] == ["study.toml"]


@pytest.mark.usefixtures("toys")
def test_a_dry_run_counts_and_writes_nothing(run: Command, here: Path) -> None:
    (here / "study.toml").write_text(STUDY + '[sweep]\n"network.two.gain" = [0.5, 0.7]\n')
    code, out, err = run("study.toml", "--dry-run", "--jobs", "2", "--output", "some where")
    assert (code, err) == (0, "")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert lines[0] == "Two <b>nets</b>"
    rows = [line for line in lines if line.startswith(("<i>one</i>", "two"))]
    assert [row.split()[:4] for row in rows] == [
        *(["<i>one</i>", rule, "1", "4"] for rule in ("cli_exact", "cli_twice")),
        *(
            ["two", f"{rule},", "gain", gain]
            for rule in ("cli_exact", "cli_twice")
            for gain in ("0.5", "0.7")
        ),
    ]
    once = "2 more have the figures of these, as the sweep varies nothing of theirs"
    assert f"trainings: 6, with 24 updates; {once}" in lines
    assert "records: 15, with 0 operator products" in lines  # step 0 is recorded once for both rules
    assert any(line.startswith("time: about ") and "with --jobs 2" in line for line in lines)
    assert any(line.startswith("memory: ") and line.endswith("for each of 2 processes") for line in lines)
    assert any(line.startswith("disk: ") and line.endswith(" and a page, in some where") for line in lines)
    assert [path.name for path in here.iterdir()] == ["study.toml"]


@pytest.mark.usefixtures("toys", "undrawn")
def test_a_run_says_what_came_of_each_training(run: Command, here: Path) -> None:
    (here / "my study.toml").write_text(STUDY)
    code, out, err = run("my study.toml")
    assert code == 0, err
    lines, page = out.splitlines(), here / "my study" / "report.html"
    assert lines[-1] == f"open:    {page}"
    assert "<i>one" not in page.read_text()
    assert "&lt;i&gt;one" in page.read_text()
    assert "so far" not in page.read_text()
    assert lines[-3] == "along:   3 test trials"
    assert lines[:-3] == [
        f"{network}, {rule}: no figures"
        for network in ("<i>one</i>", "two")
        for rule in ("cli_exact", "cli_twice")
    ]
    assert f"results: {Path('my study', 'results.nc')}  (" in out
    folder = here / "my study"
    assert (folder / "study.toml").read_text() == STUDY
    data = read_dataset(folder / "results.nc")
    assert dict(data.sizes).items() >= {"network": 2, "trained_by": 2, "step": 3}.items()
    assert data.network.values.tolist() == ["<i>one</i>", "two"]
    # once more: refused, unless it may replace what is there
    code, out, err = run("my study.toml")
    assert (code, out) == (2, "")
    assert "--overwrite replaces it" in err
    (here / "my study.toml").write_text(STUDY.replace(', "cli_twice"', ""))
    assert run("my study.toml", "--overwrite")[0] == 0
    replaced = read_dataset(folder / "results.nc")
    assert replaced.run_id != data.run_id
    assert replaced.sizes["trained_by"] == 1


QUICK = (
    STUDY
    + """
[about]
question = "Is <i>one</i> better?"
published = "It is."
[quick]
training.steps = 2
training.rules = ["cli_exact"]
"""
)


@pytest.mark.usefixtures("toys", "undrawn")
def test_the_quick_form_runs_into_a_folder_of_its_own(run: Command, here: Path) -> None:
    (here / "s.toml").write_text(QUICK)
    code, out, _ = run("s.toml", "--quick", "--dry-run")
    assert (code, [path.name for path in here.iterdir()]) == (0, ["s.toml"])
    assert re.search(r"trainings: +2, with 4 updates", out)
    assert "Two <b>nets</b> (quick form)" in out
    assert run("s.toml", "--quick")[0] == 0
    folder = here / "s-quick"
    settings = json.loads((folder / "run.json").read_text())["settings"]
    assert settings["quick"] is True
    assert settings["about"] == {"question": "Is <i>one</i> better?", "published": "It is."}
    page = (folder / "report.html").read_text()
    for text in (
        "Is &lt;i&gt;one&lt;/i&gt; better? This is the quick form of the study",
        "Published: It is.",
    ):
        assert text in page
    assert resumed_folder(folder)[0] == load_study(here / "s.toml", quick=True)  # and not the whole study
    code, _, err = run("s.toml", "--output", "s-quick")
    assert code == 2
    assert "with another " in err
    assert "quick" in err.partition("with another ")[2]


@pytest.mark.usefixtures("toys")
def test_there_is_no_quick_form_without_its_table(run: Command, here: Path) -> None:
    (here / "s.toml").write_text(STUDY)
    code, out, err = run("s.toml", "--quick")
    assert (code, out) == (2, "")
    assert "--quick: expected a study with a table [quick], got 's.toml' without one: run it without" in err


@pytest.mark.slow
@pytest.mark.usefixtures("toys")
@pytest.mark.skipif(sys.platform == "darwin" or os.name == "nt", reason="names are text there")
def test_names_that_are_no_utf_8(run: Command, here: Path) -> None:
    name = os.fsdecode(b"st\xffdy")
    Path(f"{name}.toml").write_text(STUDY.replace("rules = [", "rules = []  # ["))
    code, out, err = run(f"{name}.toml")
    assert code == 0, err
    assert "results: st\\udcffdy/results.nc" in out
    assert Path(name, "results.nc").is_file()
    code, out, err = run(f"{name}.toml")
    assert (code, out) == (2, "")
    Path(f"{name}.toml").write_text("x = ")
    assert run(f"{name}.toml")[::2] == (
        2,
        "Error: st\\udcffdy.toml: no TOML: Invalid value (at line 1, column 5, the end)\n",
    )


@pytest.mark.slow
@pytest.mark.usefixtures("toys")
def test_after_a_training_that_failed_the_exit_code_is_1(run: Command, here: Path, toys: ModuleType) -> None:
    class Breaking(Exact):
        made = 0

        def change(self, update):
            Breaking.made += 1
            if Breaking.made > 6:
                raise torch.linalg.LinAlgError("did not converge")
            return update

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(toys, "Twice", Breaking)
        (here / "study.toml").write_text(STUDY)
        code, out, err = run("study.toml")
    assert code == 1
    failed = [line for line in err.splitlines() if line.startswith("Failed: ")]
    assert failed == ["Failed: two, cli_twice failed at update 1: LinAlgError: did not converge"]
    assert "two, cli_exact: " in out


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        *((0, "0 ms"), (0.0012, "1.2 ms"), (0.0123, "12 ms"), (0.64, "640 ms"), (0.999, "1.0 s")),
        *((3.21, "3.2 s"), (9.99, "10 s"), (59.6, "60 s"), (600, "10 min"), (9000, "2.5 h")),
    ],
)
def test_times_in_words(seconds: float, text: str) -> None:
    assert time_of(seconds) == text
