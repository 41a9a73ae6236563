"""A, J, P, K and Phi of every form, against automatic differentiation and closed forms."""

from __future__ import annotations

import pytest
import torch

from kpframe import create_model, linearize


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
    width = trajectory.space.shape
    return torch.stack(A).reshape(*width, -1), torch.cat(J)


def solve(A: torch.Tensor) -> torch.Tensor:
    """Return the dense ``(I - A Z)^{-1}`` of blocks ``[B, T, H, H]``, by inversion."""
    batch, time, hidden, _ = A.shape
    system = torch.eye(batch * time * hidden, dtype=A.dtype).reshape(*A.shape[:3], *A.shape[:3])
    for t in range(1, time):
        for b in range(batch):
            system[b, t, :, b, t - 1, :] = -A[b, t]
    return torch.linalg.inv(system.reshape(batch * time * hidden, -1))


@pytest.mark.rows(4)
def test_step_jacobians(make, draw, close, differ, form) -> None:
    model = make(**form)
    x = draw(2, 5, model.input_size, seed=11)
    flow = linearize(model, x, draw(2, model.width, seed=5))
    assert (flow.P.method, flow.K.method) == ("sites", "sites")
    A, J = jacobians(model, flow.trajectory)
    close(flow.A.blocks(), A, 1e-12)
    close(flow.J.to_dense(), J, 1e-12)
    differ(flow.A.blocks(), A.mT)
    differ(linearize(model, x).J.to_dense(), J)
    P = solve(A)
    close(flow.P.to_dense(), P, 1e-12)
    close(flow.Phi.to_dense(), P @ J @ J.T @ P.T, 1e-12)
    differ(flow.P.to_dense(), P.T)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("initial", ["zero", "given", "trainable"])
@pytest.mark.rows(20)
def test_structured_is_autograd_is_total(
    make, draw, close, differ, total_jacobian, form, mask, masked, initial
) -> None:
    model = make(**form, trainable_initial_state=initial == "trainable")
    x = draw(2, 5, model.input_size, seed=11)
    h0 = draw(2, model.width, seed=5) if initial == "given" else None
    chosen = mask if masked else None
    flow, twin = linearize(model, x, h0, chosen), linearize(model, x, h0, chosen, method="autograd")
    assert (twin.P.method, twin.K.method) == ("autograd", "autograd")
    for name in ("A", "J", "P", "K", "Phi"):
        close(getattr(flow, name).to_dense(), getattr(twin, name).to_dense(), 1e-12)
    G = total_jacobian(model, x, h0, chosen)
    Phi = flow.Phi.to_dense()
    close(Phi, G @ G.T, 1e-10)
    differ(Phi, flow.K.to_dense())
    other = total_jacobian(model, x, h0, None if masked else mask)
    differ(Phi, other @ other.T)


@pytest.mark.rows(4)
def test_everything_follows_device_and_dtype(make, draw, form, device) -> None:
    model = make(**form)
    x = draw(2, 5, model.input_size, seed=11)
    expected = linearize(model, x).Phi(draw(2, 5, model.width, seed=3))
    model = model.to(device, torch.float32)
    found = linearize(model, x.to(device).float()).Phi(draw(2, 5, model.width, seed=3).to(device).float())
    assert (found.device.type, found.dtype) == (device.type, torch.float32)
    assert float((found.cpu().double() - expected).norm()) <= 1e-4 * float(expected.norm())


def test_masked_steps_hold_the_state(make, x, mask) -> None:
    flow = linearize(make(form="rate", alpha=0.3), x, None, mask)
    unit = torch.eye(4, dtype=torch.float64)
    blocks = flow.A.blocks()
    assert torch.equal(blocks[~mask], unit.expand(2, 4, 4))
    assert all(not torch.equal(block, unit) for block in blocks[mask])
    J = flow.J.to_dense().reshape(2, 5, 4, -1)
    assert torch.equal(J[~mask], torch.zeros_like(J[~mask]))
    assert all(bool(rows.any()) for rows in J[mask])


def gram(model, flow, constant: float) -> torch.Tensor:
    """Return ``D (Z Z^T + c 11^T) D``, built from the gains and the inputs of the two sites."""
    form, alpha = model.form, model.alpha
    z = flow.trajectory.previous.flatten(0, 1)
    sources = model.phi(z) if form == "current" else z
    u = flow.trajectory.inputs.flatten(0, 1) @ model.weight_ih_l0.T + sources @ model.weight_hh_l0.T
    for name in ("bias_ih_l0", "bias_hh_l0"):
        if hasattr(model, name):
            u = u + getattr(model, name)
    slope = torch.ones_like(u) if form == "current" else 1 - u.tanh() ** 2
    D = (alpha * slope).detach()
    Z = torch.cat([flow.trajectory.inputs.flatten(0, 1), sources], dim=1)
    units = torch.eye(model.units, dtype=torch.float64)
    return torch.einsum("ni,nm,mj,ij->nimj", D, Z @ Z.T + constant, D, units).reshape(D.numel(), -1)


@pytest.mark.parametrize("form", ["vanilla", "rate", "current"])
@pytest.mark.parametrize(
    ("settings", "frozen", "constant"),
    [
        ({}, (), 2),
        ({}, ("bias_hh_l0",), 1),
        ({}, ("bias_ih_l0",), 1),
        ({}, ("bias_ih_l0", "bias_hh_l0"), 0),
        ({"bias": False}, (), 0),
    ],
)
def test_bias_constant_of_K(make, close, differ, x, form, settings, frozen, constant) -> None:
    model = make(form=form, alpha=1.0 if form == "vanilla" else 0.4, **settings)
    whole = linearize(model, x)
    for name in frozen:
        getattr(model, name).requires_grad_(False)
    K = linearize(model, x).K
    close(K.to_dense(), gram(model, whole, constant), 1e-12)
    close(whole.K.freeze(frozen).to_dense(), gram(model, whole, constant), 1e-12)
    differ(K.to_dense(), gram(model, whole, constant + 1))


@pytest.mark.parametrize(
    ("form", "alpha", "exact"), [("current", 0.3, True), ("rate", 0.3, False), ("vanilla", 1, False)]
)
def test_the_dimension_of_K_is_that_of_the_gram_matrix_times_the_units_where_gains_are_alike(
    form, alpha, exact
):
    torch.manual_seed(0)
    model = create_model("rnn", input_size=2, hidden_size=5, form=form, alpha=alpha, gain=2.0).double()
    x = torch.randn(3, 4, 2, dtype=torch.float64)
    flow = linearize(model, x)

    def ratio(matrix: torch.Tensor) -> float:
        return float(matrix.trace() ** 2 / matrix.square().sum())

    # what the weights read: the rate of the step before, the input, and 1 for each of two bias vectors
    read = torch.cat(
        [model.phi(flow.trajectory.previous) if form == "current" else flow.trajectory.previous, x], 2
    )
    gram = read.flatten(0, 1) @ read.flatten(0, 1).T + 2
    closed, found = 5 * ratio(gram), ratio(flow.K.to_dense())
    if exact:
        assert found == pytest.approx(closed, rel=1e-12)
    else:
        assert found < 0.98 * closed
