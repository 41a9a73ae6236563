"""Ranks, traces, norms, spectra, kernels, rules and scores: against dense matrices, as from ``measure``."""

from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
import xarray as xr

from kpframe import Readout, effective_rank, frobenius_norm, trace
from kpframe.errors import ArgumentError
from kpframe.operators._count import counted_products
from kpframe.study import Moment, Probe, Surroundings, create_quantity
from kpframe.study._operator_quantity import found_of
from kpframe.study._remembered import Remembered

F64 = torch.float64
B, T, H = 6, 5, 4
NAMES = ("P P*", "K", "Phi", "P K")


@pytest.fixture(scope="module")
def moment(offered) -> Moment:
    torch.manual_seed(2)
    task = offered.Sum()
    rules = {"exact": offered.Exact(), "window": offered.Window()}
    around = Surroundings(
        {"test": Probe.of(task.sample(B, generator=1, dtype=F64))},
        loss=task.loss,
        test=task.sample(20, generator=4, dtype=F64),
        rules=rules,
        operators=NAMES,
        budget=20,
        seed=5,
    )
    return Moment(offered.Small(2).double(), Readout(H, 1, generator=3, dtype=F64), around, step=7)


@pytest.fixture(scope="module")
def dense(moment: Moment) -> dict[str, torch.Tensor]:
    """Return the matrices of the operators, made of those of P and J."""
    P, J = moment.flow.P.to_dense(), moment.flow.J.to_dense()
    return {"P P*": P @ P.T, "K": J @ J.T, "Phi": P @ J @ J.T @ P.T, "P K": P @ J @ J.T}


def test_figures_that_a_budget_pays_for_through_the_parameters_share_their_products(offered) -> None:
    torch.manual_seed(2)
    model = offered.Small(2).double()
    inputs = torch.randn(20, 5, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    size = sum(parameter.numel() for parameter in model.parameters())
    assert size < 20 * 5 * H
    around = Surroundings({"test": Probe(inputs)}, operators=("Phi",), budget=size)
    moment = Moment(model, None, around)
    assert moment.flow.Phi.domain.size == 20 * 5 * H
    found = {}
    with counted_products() as count:
        for name in ("trace", "norm", "effective_rank"):
            found |= create_quantity(name).measure(moment).data_vars
    assert count.products == 2 * size  # with G and with its adjoint, for all of them together
    matrix = moment.flow.Phi.to_dense()
    for name, text in (("trace", "trace"), ("norm", "norm"), ("effective_rank", "rank")):
        assert found[name].item() == pytest.approx(of(matrix, text), rel=1e-10)
        assert "on the small side" in found[name].coords[f"{name}_method"].item()


def of(matrix: torch.Tensor, name: str) -> float:
    gram = matrix @ matrix.T if name.startswith("rank of op op*") else matrix
    if name == "trace":
        return float(matrix.trace())
    if name == "norm":
        return float(matrix.norm())
    return float(gram.trace() ** 2 / gram.square().sum())


@pytest.fixture(scope="module")
def wide(offered) -> tuple[Moment, dict[str, torch.Tensor]]:
    """A moment of more dimensions than most accuracies take products, and the matrices of its operators."""
    torch.manual_seed(2)
    inputs = torch.randn(40, 10, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    around = Surroundings({"test": Probe(inputs)}, operators=("P P*", "K", "Phi"), budget=20, seed=5)
    moment = Moment(offered.Small(2).double(), None, around)
    return moment, {operator: moment.operators[operator].to_dense() for operator in around.operators}


@pytest.mark.parametrize("name", ["effective_rank", "trace", "norm"])
def test_a_standard_error_that_is_asked_for(wide, name) -> None:
    moment, matrices = wide
    exact = {
        operator: of(matrix, "rank" if "rank" in name else name) for operator, matrix in matrices.items()
    }
    took, relative = [], []
    for rtol in (0.2, 0.01, None):
        with counted_products() as count:
            data = create_quantity(name, rtol=rtol).measure(moment)
        took.append(count.products)
        relative.append(data[f"{name}_stderr"] / data[name])
        if rtol is not None:
            assert (relative[-1] <= rtol).all()
            for operator, value in exact.items():
                one = data.sel(operator=operator)
                assert abs(float(one[name]) - value) <= 4 * float(one[f"{name}_stderr"]) + 1e-9 * value
    assert took[0] < took[1]
    assert took[2] == 3 * 20  # what the budget gives
    assert not (relative[0] <= 0.01).all()


@pytest.mark.parametrize("name", ["effective_rank", "trace", "norm"])
def test_estimates_are_within_their_standard_errors(moment, dense, name) -> None:
    data = create_quantity(name).measure(moment)
    assert list(data.operator.values) == list(NAMES)
    for operator in NAMES:
        one = data.sel(operator=operator)
        positive = operator != "P K"
        wanted = of(dense[operator], name if positive or name != "effective_rank" else "rank of op op*")
        error = float(one[f"{name}_stderr"])
        assert error > 0
        assert abs(float(one[name]) - wanted) < 4 * error
        assert error < 0.5 * wanted
    assert data[f"{name}_method"].values[0] != "exact"


def test_all_products_make_them_exact(moment, dense) -> None:
    around = moment.around
    whole = Moment(
        moment.model,
        None,
        Surroundings(around.probes, operators=NAMES, budget=2 * B * T * H),
    )
    for name in ("trace", "norm"):
        data = create_quantity(name).measure(whole)
        wanted = [of(dense[operator], name) for operator in NAMES]
        np.testing.assert_allclose(data[name], wanted, rtol=1e-10)
        assert not data[f"{name}_stderr"].any()


def test_the_operators_draw_the_same_and_steps_from_their_numbers(moment) -> None:
    data = create_quantity("norm").measure(moment)
    assert "the same random probes" in data.norm_method.attrs["long_name"]
    for name, operator in moment.operators.items():
        generator = torch.Generator().manual_seed(1000 * (5 + 7))
        assert (
            float(data.norm.sel(operator=name))
            == frobenius_norm(operator, budget=20, generator=generator).value
        )
    again = Moment(moment.model, moment.readout, moment.around, step=8)
    assert float(create_quantity("norm").measure(again).norm[0]) != float(data.norm[0])


def test_a_product_is_computed_once_and_is_the_operator_s_own(moment) -> None:
    operator = moment.operators["Phi"]
    kept = Remembered(operator)
    q = torch.randn(3, B, T, H, generator=torch.Generator().manual_seed(0), dtype=F64)
    assert torch.equal(kept(q), operator(q))
    kept.inner = 2.0 * operator  # what is computed from now on
    found = kept(q.clone())
    assert torch.equal(found, operator(q))
    found.zero_()
    assert torch.equal(kept(q), operator(q))
    assert torch.equal(kept(q + 1), 2.0 * operator(q + 1))
    assert torch.equal(kept.T(q), operator(q))
    assert (kept.positive, kept.self_adjoint, repr(kept)) == (True, True, f"2 {operator!r}")
    other = Remembered(moment.operators["P K"])
    assert not torch.equal(other(q), other.T(q))
    torch.testing.assert_close(other.T(q), moment.operators["P K"].T(q))


@pytest.mark.parametrize(("operators", "scans"), [(("P P*", "K", "Phi"), 1), (("P P*", "2 Phi"), 2)])
def test_operators_that_begin_by_the_same_factor_go_back_once(moment, operators, scans) -> None:
    around = Surroundings(moment.around.probes, operators=("P P*", "K", "Phi"), budget=20, seed=5)
    here = Moment(moment.model, None, around, step=7)
    here.operators = {
        name: 2 * here.flow.Phi if name == "2 Phi" else here.operators[name] for name in operators
    }
    back, P = [], here.flow.P
    scan = P._apply_adjoint
    P._apply_adjoint = lambda r: back.append(len(r)) or scan(r)
    data = create_quantity("trace").measure(here)
    del P._apply_adjoint
    assert back == [20] * scans
    for name, operator in here.operators.items():
        alone = trace(operator, budget=20, generator=torch.Generator().manual_seed(1000 * (5 + 7)))
        assert float(data.trace.sel(operator=name)) == alone.value
        assert float(data.trace_stderr.sel(operator=name)) == alone.stderr


@pytest.mark.parametrize("remembered", [True, False])
def test_products_with_one_side_alone_are_shared_between_quantities_and_operators(
    offered, remembered
) -> None:
    torch.manual_seed(2)
    inputs = torch.randn(100, 5, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    around = Surroundings({"test": Probe(inputs)}, operators=("P P*", "Phi"), budget=20, seed=5)
    here = Moment(offered.Small(2).double(), None, around)
    if not remembered:
        here.remembered = here.operators
    met, P, estimates = [], here.flow.P, {"effective_rank": effective_rank, "trace": trace}
    scan = P._apply_adjoint
    P._apply_adjoint = lambda r: met.append(r.clone()) or scan(r)
    found = [one() for one in found_of([(create_quantity(name, rtol=0.05), here) for name in estimates])]
    del P._apply_adjoint
    again = sum(torch.equal(r, other) for place, r in enumerate(met) for other in met[:place])
    assert (again == 0) if remembered else (again >= 3)  # one scan for two operators and two quantities
    for data, (name, estimate) in zip(found, estimates.items(), strict=True):
        for text, operator in here.operators.items():
            alone = estimate(
                operator, budget=20, rtol=0.05, generator=torch.Generator().manual_seed(1000 * 5)
            )
            one = data.sel(operator=text)
            assert (float(one[name]), float(one[f"{name}_stderr"])) == (alone.value, alone.stderr)
            assert one[f"{name}_method"].item() == alone.method
        assert "one-sided" in data[f"{name}_method"].values[0]
        assert len(set(data[name].values.tolist())) == 2


def test_operators_that_share_a_factor_can_be_pickled(moment) -> None:
    around = Surroundings(moment.around.probes, operators=("P P*", "Phi"), budget=20, seed=5)
    kept = Moment(moment.model, None, around).remembered
    q = torch.randn(3, B, T, H, generator=torch.Generator().manual_seed(0), dtype=F64)
    for name, again in pickle.loads(pickle.dumps(kept)).items():
        assert torch.equal(again(q), kept[name](q))
        assert not torch.equal(again(q), q)


def test_spectra_are_singular_values(moment, dense) -> None:
    data = create_quantity("spectrum", k=5, tolerance=1e-8).measure(moment)
    for name in NAMES:
        wanted = torch.linalg.svdvals(dense[name])[:5]
        np.testing.assert_allclose(data.singular_value.sel(operator=name), wanted, rtol=1e-7)
    assert bool(data.singular_value_converged.all())
    rough = create_quantity("spectrum", k=5, tolerance=1e-12).measure(moment)
    assert float((rough.singular_value_residual - data.singular_value_residual).max()) <= 1e-6


def test_kernels_are_means_over_one_axis_and_traces_over_units(moment, dense) -> None:
    times, trials = (create_quantity(f"{name}_kernel").measure(moment) for name in ("time", "trial"))
    for name in NAMES:
        parts = dense[name].reshape(B, T, H, B, T, H)
        over_time = torch.einsum("bthcsh->ts", parts) / B**2
        np.testing.assert_allclose(times.time_kernel.sel(operator=name), over_time, rtol=1e-9, atol=1e-12)
        over_trials = torch.einsum("bthcth->bc", parts.clone())  # the diagonal alone is another figure
        kernel = trials.trial_kernel.sel(operator=name)
        np.testing.assert_allclose(kernel, torch.einsum("bthcsh->bc", parts) / T**2, rtol=1e-9, atol=1e-12)
        assert np.abs(kernel - over_trials.numpy()).max() > 1e-3
    assert times.time_explained.sel(operator="P K").isnull().all()
    np.testing.assert_allclose(times.time_explained.sel(operator="K").sum(), 1, rtol=1e-9)


def test_rules_and_scores(moment) -> None:
    data = create_quantity("rules").measure(moment).set_coords("failure")
    assert list(data.failure.values) == ["", ""]
    np.testing.assert_allclose(data.gradient_cosine.sel(rule="exact"), 1, rtol=1e-10)
    np.testing.assert_allclose(data.loss_rate_ratio.sel(rule="exact"), 1, rtol=1e-10)
    assert 0 < float(data.gradient_cosine.sel(rule="window")) < 0.999
    scores = create_quantity("scores").measure(moment)
    test = moment.around.test
    outputs = moment.readout(moment.model.rollout(test.inputs).states).detach()
    misses = (outputs - test.targets)[:, 1:].square()
    spread = (test.targets[:, 1:] - test.targets[:, 1:].mean()).square()
    np.testing.assert_allclose(scores.test_r2, 1 - float(misses.sum() / spread.sum()), rtol=1e-9)
    assert "test_accuracy" not in scores


@pytest.mark.parametrize(("name", "lacking"), [("rules", "rules, readout"), ("scores", "readout, test")])
def test_what_is_lacking_is_named(moment, name, lacking) -> None:
    bare = Moment(moment.model, None, Surroundings({"test": Probe(moment.probe.inputs)}))
    with pytest.raises(ArgumentError, match=r"expected .*, got none of ") as raised:
        create_quantity(name).measure(bare)
    for word in lacking.split(", "):
        assert word in str(raised.value)


def test_a_rule_that_fails_costs_its_own_figures(moment, offered) -> None:
    class Broken(offered.Exact):
        def change(self, update):
            raise ZeroDivisionError("no such thing")

    around = moment.around
    rules = {"broken": Broken(), "exact": offered.Exact()}
    other = Moment(
        moment.model, moment.readout, Surroundings(around.probes, loss=around.loss, rules=rules, budget=20)
    )
    data: xr.Dataset = create_quantity("rules").measure(other)
    assert "no such thing" in str(data.failure.sel(rule="broken").item())
    assert np.isnan(data.gradient_cosine.sel(rule="broken"))
    np.testing.assert_allclose(data.gradient_cosine.sel(rule="exact"), 1, rtol=1e-10)
