"""A, J, P, K and Phi of the LSTM against automatic differentiation, and the structure of K."""

from __future__ import annotations

import pytest
import torch

from kpframe import linearize, wrap


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


@pytest.mark.rows(3)
def test_step_jacobians(make, draw, close, differ, x, form) -> None:
    model = make(**form)
    flow = linearize(model, x, draw(2, model.width, seed=5))
    assert (flow.P.method, flow.K.method) == ("sites", "sites")
    A, J = jacobians(model, flow.trajectory)
    close(flow.A.blocks(), A, 1e-12)
    close(flow.A.diagonal().values, A.diagonal(dim1=2, dim2=3), 1e-12)
    close(flow.J.to_dense(), J, 1e-12)
    differ(flow.A.blocks(), A.mT)
    differ(linearize(model, x).J.to_dense(), J)


@pytest.mark.parametrize("masked", [False, True], ids=["whole", "masked"])
@pytest.mark.parametrize("initial", ["zero", "given", "trainable"])
@pytest.mark.rows(14)
def test_structured_is_autograd_is_total(
    make, draw, close, differ, total_jacobian, x, mask, form, masked, initial
) -> None:
    model = make(**form, trainable_initial_state=initial == "trainable")
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


def test_phi_is_that_of_a_wrapped_cell(make, close, differ, x) -> None:
    """``torch.nn.LSTMCell`` and nothing but automatic differentiation: another route to the same Phi."""
    model = make()
    cell = torch.nn.LSTMCell(3, 4, dtype=torch.float64)
    cell.load_state_dict({name.removesuffix("_l0"): p for name, p in model.state_dict().items()})
    wrapped = linearize(wrap(cell), x)
    close(linearize(model, x).Phi.to_dense(), wrapped.Phi.to_dense(), 1e-12)
    differ(linearize(make(seed=1), x).Phi.to_dense(), wrapped.Phi.to_dense())


def test_masked_steps_hold_the_state(make, x, mask, form) -> None:
    model = make(**form)
    flow = linearize(model, x, None, mask)
    unit = torch.eye(model.width, dtype=torch.float64)
    blocks = flow.A.blocks()
    assert torch.equal(blocks[~mask], unit.expand(2, -1, -1))
    assert all(not torch.equal(block, unit) for block in blocks[mask])
    J = flow.J.to_dense().reshape(2, 5, model.width, -1)
    assert torch.equal(J[~mask], torch.zeros_like(J[~mask]))
    assert all(bool(rows.any()) for rows in J[mask])


def between(op, one: str, other: str) -> torch.Tensor:
    """Return the dense block of two components, ``[n, m, B, T, B, T]``."""
    space = op.domain
    entries = op.to_dense().reshape(*space.shape, *space.shape).permute(2, 5, 0, 1, 3, 4)
    return entries[space["hidden"].part(one).slice, space["hidden"].part(other).slice]


def is_diagonal(block: torch.Tensor) -> bool:
    """Whether a block ``[n, n, ...]`` couples each unit with itself only; something must be there at all."""
    own = torch.eye(len(block), dtype=torch.bool)
    scale = float(block[own].abs().max())
    assert scale > 0
    largest = float(block[~own].abs().max())
    assert largest <= 1e-14 * scale or largest > 1e-2 * scale
    return largest <= 1e-14 * scale


PAIRS = [("h", "h"), ("h", "c"), ("c", "h"), ("c", "c")]


@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.parametrize("pair", PAIRS)
def test_K_of_one_layer_has_2x2_blocks_per_unit(make, x, method, pair) -> None:
    flow = linearize(make(), x, method=method)
    assert is_diagonal(between(flow.K, *pair))
    assert not is_diagonal(between(flow.Phi, *pair))


@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_a_projection_couples_the_units(make, x, method) -> None:
    flow = linearize(make(proj_size=3), x, method=method)
    assert not is_diagonal(between(flow.K, "h", "h"))
    crossed = between(flow.K, "h", "c")  # each of the three mixes all four units
    assert bool((crossed.abs().amax(dim=(2, 3, 4, 5)) > 1e-3 * crossed.abs().max()).all())
    assert is_diagonal(between(flow.K, "c", "c"))


@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_a_second_layer_couples_the_units(make, x, method) -> None:
    flow = linearize(make(num_layers=2), x, method=method)
    for one, other in PAIRS:
        assert is_diagonal(between(flow.K, f"{one}_l0", f"{other}_l0"))
        assert not is_diagonal(between(flow.K, f"{one}_l1", f"{other}_l1"))
        assert not is_diagonal(between(flow.K, f"{one}_l0", f"{other}_l1"))


def gram(model, trajectory, constant: float) -> torch.Tensor:
    """Return K in closed form: one Gram matrix of what is read, between the gains of h and of c."""
    n = model.hidden_size
    X, (Z, C) = trajectory.inputs.flatten(0, 1), trajectory.previous.flatten(0, 1).split(n, dim=1)
    zero = torch.zeros(())
    u = X @ model.weight_ih_l0.T + getattr(model, "bias_ih_l0", zero)
    u = u + Z @ model.weight_hh_l0.T + getattr(model, "bias_hh_l0", zero)
    i, f, g, o = u.chunk(4, dim=1)
    i, f, g, o = torch.sigmoid(i), torch.sigmoid(f), torch.tanh(g), torch.sigmoid(o)
    out = torch.tanh(f * C + i * g)
    gains_c = [g * i * (1 - i), C * f * (1 - f), i * (1 - g**2), torch.zeros_like(o)]
    gains_h = [o * (1 - out**2) * gain for gain in gains_c[:3]] + [out * o * (1 - o)]
    read = X @ X.T + Z @ Z.T + constant
    gains = torch.stack([torch.stack(gains_h), torch.stack(gains_c)])  # [component, gate, N, n]
    blocks = torch.einsum("aknj,nm,bkmj->anbmj", gains, read, gains)
    units = torch.eye(n, dtype=X.dtype)
    return torch.einsum("anbmi,ij->naimbj", blocks, units).reshape(len(X) * 2 * n, -1).detach()


@pytest.mark.parametrize(("bias", "constant"), [(True, 2), (False, 0)])
def test_K_in_closed_form(make, draw, close, differ, x, bias, constant) -> None:
    model = make(bias=bias)
    flow = linearize(model, x, draw(2, 8, seed=5))
    close(flow.K.to_dense(), gram(model, flow.trajectory, constant), 1e-12)
    differ(flow.K.to_dense(), gram(model, flow.trajectory, 1))
