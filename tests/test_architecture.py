"""The page on the architecture: its walks are those that the code makes, its files are there."""

from __future__ import annotations

import re
import runpy
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import FrameType

import numpy as np
import pytest
import torch

import kpframe
from kpframe import LearningRule, Readout, Trials, Update
from kpframe.testing._toys import Elman

from .test_house import FLOORS

ROOT = Path(kpframe.__file__).parent
DOCS = Path(__file__).parents[1] / "docs"
PAGE = (DOCS / "architecture.md").read_text(encoding="utf-8")
DRAWN = runpy.run_path(str(DOCS / "images" / "draw_architecture.py"))
imports = cache(DRAWN["imports"])  # all files are parsed for it
F64 = torch.float64
BATCH, TIME, INPUTS, UNITS = 4, 10, 3, 8


class Damped(LearningRule):
    """What flows through time is 0.9 of what flows."""

    def change(self, update: Update) -> Update:
        return update.through(0.9 * update.A, name="P[0.9 A]")

    def __repr__(self) -> str:
        return "Damped()"


def listed(heading: str) -> list[str]:
    """Return the files that the numbered items of a section begin with, in order."""
    section = PAGE.split(f"## {heading}\n")[1].split("\n## ")[0]
    return re.findall(r"^\d+\. `([\w/]+\.py)`", section, flags=re.MULTILINE)


def ground() -> set[str]:
    """Return the files that the page says are entered everywhere."""
    section = PAGE.split("## What every step stands on\n")[1].split("\n## ")[0]
    return set(re.findall(r"^\| `([\w/]+\.py)`", section, flags=re.MULTILINE))


def entered(call: Callable[[], object]) -> list[str]:
    """Return the files of kpframe that a call enters, in the order in which it first does."""
    found: dict[str, None] = {}

    def enter(frame: FrameType, event: str, argument: object) -> None:
        path = Path(frame.f_code.co_filename)
        if event == "call" and path.is_relative_to(ROOT):
            found.setdefault(path.relative_to(ROOT).as_posix())

    before = sys.getprofile()
    sys.setprofile(enter)
    try:
        call()
    finally:
        sys.setprofile(before)
    return [file for file in found if file not in ground() and not file.startswith("testing/")]


@pytest.fixture(scope="module")
def flow() -> kpframe.Flow:
    torch.manual_seed(0)
    return kpframe.linearize(Elman(INPUTS, UNITS).to(F64), torch.randn(BATCH, TIME, INPUTS, dtype=F64))


def walks(flow: kpframe.Flow) -> dict[str, Callable[[], object]]:
    readout = Readout(UNITS, 2, generator=0, dtype=F64)
    every = torch.ones(BATCH, TIME, dtype=torch.bool)
    targets = torch.randn(BATCH, TIME, 2, dtype=F64, generator=torch.Generator().manual_seed(1))
    trials = Trials(flow.trajectory.inputs, targets, every, every, np.full((BATCH, TIME), "all"))

    def update() -> object:
        return Damped().gradient(
            flow, kpframe.readout.error(readout, flow.trajectory.states, trials, "mse"), readout
        )

    return {
        "From a model to a flow": lambda: kpframe.linearize(flow.model, flow.trajectory.inputs),
        "From a tensor to Phi times it": lambda: flow.Phi(torch.zeros(BATCH, TIME, UNITS, dtype=F64)),
        "From Phi to its effective rank": lambda: kpframe.effective_rank(flow.Phi, budget=50),
        "From an error to an update": update,
    }


HEADINGS = (
    "From a model to a flow",
    "From a tensor to Phi times it",
    "From Phi to its effective rank",
    "From an error to an update",
)


@pytest.mark.parametrize("heading", HEADINGS)
def test_a_walk_goes_through_the_files_that_the_page_lists_in_its_order(
    flow: kpframe.Flow, heading: str
) -> None:
    call = walks(flow)[heading]
    call()  # what loads on first use is no part of the walk
    assert entered(call) == listed(heading)


def test_a_walk_along_another_way_is_told_apart(flow: kpframe.Flow) -> None:
    assert entered(lambda: kpframe.trace(flow.Phi, budget=50)) != listed("From Phi to its effective rank")
    assert len(set(map(tuple, map(listed, HEADINGS)))) == len(HEADINGS)


def test_every_file_that_the_page_names_is_there() -> None:
    named = set(re.findall(r"`([\w/]+\.py)`", PAGE))
    assert len(named) > 40
    assert not {file for file in named if not (ROOT / file).is_file()}


def test_the_picture_and_the_table_are_those_of_the_imports() -> None:
    graph = imports()
    opened = DRAWN["doors"](graph)
    again = "run: python docs/images/draw_architecture.py"
    assert (DOCS / "images" / "architecture.svg").read_text("utf-8") == DRAWN["drawing"](graph, opened), again
    assert DRAWN["TABLE"].search(PAGE)[0] == DRAWN["table"](graph, opened), again
    more = {**graph, "rules": graph["rules"] | {"spectra"}}
    assert DRAWN["drawing"](graph, opened) != DRAWN["drawing"](more, opened)
    assert DRAWN["table"](graph, opened) != DRAWN["table"](more, opened)


def test_every_arrow_of_the_picture_goes_down_the_floors() -> None:
    graph = imports()
    floor = {name: level for level, names in enumerate(FLOORS) for name in names}
    assert set(graph) == set(floor)
    assert all(floor[other] < floor[name] for name, found in graph.items() for other in found)
    kept = DRAWN["arrows"](graph)
    assert sum(map(len, kept.values())) < sum(map(len, graph.values()))  # and yet no import is lost
    assert all(DRAWN["reached"](kept, name) == DRAWN["reached"](graph, name) for name in graph)
    with pytest.raises(ValueError, match="imports go round among errors, operators, plugin"):
        DRAWN["rows"]({"errors": {"operators"}, "operators": {"plugin"}, "plugin": {"errors"}})


def test_imports_of_every_kind_are_seen(tmp_path: Path) -> None:
    (tmp_path / "high").mkdir()
    (tmp_path / "high" / "__init__.py").write_text("import kpframe.low\n")
    (tmp_path / "middle").mkdir()
    text = (
        "def f():\n    from kpframe import low\n\n\nif TYPE_CHECKING:\n    from kpframe.errors import Error\n"
    )
    (tmp_path / "middle" / "_file.py").write_text(text)
    (tmp_path / "low").mkdir()
    (tmp_path / "low" / "_file.py").write_text("import torch\nfrom kpframe.low._other import x\n")
    (tmp_path / "errors.py").write_text("")
    (tmp_path / "door.py").write_text("from kpframe.middle import f\nfrom kpframe.low import x\n")
    graph = DRAWN["imports"](tmp_path)
    assert graph == {
        "high": {"low"},
        "middle": {"low", "errors"},
        "low": set(),
        "errors": set(),
        "door": {"middle", "low"},
    }
    assert DRAWN["doors"](graph, tmp_path) == {"door": "middle"}
