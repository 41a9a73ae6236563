"""A, J, P, K and Phi against autograd; gradients against finite differences, singular voltages included."""

from __future__ import annotations

import pytest
import torch

from kpframe import linearize


@pytest.fixture
def inputs(draw):
    """Return a maker of inputs ``[2, 5, I]`` that drive a model hard: a few units, or tens of uA/cm2."""

    def build(model) -> torch.Tensor:
        return (20 if model.input_size == model.units else 2) * draw(2, 5, model.input_size, seed=11)

    return build


def jacobians(model, trajectory) -> tuple[torch.Tensor, torch.Tensor]:
    """Return A ``[B, T, H, H]`` and J ``[B T H, M]`` by ``torch.func.jacrev`` of one step at a time."""
    theta = {name: p.detach() for name, p in model.named_parameters()}
    A, J = [], []
    for row, h in zip(trajectory.inputs.flatten(0, 1), trajectory.previous.flatten(0, 1), strict=True):

        def step(theta, h, row=row):
            return torch.func.functional_call(model, theta, (row[None], h[None]))[0]

        by_parameter, by_state = torch.func.jacrev(step, argnums=(0, 1))(theta, h)
        A.append(by_state)
        J.append(torch.cat([by_parameter[name].reshape(len(h), -1) for name in theta], dim=1))
    return torch.stack(A).reshape(*trajectory.space.shape, -1), torch.cat(J)


@pytest.mark.rows(4)
def test_step_jacobians(make, inputs, active, close, differ, form) -> None:
    model = make(**form)
    x = inputs(model)
    flow = linearize(model, x, active(model))
    assert (flow.P.method, flow.K.method) == ("sites", "sites")
    A, J = jacobians(model, flow.trajectory)
    close(flow.A.blocks(), A, 1e-12)
    close(flow.J.to_dense(), J, 1e-12)
    differ(flow.A.blocks(), A.mT)
    differ(linearize(model, x, active(model, seed=6)).J.to_dense(), J)


@pytest.mark.parametrize(("given", "masked"), [(False, False), (True, True)], ids=["own h0", "given, masked"])
@pytest.mark.rows(12)
def test_structured_is_autograd_is_total(
    total_jacobian, make, inputs, active, close, differ, mask, form, given, masked
) -> None:
    model = make(**form)
    x, h0, chosen = inputs(model), active(model) if given else None, mask if masked else None
    flow, twin = linearize(model, x, h0, chosen), linearize(model, x, h0, chosen, method="autograd")
    assert twin.P.method != "sites"
    for name in ("A", "J", "P", "K", "Phi"):
        close(getattr(flow, name).to_dense(), getattr(twin, name).to_dense(), 1e-12)
    G = total_jacobian(model, x, h0, chosen)
    Phi = flow.Phi.to_dense()
    close(Phi, G @ G.T, 1e-10)
    differ(Phi, flow.K.to_dense(), 1e-3)


@pytest.mark.parametrize("name", ["hh", "morris_lecar"])
def test_the_state_at_rest_keeps_the_structure(make, inputs, close, name) -> None:
    model = make(name)
    flow = linearize(model, inputs(model))
    assert flow.K.method == "sites"
    close(flow.trajectory.initial_state, model.resting_state().expand(2, -1), 1e-15)


def pulled(model, x, h0, err) -> torch.Tensor:
    """Return a scalar of the whole roll-out: its states, weighted so that every component counts."""
    weight = torch.cat(
        [torch.full((n,), 0.02 if name == "V" else 1.0) for name, n in model.components.items()]
    )
    return (model.rollout(x, h0).states * weight * err).sum()


@pytest.mark.parametrize("start", [-65.0, -40.0, -55.0, -40.0 + 1e-9], ids=str)
@pytest.mark.parametrize(
    "settings",
    [
        {"name": "hh", "bias": True, "trainable_conductances": ("g_na", "g_k", "g_l")},
        {"name": "hh", "inhibitory_fraction": 0.5, "nonnegative": True, "method": "forward_euler"},
        {"name": "morris_lecar", "inhibitory_fraction": 0.5, "trainable_conductances": ("g_ca",)},
    ],
    ids=["hh", "hh mixed", "ml"],
)
@pytest.mark.rows(12)
def test_gradients_and_curvatures_are_central_differences(make, draw, settings, start) -> None:
    """Also from the voltages at which a rate is 0/0: the first step starts at them exactly."""
    model = make(**settings)
    x = torch.cat([torch.zeros(2, 1, 2), 2 * draw(2, 30, 2, seed=3)], dim=1).double()
    h0 = model.initial_state(2).clone()
    h0[:, : model.units] = start
    h0[:, -model.units :] = 0.4  # synapses at work
    h0.requires_grad_()
    err = draw(2, 31, model.width, seed=4)
    theta = [h0, *model.parameters()]
    generator = torch.Generator().manual_seed(8)
    along = [torch.randn(p.shape, generator=generator, dtype=torch.float64) for p in theta]
    gradient = torch.autograd.grad(pulled(model, x, h0, err), theta, create_graph=True)
    product = sum((g * v).sum() for g, v in zip(gradient, along, strict=True))
    curvature = torch.autograd.grad(product, theta)

    def moved(size: float) -> tuple[float, list[torch.Tensor]]:
        with torch.no_grad():
            for p, v in zip(theta, along, strict=True):
                p.add_(v, alpha=size)
        value = pulled(model, x, h0, err)
        slopes = torch.autograd.grad(value, theta)
        with torch.no_grad():
            for p, v in zip(theta, along, strict=True):
                p.sub_(v, alpha=size)
        return float(value.detach()), list(slopes)

    size = 1e-5
    (up, slopes_up), (down, slopes_down) = moved(size), moved(-size)
    assert float(product.detach()) == pytest.approx((up - down) / (2 * size), rel=1e-6)
    assert abs(float(product.detach())) > 1e-2
    differences = torch.cat(
        [((a - b) / (2 * size)).flatten() for a, b in zip(slopes_up, slopes_down, strict=True)]
    )
    flat = torch.cat([c.flatten() for c in curvature])
    assert bool(flat.isfinite().all())
    assert float((flat - differences).norm()) <= 1e-6 * float(flat.norm())
    assert float(flat.norm()) > 1e-3


@pytest.mark.rows(4)
def test_single_precision_is_double_precision_rounded(make, active, draw, close, form) -> None:
    double = make(**form)
    x, h0 = draw(2, 40, double.input_size, seed=11), active(double)
    single = make(**form).float()
    states = single.rollout(x.float(), h0.float()).states
    assert states.dtype == torch.float32
    close(states.double(), double.rollout(x, h0).states, 1e-4)
    flow = linearize(single, x[:, :5].float(), h0.float())
    twin = linearize(double, x[:, :5], h0)
    close(flow.Phi.to_dense().double(), twin.Phi.to_dense(), 1e-3)
