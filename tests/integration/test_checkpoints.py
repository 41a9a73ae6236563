"""Checkpoints of registered models: name and settings in the file rebuild the model."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kpframe import create_model, linearize
from kpframe.checkpoint import load_checkpoint, save_checkpoint
from kpframe.errors import CheckpointError, SettingsError
from kpframe.readout import Readout

MODELS = {
    "vanilla": ("rnn", {"nonlinearity": "relu", "bias": False}),
    "rate": ("rnn", {"form": "rate", "alpha": 0.1, "gain": 1.5, "seed": 3}),
    "current": ("rnn", {"form": "current", "alpha": 1 / 3, "trainable_initial_state": True}),
    "gru": ("gru", {"seed": None}),
    "gru h0": ("gru", {"trainable_initial_state": True, "bias": False}),
}


@pytest.fixture(params=MODELS)
def registered(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    name, settings = MODELS[request.param]
    return name, {"input_size": 3, "hidden_size": 5} | settings


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "model.safetensors"


def trained(name: str, settings: dict[str, object], dtype: torch.dtype) -> torch.nn.Module:
    """Return a model whose parameters are not those that its settings give."""
    torch.manual_seed(0)
    model = create_model(name, **settings).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_rebuilt_model_gives_the_same_trajectory(registered, path, dtype) -> None:
    name, settings = registered
    model, readout = trained(name, settings, dtype), Readout(5, 2, generator=0, dtype=dtype)
    save_checkpoint(path, model, readout, name=name, settings=settings, step=12)
    checkpoint = load_checkpoint(path)
    assert (checkpoint.model, checkpoint.settings, checkpoint.step) == (name, settings, 12)

    again, outputs = checkpoint.build_model(), Readout(5, 2, generator=1, dtype=dtype)
    checkpoint.load_into(outputs, prefix="readout")
    assert type(again) is type(model)
    assert all(torch.equal(value, model.state_dict()[key]) for key, value in again.state_dict().items())
    x = torch.randn(4, 6, 3, generator=torch.Generator().manual_seed(1), dtype=dtype)
    states = model.rollout(x).states
    assert torch.equal(again.rollout(x).states, states)
    assert torch.equal(outputs(again.rollout(x).states), readout(states))
    assert torch.equal(linearize(again, x).Phi(states.detach()), linearize(model, x).Phi(states.detach()))
    untrained = create_model(name, **settings).to(dtype)
    assert float((untrained.rollout(x).states - states).detach().norm()) > 0.1


def test_settings_that_do_not_fit_the_tensors(path) -> None:
    settings = {"input_size": 3, "hidden_size": 5}
    model = create_model("gru", **settings)
    save_checkpoint(path, model, name="gru", settings=settings | {"hidden_size": 6})
    with pytest.raises(CheckpointError, match=r"model\.weight_ih_l0: expected \[18, 3\] .*, got \[15, 3\]"):
        load_checkpoint(path).build_model()
    save_checkpoint(path, model, name="rnn", settings=settings)
    with pytest.raises(CheckpointError, match=r"model\.weight_ih_l0: expected \[5, 3\] .*, got \[15, 3\]"):
        load_checkpoint(path).build_model()
    save_checkpoint(path, model, name="gru", settings=settings | {"bias": False})
    with pytest.raises(CheckpointError, match=r"model\.bias_hh_l0: expected nothing, got \[15\]"):
        load_checkpoint(path).build_model()
    save_checkpoint(path, model, name="gru", settings=settings | {"gain": 2})
    with pytest.raises(SettingsError, match="gain: expected one of its settings"):
        load_checkpoint(path).build_model()
    save_checkpoint(path, model, name="gru", settings=settings)
    assert load_checkpoint(path).build_model().width == 5
