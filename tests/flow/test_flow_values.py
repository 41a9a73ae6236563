"""A flow is a value; padding, precision and the smallest sizes."""

from __future__ import annotations

from html import escape

import pytest
import torch

from kpframe import linearize, wrap
from kpframe.errors import NonFiniteError


def products(flow, q) -> list[torch.Tensor]:
    operators = (flow.A, flow.A.T, flow.P, flow.P.T, flow.P.truncated(2), flow.K, flow.Phi)
    return [op(q) for op in operators] + [flow.J.T(q)]


@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.rows(8)
def test_training_the_model_does_not_change_a_flow(lab, toy, method) -> None:
    model = lab.make(toy, trainable_initial_state=True)
    data = lab.trials(model)
    flow, late = linearize(model, **data, method=method), linearize(model, **data, method=method)
    q = lab.randn(4, *flow.P.domain.shape)
    before = products(flow, q)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.mul_(0.5).add_(0.1)
    model.rollout(**data).states.sum().backward()
    for old, same, again in zip(before, products(flow, q), products(late, q), strict=True):
        assert torch.equal(old, same)
        assert torch.equal(old, again)  # even where nothing was computed before the model changed
    fresh = linearize(model, **data, method=method)
    lab.differ(fresh.Phi(q), before[6])


@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.rows(12)
def test_refilling_the_arguments_does_not_change_a_flow(lab, toy, method) -> None:
    model = lab.make(toy)
    data = lab.trials(model, h0=True, mask=True)
    twin = {name: value.clone() for name, value in data.items()}
    for mask in (False, True):
        names = ("x", "h0", "mask") if mask else ("x", "h0")
        flow = linearize(model, **{name: data[name] for name in names}, method=method)
        expected = linearize(model, **{name: twin[name] for name in names}, method=method)
        data["x"].fill_(3)
        data["h0"].fill_(-3)
        data["mask"].fill_(True)
        q = lab.randn(4, *flow.P.domain.shape)
        for now, then in zip(products(flow, q), products(expected, q), strict=True):
            lab.close(now, then)
        assert torch.equal(flow.trajectory.inputs, expected.trajectory.inputs)
        assert torch.equal(flow.trajectory.previous, expected.trajectory.previous)
        for name, value in twin.items():
            data[name].copy_(value)


def test_linearize_leaves_the_model_and_its_arguments_alone(lab, toy) -> None:
    model = lab.make(toy)
    data = lab.trials(model, h0=True, mask=True)
    kept = {name: value.clone() for name, value in data.items()}
    state = {name: value.clone() for name, value in model.state_dict().items()}
    flow = linearize(model, **data)
    flow.Phi(lab.randn(0, *flow.Phi.domain.shape))
    assert all(torch.equal(data[name], value) for name, value in kept.items())
    assert all(torch.equal(model.state_dict()[name], value) for name, value in state.items())
    assert all(p.grad is None for p in (*model.parameters(), *flow.model.parameters()))


@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.rows(4)
def test_arguments_that_require_gradients_are_taken_as_constants(lab, toy, method) -> None:
    model = lab.make(toy)
    data = lab.trials(model, h0=True)
    flow = linearize(model, **data, method=method)
    tracked = linearize(model, **{k: v.clone().requires_grad_() for k, v in data.items()}, method=method)
    run = tracked.trajectory
    assert not any(v.requires_grad for v in (run.states, run.inputs, run.initial_state))
    q = lab.randn(4, *flow.P.domain.shape)
    for one, two in zip(products(flow, q), products(tracked, q), strict=True):
        lab.close(one, two)
        assert not two.requires_grad


@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.rows(4)
def test_products_are_deterministic(lab, toy, method) -> None:
    model = lab.make(toy)
    q = lab.randn(4, 2, 4, model.width)
    one, two = (products(linearize(model, **lab.trials(model), method=method), q) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))


@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.rows(4)
def test_padded_steps_hold_and_do_not_learn(lab, toy, method) -> None:
    model = lab.make(toy)
    mask = torch.tensor([[True, True, False, False], [True, True, True, False]])
    data = lab.trials(model, h0=True)
    flow = linearize(model, **data, mask=mask, method=method)
    q, theta = lab.randn(1, 2, 4, model.width), lab.randn(2, flow.J.domain.size)
    assert torch.equal(flow.A(q)[~mask], q[~mask])
    assert torch.equal(flow.A.T(q)[~mask], q[~mask])
    assert not flow.J(theta)[~mask].any()
    assert not flow.J.T(q * ~mask[..., None]).any()
    lab.differ(flow.A(q)[mask], q[mask])
    lab.differ(flow.Phi(q) + q, linearize(model, **data, method=method).Phi(q) + q) if theta.numel() else None
    short = linearize(model, data["x"][:1, :2], data["h0"][:1], method=method)
    lab.close(flow.Phi.select(batch=0, time=slice(0, 2)).to_dense(), short.Phi.to_dense())


@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.parametrize("filling", [float("nan"), float("inf"), 1e300])
@pytest.mark.rows(10)
def test_what_stands_in_padding_is_not_looked_at(lab, toy, method, filling) -> None:
    model = lab.make(toy)
    data = lab.trials(model, mask=True)
    dirty = dict(data, x=data["x"].masked_fill(~data["mask"][..., None], filling))
    clean, other = (linearize(model, **d, method=method) for d in (data, dirty))
    q = lab.randn(4, *clean.P.domain.shape)
    for one, two in zip(products(clean, q), products(other, q), strict=True):
        assert torch.equal(one, two)
    if filling != 1e300:
        with pytest.raises(
            NonFiniteError, match=r"x: expected finite numbers, got (nan|inf) at index \[1, 3, 0\]"
        ):
            linearize(model, dirty["x"])


@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.rows(8)
def test_float32_follows_float64(lab, toy, method) -> None:
    single = lab.make(toy, dtype=torch.float32)
    double = lab.make(toy)
    data = lab.trials(double, h0=True, mask=True)
    few = {k: v.float() if v.is_floating_point() else v for k, v in data.items()}
    low, high = linearize(single, **few, method=method), linearize(double, **data, method=method)
    q = lab.randn(4, 2, *high.P.domain.shape)
    for one, two in zip(products(low, q.float()), products(high, q), strict=True):
        assert one.dtype == torch.float32
        lab.close(one.double(), two, 1e-5)
    assert {op.dtype for op in (low.A, low.J, low.P, low.K, low.Phi)} == {torch.float32}
    assert low.Phi.to_dense().dtype == low.A.blocks().dtype == torch.float32
    assert low.A.diagonal()(q.float()).dtype == low.P.chunked(2)(q.float()).dtype == torch.float32


@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.rows(4)
def test_the_smallest_sizes(lab, toy, method) -> None:
    model = lab.make(toy, inputs=1, hidden=1, trainable_initial_state=True)
    for batch, time in ((1, 1), (1, 3), (3, 1)):
        data = lab.trials(model, batch=batch, time=time)
        flow = linearize(model, **data, method=method)
        G = lab.total_jacobian(model, **data)
        lab.close(flow.Phi.to_dense(), G @ G.T)
        assert flow.P.transition(-1).to_dense().shape == (batch * model.width,) * 2


@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.rows(6)
def test_no_probe_at_all(lab, toy, method) -> None:
    model = lab.make(toy)
    flow = linearize(model, **lab.trials(model), method=method)
    none = torch.zeros(0, *flow.P.domain.shape, dtype=torch.float64)
    for op in (flow.A, flow.P, flow.K, flow.Phi, flow.P.inverse):
        assert op(none).shape == none.shape
        assert op.T(none).shape == none.shape
    assert flow.J.T(none).shape == (0, flow.J.domain.size)


def test_repr(lab) -> None:
    model = lab.make("rnn")
    flow = linearize(model, **lab.trials(model))
    assert repr(flow) == "Flow(Rnn, batch=2, time=4, hidden=3, parameters=21, P: sites, K: sites)"
    assert [repr(op) for op in (flow.A, flow.J, flow.P, flow.K)] == ["A", "J", "P", "K"]


def test_a_flow_shows_itself_in_a_notebook() -> None:
    torch.manual_seed(0)
    flow = linearize(wrap(torch.nn.RNNCell(2, 3)), torch.randn(4, 5, 2))
    html = flow._repr_html_()
    assert "linearized: Phi = P K P*" in html
    assert "batch=4, time=5, hidden=3 (60 numbers)" in html
    assert "21: weight_ih [3, 2], weight_hh [3, 3], bias_ih [3], bias_hh [3]" in html
    assert escape(f"{flow.P.method}: {flow.P.why}") in html
