"""The theorem of weight sites on the bundled models, measured."""

from __future__ import annotations

import pytest

from kpframe.testing._weight_sites import TOLERANCE, weight_sites


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("rnn", {}),
        ("rnn", {"form": "current"}),
        ("hh", {"autapses": True}),
        ("morris_lecar", {"autapses": True}),
        ("mlp", {}),
        ("lti", {}),
    ],
)
def test_one_gram_matrix(name, settings) -> None:
    found = weight_sites(name, settings)
    assert found.verdict == "Gram matrix of site inputs"
    assert max(found.between, found.unshared, found.undeclared or 0) <= TOLERANCE


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("gru", {}),
        ("lstm", {}),
        ("hh", {}),
        ("morris_lecar", {}),
        ("hh", {"inhibitory_fraction": 0.5, "autapses": True}),
        ("rnn", {"density": 0.5}),
        ("rnn", {"self_connections": False}),
        ("lru", {}),
    ],
)
def test_diagonal_over_neurons(name, settings) -> None:
    found = weight_sites(name, settings)
    assert found.verdict == "neuron-diagonal"
    assert found.between <= TOLERANCE < 1e-5 < found.unshared


@pytest.mark.parametrize(
    ("name", "settings"),
    [("gru", {"reset": "before"}), ("lstm", {"proj_size": 1}), ("rnn", {"num_layers": 2}), ("attention", {})],
)
def test_neither(name, settings) -> None:
    found = weight_sites(name, settings)
    assert found.verdict == "neither"
    assert found.between > 1e-4
