"""Optimizers that do not load torch's compiler make the updates of torch's own, to the bit."""

from __future__ import annotations

import sys

import pytest
import torch

from kpframe.study._running.optimizers import uncompiled

KINDS = {torch.optim.Adam: {"lr": 0.1}, torch.optim.SGD: {"lr": 0.1, "momentum": 0.9}}


def made(kind: type[torch.optim.Optimizer], settings: dict, updates: int) -> list[torch.Tensor]:
    """Return the parameters after each update; half-way another optimizer goes on from the first's state."""
    weight = torch.nn.Parameter(torch.linspace(-1.0, 2.0, 6, dtype=torch.float64).reshape(2, 3))
    optimizer, found = kind([weight], **settings), []
    for update in range(updates):
        if update == updates // 2:
            state = optimizer.state_dict()
            optimizer = kind([weight], **settings)
            optimizer.load_state_dict(state)
        optimizer.zero_grad()
        (weight**4).sum().backward()
        optimizer.step()
        found.append(weight.detach().clone())
    return found


@pytest.mark.parametrize("kind", KINDS)
def test_updates_are_those_of_torch_without_its_compiler(kind, monkeypatch) -> None:
    expected = made(kind, KINDS[kind], 6)
    monkeypatch.setitem(sys.modules, "torch._dynamo", None)  # importing it raises
    found = made(uncompiled(kind), KINDS[kind], 6)
    assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))
    assert not torch.equal(found[2], found[3])
    with pytest.raises(ModuleNotFoundError):
        made(kind, KINDS[kind], 1)
