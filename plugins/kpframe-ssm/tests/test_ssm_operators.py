"""A, J, P, K and Phi of every form, against automatic differentiation; the layout of the state."""

from __future__ import annotations

import pytest
import torch

from kpframe import Model, linearize

OPERATORS = ("A", "J", "P", "K", "Phi")


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


def inputs(model, draw) -> torch.Tensor:
    return draw(2, 6, model.input_size, seed=11)


@pytest.mark.rows(4)
def test_step_jacobians(make, draw, close, differ, form) -> None:
    model = make(form)
    x = inputs(model, draw)
    h0 = draw(2, model.width, seed=5)
    flow = linearize(model, x, h0)
    A, J = jacobians(model, flow.trajectory)
    close(flow.A.blocks(), A, 1e-12)
    close(flow.J.to_dense(), J, 1e-12)
    close(flow.A.diagonal().values, A.diagonal(dim1=-2, dim2=-1), 1e-12)
    assert flow.K.method == ("sites" if form == "lti" else "modes")
    if not form.startswith("mamba no"):  # without a convolution A is diagonal and real
        differ(flow.A.blocks(), A.mT)
    differ(linearize(model, x).J.to_dense(), J)


@pytest.mark.parametrize(
    ("initial", "masked"),
    [("zero", False), ("given", True), ("trainable", False), ("trainable", True)],
    ids=["zero", "given, masked", "trainable", "trainable, masked"],
)
@pytest.mark.rows(16)
def test_structured_is_autograd_is_total(
    make, draw, close, differ, total_jacobian, form, mask, masked, initial
) -> None:
    model = make(form, trainable_initial_state=initial == "trainable")
    x = inputs(model, draw)
    h0 = draw(2, model.width, seed=5) if initial == "given" else None
    chosen = mask if masked else None
    flow, twin = linearize(model, x, h0, chosen), linearize(model, x, h0, chosen, method="autograd")
    assert (twin.P.method, twin.K.method) == ("autograd", "autograd")
    for name in OPERATORS:
        structured, derived = getattr(flow, name), getattr(twin, name).to_dense()
        close(structured.to_dense(), derived, 1e-12)
        close(structured.T.to_dense(), derived.T, 1e-12)
    G = total_jacobian(model, x, h0, chosen)
    Phi = flow.Phi.to_dense()
    close(Phi, G @ G.T, 1e-10)
    differ(Phi, flow.K.to_dense())
    other = total_jacobian(model, x, h0, None if masked else mask)
    differ(Phi, other @ other.T)


def test_rollout_is_a_loop_of_steps(make, draw, close, differ, form, mask) -> None:
    model = make(form, trainable_initial_state=True)
    x = inputs(model, draw)
    for chosen in (None, mask):
        states = model.rollout(x, None, chosen).states
        close(states, Model.rollout(model, x, None, chosen).states, 1e-14)
    differ(states, model.rollout(x).states)


@pytest.mark.rows(4)
def test_masked_steps_hold_the_state(make, draw, form, mask) -> None:
    model = make(form)
    flow = linearize(model, inputs(model, draw), None, mask)
    unit = torch.eye(model.width, dtype=torch.float64)
    blocks = flow.A.blocks()
    assert torch.equal(blocks[~mask], unit.expand(3, -1, -1))
    assert all(not torch.equal(block, unit) for block in blocks[mask])
    J = flow.J.to_dense().reshape(2, 6, model.width, -1)
    assert torch.equal(J[~mask], torch.zeros_like(J[~mask]))
    assert all(bool(rows.any()) for rows in J[mask])
    output = model.output(flow.trajectory)
    assert torch.equal(output[~mask], torch.zeros_like(output[~mask]))
    assert bool((output[mask] != 0).any(dim=-1).all())


@pytest.mark.rows(6)
def test_cut_and_truncated_propagators(make, draw, close, differ, form, mask) -> None:
    """P with A := 0 at chunk starts, and the first terms of its series, are those of the autograd form."""
    model = make(form)
    x = inputs(model, draw)
    for chosen in (None, mask):
        flow, twin = linearize(model, x, None, chosen), linearize(model, x, None, chosen, method="autograd")
        for one, other in (
            (flow.P.chunked(4, 3), twin.P.chunked(4, 3)),
            (flow.P.truncated(3), twin.P.truncated(3)),
            (flow.P.transition(4, 1), twin.P.transition(4, 1)),
            (flow.P.inverse, twin.P.inverse),
        ):
            derived = other.to_dense()
            close(one.to_dense(), derived, 1e-13)
            close(one.T.to_dense(), derived.T, 1e-13)
        assert type(flow.P.chunked(2)) is type(flow.P)
        differ(flow.P.chunked(4).to_dense(), flow.P.to_dense(), 1e-3)
    keep = torch.tensor([[1, 1, 1, 0, 1, 1], [1, 0, 1, 1, 1, 1]], dtype=torch.bool)
    close(flow.A.masked(keep).to_dense(), twin.A.masked(keep).to_dense(), 1e-14)
    assert repr(flow.P.chunked(3, 1)) == "P_chunk3+1"


@pytest.mark.rows(4)
def test_probes_are_carried_through(make, draw, close, form) -> None:
    flow = linearize(make(form), draw(2, 6, 4 if "no encoder" in form else 3, seed=11))
    q = draw(3, 2, *flow.P.domain.shape, seed=1)
    theta = draw(3, 2, flow.J.domain.size, seed=2)
    for op, v in ((flow.A, q), (flow.P, q), (flow.K, q), (flow.J, theta), (flow.J.T, q), (flow.P.T, q)):
        before = v.clone()
        one_by_one = torch.stack([torch.stack([op(inner) for inner in outer]) for outer in v])
        close(op(v), one_by_one, 1e-14)
        assert torch.equal(v, before)


def test_layout_of_complex_modes(make, diagonal) -> None:
    """The state is (re, im); lambda turns a mode's pair by its phase and scales it by its modulus."""
    model = make(diagonal)
    decay = model.coefficients().decay.detach()
    n = len(decay)
    assert model.components == {"re": n, "im": n}
    h = torch.zeros(1, 2 * n, dtype=torch.float64)
    k = n - 1
    h[0, k], h[0, n + k] = 2.0, 3.0  # the mode 2 + 3i
    new = model.step(torch.zeros(1, model.input_size, dtype=torch.float64), h).detach()[0]
    expected = complex(decay[k]) * (2 + 3j)
    assert float(new[k]) == pytest.approx(expected.real, rel=1e-14)
    assert float(new[n + k]) == pytest.approx(expected.imag, rel=1e-14)
    new[[k, n + k]] = 0
    assert torch.equal(new, torch.zeros_like(new))
    x = torch.ones(2, 6, model.input_size, dtype=torch.float64)
    flow = linearize(model, x)
    re, im = flow.trajectory.component("re"), flow.trajectory.component("im")
    assert torch.equal(torch.cat([re, im], dim=-1), flow.trajectory.states)
    block = flow.A.blocks()[0, 0][[k, n + k]][:, [k, n + k]]
    a, b = float(decay[k].real), float(decay[k].imag)
    assert torch.equal(block, torch.tensor([[a, -b], [b, a]], dtype=torch.float64))


def test_layout_of_mamba(make, draw, close) -> None:
    """(conv, h): the last K - 1 values of u, the oldest first, then the modes, each channel by channel."""
    model = make("mamba")
    assert model.components == {"conv": 4 * 2, "h": 4 * 2}
    x = draw(1, 5, 3, seed=1)
    run = model.rollout(x)
    u = x @ model.in_proj.weight[:4].T
    conv = run.component("conv").unflatten(-1, (4, 2))
    close(conv[0, 4, :, 0], u[0, 3], 1e-14)
    close(conv[0, 4, :, 1], u[0, 4], 1e-14)
    assert make("mamba no conv").components == {"h": 4 * 3}


#: What each model's output alone reads: parameter -> rows that the recurrence does read.
IDLE = {
    "lti": {"C": 0, "D": 0},
    "s4d": {"C": 0, "D": 0},
    "s5": {"C": 0, "D": 0},
    "lru": {"C_re": 0, "C_im": 0, "D": 0},
    "mamba": {"D": 0, "out_proj.weight": 0, "in_proj.weight": 4, "x_proj.weight": 1 + 2},
}


@pytest.mark.parametrize("name", IDLE)
def test_what_only_the_output_reads_has_zero_columns(make, draw, name) -> None:
    flow = linearize(make(name), draw(2, 6, 3, seed=11))
    J = flow.J.to_dense()
    for part in flow.J.domain["parameter"].parts:
        columns = J[:, part.slice].reshape(len(J), part.shape[0], -1)
        rows = IDLE[name].get(part.name, part.shape[0])
        assert not bool(columns[:, rows:].any())
        assert bool(columns[:, :rows].any(dim=0).all())
    idle = [part for part, rows in IDLE[name].items() if not rows]
    assert not bool(flow.K.restrict(idle).to_dense().any())
    assert bool(flow.K.freeze(idle).to_dense().any())


@pytest.mark.rows(4)
def test_frozen_parameters_leave_theta(make, draw, close, form) -> None:
    model = make(form)
    x = inputs(model, draw)
    whole = linearize(model, x)
    names = list(model.trainable())
    for name in names[1:]:
        model.get_parameter(name).requires_grad_(False)
    alone = linearize(model, x)
    assert [part.name for part in alone.J.domain["parameter"].parts] == names[:1]
    close(alone.K.to_dense(), whole.K.restrict(names[:1]).to_dense(), 1e-14)
    model.get_parameter(names[0]).requires_grad_(False)
    assert not bool(linearize(model, x).K.to_dense().any())


@pytest.mark.rows(4)
def test_float32(make, draw, close, form) -> None:
    model = make(form)
    x, single = inputs(model, draw), make(form).float()
    q = draw(*linearize(model, x).P.domain.shape, seed=3)
    flow, other = linearize(model, x), linearize(single, x.float())
    for name in ("A", "P", "K", "Phi"):
        close(getattr(other, name)(q.float()).double(), getattr(flow, name)(q), 1e-4)


def test_device(make, draw, close, differ, form, device) -> None:
    """On another device (``--device``) nothing moves, and the numbers are those of the CPU."""
    model = make(form)
    x = inputs(model, draw)
    q = draw(*linearize(model, x).P.domain.shape, seed=3)
    expected = linearize(model, x).Phi(q)
    flow = linearize(model.to(device), x.to(device))
    found = flow.Phi(q.to(device))
    assert found.device.type == device.type
    assert model.output(flow.trajectory).device.type == device.type
    close(found.cpu(), expected, 1e-12)
    differ(found.cpu(), flow.K(q.to(device)).cpu())
