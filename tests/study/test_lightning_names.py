"""The tracker as a callback under either name of Lightning; stand-ins have its base class."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch

from kpframe.lightning import TrackerCallback
from kpframe.study._disk.folder import read_record


def stand_in(monkeypatch: pytest.MonkeyPatch, name: str) -> type:
    """Put a module with a base class of callbacks in Lightning's place; return the class."""
    module = ModuleType(name)
    module.Callback = type("Callback", (), {"__module__": name})
    if "." in name:
        monkeypatch.setitem(sys.modules, name.partition(".")[0], ModuleType("lightning"))
    monkeypatch.setitem(sys.modules, name, module)
    return module.Callback


@pytest.fixture
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither package is there."""
    for name in ("lightning", "lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn, self.head = torch.nn.GRU(2, 3, batch_first=True), torch.nn.Linear(3, 1)
        self.device = torch.device("cpu")


X = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))


@pytest.mark.usefixtures("absent")
@pytest.mark.parametrize("name", ["lightning.pytorch", "pytorch_lightning"])
@pytest.mark.rows(2)
def test_it_records_under_either_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, name: str) -> None:
    base = stand_in(monkeypatch, name)
    track = TrackerCallback(
        "rnn", X, readout="head", output=tmp_path / "run", quantities=["trace"], schedule=[0, 2], quiet=True
    )
    assert isinstance(track, base)
    assert type(track).__mro__[1] is TrackerCallback
    network = Network()
    trainer = SimpleNamespace(is_global_zero=True, fast_dev_run=False, global_step=0, logger=None)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    track.on_train_start(trainer, network)
    for _ in range(2):
        loss = (network.head(network.rnn(X)[0]) - 1).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        trainer.global_step += 1
        track.on_train_batch_end(trainer, network, {"loss": loss}, None, 0)
    track.on_train_end(trainer, network)
    assert track.tracker.steps == (0, 2)
    assert read_record(tmp_path / "run")["state"] == "finished"


@pytest.mark.usefixtures("absent")
def test_with_both_in_use_it_is_a_callback_of_both(monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = (stand_in(monkeypatch, name) for name in ("lightning.pytorch", "pytorch_lightning"))
    track = TrackerCallback("rnn", X)
    assert isinstance(track, one)
    assert isinstance(track, other)
    monkeypatch.setitem(sys.modules, "lightning.pytorch", None)
    assert not isinstance(TrackerCallback("rnn", X), one)
