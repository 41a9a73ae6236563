"""Weights that other programs wrote: every kind of file, every wrapper's names, and clear refusals."""

from __future__ import annotations

import argparse
import os
import pickle
import re
import zipfile
from collections import OrderedDict
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file, save_model

from kpframe import Readout, linearize, wrap
from kpframe.errors import CheckpointError
from kpframe.study._networks.checkpoint import load_checkpoint, load_into, load_weights, save_checkpoint
from kpframe.testing._toys import Elman


def cell(seed: int = 0) -> torch.nn.GRUCell:
    torch.manual_seed(seed)
    return torch.nn.GRUCell(3, 4)


def state() -> dict[str, torch.Tensor]:
    return dict(cell().state_dict())


def lightning(weights: dict[str, torch.Tensor]) -> dict[str, object]:
    return {
        "epoch": 3,
        "global_step": 100,
        "pytorch-lightning_version": "2.5.0",
        "state_dict": weights,
        "loops": {"fit_loop": {"state_dict": {}}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(2)}}, "param_groups": [{"lr": 0.1}]}],
        "hyper_parameters": {"hidden": 4},
    }


WRITERS = {
    "state.pt": lambda path: torch.save(state(), path),
    "legacy.pth": lambda path: torch.save(state(), path, _use_new_zipfile_serialization=False),
    "lightning.ckpt": lambda path: torch.save(lightning(state()), path),
    "nested.pt": lambda path: torch.save({"model_state_dict": state(), "optimizer": {}}, path),
    "model.pt": lambda path: torch.save({"model": state(), "step": 3}, path),
    "parameters.pt": lambda path: torch.save(dict(cell().named_parameters()), path),
    "plain.safetensors": lambda path: save_file(state(), path),
    "safetensors.pt": lambda path: save_file(state(), path),
    "torch.safetensors": lambda path: torch.save(state(), path),
}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.rows(3)
def test_what_a_file_is_does_not_depend_on_its_name(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    WRITERS[name](path)
    found = load_weights(str(path))
    assert set(found) == set(state())
    assert all(torch.equal(found[key], value) for key, value in state().items())
    assert not any(value.requires_grad for value in found.values())
    other = cell(1)
    load_into(other, path)
    x = torch.randn(2, 5, 3)
    expected, got = (linearize(wrap(one), x).trajectory.states for one in (cell(), other))
    assert torch.equal(got, expected)
    assert float((linearize(wrap(cell(1)), x).trajectory.states - expected).norm()) > 0.1


@pytest.mark.parametrize(
    "front", ["module.", "model.", "_orig_mod.", "module._orig_mod.model.", "model._orig_mod.cell.", "cell."]
)
@pytest.mark.parametrize("wrapped", [False, True])
def test_names_that_wrappers_put_in_front(tmp_path: Path, front: str, wrapped: bool) -> None:
    """Of the file's names, and of a model's own (``cell.`` of a wrapped cell)."""
    path = tmp_path / "w.pt"
    torch.save({front + name: value for name, value in state().items()}, path)
    own = cell(1)
    load_into(wrap(own) if wrapped else own, path)
    assert all(torch.equal(own.state_dict()[name], value) for name, value in state().items())


def test_names_that_differ_by_a_wrapper_alone_are_kept_apart(tmp_path: Path) -> None:
    module = torch.nn.Linear(2, 2)
    module.model = torch.nn.Linear(2, 2)
    other = torch.nn.Linear(2, 2)
    other.model = torch.nn.Linear(2, 2)
    torch.save(module.state_dict(), tmp_path / "w.pt")
    load_into(other, tmp_path / "w.pt")
    assert torch.equal(other.model.weight, module.model.weight)
    assert torch.equal(other.weight, module.weight)


def test_a_part_of_a_larger_network(tmp_path: Path) -> None:
    path = tmp_path / "net.ckpt"
    parts = {f"model.rnn.{name}": value for name, value in state().items()}
    torch.save(lightning({**parts, "model.head.weight": torch.ones(2, 4)}), path)
    own = cell(1)
    with pytest.raises(CheckpointError, match="prefix takes what lies under one name"):
        load_into(own, path)
    assert torch.equal(own.weight_ih, cell(1).weight_ih)
    load_into(own, path, prefix="model.rnn")
    assert torch.equal(own.weight_ih, cell().weight_ih)


def test_our_own_file_goes_into_any_module(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model, readout, path = Elman(3, 4), Readout(4, 2, generator=0), tmp_path / "own.safetensors"
    save_checkpoint(path, model, readout)
    again, outputs = Elman(3, 4), Readout(4, 2, generator=1)
    load_into(again, path)
    load_into(outputs, path, prefix="readout")
    assert torch.equal(again.weight_hh_l0, model.weight_hh_l0)
    assert torch.equal(outputs.weight, readout.weight)


def test_everything_that_does_not_fit_is_listed_at_once(tmp_path: Path) -> None:
    weights = state()
    del weights["bias_ih"]
    weights |= {
        "weight_ih": torch.ones(12, 5),
        "weight_hh": weights["weight_hh"].double(),
        "fc.weight": torch.ones(2, 4),
    }
    path = tmp_path / "w.pt"
    torch.save(weights, path)
    own = cell(1)
    with pytest.raises(CheckpointError) as caught:
        load_into(own, path)
    message = str(caught.value)
    assert message.startswith(
        f"{path}: weight_ih: expected [12, 3] torch.float32, got [12, 5] torch.float32; "
    )
    assert "; weight_hh: expected [12, 4] torch.float32, got [12, 4] torch.float64; " in message
    assert "; bias_ih: expected [12] torch.float32, got nothing; " in message
    assert "; fc.weight: expected nothing, got [2, 4] torch.float32; " in message
    assert all(torch.equal(value, cell(1).state_dict()[name]) for name, value in own.state_dict().items())


def shared_pair(seed: int) -> torch.nn.Module:
    torch.manual_seed(seed)
    pair = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)})
    pair["b"].weight = pair["a"].weight
    return pair


@pytest.mark.parametrize("dropped", [None, "a.weight", "b.weight", "save_model"])
def test_one_name_of_a_shared_parameter_is_enough(tmp_path: Path, dropped: str | None) -> None:
    path, pair = tmp_path / "w.safetensors", shared_pair(0)
    if dropped == "save_model":
        save_model(pair, str(path))
    else:
        kept = {name: value.clone() for name, value in pair.state_dict().items() if name != dropped}
        save_file(kept, path)
    other = shared_pair(1)
    load_into(other, path)
    assert other["a"].weight is other["b"].weight
    assert torch.equal(other["a"].weight, pair["a"].weight)
    if dropped == "save_model":  # its metadata names the copy that it left out
        apart = torch.nn.ModuleDict({"a": torch.nn.Linear(2, 2), "b": torch.nn.Linear(2, 2)})
        load_into(apart, path)
        assert torch.equal(apart["b"].weight, pair["a"].weight)


def test_two_values_for_a_shared_parameter(tmp_path: Path) -> None:
    weights = dict(shared_pair(0).state_dict())
    weights["b.weight"] = weights["b.weight"] + 1
    torch.save(weights, tmp_path / "w.pt")
    with pytest.raises(
        CheckpointError, match=r"b\.weight: expected the values of a\.weight, with which it is"
    ):
        load_into(shared_pair(1), tmp_path / "w.pt")


class Planted:
    """What a malicious file holds: a call that unpickling makes."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.mkdir, ("planted",)


REFUSED = {
    "a module": (lambda p: torch.save(cell(), p), "GRUCell as well, which is not unpickled"),
    "settings": (lambda p: torch.save({"state_dict": state(), "hp": argparse.Namespace()}, p), "Namespace"),
    "a folder": (lambda p: torch.save({"state_dict": state(), "at": Path("a")}, p), "pathlib"),
    "a number of NumPy's": (lambda p: torch.save({"state_dict": state(), "n": np.ones(2)}, p), "numpy"),
    "a call": (
        lambda p: torch.save({"state_dict": state(), "x": Planted()}, p),
        "mkdir as well, which is not",
    ),
    "a program": (
        lambda p: torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), p),
        "TorchScript program",
    ),
    "a pickle": (lambda p: p.write_bytes(pickle.dumps(state())), "another kind of pickle"),
    "NumPy's": (
        lambda p: np.savez(p.with_name("w.npz"), a=np.ones(2)) or p.with_name("w.npz").rename(p),
        "another kind of archive",
    ),
    "a list": (lambda p: torch.save([torch.ones(2)], p), "expected tensors by name in .*, got a list"),
    "a tensor": (lambda p: torch.save(torch.ones(2), p), "expected tensors by name in .*, got a Tensor"),
    "numbers": (lambda p: torch.save(OrderedDict(step=3, loss=0.5), p), "got a dict with step, loss"),
    "text": (lambda p: p.write_text("step,loss\n" * 50), "which is neither"),
    "nothing": (lambda p: p.touch(), "which is neither"),
    "no file": (lambda p: None, "which does not exist"),
    "a directory": (lambda p: p.mkdir(), "which is a folder"),
}
SOUND = [name for name in REFUSED if name not in ("text", "nothing", "no file", "a directory")]


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.filterwarnings("ignore:.torch.jit:DeprecationWarning")
def test_what_holds_no_weights(tmp_path: Path, monkeypatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "w.pt"
    write, message = REFUSED[name]
    write(path)
    for load in (load_weights, lambda p: load_into(cell(), p)):
        with pytest.raises(CheckpointError, match=message) as caught:
            load(path)
        assert repr(str(path)) in str(caught.value)
        assert "corrupt" not in str(caught.value)
        assert ("torch.save(model.state_dict(), path)" in str(caught.value)) == (
            name in SOUND and name not in ("a list", "a tensor", "numbers")
        )
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.parametrize("kept", [100, -20])
def test_a_file_cut_short_is_corrupt(tmp_path: Path, legacy: bool, kept: int) -> None:
    path = tmp_path / "w.pt"
    torch.save(state(), path, _use_new_zipfile_serialization=not legacy)
    path.write_bytes(path.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=re.escape(f"{str(path)!r}, which is corrupt")):
        load_weights(path)


def test_an_archive_with_a_flipped_byte(tmp_path: Path) -> None:
    path = tmp_path / "w.pt"
    torch.save(state(), path)
    content = bytearray(path.read_bytes())
    content[content.index(b"weight_ih") - 3] ^= 0xFF
    path.write_bytes(bytes(content))
    assert zipfile.is_zipfile(path)
    with pytest.raises(CheckpointError, match=r"corrupt|another kind of pickle"):
        load_weights(path)


@pytest.mark.parametrize("name", ["state.pt", "lightning.ckpt", "plain.safetensors"])
def test_our_own_loader_says_what_to_do_with_others(tmp_path: Path, name: str) -> None:
    WRITERS[name](tmp_path / name)
    with pytest.raises(
        CheckpointError, match=r"kpframe\.checkpoint\.load_into\(model, path\) loads its weights"
    ):
        load_checkpoint(tmp_path / name)


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"expected a folder to write 'm\.safetensors' to"):
        save_checkpoint(tmp_path / "nowhere" / "m.safetensors", Elman(3, 4))
