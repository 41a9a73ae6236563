"""What a comparison's dataset says of a rule's flow, against its dense matrix: values, flags, definitions."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
import xarray as xr

from kpframe import LearningRule, Readout, linearize, wrap
from kpframe.rules._comparison import FACINGS
from kpframe.study._disk.results import read_dataset, write_dataset
from kpframe.study._report.comparison import write_comparison
from kpframe.study._rules.compare import compare_rules
from kpframe.tasks._error import error
from kpframe.tasks._task import Trials

from ..toy_rules import Exact, Uphill, Window  # noqa: TID252

F64 = torch.float64
B, T, I, H, O = 4, 8, 2, 6, 2  # noqa: E741


class Wrong(LearningRule):
    """Errors come back through another matrix than the readout's, which a hidden error does not determine."""

    needs_readout = True

    def change(self, update):
        return update.with_feedback(torch.linspace(-1, 1, 2 * H * H, dtype=F64).reshape(2 * H, H))


RULES = {"exact": Exact(), **{f"window {k}": Window(k) for k in (1, 3, 6)}, "uphill": Uphill()}


def trials(batch: int = B, outputs: int = O) -> Trials:
    generator = torch.Generator().manual_seed(5)
    inputs = torch.randn(batch, T, I, generator=generator, dtype=F64)
    targets = torch.randn(batch, T, outputs, generator=generator, dtype=F64)
    everywhere = torch.ones(batch, T, dtype=torch.bool)
    return Trials(inputs, targets, everywhere, everywhere, np.full((batch, T), "all"))


def network(seed: int = 1, outputs: int = O) -> tuple[torch.nn.Module, Readout]:
    torch.manual_seed(seed)
    cell = torch.nn.RNNCell(I, H)
    with torch.no_grad():
        cell.weight_hh.copy_(1.3 * torch.linalg.qr(torch.randn(H, H))[0])
    return wrap(cell).double(), Readout(H, outputs, generator=2, dtype=F64)


@cache
def compared(budget: int, batch: int = B, values: int = 3) -> xr.Dataset:
    model, readout = network()
    return compare_rules(model, readout, trials(batch), "mse", RULES, budget=budget, values=values)


@cache
def dense(batch: int = B) -> dict[str, torch.Tensor]:
    """Return the matrix of each rule's flow, made of the matrices of P, J and what the rule puts for P."""
    model, _ = network()
    flow = linearize(model, trials(batch).inputs)
    P, J = flow.P.to_dense(), flow.J.to_dense()
    return {label: P @ J @ J.T @ rule.propagator(flow).to_dense().T for label, rule in RULES.items()}


def ends(matrix: torch.Tensor) -> tuple[float, float]:
    values = torch.linalg.eigvalsh((matrix + matrix.mT) / 2)
    return float(values[0]), float(values[-1])


@pytest.mark.parametrize("budget", [16, 24, 56, 200])
@pytest.mark.rows(4)
def test_an_end_is_right_or_a_bound_that_is_marked(budget: int) -> None:
    """A value that is called converged is within 1%; another is a bound on the safe side, its sign too."""
    data = compared(budget)
    flags = []
    for label, matrix in dense().items():
        one = data.sel(rule=label)
        low, high = ends(matrix)
        rounding = 1e-10 * max(-low, high)
        for name, right, side in (("smallest", low, -1), ("largest", high, 1)):
            value, done = float(one[f"symmetric_{name}"]), bool(one[f"symmetric_{name}_converged"])
            flags.append(done)
            if done:
                assert value == pytest.approx(right, rel=1e-2, abs=rounding), (label, name)
                assert float(one[f"symmetric_{name}_residual"]) <= 1e-2 * abs(value) + rounding
            else:
                assert side * (right - value) > 0, (label, name)
    assert all(flags) == (budget >= 56)  # a small budget does not suffice for every end, and that is said


def test_a_negative_end_beside_a_large_positive_one_keeps_its_sign() -> None:
    matrices, data = dense(), compared(56)
    shares = {label: ends(matrix)[0] / ends(matrix)[1] for label, matrix in matrices.items()}
    assert (
        -0.05 < shares["window 6"] < -1e-3
    )  # little beside the largest, where a loose end shows another sign
    for label in ("window 1", "window 3", "window 6", "uphill"):
        one = data.sel(rule=label)
        assert bool(one.symmetric_smallest_converged)
        assert float(one.symmetric_smallest) == pytest.approx(ends(matrices[label])[0], rel=1e-2)
        assert float(one.symmetric_smallest) < 0


@pytest.mark.slow
def test_the_exact_gradient_has_no_negative_end() -> None:
    """Phi has the rank of its parameters at most; with more of them than dimensions it has to be computed."""
    one = compared(16).sel(rule="exact")
    assert (float(one.symmetric_smallest), float(one.symmetric_smallest_residual)) == (0, 0)
    assert bool(one.symmetric_smallest_converged)
    assert one.symmetric_method.item().endswith("exact: positive, of rank <= 60 < 192")
    assert ends(dense()["exact"])[0] == pytest.approx(0, abs=1e-9)
    few = compared(60, batch=1).sel(rule="exact")  # 48 dimensions, 60 parameters
    right = ends(dense(1)["exact"])[0]
    assert right > 1e-9
    assert float(few.symmetric_smallest) == pytest.approx(right, rel=1e-2)
    assert bool(few.symmetric_smallest_converged)


@pytest.mark.parametrize("budget", [16, pytest.param(400, marks=pytest.mark.slow)])
def test_singular_values_and_norms_carry_flags(budget: int) -> None:
    data, flags = compared(budget, values=8), []
    model, _ = network()
    flow = linearize(model, trials().inputs)
    P = flow.P.to_dense()
    for label, matrix in dense().items():
        one = data.sel(rule=label)
        right = torch.linalg.svdvals(matrix)[:8].numpy()
        done = one.singular_value_converged.values
        flags += done.tolist()
        np.testing.assert_allclose(one.singular_value.values[done], right[done], rtol=1e-2)
        assert (one.singular_value.values <= right * (1 + 1e-9)).all()
        apart = P - RULES[label].propagator(flow).to_dense()
        share = float(torch.linalg.matrix_norm(apart, 2) / torch.linalg.matrix_norm(P, 2))
        if bool(one.propagator_error_converged):
            assert float(one.propagator_error) == pytest.approx(share, rel=2e-2, abs=1e-12)
    assert all(flags) == (budget == 400)


@pytest.mark.parametrize(("budget", "exact"), [pytest.param(400, True, marks=pytest.mark.slow), (56, False)])
def test_one_definition_of_the_effective_rank(budget: int, exact: bool) -> None:
    """That of F F* for every rule; Phi itself, which is positive, would have another one."""
    data = compared(budget)
    assert data.effective_rank.attrs["long_name"].endswith("with G = F F* for the rule's flow F")
    for label, matrix in dense().items():
        one = data.sel(rule=label)
        S = torch.linalg.svdvals(matrix)
        right = float(S.square().sum() ** 2 / S.pow(4).sum())
        stderr = float(one.effective_rank_stderr)
        assert (stderr == 0) == exact
        assert float(one.effective_rank) == pytest.approx(right, abs=5 * stderr + 1e-9), label
        of_itself = float(S.sum() ** 2 / S.square().sum())
        assert of_itself > 1.2 * right
        assert one.effective_rank_method.item().startswith("participation of op op*, "), label
        assert one.effective_rank_method.item().split(", ")[1] == ("exact" if exact else "nystrom")


def test_a_rule_without_a_flow_has_no_figures_and_no_flags() -> None:
    model, readout = network(outputs=2 * H)
    rules = {"wrong": Wrong(), "exact": Exact()}
    data = compare_rules(model, readout, trials(outputs=2 * H), "mse", rules, budget=40, values=3)
    gone = data.sel(rule="wrong")
    for name in ("effective_rank", "symmetric_smallest", "symmetric_largest_residual", "flow_alignment"):
        assert bool(gone[name].isnull()), name
    assert not bool(gone.symmetric_smallest_converged)
    assert not bool(gone.singular_value_converged.any())
    assert gone.effective_rank_method.item() == "none"
    assert data.effective_rank_method.sel(rule="exact").item() != "none"
    assert np.isfinite(gone.update_cosine)


def test_rates_and_cosines_of_updates_against_dense_matrices() -> None:
    """Relative to the exact gradient, by parameter, by pair of steps, by lag and step by step."""
    data, (model, readout), probe = compared(16, values=8), network(), trials()
    flow = linearize(model, probe.inputs)
    J, err = flow.J.to_dense(), error(readout, flow.trajectory.states, probe, "mse")
    uses = J.reshape(B, T, H, -1)

    def parts(P: torch.Tensor) -> torch.Tensor:  # [t, s, M]: errors at step t that reach the uses at step s
        back = torch.einsum("bthcsk,bth->tcsk", P.reshape(B, T, H, B, T, H), err)
        return torch.einsum("tcsk,cskm->tsm", back, uses)

    exact = parts(flow.P.to_dense())
    g = exact.sum((0, 1))
    (readout(model.rollout(probe.inputs).states) - probe.targets).square().mean().backward()
    assert torch.allclose(g, torch.cat([p.grad.reshape(-1) for p in model.parameters()]), rtol=1e-10)
    assert data.loss_rate.units == data.loss_rate_by_pair.units == "1"  # of a squared error
    made = {label: parts(rule.propagator(flow).to_dense()) for label, rule in RULES.items()}
    for label, pieces in made.items():
        one, update = data.sel(rule=label), pieces.sum((0, 1))
        cosine = float(update @ g / update.norm() / g.norm())
        sine = (1 - min(1.0, cosine**2)) ** 0.5
        right = {
            "update_cosine": cosine,
            "norm_ratio": float(update.norm() / g.norm()),
            "loss_rate": -float(update @ g),
            "descent": float(update @ g / (g @ g)),
        }
        assert {name: float(one[name]) for name in right} == pytest.approx(right, rel=1e-9), label
        if label.startswith("window"):
            assert float(one.metric_condition) == pytest.approx((1 + sine) / (1 - sine), rel=1e-6)
        np.testing.assert_allclose(one.loss_rate_by_pair, -(pieces @ g), rtol=1e-8, atol=1e-14)
        for lag in range(T):
            right_lag = -float((pieces @ g).diagonal(-lag).sum())
            assert float(one.loss_rate_by_lag.sel(lag=lag)) == pytest.approx(right_lag, rel=1e-8, abs=1e-14)
        for part in flow.J.domain.axes[0].parts:
            share = -float(update[part.slice] @ g[part.slice])
            assert float(one.loss_rate_by_parameter.sel(parameter=part.name)) == pytest.approx(
                share, rel=1e-9
            )
        for facing, own, other in (("past", 1, 1), ("future", 0, 0), (FACINGS[2], 1, 0), (FACINGS[3], 0, 1)):
            cosines = torch.cosine_similarity(pieces.sum(own), exact.sum(other), dim=1)
            np.testing.assert_allclose(one.cosine_by_time.sel(facing=facing), cosines, rtol=1e-8, atol=1e-12)
        for second, others in made.items():
            w = others.sum((0, 1))
            agree = float(update @ w / update.norm() / w.norm())
            assert float(one.rule_cosine.sel(rule_other=second)) == pytest.approx(agree, rel=1e-9)
    assert data.metric_condition.sel(rule="uphill").item() == np.inf
    assert 0.1 < float(data.descent.sel(rule="window 1")) != pytest.approx(1, rel=1e-2)


@pytest.mark.slow
def test_file_and_page_say_what_converged_and_how(tmp_path: Path) -> None:
    """Flags and methods come back from the file; the page marks bounds, and only those."""
    data = compared(16, batch=1).expand_dims(checkpoint=["net"])
    data = data.assign_coords(
        {n: data[n].expand_dims(checkpoint=1) for n in data.coords if "_method" in str(n)}
    )
    back = read_dataset(write_dataset(data, tmp_path / "c.nc"))
    xr.testing.assert_identical(back, data)
    assert back.symmetric_smallest_converged.dtype == bool
    page = write_comparison(data, tmp_path / "c.html").read_text(encoding="utf-8")
    assert '<th scope="col">effective rank of F F*</th>' in page
    shown = 0
    for rule in data.rule.values:
        one = data.sel(rule=rule, checkpoint="net")
        low = f"{float(one.symmetric_smallest):.3g}"
        bound = not bool(one.symmetric_smallest_converged)
        assert (f"≤ {low} to " in page) == bound, rule
        assert one.effective_rank_method.item() in page
        shown += bound
    assert 0 < shown < data.sizes["rule"]
