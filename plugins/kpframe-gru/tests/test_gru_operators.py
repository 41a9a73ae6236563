"""A, J, P, K and Phi of the GRU against automatic differentiation, and the structure of K."""

from __future__ import annotations

import pytest
import torch

from kpframe import linearize
from kpframe.errors import ArgumentError


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


def between_units(op) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the entries between equal units and those between different ones."""
    units = op.domain.shape[2]
    entries = op.to_dense().reshape(*op.domain.shape, *op.domain.shape).permute(2, 5, 0, 1, 3, 4)
    same = torch.eye(units, dtype=torch.bool)
    return entries[same], entries[~same]


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
@pytest.mark.rows(6)
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


@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_K_is_diagonal_over_units(make, x, method) -> None:
    flow = linearize(make(), x, method=method)
    same, different = between_units(flow.K)
    assert float(different.abs().max()) <= 1e-15 * float(same.abs().max())
    same, different = between_units(flow.Phi)
    assert float(different.abs().max()) > 1e-2 * float(same.abs().max())


@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_resetting_before_the_product_couples_the_units(make, x, method) -> None:
    """The reset gates do it, through the states they scale: from zero states K is diagonal for one step."""
    model = make(reset="before")
    flow = linearize(model, x, method=method)
    same, different = between_units(flow.K.select(time=slice(0, 1)))
    assert float(different.abs().max()) <= 1e-15 * float(same.abs().max())
    same, different = between_units(flow.K.select(time=slice(1, None)))
    assert float(different.abs().max()) > 1e-2 * float(same.abs().max())


@pytest.mark.parametrize("method", ["auto", "autograd"])
def test_a_second_layer_couples_the_units(make, x, method) -> None:
    K = linearize(make(num_layers=2), x, method=method).K
    same, different = between_units(K.select(hidden="h_l0"))
    assert float(different.abs().max()) <= 1e-15 * float(same.abs().max())
    same, different = between_units(K.select(hidden="h_l1"))
    assert float(different.abs().max()) > 1e-2 * float(same.abs().max())


def test_a_trainable_initial_state_joins_the_units_at_the_first_step(make, x) -> None:
    K = linearize(make(trainable_initial_state=True), x).K
    same, different = between_units(K.select(time=slice(0, 1)))
    assert float(different.abs().max()) > 1e-2 * float(same.abs().max())
    same, different = between_units(K.select(time=slice(1, None)))
    assert float(different.abs().max()) <= 1e-15 * float(same.abs().max())


def gram(model, trajectory, constant: float) -> torch.Tensor:
    """Return K in closed form: a Gram matrix for each site between the gains of the three gates."""
    X, Z = trajectory.inputs.flatten(0, 1), trajectory.previous.flatten(0, 1)
    zero = torch.zeros(())
    i_r, i_z, i_n = (X @ model.weight_ih_l0.T + getattr(model, "bias_ih_l0", zero)).chunk(3, dim=1)
    h_r, h_z, h_n = (Z @ model.weight_hh_l0.T + getattr(model, "bias_hh_l0", zero)).chunk(3, dim=1)
    r, z = torch.sigmoid(i_r + h_r), torch.sigmoid(i_z + h_z)
    n = torch.tanh(i_n + r * h_n)
    slope = (1 - z) * (1 - n**2)
    gain_r, gain_z = slope * h_n * r * (1 - r), (Z - n) * z * (1 - z)

    def kernel(gram: torch.Tensor, *gains: torch.Tensor) -> torch.Tensor:
        return sum(torch.einsum("ni,nm,mi->inm", gain, gram + constant, gain) for gain in gains)

    blocks = kernel(X @ X.T, gain_r, gain_z, slope) + kernel(Z @ Z.T, gain_r, gain_z, slope * r)
    units = torch.eye(model.units, dtype=X.dtype)
    return torch.einsum("inm,ij->nimj", blocks, units).reshape(X.shape[0] * model.units, -1).detach()


@pytest.mark.parametrize(("bias", "constant"), [(True, 1), (False, 0)])
def test_K_in_closed_form(make, draw, close, differ, x, bias, constant) -> None:
    model = make(bias=bias)
    flow = linearize(model, x, draw(2, 4, seed=5))
    close(flow.K.to_dense(), gram(model, flow.trajectory, constant), 1e-12)
    differ(flow.K.to_dense(), gram(model, flow.trajectory, 1 - constant))


def test_K_of_resetting_before_in_closed_form(make, draw, close, differ, x) -> None:
    """The gates' part is carried on by what the reset states do to n: ``slope W_hn diag(h r')``."""
    model = make(reset="before")
    flow = linearize(model, x, draw(2, 4, seed=5))
    X, Z = flow.trajectory.inputs.flatten(0, 1), flow.trajectory.previous.flatten(0, 1)
    W = model.weight_hh_l0.detach()
    u = X @ model.weight_ih_l0.T + model.bias_ih_l0 + model.bias_hh_l0
    h_r, h_z, _ = (Z @ W.T).chunk(3, dim=1)
    u_r, u_z, u_n = u.chunk(3, dim=1)
    r, z = torch.sigmoid(u_r + h_r), torch.sigmoid(u_z + h_z)
    n = torch.tanh(u_n + (r * Z) @ W[8:].T)
    slope = (1 - z) * (1 - n**2)
    units = torch.eye(4, dtype=X.dtype)
    gain_r = torch.einsum("ni,ij,nj->nij", slope, W[8:], Z * r * (1 - r))  # every unit's reset acts on all
    gain_z = torch.einsum("ni,ij->nij", (Z - n) * z * (1 - z), units)
    gain_n = torch.einsum("ni,ij->nij", slope, units)
    both, reset = X @ X.T + Z @ Z.T + 2, X @ X.T + (r * Z) @ (r * Z).T + 2

    def expected(gain_r: torch.Tensor) -> torch.Tensor:
        parts = ((gain_r, both), (gain_z, both), (gain_n, reset))
        K = sum(torch.einsum("nik,nm,mjk->nimj", gain, gram, gain) for gain, gram in parts)
        return K.reshape(len(X) * 4, -1).detach()

    close(flow.K.to_dense(), expected(gain_r), 1e-12)
    differ(flow.K.to_dense(), expected(gain_r * units))


def test_recurrent_weights_are_replaced_by_name(make, draw, close, differ, x) -> None:
    flow = linearize(make(reset="before"), x)
    W_gates, W_new = draw(8, 4, seed=1), draw(4, 4, seed=2)
    swapped = make(reset="before")
    with torch.no_grad():
        swapped.weight_hh_l0.copy_(torch.cat([W_gates, W_new]))
    replaced = flow.A.replace({"weight_hh_l0[r,z]": W_gates, "weight_hh_l0[n]": W_new})
    same = flow.A.replace({"weight_hh_l0[n]": flow.model.weight_hh_l0.detach()[8:]})
    close(same.blocks(), flow.A.blocks(), 1e-15)
    differ(replaced.blocks(), flow.A.blocks())
    first = linearize(swapped, x[:, :1], flow.trajectory.previous[:, 0])  # zero states: the gains agree
    close(replaced.blocks()[:, :1], first.A.blocks(), 1e-12)
    with pytest.raises(ArgumentError, match=r"weights: expected names among .*'weight_hh_l0\[r,z\]'"):
        flow.A.replace({"weight_hh_l0": swapped.weight_hh_l0.detach()})


@pytest.mark.parametrize("cut", ["r", "z", "n"])
@pytest.mark.parametrize("reset", ["after", "before"])
def test_each_gate_is_cut_by_its_own_name(make, draw, close, differ, x, reset, cut) -> None:
    """The state reaches a gate no more, as if detached there: torch's order of rows says which is which."""
    model = make(reset=reset)
    flow = linearize(model, x, draw(2, model.width, seed=5))
    W, V = (getattr(model, f"weight_{kind}_l0").detach() for kind in ("ih", "hh"))
    b, c = (getattr(model, f"bias_{kind}_l0").detach() for kind in ("ih", "hh"))

    def step(h: torch.Tensor, row: torch.Tensor) -> torch.Tensor:
        read = {gate: h.detach() if gate == cut else h for gate in "rzn"}
        (V_r, V_z, V_n), (c_r, c_z, c_n) = V.chunk(3), c.chunk(3)
        i_r, i_z, i_n = (W @ row + b).chunk(3)
        r = torch.sigmoid(i_r + V_r @ read["r"] + c_r)
        z = torch.sigmoid(i_z + V_z @ read["z"] + c_z)
        if reset == "after":
            n = torch.tanh(i_n + r * (V_n @ read["n"] + c_n))
        else:
            product = V_n @ (r * h)
            n = torch.tanh(i_n + c_n + (product.detach() if cut == "n" else product))
        return (1 - z) * n + z * h

    rows = zip(flow.trajectory.inputs.flatten(0, 1), flow.trajectory.previous.flatten(0, 1), strict=True)
    expected = torch.stack(
        [torch.autograd.functional.jacobian(lambda h, row=row: step(h, row), h) for row, h in rows]
    ).reshape(*flow.trajectory.space.shape, -1)
    name = {"n": "n_hidden"}.get(cut, cut)
    close(flow.A.cut([name]).blocks(), expected, 1e-12)
    others = [other for other in ("r", "z", "n_hidden") if other != name]
    for other in others:
        differ(flow.A.cut([other]).blocks(), expected)
