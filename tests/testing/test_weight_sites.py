"""The theorem of weight sites as it is measured: on right models, and on ones that must break it."""

from __future__ import annotations

import torch
from torch import nn

from kpframe import Model
from kpframe.testing import _weight_sites as module
from kpframe.testing._toys import Elman, Plain
from kpframe.testing._weight_sites import TOLERANCE, weight_sites

TOYS = "kpframe.testing._toys"


class Mixing(Elman):
    """The states of all units are mixed within the step."""

    def step(self, x, h, t=None):
        return super().step(x, h) @ torch.ones(self.width, self.width, dtype=h.dtype)


class Careless(Elman):
    """Declares that one bias learns, but both do: K is a Gram matrix, of other inputs than declared."""

    def step(self, x, h, t=None):
        return super().step(x, h + 0.5)


class OwnGain(Model):
    """Every unit reads its own input: neuron-diagonal, no Gram matrix shared."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, {"h": hidden_size})
        self.gain, self.drive = nn.Parameter(torch.randn(hidden_size)), nn.Parameter(torch.randn(hidden_size))

    def step(self, x, h, t=None):
        return torch.tanh(self.gain * h + self.drive * x[:, : self.width])


def test_one_site_gives_one_gram_matrix() -> None:
    found = weight_sites(f"{TOYS}:Elman")
    assert found.verdict == "Gram matrix of site inputs"
    assert found.between == 0
    assert found.unshared <= 1e-14
    assert found.undeclared is not None
    assert found.undeclared <= 1e-14
    assert found.to_dict()["from_declared_inputs"] == found.undeclared


def test_gates_leave_a_diagonal_over_neurons() -> None:
    found = weight_sites(f"{TOYS}:Gated")
    assert found.verdict == "neuron-diagonal"
    assert found.between == 0
    assert found.unshared > 1e-4
    assert found.undeclared is None


def test_what_acts_beside_sites_is_told_apart(monkeypatch) -> None:
    for toy in (Mixing, Careless, OwnGain):
        monkeypatch.setattr(f"{TOYS}.{toy.__name__}", toy, raising=False)
    mixing = weight_sites(f"{TOYS}:Mixing")
    assert mixing.verdict == "neither"
    assert mixing.between > 0.1
    careless = weight_sites(f"{TOYS}:Careless")
    assert careless.verdict == "neuron-diagonal"
    assert careless.unshared <= TOLERANCE < 1e-4 < careless.undeclared
    own = weight_sites(f"{TOYS}:OwnGain")
    assert own.verdict == "neuron-diagonal"
    assert own.between == 0
    assert own.unshared > 1e-3


def test_a_site_that_is_not_declared_is_found() -> None:
    found = weight_sites(f"{TOYS}:Plain")  # a plain Model, whose v answers to W z through one gain
    assert found.verdict == "Gram matrix of site inputs"
    assert found.unshared <= 1e-14
    assert found.undeclared is None


def test_neurons_of_components_and_layers() -> None:
    assert module._neurons(Elman(2, 3), {}).tolist() == [0, 1, 2]
    wide = Plain(2, 2)
    wide.components = {"h": 2, "M": 6}
    assert module._neurons(wide, {}).tolist() == [0, 1, 0, 0, 0, 1, 1, 1]
    wide.components = {"h": 2, "w": 3}
    assert len(set(module._neurons(wide, {}).tolist())) == 5
