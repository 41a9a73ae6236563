"""Public names say what they take and return, in which shapes and units, and what they raise."""

from __future__ import annotations

import doctest
import inspect
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

import kpframe
from kpframe.errors import ArgumentError, ShapeError, UnknownNameError
from kpframe.plugin import get_manager

from .public_docstrings import SOURCE, Entry, elsewhere, faults, listed, public, public_values, raised_by

ROOT = Path(kpframe.__file__).parent
#: What estimates a figure by a published method; an operator that is drawn or made is none.
ESTIMATORS = [
    *(f"kpframe.{name}" for name in ("alignment", "effective_rank", "eigsh", "frobenius_norm", "svd")),
    *(f"kpframe.{name}" for name in ("lyapunov_exponents", "spectral_density", "trace")),
    *(f"kpframe.spectra.{name}" for name in ("finite_time_exponents", "partial_trace", "randomized_svd")),
    *(f"kpframe.forecast.{name}" for name in ("forecast", "output_kernel", "sharpness", "stable_rate")),
]


def test_public_names_say_what_they_take_return_and_raise() -> None:
    assert len(public()) > 600
    assert {"kpframe.trace", "kpframe.Operator.mean", "kpframe.study.Tracker.record"} <= set(public())
    assert {name: found for name, entry in public().items() if (found := faults(entry))} == {}


def test_estimators_name_their_source() -> None:
    spectra = {f"kpframe.{name}" for name in kpframe.__all__ if kpframe._HOME[name] == "spectra"}
    assert spectra - {"kpframe.Estimate"} <= set(ESTIMATORS)
    assert [name for name in ESTIMATORS if not SOURCE.search(public()[name].text)] == []


def test_public_constants_are_described_where_they_stand() -> None:
    constants = [
        (module, name)
        for module, name, value in public_values()
        if not isinstance(value, type) and not callable(value) and not inspect.ismodule(value)
    ]
    assert ("kpframe.operators", "MEMORY_BUDGET") in constants
    text = {path: path.read_text(encoding="utf-8") for path in ROOT.rglob("*.py")}
    for module, name in constants:
        room = ROOT.joinpath(*module.split(".")[1:2])
        line = rf"(?:\w+, )*{name}(?:, \w+)*(?::[^=\n]+)? = "
        said = re.compile(rf'^#: [^\n]+\n{line}|^{line}[^"]*\n"""', re.MULTILINE)
        texts = [own for path, own in text.items() if path.is_relative_to(room)]
        assert any(map(said.search, texts)), (module, name)


# -- the check itself: docstrings that it must refuse, and the same mended ----------------------------------


def bad() -> None:
    pass


def unnamed(values: torch.Tensor, gain: float) -> torch.Tensor:
    """Return the product, ``[n]``, for ``values`` ``[n]``."""


def shapeless(values: torch.Tensor) -> torch.Tensor:
    """Return ``values``, doubled."""


def shapely(values: torch.Tensor) -> torch.Tensor:
    """Return ``values`` ``[n]``, doubled."""


def listless(a: int, b: int, c: int, d: int, e: int) -> None:
    """Do it with ``a``, ``b``, ``c``, ``d`` and ``e``."""


def doubled(a: int, b: int) -> None:
    """Do it.

    Args:
        a, b: two.
        c: a third.
    """


def silent(values: list[float]) -> float:
    """The sum of ``values``."""


def unitless(max_bytes: int) -> None:
    """Refuse more than ``max_bytes``."""


def united(max_bytes: int) -> None:
    """Refuse more than ``max_bytes`` bytes."""


def loss_rate(descent: float) -> float:
    """Return how fast it falls, by ``descent``."""


def quiet(number: int) -> None:
    """Take ``number``."""
    if number < 0:
        raise ArgumentError("number: expected 0 or more")


def loud(number: int) -> None:
    """Take ``number``; raises ``ArgumentError``."""
    if number < 0:
        raise ShapeError("number: expected 0 or more")


def precise(number: int) -> None:
    """Take ``number``.

    Raises:
        ShapeError: for one below 0.
    """
    if number < 0:
        raise ArgumentError("number: expected 0 or more")


def invented(number: int) -> None:
    """Take ``number``.

    Raises:
        NumberError: never.
    """


def pointing(number: int) -> None:
    """Take it again; see ``loud``."""


def lost(number: int) -> None:
    """Take it again; see ``louder``."""


class Taken:
    """It has ``width`` entries."""

    def __init__(self, width: int, depth: int) -> None:
        raise UnknownNameError

    def first(self, values: torch.Tensor) -> torch.Tensor:
        """Return the first of ``values`` ``[n]``, a scalar."""

    @property
    def whole(self) -> torch.Tensor:
        """All of it."""


class Given(Taken):
    """It has ``width`` entries and ``depth``.

    Raises:
        UnknownNameError: always.
    """

    def __init__(self, width: int, depth: int) -> None:
        raise UnknownNameError

    def first(self, values: torch.Tensor) -> torch.Tensor:
        """Return the first, faster."""


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (bad, ["has no docstring"]),
        (unnamed, ["does not say what gain is"]),
        (shapeless, ["does not say the shape of values", "does not say the shape of what it returns"]),
        (shapely, []),
        (listless, [f"does not say what {name} is" for name in "abcde"]),
        (
            doubled,
            ["has a, b in one line, which the site cannot tell apart", "lists c, which it does not take"],
        ),
        (silent, ["does not say what it returns"]),
        (unitless, ["does not say the unit of max_bytes"]),
        (united, []),
        (loss_rate, ["does not say the unit of what it returns"]),
        (quiet, ["does not say that it raises ArgumentError"]),
        (loud, []),  # a ShapeError is an ArgumentError
        (precise, ["does not say that it raises ArgumentError"]),
        (invented, ["says that it raises NumberError, which is no error"]),
        (pointing, []),
        (lost, ["does not say what number is"]),
        (Taken, ["does not say what depth is", "does not say that it raises UnknownNameError"]),
        (Given, []),
    ],
)
def test_what_the_check_refuses(value: Callable[..., Any], found: list[str]) -> None:
    assert faults(Entry(value.__name__, value, None)) == found


def test_a_method_may_leave_to_its_base_what_the_base_says() -> None:
    assert faults(Entry("Given.first", Given.first, Given)) == []
    assert faults(Entry("first", Given.first, None)) == [
        "does not say what values is",
        "does not say the shape of what it returns",
    ]
    assert faults(Entry("Taken.whole", vars(Taken)["whole"], Taken)) == [
        "does not say the shape of what it returns"
    ]


def test_how_docstrings_are_read() -> None:
    said = " two;\n        more: of them."
    text = (
        "Do.\n\nArgs:\n    a, b: two;\n        more: of them.\n    *c: rest.\n\nRaises:\n    KeyError: never."
    )
    assert listed(text, "Args") == {"a": said, "b": said, "c": " rest."}
    assert set(listed(text, "Raises")) == {"KeyError"}
    assert raised_by(quiet) == {"ArgumentError"}
    assert [entry.value for entry in elsewhere(Entry("pointing", pointing, None))] == [loud]


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("Backpropagation through time (Werbos 1990).", True),
        ("Source: arXiv 2511.10796.", True),
        ("A step. Ours.", True),
        ("Ours at step t is SciPy's at t + 1.", True),
        ("so ours at step t is its ``x[t + 1]``", False),
        ("as ``torch.nn.GRU`` has it, with 2048 units", False),
        ("in 1990", False),
    ],
)
def test_what_counts_as_a_source(text: str, named: bool) -> None:
    assert bool(SOURCE.search(text)) == named


# -- examples -----------------------------------------------------------------------------------------------


@cache
def examples() -> dict[str, doctest.DocTest]:
    """Return the examples of docstrings by the name that they are of."""
    parse = doctest.DocTestParser().get_doctest
    found = {name: parse(entry.text, {}, name, None, None) for name, entry in public().items()}
    return {name: test for name, test in found.items() if test.examples}


@pytest.mark.parametrize("name", sorted(examples()))
def test_examples_of_docstrings(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test = examples()[name]
    for kind, offered in re.findall(r"(?:create|parse)_(model|rule|task)\(\"(\w+)", public()[name].text):
        if offered not in {spec.name for spec in get_manager().specs(kind)}:
            pytest.skip(f"the {kind} {offered} is offered by a plugin that is not installed")
    monkeypatch.chdir(tmp_path)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.REPORT_NDIFF)
    with torch.random.fork_rng(devices=[]):
        runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)
    assert runner.tries == len(test.examples)


def test_examples_are_there_and_are_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert len(examples()) >= 30
    assert {"kpframe.linearize", "kpframe.Flow", "kpframe.trace", "kpframe.study.Tracker"} <= set(examples())
    wrong = doctest.DocTestParser().get_doctest(">>> 1 + 1\n3\n", {}, "wrong", None, None)
    assert doctest.DocTestRunner().run(wrong).failed == 1
    assert "Expected:\n    3" in capsys.readouterr().out
