"""Checkpoints of registered models: name and settings in the file rebuild the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from kpframe import create_model, linearize
from kpframe.cli import _app as app
from kpframe.errors import CheckpointError, SettingsError
from kpframe.study._networks.checkpoint import load_checkpoint, save_checkpoint
from kpframe.tasks._readout import Readout

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


def test_what_is_shared_or_frozen_stays_so(path) -> None:
    settings = {"input_size": 3, "hidden_size": 3, "num_layers": 2}
    model = create_model("rnn", **settings, seed=1)
    model.weight_hh_l1, model.bias_ih_l0 = model.weight_hh_l0, model.bias_hh_l1
    model.weight_ih_l1.requires_grad_(False)
    save_checkpoint(path, model, name="rnn", settings=settings)
    checkpoint = load_checkpoint(path)
    assert checkpoint.shared == {"weight_hh_l1": "weight_hh_l0", "bias_hh_l1": "bias_ih_l0"}
    assert list(checkpoint.fixed) == ["weight_ih_l1"]
    again = checkpoint.build_model()
    assert again.weight_hh_l1 is again.weight_hh_l0
    assert again.bias_ih_l0 is again.bias_hh_l1
    assert list(again.trainable()) == list(model.trainable())
    assert len(again.trainable()) == 5
    x = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(1))
    q = torch.randn(2, 4, 6, generator=torch.Generator().manual_seed(2))
    assert torch.equal(linearize(again, x).Phi(q), linearize(model, x).Phi(q))
    plain = create_model("rnn", **settings)
    checkpoint.load_into(plain)  # a model that is given keeps its own structure
    assert len(plain.trainable()) == 8
    assert not torch.allclose(linearize(plain, x).Phi(q), linearize(model, x).Phi(q), rtol=1e-2)


def test_checkpoints_from_before_there_were_such(path) -> None:
    settings = {"input_size": 3, "hidden_size": 5}
    save_checkpoint(path, create_model("gru", **settings), name="gru", settings=settings)
    with safe_open(path, framework="pt") as file:
        header = json.loads(file.metadata()["kpframe"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - no mapping
    del header["shared"], header["fixed"], header["checksum"]
    save_file(tensors, path, metadata={"kpframe": json.dumps(header)})
    assert len(load_checkpoint(path).build_model().trainable()) == 4


@pytest.mark.parametrize("command", [["verify"], ["compare", "--rules", "bptt"]], ids=lambda c: c[0])
def test_commands_say_what_to_do_with_the_files_of_others(tmp_path, capsys, command) -> None:
    torch.save({"weight_ih_l0": torch.ones(5, 3)}, tmp_path / "w.pt")
    assert app.run([*command, str(tmp_path / "w.pt")]) == 2
    error = capsys.readouterr().err
    assert "Error: checkpoint: expected a safetensors file that kpframe wrote, got " in error
    assert "kpframe.checkpoint.load_into(model, path) loads its weights into a model" in error
