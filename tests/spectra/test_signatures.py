"""Options of the public verbs go by name, so that a budget cannot be taken for a rank or a kind."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from inspect import Parameter

import pytest
import torch

from kpframe import MatrixOperator, spectra

#: What each verb works on; everything else is an option.
SUBJECTS = {
    "alignment": ["a", "b"],
    "effective_rank": ["op"],
    "eigsh": ["op"],
    "finite_time_exponents": ["A"],
    "frobenius_norm": ["op"],
    "lyapunov_exponents": ["A"],
    "partial_trace": ["op", "axes"],
    "probes": ["space", "num"],
    "randomized_svd": ["op"],
    "spectral_density": ["op"],
    "svd": ["op"],
    "trace": ["op"],
}


def verb(name: str) -> Callable[..., object]:
    found: Callable[..., object] = getattr(spectra, name)
    return found


def test_every_public_function_is_listed() -> None:
    assert {name for name in spectra.__all__ if inspect.isfunction(verb(name))} == set(SUBJECTS)


@pytest.mark.parametrize("name", SUBJECTS)
def test_all_but_the_subject_is_keyword_only_and_has_a_default(name: str) -> None:
    parameters = inspect.signature(verb(name)).parameters.values()
    by_place = [p for p in parameters if p.kind is Parameter.POSITIONAL_OR_KEYWORD]
    by_name = [p for p in parameters if p.kind is Parameter.KEYWORD_ONLY]
    assert [p.name for p in by_place] == SUBJECTS[name]
    assert all(p.default is Parameter.empty for p in by_place)
    assert len(by_name) == len(parameters) - len(by_place) >= 2
    assert all(p.default is not Parameter.empty for p in by_name)


@pytest.mark.parametrize("name", SUBJECTS)
def test_an_option_without_its_name_is_a_type_error(name: str) -> None:
    subjects = [None] * len(SUBJECTS[name])
    with pytest.raises(TypeError, match=rf"{name}\(\) takes .* positional argument"):
        verb(name)(*subjects, 60)


def test_an_option_by_its_name_is_taken() -> None:
    op = MatrixOperator(torch.diag(torch.tensor([3.0, 2.0, 1.0], dtype=torch.float64)))
    assert spectra.eigsh(op, k=2).eigenvalues.tolist() == pytest.approx([3, 2])
    assert spectra.trace(op, budget=3).value == 6
    assert spectra.effective_rank(op, kind="threshold", threshold=0.5, budget=3).value == 1
    assert spectra.effective_rank(op, kind="threshold", threshold=0.8, budget=3).value == 2
