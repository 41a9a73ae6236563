"""A, J, P, K and Phi of every variant: automatic differentiation, closed forms, and the structure of K."""

from __future__ import annotations

import pytest
import torch

from kpframe import create_model, linearize
from kpframe.errors import ArgumentError, DtypeError, ShapeError, UnsupportedError
from kpframe.operators import DiagonalOperator
from kpframe.testing import weight_sites


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
def test_step_jacobians(make, close, differ, variant, x, h0) -> None:
    model = make(**variant)
    flow = linearize(model, x, h0)
    assert (flow.P.method, flow.K.method) == ("neurons", "neurons")
    A, J = jacobians(model, flow.trajectory)
    close(flow.A.blocks(), A, 1e-13)
    close(flow.J.to_dense(), J, 1e-13)
    differ(flow.A.blocks(), A.mT)
    differ(linearize(model, x).J.to_dense(), J)
    close(flow.A.diagonal().values, A.diagonal(dim1=-2, dim2=-1), 1e-13)
    differ(flow.A.diagonal().values, A.sum(dim=-1))
    assert not bool(A[..., :3].any())  # h is not read


@pytest.mark.parametrize(
    ("masked", "initial"), [(False, "trainable"), (True, "trainable"), (True, "given")], ids=str
)
@pytest.mark.rows(10)
def test_structured_is_autograd_is_total(
    make, close, differ, total_jacobian, variant, x, h0, mask, masked, initial
) -> None:
    model = make(**variant, trainable_initial_state=initial == "trainable")
    given = h0 if initial == "given" else None
    chosen = mask if masked else None
    flow, twin = linearize(model, x, given, chosen), linearize(model, x, given, chosen, method="autograd")
    assert (twin.P.method, twin.K.method) == ("autograd", "autograd")
    for name in ("A", "J", "P", "K", "Phi"):
        close(getattr(flow, name).to_dense(), getattr(twin, name).to_dense(), 1e-12)
    close(flow.A.diagonal().to_dense(), torch.diag(flow.A.to_dense().diagonal()), 1e-14)
    G = total_jacobian(model, x, given, chosen)
    Phi = flow.Phi.to_dense()
    close(Phi, G @ G.T, 1e-12)
    differ(Phi, flow.K.to_dense())
    other = total_jacobian(model, x, given, None if masked else mask)
    differ(Phi, other @ other.T)


@pytest.mark.rows(4)
def test_adjoints_and_probes(make, draw, close, variant, x, mask) -> None:
    flow = linearize(make(**variant, trainable_initial_state=True), x, mask=mask)
    for op in (flow.A, flow.J, flow.P, flow.K, flow.Phi):
        q, r = draw(2, 3, *op.domain.shape, seed=1), draw(2, 3, *op.codomain.shape, seed=2)
        dense = op.to_dense()
        close(op(q).flatten(2 - r.ndim), q.flatten(2 - q.ndim) @ dense.T, 1e-13)
        close(op.T(r).flatten(2 - q.ndim), r.flatten(2 - r.ndim) @ dense, 1e-13)
        close(op.T(r)[1, 2], op.T(r[1, 2]), 1e-14)


def test_masked_steps_hold_the_state(make, variant, x, h0, mask) -> None:
    flow = linearize(make(**variant), x, h0, mask)
    unit = torch.eye(9, dtype=torch.float64)
    blocks = flow.A.blocks()
    assert torch.equal(blocks[~mask], unit.expand(2, 9, 9))
    assert all(not torch.equal(block, unit) for block in blocks[mask])
    J = flow.J.to_dense().reshape(2, 4, 9, -1)
    assert torch.equal(J[~mask], torch.zeros_like(J[~mask]))
    assert all(bool(rows.any()) for rows in J[mask])


@pytest.mark.parametrize("rule", ["hebbian", "oja"])
def test_rows_of_zeros_are_constant(make, rule, differ, x) -> None:
    """Before the first input, rows of M to be normalised are zero: derivatives are finite, and zero there."""
    model = make(normalization="row", rule=rule)
    late = x.clone()
    late[:, :2] = 0
    flow = linearize(model, late)
    assert not bool(flow.trajectory.component("M")[:, :2].any())
    A, twin = flow.A.blocks(), linearize(model, late, method="autograd").A.blocks()
    assert bool(A.isfinite().all())
    assert torch.equal(A[:, :2], torch.zeros_like(A[:, :2]))
    assert torch.equal(twin[:, :2], A[:, :2])
    assert bool(A[:, 3].any())


def test_A_by_neurons(make, close, differ, x, h0) -> None:
    """``A`` on M is ``lambda I + eta D_i x (w_i o x)^T`` for each neuron; additive: no ``w_i``."""
    for form in ("multiplicative", "additive"):
        model = make(form=form)
        flow = linearize(model, x, h0)
        blocks = flow.A.blocks()[..., 3:, 3:].reshape(2, 4, 3, 2, 3, 2)
        eta, lam = model.eta().detach(), model.lam().detach()
        D = 1 - flow.trajectory.component("h") ** 2
        W = model.weight_ih_l0.detach() if form == "multiplicative" else torch.ones(3, 2, dtype=x.dtype)
        reads = W * x.unsqueeze(2)
        rank_one = eta * D[..., None, None] * torch.einsum("btj,btik->btijk", x, reads)
        own = rank_one + lam * torch.eye(2, dtype=x.dtype)
        units = torch.eye(3, dtype=x.dtype)
        close(blocks, torch.einsum("btijk,il->btijlk", own, units), 1e-13)
        differ(blocks, torch.einsum("btijk,il->btijlk", rank_one, units))


def on_preactivations(model, flow) -> torch.Tensor:
    """Return ``L`` ``[B T, n, 1 + k, ...]``: how h_i and its row of M answer to its own preactivation."""
    D = 1 - flow.trajectory.component("h") ** 2
    rows = model.eta().detach() * flow.trajectory.inputs.unsqueeze(2) * D.unsqueeze(-1)
    return torch.cat([D.unsqueeze(-1), rows], dim=-1).flatten(0, 1)


def by_neuron(K: torch.Tensor) -> torch.Tensor:
    """Return a dense operator ``[B T H, B T H]`` as ``[B T, n, 1 + k, B T, n, 1 + k]``."""
    entries = K.reshape(8, 9, 8, 9)
    place = torch.cat([torch.arange(3)[:, None], 3 + torch.arange(6).reshape(3, 2)], dim=1)  # [n, 1 + k]
    return entries[:, place][:, :, :, :, place]


@pytest.mark.parametrize(("form", "other"), [("additive", "multiplicative"), ("multiplicative", "additive")])
def test_K_of_the_weights(make, close, differ, x, h0, form, other) -> None:
    """Additive: ``L (G (x) I_n) L*`` with ``G = X X^T + 1 1^T``; multiplicative: a G for each neuron."""
    model = make(form=form)
    flow = linearize(model, x, h0)
    X, L = x.flatten(0, 1), on_preactivations(model, flow)
    old = flow.trajectory.previous.flatten(0, 1)[:, 3:].reshape(8, 3, 2)
    grams = {
        "additive": (X @ X.T + 1).expand(3, 8, 8),
        "multiplicative": torch.einsum("mij,nij->imn", (1 + old) * X[:, None], (1 + old) * X[:, None]) + 1,
    }
    units = torch.eye(3, dtype=x.dtype)
    K = by_neuron(flow.K.restrict(["weight*", "bias*"]).to_dense())
    expected = {name: torch.einsum("mia,imn,nlb,il->mianlb", L, G, L, units) for name, G in grams.items()}
    close(K, expected[form], 1e-13)
    differ(K, expected[other])
    D = torch.diag(L[..., 0].flatten())
    kronecker = D @ torch.kron(grams["additive"][0], units) @ D  # on [B T, n]
    activity = flow.K.restrict(["weight*", "bias*"]).select(hidden="h").to_dense()
    if form == "additive":
        close(activity, kronecker, 1e-13)
    else:
        differ(activity, kronecker)


def test_K_of_the_rates(make, close, differ, x, h0) -> None:
    """A rate that all synapses share adds one direction: what it writes, times the slope of its raw value."""
    model = make(lam_max=0.9, eta_constraint="positive")
    flow = linearize(model, x, h0)
    h, old = flow.trajectory.component("h"), flow.trajectory.previous[..., 3:]
    lam, eta = model.lam().detach(), model.eta().detach()
    none = torch.zeros_like(h)
    written = torch.einsum("bti,btj->btij", h, x).flatten(2)
    directions = {
        "eta.raw": (1 - torch.exp(-eta)) * torch.cat([none, written], dim=-1).flatten(),
        "lam.raw": lam * (1 - lam / 0.9) * torch.cat([none, old], dim=-1).flatten(),
    }
    groups = flow.K.groups()
    assert set(groups) == {"weight_ih_l0", "bias_ih_l0", "eta.raw", "lam.raw"}
    for name, direction in directions.items():
        v = direction.flatten()
        close(groups[name].to_dense(), torch.outer(v, v), 1e-13)
        differ(groups[name].to_dense(), 1.1 * torch.outer(v, v))
    close(sum(K.to_dense() for K in groups.values()), flow.K.to_dense(), 1e-13)


def test_the_theorem_of_weight_sites() -> None:
    """With fixed rates K is a Gram matrix of the inputs if additive; shared rates that train mix neurons."""
    fixed = {"train_eta": False, "train_lam": False}
    additive = weight_sites("mpn", {"form": "additive", **fixed})
    multiplicative = weight_sites("mpn", fixed)
    assert additive.verdict == "Gram matrix of site inputs"
    assert max(additive.between, additive.unshared) < 1e-12
    assert multiplicative.verdict == "neuron-diagonal"
    assert (multiplicative.between, multiplicative.unshared > 1e-3) == (0, True)
    assert weight_sites("mpn").verdict == "neither"
    assert weight_sites("mpn", {"eta_shape": "post", "lam_shape": "matrix"}).between == 0


def test_restricted_and_weighted_K(make, draw, close, differ, x, h0) -> None:
    model = make(eta_shape="pre")
    flow = linearize(model, x, h0)
    J = flow.J.to_dense()
    parts = {part.name: part.slice for part in flow.J.domain["parameter"].parts}
    kept = torch.zeros(J.shape[1], dtype=x.dtype)
    for name in ("bias_ih_l0", "eta.raw"):
        kept[parts[name]] = 1
    close(flow.K.restrict(["bias*", "eta*"]).to_dense(), (J * kept) @ J.T, 1e-13)
    close(flow.K.freeze(["bias*", "eta*"]).to_dense(), (J * (1 - kept)) @ J.T, 1e-13)
    rates = draw(J.shape[1], seed=3).exp()
    metric = DiagonalOperator(rates, flow.J.domain)
    close(flow.K.with_metric(metric).to_dense(), (J * rates) @ J.T, 1e-13)
    differ(flow.K.with_metric(metric).to_dense(), J @ J.T)

    for name in ("bias_ih_l0", "eta"):
        getattr(model, name).requires_grad_(False)
    close(linearize(model, x, h0).K.to_dense(), (J * (1 - kept)) @ J.T, 1e-13)


def test_other_weights_on_the_paths_through_time(make, draw, close, differ, x, h0) -> None:
    flow = linearize(make(), x, h0)
    own = flow.model.weight_ih_l0.detach()
    B = draw(3, 2, seed=9)
    D = 1 - flow.trajectory.component("h") ** 2
    activity = flow.A.replace({"weight_ih_l0": B}).blocks()[..., :3, 3:].reshape(2, 4, 3, 3, 2)
    expected = torch.einsum("bti,ij,btj,il->btilj", D, B, x, torch.eye(3, dtype=x.dtype))
    close(activity, expected, 1e-13)
    close(flow.A.replace({"weight_ih_l0": own}).blocks(), flow.A.blocks(), 1e-15)
    differ(flow.A.replace({"weight_ih_l0": B}).blocks(), flow.A.blocks())
    with pytest.raises(ArgumentError, match=r"weights: expected 'weight_ih_l0', got 'weight_hh_l0'; did you"):
        flow.A.replace({"weight_hh_l0": B})
    with pytest.raises(ShapeError, match=r"expected \[3, 2\], got \[2, 3\]"):
        flow.A.replace({"weight_ih_l0": B.T})
    with pytest.raises(DtypeError, match=r"expected torch.float64 on cpu, got torch.float32 on cpu"):
        flow.A.replace({"weight_ih_l0": B.float()})
    with pytest.raises(UnsupportedError, match="form='additive' no weight is on its paths"):
        linearize(make(form="additive"), x).A.replace({"weight_ih_l0": B})


@pytest.mark.rows(4)
def test_direct_path(make, close, differ, variant, x, h0) -> None:
    """What is left at fixed activity: M decays (and is normalised), neuron by neuron."""
    model = make(**variant)
    flow = linearize(model, x, h0)
    h = flow.trajectory.component("h")

    def decays(M: torch.Tensor) -> torch.Tensor:  # [B T, n k]
        rows = M.reshape(8, 3, 2)
        return model.plasticity(x.flatten(0, 1), h.flatten(0, 1), rows).flatten(1)

    old = flow.trajectory.previous[..., 3:].flatten(0, 1)
    expected = torch.stack(
        [torch.autograd.functional.jacobian(decays, old)[i, :, i, :] for i in range(8)]
    ).reshape(2, 4, 6, 6)
    direct = flow.A.direct().blocks()
    close(direct[..., 3:, 3:], expected, 1e-13)
    assert not bool(direct[..., :3, :].any())
    differ(direct, flow.A.blocks())


@pytest.mark.parametrize(("dtype", "rtol"), [(torch.float32, 2e-5), (torch.float64, 1e-12)])
@pytest.mark.rows(6)
def test_dtype_and_device(make, device, variant, x, mask, dtype, rtol) -> None:
    model, x, mask = make(**variant).to(device, dtype), x.to(device, dtype), mask.to(device)
    flow, twin = linearize(model, x, mask=mask), linearize(model, x, mask=mask, method="autograd")
    for name in ("A", "J", "P", "K", "Phi"):
        one, other = getattr(flow, name).to_dense(), getattr(twin, name).to_dense()
        assert (one.dtype, one.device.type) == (dtype, device.type)
        assert float((one - other).norm()) <= rtol * float(other.norm())
        assert float((1.001 * one - other).norm()) > rtol * float(other.norm())


def test_nothing_of_the_size_of_blocks_is_made() -> None:
    """The state is 20,200 wide: the A_t of ten steps would take 16 GB."""
    model = create_model("mpn", input_size=100, hidden_size=200, seed=0)
    x = torch.randn(2, 5, 100, generator=torch.Generator().manual_seed(0))
    flow = linearize(model, x)
    q = torch.randn(2, 5, 20_200, generator=torch.Generator().manual_seed(1))
    form = float((flow.Phi(q) * q).sum())
    assert form == pytest.approx(float((flow.J.T @ flow.P.T)(q).square().sum()), rel=1e-4)
    assert form > 1


def test_a_neuron_and_its_synapses_are_one_unit() -> None:
    flow = linearize(create_model("mpn", input_size=2, hidden_size=3, seed=1), torch.randn(1, 2, 2))
    assert flow.A.units.tolist() == [0, 1, 2, 0, 0, 1, 1, 2, 2]
