"""K in closed form: for one kind of synapse the voltages' K is that of a vanilla RNN, D (S S^T (x) I) D."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from kpframe import eigsh, linearize

N = 3


def gains(model, trajectory, E: float) -> np.ndarray:
    """Return dV'/dg ``[B T, n]`` of a synaptic conductance g [mS/cm2], derived by hand.

    With total conductance G and drive F, V' = F/G + (V - F/G) e^(-dt G): a synapse adds g to G and g E to
    F, so ``dV'/dg = (E - F/G)/G (1 - e) - dt (V - F/G) e``. Forward Euler: ``dV'/dg = dt (E - V)``.
    """
    V, m, h, n, s = (part.numpy() for part in trajectory.previous.flatten(0, 1).split(N, dim=1))
    dt = model.settings.dt
    if model.settings.method == "forward_euler":
        return dt * (E - V)
    reversal = np.array([0.0, 0.0, -80.0 if model.settings.inhibitory_fraction else 0.0])
    W = torch.cat(list(model.parameters()), dim=1).detach().numpy()
    W = W if model.settings.autapses else W * (1 - np.eye(N))
    sodium, potassium = 120 * m**3 * h, 36 * n**4
    G = sodium + potassium + 0.3 + s @ W.T
    F = (
        trajectory.inputs.flatten(0, 1).numpy()
        + sodium * 50
        - potassium * 77
        - 0.3 * 54.387
        + s @ (W * reversal).T
    )
    decay = np.exp(-dt * G)
    return (E - F / G) / G * (1 - decay) - dt * (V - F / G) * decay


def voltages(flow) -> np.ndarray:
    """Return the part of K on V, ``[B T, n, B T, n]``; the rest of K must vanish."""
    K = flow.K.to_dense().reshape(*flow.K.domain.shape, *flow.K.domain.shape)
    own = K[:, :, :N, :, :, :N].clone()
    K[:, :, :N, :, :, :N] = 0
    assert torch.equal(K, torch.zeros_like(K))
    batch, time = own.shape[:2]
    return own.reshape(batch * time, N, batch * time, N).numpy()


def between_gains(D: np.ndarray, Z: np.ndarray) -> np.ndarray:
    """Return ``D (Z Z^T (x) I) D``, ``[B T, n, B T, n]``."""
    return np.einsum("ai,ab,bi,ij->aibj", D, Z @ Z.T, D, np.eye(D.shape[1]))


@pytest.fixture
def flow(make, active, draw):
    """Return a maker of flows of networks whose input is the current."""

    def build(**settings):
        model = make("hh", input_size=N, **{"autapses": True, **settings})
        return linearize(model, 10 * draw(2, 6, N, seed=2), active(model))

    return build


@pytest.mark.parametrize("method", ["exponential_euler", "forward_euler"])
def test_excitatory_synapses_have_the_kernel_of_a_vanilla_rnn(flow, method) -> None:
    found = flow(method=method)
    S = found.trajectory.previous.flatten(0, 1)[:, -N:].numpy()
    D = gains(found.model, found.trajectory, 0.0)
    np.testing.assert_allclose(voltages(found), between_gains(D, S), rtol=1e-9, atol=1e-12)
    assert not np.allclose(voltages(found), between_gains(D, S + 0.1), rtol=0.1)


@pytest.mark.parametrize("method", ["exponential_euler", "forward_euler"])
def test_each_kind_of_synapse_adds_a_kernel_of_its_own(flow, method) -> None:
    found = flow(method=method, inhibitory_fraction=1 / 3)
    S = found.trajectory.previous.flatten(0, 1)[:, -N:].numpy()
    excite, inhibit = (gains(found.model, found.trajectory, E) for E in (0.0, -80.0))
    expected = between_gains(excite, S[:, :2]) + between_gains(inhibit, S[:, 2:])
    np.testing.assert_allclose(voltages(found), expected, rtol=1e-9, atol=1e-12)
    assert not np.allclose(expected, between_gains(excite, S), rtol=0.1)


@pytest.mark.parametrize("method", ["exponential_euler", "forward_euler"])
@pytest.mark.parametrize("fraction", [0.0, 1 / 3])
def test_without_autapses_each_neuron_reads_the_others(flow, method, fraction) -> None:
    """K of neuron i on V is D_i (S S^T - s_i s_i^T) D_i: its own s is not among what it reads."""
    found = flow(method=method, inhibitory_fraction=fraction, autapses=False)
    assert found.K.method == "sites"
    S = found.trajectory.previous.flatten(0, 1)[:, -N:].numpy()
    kinds = [(gains(found.model, found.trajectory, 0.0), slice(0, 2 if fraction else N))]
    if fraction:
        kinds.append((gains(found.model, found.trajectory, -80.0), slice(2, N)))
    expected = np.zeros((12, N, 12, N))
    for i in range(N):
        for D, columns in kinds:
            Z = np.delete(S, i, axis=1)[:, [j - (j > i) for j in range(N)[columns] if j != i]]
            expected[:, i, :, i] += D[:, i, None] * (Z @ Z.T) * D[:, i]
    np.testing.assert_allclose(voltages(found), expected, rtol=1e-9, atol=1e-12)
    assert not np.allclose(voltages(flow(method=method, inhibitory_fraction=fraction)), expected, rtol=0.1)
    assert torch.equal(found.K.block_labels(), torch.arange(N).repeat(5))
    largest = np.linalg.eigvalsh(expected.reshape(12 * N, -1))[-3:]
    np.testing.assert_allclose(np.sort(eigsh(found.K, k=3).eigenvalues), largest, rtol=1e-9)


def shared(found) -> float:
    """Return how far the neurons' kernels are from one Gram matrix between gains: 0 if they share it."""
    K = voltages(found)
    own = np.stack([K[:, i, :, i] for i in range(N)])
    size = np.sqrt(np.einsum("iaa->ia", own))
    cosine = own / (size[:, :, None] * size[:, None, :])
    return np.abs(np.abs(cosine) - np.abs(cosine[0])).max()


def test_what_shares_a_gram_matrix_and_what_does_not(flow) -> None:
    assert shared(flow()) < 1e-12
    assert shared(flow(method="forward_euler")) < 1e-12
    assert shared(flow(reversals=((0.0,) * 3,) * 3)) < 1e-12  # all reversal potentials alike
    rows = ((0.0, -70.0, 10.0), (-80.0, 0.0, -75.0), (20.0, -60.0, -90.0))
    for settings in (
        {"inhibitory_fraction": 1 / 3},
        {"reversals": rows},
        {"trainable_conductances": ("g_na",)},
        {"nonnegative": True},
        {"autapses": False},
    ):
        assert shared(flow(**settings)) > 1e-3


def test_reversals_by_the_sender_are_the_two_kinds(flow, make) -> None:
    """One site with all E_ij does what the two sites of excitatory and inhibitory senders do."""
    kinds = flow(inhibitory_fraction=1 / 3)
    every = make(
        "hh", input_size=N, autapses=True, inhibitory_fraction=1 / 3, reversals=((0.0, 0.0, -80.0),) * 3
    )
    with torch.no_grad():
        every.weight_synapses.copy_(
            torch.cat([kinds.model.weight_excitatory, kinds.model.weight_inhibitory], 1)
        )
    t = kinds.trajectory
    one = linearize(every, t.inputs, t.initial_state)
    assert one.K.method == "sites"
    torch.testing.assert_close(one.trajectory.states, t.states, rtol=1e-13, atol=1e-13)
    np.testing.assert_allclose(voltages(one), voltages(kinds), rtol=1e-9, atol=1e-12)
