"""Metrics on the parameters: learning rates, Adam's second moments, low-rank projections."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from kpframe_rules.frozen import Frozen
from kpframe_rules.low_rank import LowRankProjection
from kpframe_rules.natural_gradient import NaturalGradient
from kpframe_rules.preconditioned import FrozenAdam, LearningRates
from kpframe_rules.truncated import TruncatedBPTT

from kpframe.errors import ArgumentError, DtypeError, ShapeError
from kpframe.testing import parametrize_with_checks

F64 = torch.float64
SEEDS = st.integers(0, 2**31 - 1)
RATES = {"*": 0.3, "weight*": 0.02, "weight_hh*": 2.0}


def by_name(flow, flat: torch.Tensor) -> dict[str, torch.Tensor]:
    return {part.name: flat[..., part.slice] for part in flow.J.domain["parameter"].parts}


def weight_of(flow, start: str) -> str:
    return next(part.name for part in flow.J.domain["parameter"].parts if part.name.startswith(start))


def moments(flow, seed: int = 0) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return {
        part.name: torch.rand(part.shape, generator=generator, dtype=F64) + 0.01
        for part in flow.J.domain["parameter"].parts
    }


def least(matrix: torch.Tensor) -> float:
    """Return the least eigenvalue of a symmetric matrix over its largest in size."""
    values = torch.linalg.eigvalsh(matrix)
    return float(values[0] / values.abs().max())


# -- learning rates ------------------------------------------------------------------------------------------


@settings(max_examples=5)
@given(seed=SEEDS, time=st.integers(1, 5), start=st.sampled_from(["zero", "given", "trainable"]))
@pytest.mark.rows(2)
def test_each_gradient_times_its_rate(problem, close, differ, name, seed, time, start) -> None:
    here = problem(name, seed, time, start)
    flow = here.flow()
    update = by_name(flow, LearningRates(RATES).update_operator(flow)(here.err))
    exact = by_name(flow, here.backward())
    for key, g in exact.items():
        rate = 2.0 if key.startswith("weight_hh") else 0.02 if key.startswith("weight") else 0.3
        if g.any():
            close(update[key], rate * g)
            differ(update[key], g)


def test_rates_of_zero_and_one_freeze(problem, close, differ, name) -> None:
    here = problem(name)
    flow = here.flow()
    Phi = LearningRates({"weight*": 0.0}).flow_operator(flow)
    frozen = Frozen(["weight*"]).flow_operator(flow)
    close(Phi(here.err), frozen(here.err))
    differ(Phi(here.err), flow.Phi(here.err))
    half = LearningRates({}, other=0.5).flow_operator(flow)
    close(half(here.err), 0.5 * flow.Phi(here.err))
    assert Phi.positive
    assert Phi.self_adjoint


def test_descent_along_the_update_is_that_of_rescaled_parameters(problem, close, differ, name) -> None:
    """Learning rates L are ordinary descent in ``phi = L^{-1/2} theta``."""
    here = problem(name)
    flow = here.flow()
    K = LearningRates(RATES).parameter_operator(flow).to_dense()
    root = torch.cat(
        [
            torch.full(
                (part.size,),
                2.0
                if "hh" in part.name and "weight" in part.name
                else 0.02
                if "weight" in part.name
                else 0.3,
                dtype=F64,
            ).sqrt()
            for part in flow.J.domain["parameter"].parts
        ]
    )
    J = flow.J.to_dense() * root
    close(K, J @ J.T)
    differ(K, flow.K.to_dense())


# -- Adam's second moments -----------------------------------------------------------------------------------


def test_gradient_over_the_roots(problem, close, differ, name) -> None:
    here = problem(name, start="trainable")
    flow = here.flow()
    v = moments(flow)
    rule = FrozenAdam(v, eps=0.05)
    update = by_name(flow, rule.update_operator(flow)(here.err))
    for key, g in by_name(flow, here.backward()).items():
        close(update[key], g / (v[key].reshape(-1).sqrt() + 0.05))
        differ(update[key], g)
    assert rule.flow_operator(flow).positive


@pytest.mark.parametrize("kind", [torch.optim.Adam, torch.optim.AdamW])
@pytest.mark.parametrize("amsgrad", [False, True])
def test_moments_of_an_optimizer(problem, close, differ, kind, amsgrad) -> None:
    """After momentum has settled on one gradient, Adam's next step is ``lr M g`` for ``beta1 = 0``."""
    here = problem("gru", start="trainable")
    extra = torch.nn.Parameter(torch.ones(3, dtype=F64))  # a readout's, behind and in front
    parameters = list(here.model.trainable().values())
    optimizer = kind(
        [{"params": [extra]}, {"params": parameters}],
        lr=1e-3, betas=(0.0, 0.9), eps=1e-4, amsgrad=amsgrad, weight_decay=0.0,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for p in (extra, *parameters):
            p.grad = torch.randn(p.shape, generator=generator, dtype=F64)
        optimizer.step()
    rule = FrozenAdam.of_optimizer(optimizer, here.model)
    flow = here.flow()
    gradient = rule.gradient(flow, here.err)
    names = ["", *here.model.trainable()]
    close(
        FrozenAdam.of_state_dict(optimizer.state_dict(), names).gradient(flow, here.err)["h0"], gradient["h0"]
    )
    exact = by_name(flow, here.backward())
    for key, p in here.model.trainable().items():
        state = optimizer.state[p]
        v = state["max_exp_avg_sq" if amsgrad else "exp_avg_sq"] / (1 - 0.9**3)
        close(gradient[key], exact[key].reshape(p.shape) / (v.sqrt() + 1e-4))
        differ(gradient[key], exact[key].reshape(p.shape))
    # the same through one step of the optimizer itself: its moments then hold this gradient, too
    for p, g in zip(parameters, gradient.values(), strict=True):
        p.grad = g.clone()
    before = [p.detach().clone() for p in parameters]
    optimizer.step()
    after = FrozenAdam.of_optimizer(optimizer, here.model)
    for (key, p), old, g in zip(here.model.trainable().items(), before, gradient.values(), strict=True):
        close((old - p.detach()) / 1e-3, g / (after.second_moments[key].sqrt() + after.eps), 1e-9)


def test_adam_refusals(problem) -> None:
    here = problem("gru")
    flow = here.flow()
    v = moments(flow)
    del v["bias_hh_l0"]
    with pytest.raises(ArgumentError, match="expected a tensor for 'bias_hh_l0', got those of weight_ih_l0"):
        FrozenAdam(v).update_operator(flow)
    (FrozenAdam(v) @ Frozen(["bias_hh_l0"])).update_operator(flow)  # what does not learn needs none
    with pytest.raises(
        ShapeError, match=r"second_moments\['bias_ih_l0'\]: expected the parameter's shape \[12\]"
    ):
        FrozenAdam({**moments(flow), "bias_ih_l0": torch.ones(3, dtype=F64)}).update_operator(flow)
    with pytest.raises(DtypeError, match=r"expected the flow's dtype torch.float64, got torch.float32"):
        FrozenAdam({key: value.float() for key, value in moments(flow).items()}).update_operator(flow)
    with pytest.raises(ArgumentError, match=r"second_moments\['w'\]: expected finite entries >= 0"):
        FrozenAdam({"w": torch.tensor([-1.0])})
    with pytest.raises(ArgumentError, match=r"eps: expected float > 0 .*, got 0"):
        FrozenAdam({}, eps=0)
    with pytest.raises(ArgumentError, match=r"second_moments: expected dict.*, got .*list"):
        FrozenAdam([])
    parameters = list(here.model.trainable().values())
    with pytest.raises(
        ArgumentError, match=r"expected Adam's exp_avg_sq of 'weight_ih_l0', after at least one"
    ):
        FrozenAdam.of_optimizer(torch.optim.Adam(parameters), here.model)
    with pytest.raises(ArgumentError, match="optimizer: expected one that trains 'bias_hh_l0'"):
        FrozenAdam.of_optimizer(torch.optim.Adam(parameters[:-1]), here.model)


def test_rates_refusals(problem) -> None:
    flow = problem("gru").flow()
    with pytest.raises(ArgumentError, match="got 'weigth_hh_l0'; did you mean 'weight_hh_l0'"):
        LearningRates({"weigth_hh_l0": 0.1}).update_operator(flow)
    for rate in (-1.0, float("inf"), float("nan"), "fast", True):
        with pytest.raises(ArgumentError, match=r"rates\['w'\]: expected a finite number >= 0"):
            LearningRates({"w": rate})
    with pytest.raises(ArgumentError, match=r"other: expected float >= 0 .*, got -1"):
        LearningRates({}, other=-1)
    with pytest.raises(ArgumentError, match=r"rates: expected dict.*, got .*float"):
        LearningRates(0.1)


# -- projections of low rank ---------------------------------------------------------------------------------


def projected(g: torch.Tensor, U: torch.Tensor, V: torch.Tensor, side: str) -> torch.Tensor:
    """Return the nearest matrix of the subspace by least squares over a spanning set."""
    m, n = g.shape
    eye_m, eye_n = torch.eye(m, dtype=F64), torch.eye(n, dtype=F64)
    span = {
        "left": [torch.einsum("ia,jb->abij", U, eye_n)],
        "right": [torch.einsum("ia,jb->abij", eye_m, V)],
        "both": [torch.einsum("ia,jb->abij", U, V)],
        "tangent": [torch.einsum("ia,jb->abij", U, eye_n), torch.einsum("ia,jb->abij", eye_m, V)],
    }[side]
    columns = torch.cat([s.reshape(-1, m * n) for s in span]).T
    return (columns @ torch.linalg.pinv(columns) @ g.reshape(-1)).reshape(m, n)


@pytest.mark.parametrize("side", ["left", "right", "both", "tangent"])
@settings(max_examples=3)
@given(seed=SEEDS)
@pytest.mark.rows(4)
def test_gradients_are_projected(problem, close, differ, name, side, seed) -> None:
    here = problem(name, seed)
    flow = here.flow()
    key = weight_of(flow, "weight_hh")
    shape = tuple(here.model.trainable()[key].shape)
    generator = torch.Generator().manual_seed(seed)
    U, V = (torch.randn(size, 2, generator=generator, dtype=F64) for size in shape)
    rule = LowRankProjection.of_bases({key: (U, V)}, side)
    update = by_name(flow, rule.update_operator(flow)(here.err))
    exact = by_name(flow, here.backward())
    close(update[key].reshape(shape), projected(exact[key].reshape(shape), U, V, side), 1e-9)
    differ(update[key], exact[key])
    for other in exact.keys() - {key}:
        assert torch.allclose(update[other], exact[other], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("side", ["left", "right", "both", "tangent"])
@pytest.mark.parametrize("basis", ["random", "weight"])
@pytest.mark.rows(4)
def test_K_minus_K_of_a_projector_is_positive(problem, close, differ, name, side, basis) -> None:
    here = problem(name)
    flow = here.flow()
    K = LowRankProjection(1, side, basis).parameter_operator(flow)
    Q = K.metric.to_dense()
    close(Q @ Q, Q)
    close(Q.T, Q)
    gap = flow.K.to_dense() - K.to_dense()
    assert least(gap) > -1e-12
    assert least(-gap) < -0.1  # the partner: not the other way round
    differ(K.to_dense(), flow.K.to_dense())


def test_leading_vectors_of_gradients(problem, close, differ, name) -> None:
    """GaLore: on the gradient it is made of, the projection is the best approximation of that rank."""
    here = problem(name)
    flow = here.flow()
    exact = {
        key: g.reshape(here.model.trainable()[key].shape) for key, g in by_name(flow, here.backward()).items()
    }
    for side in ("left", "right", "both"):
        rule = LowRankProjection.of_gradients(exact, 1, side)
        update = rule.gradient(flow, here.err)
        for key, g in exact.items():
            if g.ndim == 2:
                U, S, Vh = torch.linalg.svd(g)
                close(update[key], S[0] * torch.outer(U[:, 0], Vh[0]), 1e-9)
                differ(update[key], g)
    whole = LowRankProjection(100, "both").update_operator(flow)(here.err)
    close(whole, here.backward())


def test_tangent_of_low_rank_weights(problem, close) -> None:
    """Updates of ``U V^T`` by both factors, at a weight of rank 2, are what the tangent projector keeps."""
    here = problem("vanilla")
    weight = here.model.weight_hh_l0
    U, V, dU, dV = (
        torch.randn(4, 2, generator=torch.Generator().manual_seed(k), dtype=F64) for k in range(4)
    )
    with torch.no_grad():
        weight.copy_(U @ V.T)
    flow = here.flow()
    Q = LowRankProjection(2, "tangent", "weight", weights=["weight_hh_l0"]).parameter_operator(flow).metric
    part = next(p for p in flow.J.domain["parameter"].parts if p.name == "weight_hh_l0")
    q = torch.zeros(flow.J.domain.size, dtype=F64)
    q[part.slice] = (dU @ V.T + U @ dV.T).reshape(-1)
    close(Q(q), q, 1e-10)
    left = LowRankProjection(2, "left", "weight", weights=["weight_hh_l0"]).parameter_operator(flow).metric
    assert float((left(q) - q).norm()) > 0.1 * float(q.norm())


def test_each_weight_has_its_own_subspace(problem) -> None:
    flow = problem("gru").flow()
    one = LowRankProjection(1, weights=["weight_hh*"]).parameter_operator(flow).metric
    every = LowRankProjection(1).parameter_operator(flow).metric
    assert torch.equal(one.pieces[0].U, every.pieces[1].U)
    assert [piece.part.name for piece in every.pieces] == ["weight_ih_l0", "weight_hh_l0"]


def test_low_rank_refusals(problem) -> None:
    flow = problem("gru").flow()
    with pytest.raises(ArgumentError, match="rank: expected int >= 1, got 0"):
        LowRankProjection(0)
    with pytest.raises(
        ArgumentError, match="side: expected one of 'left', 'right', 'both', 'tangent', got 'top'"
    ):
        LowRankProjection(1, "top")
    with pytest.raises(ArgumentError, match="basis: expected one of 'random', 'weight', got 'svd'"):
        LowRankProjection(1, basis="svd")
    with pytest.raises(ArgumentError, match="weights: expected a list"):
        LowRankProjection(1, weights="weight*")
    with pytest.raises(ArgumentError, match="weights: expected names of at least one matrix"):
        LowRankProjection(1, weights=["bias*"]).update_operator(flow)
    bad = {"weight_hh_l0": (torch.ones(3, 1, dtype=F64), torch.ones(4, 1, dtype=F64))}
    with pytest.raises(
        ShapeError, match=r"bases\['weight_hh_l0'\]: U: expected \[\] \+ \[12, r\], got \[3, 1\]"
    ):
        LowRankProjection.of_bases(bad).update_operator(flow)
    with pytest.raises(ArgumentError, match="gradients: expected those of at least one matrix"):
        LowRankProjection.of_gradients({"b": torch.ones(3)}, 1)


# -- on a metric that is there already -----------------------------------------------------------------------


def every_metric(flow):
    return [
        LearningRates({"weight*": 0.1, "bias*": 3.0}),
        FrozenAdam(moments(flow)),
        LowRankProjection(1, "both"),
        NaturalGradient(damping=0.1),
    ]


@pytest.mark.rows(10)
def test_frozen_parameters_stay_frozen(problem, name) -> None:
    here = problem(name)
    flow = here.flow()
    frozen = Frozen(["weight_hh*"])
    key = weight_of(flow, "weight_hh")
    for rule in every_metric(flow):
        for both in (rule @ frozen, frozen @ rule, LearningRates({}, 0.5) @ rule @ frozen):
            g = both.gradient(flow, here.err)
            assert not g[key].any(), both
            assert all(value.any() for other, value in g.items() if other != key), both
            K = both.parameter_operator(flow)
            assert key not in K.parameters
            assert K.positive
            dense = K.to_dense()
            assert float((dense - dense.T).norm()) <= 1e-9 * float(dense.norm())
        assert rule.gradient(flow, here.err)[key].any()  # the partner
        nothing = (rule @ Frozen(["*"])).update_operator(flow)(here.err)
        assert not nothing.any()


def test_diagonal_metrics_multiply(problem, close, differ, name) -> None:
    here = problem(name)
    flow = here.flow()
    rates, adam = LearningRates(RATES), FrozenAdam(moments(flow), eps=0.1)
    one = (rates @ adam).update_operator(flow)(here.err)
    close(one, (adam @ rates).update_operator(flow)(here.err))
    expected = rates.parameter_operator(flow).metric(adam.update_operator(flow)(here.err))
    close(one, expected)
    differ(one, adam.update_operator(flow)(here.err))


def test_a_metric_is_a_congruence_on_any_other(problem, close, differ, name) -> None:
    flow = problem(name).flow()
    inner = LowRankProjection(1, "left", seed=3)
    M = inner.parameter_operator(flow).metric.to_dense()
    for rule in every_metric(flow)[:3]:
        D = rule.parameter_operator(flow).metric.to_dense()
        eigenvalues, vectors = torch.linalg.eigh(D)
        S = vectors @ torch.diag(torch.where(eigenvalues > 1e-12, eigenvalues, 0).sqrt()) @ vectors.T
        both = (rule @ inner).parameter_operator(flow).metric.to_dense()
        close(both, S @ M @ S, 1e-10)
        differ(both, M)


@pytest.mark.rows(6)
def test_metrics_after_other_changes(problem, close, differ, name) -> None:
    here = problem(name)
    flow = here.flow()
    window = TruncatedBPTT(2)
    for rule in every_metric(flow):
        M = rule.parameter_operator(flow).metric
        both = rule @ window
        close(both.update_operator(flow)(here.err), M(here.windowed(2)), 1e-9)
        differ(both.update_operator(flow)(here.err), rule.update_operator(flow)(here.err))
        close(both.flow_operator(flow)(here.err), flow.P(flow.J(M(here.windowed(2)))), 1e-9)


def test_formulas(problem) -> None:
    flow = problem("gru").flow()
    assert repr(LearningRates({"w*": 0.1})) == "LearningRates(rates={'w*': 0.1}, other=1.0)"
    assert repr(LearningRates({"w*": 0.1}).flow_operator(flow)) == "P K_rates P*"
    assert repr(LearningRates({"w*": 0.1}).update_operator(flow)) == "M J* P*"
    assert repr(LowRankProjection(2)) == "LowRankProjection(rank=2, side='left', basis='random', seed=0)"
    assert repr(LowRankProjection(2).update_operator(flow)) == "Q J* P*"
    assert repr(LowRankProjection(2, "both").flow_operator(flow)) == "P K_both P*"
    assert repr(FrozenAdam({"w": torch.ones(2)})) == "FrozenAdam(second_moments=['w'], eps=1e-08)"


# -- the kit -------------------------------------------------------------------------------------------------


class Rates(LearningRates):
    def __init__(self) -> None:
        super().__init__(RATES)


class SomeMoments(FrozenAdam):
    """Moments that fit any model."""

    def __init__(self) -> None:
        super().__init__({})

    def change(self, update):
        v = {name: value.to(update.K.dtype) for name, value in moments(update.flow).items()}
        return FrozenAdam(v, eps=0.1).change(update)


class Tangent(LowRankProjection):
    def __init__(self) -> None:
        super().__init__(1, "tangent", "random")


@parametrize_with_checks([Rates, SomeMoments, Tangent], kind="rule")
@pytest.mark.rows(6)
def test_conformance(check) -> None:
    check()


@pytest.mark.parametrize("learned", [False, True])
def test_a_readout_inside_the_module_needs_no_moments(problem, close, learned) -> None:
    """One optimizer for all: it has moments of the readout once that learns, and none before."""
    here = problem("gru")
    plain = FrozenAdam(moments(here.flow()))
    here.model.head = torch.nn.Linear(2, 1).double()
    optimizer = torch.optim.Adam(here.model.parameters(), eps=plain.eps)
    for name, p in here.model.named_parameters():
        if learned or not name.startswith("head"):
            p.grad = plain.second_moments.get(name, torch.ones_like(p)).sqrt()
    optimizer.step()
    flow = here.flow()
    rule = FrozenAdam.of_optimizer(optimizer, here.model)
    assert flow.unread == {"head.weight", "head.bias"}
    assert ("head.weight" in rule.second_moments) == learned
    expected = plain.gradient(flow, here.err)
    for name in plain.second_moments:
        close(rule.gradient(flow, here.err)[name], expected[name], 1e-6)
    assert not bool(rule.gradient(flow, here.err)["head.weight"].any())
