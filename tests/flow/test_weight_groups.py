"""Where parameters act: weight groups and gains of J, eligibilities, and parameters by name."""

from __future__ import annotations

import pytest
import torch

from kpframe import linearize
from kpframe.errors import ShapeError, UnsupportedError
from kpframe.flow import eligibilities, join_parameters, split_parameters
from kpframe.testing import Elman, Gated, Plain

F64 = torch.float64
CELLS = {"elman": Elman, "gated": Gated, "plain": Plain}


def flow_of(name: str, **settings):
    torch.manual_seed(3)
    model = CELLS[name](2, 4, **settings).double()
    mask = torch.arange(5) < torch.tensor([[5], [3]])
    return linearize(model, torch.randn(2, 5, 2, dtype=F64), mask=mask)


@pytest.mark.parametrize("name", CELLS)
def test_eligibilities_are_what_an_adjoint_adds_up(name, close, differ) -> None:
    J = flow_of(name).J
    r = torch.randn(J.codomain.shape, dtype=F64)
    found = eligibilities(J, r)
    close(found.sum((0, 1)), J.T(r), 1e-11)
    for trial, step in ((0, 0), (0, 4), (1, 2)):
        alone = torch.zeros_like(r)
        alone[trial, step] = r[trial, step]
        close(found[trial, step], J.T(alone), 1e-11)
        differ(found[trial, step], J.T(r))


def test_eligibilities_reach_a_trainable_initial_state_in_the_first_step(close) -> None:
    J = flow_of("elman", trainable_initial_state=True).J
    r = torch.ones(J.codomain.shape, dtype=F64)
    found = split_parameters(J.domain, eligibilities(J, r))["h0"]
    assert found[:, 0].any()
    assert not found[:, 1:].any()
    close(
        found.sum((0, 1)),
        split_parameters(J.domain, J.T(torch.ones(J.codomain.shape, dtype=F64)))["h0"],
        1e-11,
    )


@pytest.mark.parametrize("name", ["elman", "gated"])
def test_groups_make_up_the_parameter_jacobian(name, close, differ) -> None:
    """``J q = Sum_g D_g (W_g(q) z_g)`` and its adjoint, group by group."""
    J = flow_of(name).J
    q, r = torch.randn(3, J.domain.size, dtype=F64), torch.randn(J.codomain.shape, dtype=F64)
    moved = split_parameters(J.domain, q)
    groups = J.weight_groups(moved)
    total, back = torch.zeros(3, *J.codomain.shape, dtype=F64), torch.zeros(J.domain.size, dtype=F64)
    for group in groups:
        assert len(group.gain()) == group.units * len(group.targets)
        assert not group.per_step
        weight = group.weight(moved, (3,))
        total += torch.einsum("kgm,tbm,gtbh->kbth", weight, group.z, group.gain())
        parts = split_parameters(J.domain, back)
        for parameter, value in group.gradients(torch.einsum("gtbh,bth,tbm->gm", group.gain(), r, group.z)):
            parts[parameter] += value
    close(total, J(q), 1e-11)
    close(back, J.T(r), 1e-11)
    first = torch.einsum("kgm,tbm,gtbh->kbth", groups[0].weight(moved, (3,)), groups[0].z, groups[0].gain())
    if name == "gated":  # input and state act on other preactivations of the candidate
        assert len(groups) == 2
        differ(first, J(q))
    assert {group.names for group in J.weight_groups(["bias_ih_l0"])} == {frozenset({"bias_ih_l0"})}


def test_given_values_stand_in_the_place_of_gains(close, differ) -> None:
    flow = flow_of("elman")
    J, values = flow.J, torch.randn(flow.J.codomain.shape, dtype=F64)
    q = torch.randn(J.domain.size, dtype=F64)
    theta, x, h = split_parameters(J.domain, q), flow.trajectory.inputs, flow.trajectory.previous
    u = (
        x @ theta["weight_ih_l0"].mT
        + h @ theta["weight_hh_l0"].mT
        + theta["bias_ih_l0"]
        + theta["bias_hh_l0"]
    )
    made = J.with_gains(values, name="J[v]")
    close(made(q), values * u, 1e-11)
    differ(made(q), J(q))
    assert repr(made) == "J[v]"
    with pytest.raises(ShapeError, match="values: expected shape"):
        J.with_gains(values[0], name="J[v]")


def test_a_form_that_knows_no_weights_says_so() -> None:
    flow = flow_of("plain")
    for use in (
        lambda: flow.J.weight_groups(["weight_hh_l0"]),
        lambda: flow.J.with_gains(torch.ones(flow.J.codomain.shape, dtype=F64), name="J"),
        lambda: flow.A.weights,
    ):
        with pytest.raises(UnsupportedError, match=r"know its weights apart .*SiteModel"):
            use()


def test_weights_of_a_step_are_those_that_replace_takes(close, differ) -> None:
    A = flow_of("gated").A
    q = torch.randn(A.domain.shape, dtype=F64)
    assert list(A.weights) == ["weight_hh_l0"]
    close(A.replace(A.weights)(q), A(q), 1e-11)
    differ(A.replace({name: 2 * weight for name, weight in A.weights.items()})(q), A(q))
    cut = A.masked(torch.arange(5) != 2)
    assert torch.equal(cut.weights["weight_hh_l0"], A.weights["weight_hh_l0"])


def test_parameters_by_name_and_back() -> None:
    space = flow_of("elman").J.domain
    q = torch.randn(space.size, dtype=F64)
    parts = split_parameters(space, q)
    assert parts["weight_hh_l0"].shape == (4, 4)
    assert torch.equal(join_parameters(space, parts), q)
    assert not torch.equal(join_parameters(space, {**parts, "bias_hh_l0": parts["bias_ih_l0"]}), q)
    parts["weight_hh_l0"].zero_()  # views
    assert torch.equal(join_parameters(space, parts), q)
