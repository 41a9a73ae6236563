"""Multiples, sums, cut and switched step Jacobians know their paths: against dense blocks, one by one."""

from __future__ import annotations

import pytest
import torch

from kpframe import StepJacobian, linearize
from kpframe.errors import ArgumentError, UnsupportedError
from kpframe.flow import ScaledStepJacobian, SumStepJacobian, SwitchedStepJacobian

ASK = ("direct", "pointwise", "diagonal", "unit_blocks", "cut", "replace")


def step_jacobian(lab, toy: str, method: str = "auto") -> StepJacobian:
    model = lab.make(toy, seed=3)
    return linearize(model, **lab.trials(model, h0=True, mask=True), method=method).A


def arguments(lab, A: StepJacobian, name: str) -> tuple[object, ...]:
    if name == "cut":
        return ([A.paths[0]],)
    if name == "replace":
        return ({key: lab.randn(9, *w.shape) for key, w in A.weights.items()},)
    return ()


def sorts(A: StepJacobian) -> dict[str, tuple[StepJacobian, object]]:
    """Return what is made of A, and the same of what a function makes of A and of A's direct path."""
    keep = torch.tensor([True, False, True, True])
    at = torch.tensor([[True, False, True, False], [False, False, True, True]])
    on, chosen = keep[:, None, None], at[..., None, None]
    direct = A.direct()
    return {
        "multiple": (0.5 * A, lambda a, d: 0.5 * a),
        "negative": (-A, lambda a, d: -a),
        "zero": (0 * A, lambda a, d: 0 * a),
        "sum": (A + 2.0 * A, lambda a, d: 3 * a),
        "difference": (A - direct, lambda a, d: a - d),
        "multiple of a difference": (3.0 * (A - direct), lambda a, d: 3 * (a - d)),
        "cut": (A.masked(keep), lambda a, d: on * a),
        "multiple of a cut": (0.5 * A.masked(keep), lambda a, d: on * a / 2),
        "cut of a sum": ((A + direct).masked(keep), lambda a, d: on * (a + d)),
        "switched": (A.switched(direct, at), lambda a, d: torch.where(chosen, d, a)),
        "switched multiple": (
            A.switched(0.5 * A, at) - A,
            lambda a, d: torch.where(chosen, a / 2, a) - a,
        ),
    }


SORTS = ["multiple", "negative", "zero", "sum", "difference", "multiple of a difference", "cut"]
SORTS += ["multiple of a cut", "cut of a sum", "switched", "switched multiple"]


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("toy", ["leaky current", "gru", "lstm", "clocked"])
@pytest.mark.parametrize("ask", ASK)
@pytest.mark.rows(24)
def test_what_rules_ask_for(lab, toy, sort, ask) -> None:
    A = step_jacobian(lab, toy)
    made, of = sorts(A)[sort]
    asked = arguments(lab, A, ask)
    direct = A.direct()

    def one(term: StepJacobian) -> torch.Tensor:
        """Return the blocks of what is asked of A, or of its direct path, which has none of A's own paths."""
        if term is direct and ask in ("cut", "replace"):
            return term.blocks()
        return getattr(term, ask)(*asked).blocks()

    found = getattr(made, ask)(*asked)
    assert isinstance(found, StepJacobian)
    lab.close(found.blocks(), of(one(A), one(direct)))
    lab.check_operator(found)
    if sort != "zero":
        lab.differ(found.blocks(), made.blocks(), 1e-9)
        assert made.units.tolist() == A.units.tolist()


@pytest.mark.parametrize("toy", ["gru", "lstm"])
def test_the_right_kind_is_kept(lab, toy) -> None:
    A = step_jacobian(lab, toy)
    at = torch.tensor([True, False, True, False])
    path = A.paths[0]
    assert isinstance((0.5 * A).direct(), ScaledStepJacobian)
    assert isinstance((A - A.direct()).cut([path]), SumStepJacobian)
    assert isinstance(A.switched(A.direct(), at).direct(), SwitchedStepJacobian)
    assert (A - A.direct()).paths == (0.5 * A).paths == A.masked(at).paths == A.paths
    assert list((A - A.direct()).weights) == list(A.weights)
    valid = torch.ones(2, 4, dtype=torch.bool)
    assert (A - A.direct()).keeping(valid).direct().valid is valid


def test_units_of_an_lstm_know_the_paths_of_the_whole(lab) -> None:
    A = step_jacobian(lab, "lstm")
    units = A.unit_blocks()
    inside = A.units.unsqueeze(1) == A.units
    lab.close(units.direct().blocks(), A.direct().blocks())
    lab.differ(units.direct().blocks(), units.blocks())
    lab.close(units.cut(["f"]).blocks(), A.cut(["f"]).blocks() * inside)
    lab.differ(units.cut(["f"]).blocks(), units.blocks())
    new = {name: lab.randn(9, *w.shape) for name, w in units.weights.items()}
    lab.close(units.replace(new).blocks(), A.replace(new).blocks() * inside)
    lab.differ(units.replace(new).blocks(), units.blocks())


@pytest.mark.parametrize("call", [lambda A: A.direct(), lambda A: A.cut(["z"]), lambda A: A.pointwise()])
def test_refusals_say_which_term(lab, call) -> None:
    A, twin = step_jacobian(lab, "gru"), step_jacobian(lab, "gru", "autograd")
    with pytest.raises(UnsupportedError, match=r"^A \+ A: of its terms, A \(autograd form\) does not know"):
        call(A + twin)
    with pytest.raises(UnsupportedError, match=r"of its terms, diag\(A\) \(diagonal form\) does.*, before"):
        call(A - A.diagonal())
    with pytest.raises(UnsupportedError, match=r"^A \(autograd form\) does not know"):
        call(0.5 * twin)
    with pytest.raises(UnsupportedError, match=r"A\|A: of its terms, A \(autograd form\)"):
        call(A.switched(twin, torch.ones(4, dtype=torch.bool)))


def test_names_that_no_term_has(lab) -> None:
    A = step_jacobian(lab, "gru")
    for made in (0.5 * A, A - A.direct(), A.masked(torch.ones(4, dtype=torch.bool))):
        with pytest.raises(ArgumentError, match=r"paths: expected names among 'r', 'z', 'nh', .*, got 'q'"):
            made.cut(["q"])
        with pytest.raises(ArgumentError, match=r"weights: expected names among \['weight_hh'\], got 'w'"):
            made.replace({"w": torch.zeros(9, 3)})
    with pytest.raises(UnsupportedError, match=r"A \(autograd form\) does not know its weights apart"):
        (A + step_jacobian(lab, "gru", "autograd")).replace({})
