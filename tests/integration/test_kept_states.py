"""Every bundled model, and what rules make of it, with few states kept; and how much memory that takes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from kpframe import Readout, create_rule, linearize

from .bundled import CELLS, MODELS, RULE_SETTINGS, RULES, model_of, normal


def away(first: torch.Tensor, second: torch.Tensor) -> float:
    """Return how far apart two tensors are, relative to the larger norm."""
    return float((first - second).norm()) / max(float(first.norm()), float(second.norm()), 1e-300)


@pytest.mark.parametrize("name", [*MODELS, *CELLS])
@pytest.mark.rows(8)
def test_every_model_has_the_same_operators(name: str) -> None:
    model = model_of(name).double()
    x = normal(2, model.steps or 7, model.input_size, seed=2)
    mask = None if model.steps else torch.arange(7) < torch.tensor([[7], [5]])
    flow, kept = linearize(model, x, mask=mask), linearize(model, x, mask=mask, keep="sqrt")
    assert len(kept.P.A.segments) > 1
    q, theta = normal(3, *flow.P.domain.shape, seed=1), normal(2, flow.J.domain.size, seed=3)
    for symbol in ("A", "P", "K", "Phi"):
        operator, other = getattr(flow, symbol), getattr(kept, symbol)
        assert away(other(q), operator(q)) < 1e-12, symbol
        assert away(other.T(q), operator.T(q)) < 1e-12, symbol
    for operator, other in ((flow.J, kept.J), (flow.G, kept.G)):
        assert away(other(theta), operator(theta)) < 1e-12
        assert away(other.T(q), operator.T(q)) < 1e-12
    cut = flow.P.chunked(kept.P.A.segments.length)
    assert away(kept.P(q), cut(q)) > 1e-6  # what goes from one segment to the next is there


@pytest.mark.parametrize("name", [rule for rule in RULES if rule != "frozen_adam"])
@pytest.mark.parametrize("model", ["rnn", pytest.param("lstm", marks=pytest.mark.slow)])
@pytest.mark.rows(6)
def test_rules_give_the_same_gradient(model: str, name: str) -> None:
    net = model_of(model).double()
    x, readout = normal(2, 7, net.input_size, seed=2), Readout(net.width, 2).double()
    err = normal(2, 7, 2, seed=1) @ readout.weight.detach()
    rule = create_rule(name, **RULE_SETTINGS.get(name, {}))
    gradients = []
    for keep in ("all", "sqrt"):
        try:
            gradients.append(rule.gradient(linearize(net, x, keep=keep), err, readout=readout))
        except Exception as error:
            gradients.append(str(error))
    whole, kept = gradients
    if isinstance(whole, str):
        assert kept == whole
        return
    for parameter, value in whole.items():
        assert away(kept[parameter], value) < 1e-11, parameter
    assert any(bool(value.any()) for value in whole.values())


#: One product with Phi in a process of its own, and by how much that raised its peak memory [KiB].
PRODUCT = """
import sys, torch, kpframe
torch.set_num_threads(1)
batch, time, hidden, keep = *map(int, sys.argv[1:4]), sys.argv[4]
def peak():
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmHWM"))
torch.manual_seed(0)
model, x = kpframe.create_model("rnn", input_size=3, hidden_size=hidden), torch.randn(batch, time, 3)
kpframe.linearize(model, x[:, :9], keep=keep).Phi(torch.randn(batch, 9, hidden))  # code is loaded
q = torch.randn(batch, time, hidden)
before = peak()
product = kpframe.linearize(model, x, keep=keep).Phi(q)
print(peak() - before, q.nbytes // 1024, float(product.double().norm()))
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="reads the peak memory from /proc")
@pytest.mark.slow
@pytest.mark.parametrize("time", [1000, 10_000])
def test_memory_beside_the_vectors_is_a_tenth(time: int) -> None:
    """Beside the argument q, which stands before, and the product, which nobody can do without."""
    beside, norms = [], []
    for keep in ("all", "sqrt"):
        command = [sys.executable, "-c", PRODUCT, "20", str(time), "256", keep]
        raised, vector, norm = map(float, subprocess.check_output(command, text=True).split())
        beside.append(raised - vector)
        norms.append(norm)
    assert beside[1] < beside[0] / 10
    assert norms[1] == pytest.approx(norms[0], rel=1e-5)
