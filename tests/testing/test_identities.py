"""The identities as functions: named, documented, sourced, with partners; and what residuals say."""

from __future__ import annotations

import math

import pytest
import torch

from kpframe.errors import ArgumentError, NonFiniteError
from kpframe.operators._spaces import Space, parameter_space, state_space
from kpframe.testing import parametrize_with_checks
from kpframe.testing._cases import FlowCase
from kpframe.testing._identity import Identity, Tally
from kpframe.testing._residual import Residual, below, compare, contrast, require, worst
from kpframe.testing.identities import MODEL, REGISTRY, CheckFailure, NotApplicable, flow, identity_named

#: Checks that are a yes or no of their own and have nothing to vary.
ALONE = {
    *("factory_builds", "state_shape", "dtype_kept", "deterministic", "derivatives_are_finite"),
    *("products_of_flow_are_pure", "flow_dtype_kept", "rule_builds", "update_shape", "rule_dtype_kept"),
    *("reducer_builds", "reducer_dtype_kept", "adjoint_twice_is_the_operator", "tags_are_true"),
    *("products_are_pure", "operator_dtype_kept", "fits_is_honest"),
    *("propagator_builds", "parameter_operator_builds", "quantity_builds", "measuring_changes_nothing"),
    *("figures_are_labelled", "figures_survive_a_file", "needs_are_declared", "padding_is_not_read"),
    *("inputs_are_those_of_the_moment", "steps_are_compared_with_care"),
}
EVERY = [one for identities in REGISTRY.values() for one in identities.values()]


@parametrize_with_checks(["operator:algebra"])
def test_the_algebra(check) -> None:
    check()


@pytest.mark.parametrize("one", EVERY, ids=lambda one: f"{one.kind}-{one.name}")
def test_every_identity_is_documented_and_has_a_partner(one: Identity) -> None:
    assert one.summary.endswith(".")
    assert one.source
    assert one.look
    assert (one.partner is None) == (one.name in ALONE)


def test_an_identity_is_a_function_of_a_case() -> None:
    case = FlowCase("kpframe.testing._toys:Gated", {"input_size": 2, "hidden_size": 2}, batch=2, time=3)
    residual = flow.phi_equals_total_jacobian(case)
    assert residual.ok
    assert residual.value < 1e-12
    tally = Tally()
    for one in MODEL.values():
        if one.name != "masked_steps_hold":
            one.verify(case, tally)
    assert tally.cases == len(MODEL) - 1


def test_lookup_by_name() -> None:
    assert identity_named("model", "causality") is MODEL["causality"]
    with pytest.raises(ArgumentError, match="did you mean 'causality'"):
        identity_named("model", "causalty")


def made(function, partner=None) -> Identity:
    """Return an identity that is in no registry."""
    return Identity(function.__name__, "model", function, "here", "there", partner=partner)


def test_verify_counts_and_explains() -> None:
    def holds(case):
        """It holds."""
        return Residual(1e-12)

    def fails(case):
        """It says what it says."""
        return Residual(0.5)

    def raises(case):
        """It raises."""
        raise ZeroDivisionError("by zero")

    def absent(case):
        """It does not apply."""
        raise NotApplicable("no reason")

    def endless(case):
        """It leaves the numbers."""
        raise NonFiniteError("nan")

    tally = Tally()
    made(holds, lambda case: None).verify(None, tally)
    assert (tally.cases, tally.partners, tally.degenerate) == (1, 0, 1)
    made(holds, lambda case: Residual(0.3)).verify(None, tally)
    assert (tally.cases, tally.partners, tally.degenerate) == (2, 1, 1)
    with pytest.raises(CheckFailure, match="the comparison sees nothing"):
        made(holds, lambda case: Residual(0.0)).verify(None)
    with pytest.raises(
        CheckFailure, match=r"fails: It says what it says\. \(relative error 0\.5, tolerance 1e-09\)"
    ):
        made(fails).verify(None)
    with pytest.raises(
        CheckFailure, match="it raised ZeroDivisionError: by zero\n  look at: there\n  source: here"
    ):
        made(raises).verify(None)
    with pytest.raises(NotApplicable):
        made(absent).verify(None, tally)
    assert (tally.inapplicable, tally.reason) == (1, "no reason")
    with pytest.raises(NonFiniteError):
        made(endless).verify(None)


def test_compare_names_the_worst_entry() -> None:
    space = state_space(2, 2, {"h": 1, "c": 2})
    expected = torch.zeros(space.shape, dtype=torch.float64)
    actual = expected.clone()
    actual[1, 0, 2] = 3.0
    found = compare(actual, expected, "states", spaces=(space,))
    assert (found.value, found.ok) == (1.0, False)
    assert found.detail == "states[batch 1, time 0, hidden c[1]]: expected 0, got 3"
    theta = parameter_space({"weight": (2, 2), "bias": (2,)})
    matrix = torch.zeros(space.size, 6, dtype=torch.float64)
    wrong = matrix.clone()
    wrong[3, 5] = float("nan")
    found = compare(wrong, matrix, "J", spaces=(space, theta))
    assert not found.ok
    assert "J[batch 0, time 1, hidden h[0] ; parameter bias[1]]: expected 0, got nan" in found.detail
    assert compare(expected, expected, "same") == Residual(0.0)
    assert compare(torch.tensor(2.0), torch.tensor(1.0), "number").detail == "number: expected 1, got 2"


def test_a_figure_that_is_no_number_passes_nowhere() -> None:
    assert [below(value, 2.0) for value in (1.5, 2.0, 3.0, math.inf)] == [0.5, 0.0, 0.0, 0.0]
    assert not Residual(below(math.nan, 2.0), 0.1).ok
    tally = Tally()
    tally.add(Residual(math.nan))
    tally.add(Residual(0.5))
    assert tally.worst == math.inf


def test_compare_refuses_other_shapes_and_dtypes() -> None:
    with pytest.raises(CheckFailure, match=r"q: expected shape \[2\], got \[3\]"):
        compare(torch.zeros(3), torch.zeros(2), "q")
    with pytest.raises(CheckFailure, match=r"q: expected dtype torch.float64, got torch.float32"):
        compare(torch.zeros(3), torch.zeros(3).double(), "q")


def test_small_numbers_are_zero_and_scales_count() -> None:
    one, tiny = torch.tensor([1.0]), torch.tensor([1e-14])
    assert compare(tiny, 2 * tiny, "tiny").ok
    assert compare(1 + 1e-5 * one, one, "loose", scale=1e5).ok
    assert not compare(1 + 1e-5 * one, one, "tight").ok
    assert contrast(tiny, 2 * tiny) is None
    assert contrast(one, 2 * one) == Residual(0.5)
    assert worst(Residual(0.0), Residual(0.2), Residual(0.9)) == Residual(0.2)
    assert worst(Residual(0.0), Residual(1e-12)) == Residual(1e-12)
    require(True, "fine")
    with pytest.raises(CheckFailure, match="not fine"):
        require(False, "not fine")


def test_places_without_names() -> None:
    wrong = compare(torch.ones(2, 2), torch.zeros(2, 2), "m", spaces=(Space.of(a=2),))
    assert wrong.detail.startswith("m[a 0]")
