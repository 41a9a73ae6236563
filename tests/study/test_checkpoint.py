"""Checkpoints of unregistered models: round trips, refusals, and a file that is whole or not there."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from kpframe import Model
from kpframe.errors import CheckpointError, OutputError, UnknownNameError
from kpframe.study._networks.checkpoint import FORMAT, load_checkpoint, load_weights, save_checkpoint
from kpframe.tasks._readout import Readout


class Toy(Model):
    """A network with a parameter, a buffer of whole numbers, and a matrix that is not contiguous."""

    def __init__(self, size: int = 4, seed: int = 0) -> None:
        super().__init__(size, {"h": size})
        generator = torch.Generator().manual_seed(seed)
        self.register_buffer("arrangement", torch.arange(size))
        self.w = torch.nn.Parameter(torch.randn(size, size, generator=generator).T)
        self.b = torch.nn.Parameter(torch.randn(size, generator=generator))

    def step(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        return torch.tanh(h @ self.w.T + x[:, self.arrangement] + self.b)


class Tied(Toy):
    """The same with one matrix under two names."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__(seed=seed)
        self.V = self.w


HEADER = {"format": FORMAT, "model": None, "settings": {}, "step": 3, "extra": {}}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "a folder" / "model.safetensors"


@pytest.fixture
def saved(path: Path) -> Path:
    path.parent.mkdir()
    return save_checkpoint(path, Toy(), Readout(4, 2, generator=0), step=3)


def bits(module: torch.nn.Module | torch.Tensor) -> dict[str, bytes] | bytes:
    if isinstance(module, torch.Tensor):
        return module.contiguous().numpy().tobytes()
    return {name: value.contiguous().numpy().tobytes() for name, value in module.state_dict().items()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_round_trip_is_exact(path, dtype) -> None:
    path.parent.mkdir()
    model, readout = Toy().to(dtype), Readout(4, 2, generator=0, dtype=dtype)
    with torch.no_grad():  # values that a detour through text or another dtype would lose
        model.b.copy_(torch.tensor([1 / 3, -0.0, torch.finfo(dtype).tiny, torch.finfo(dtype).max]))
        readout.bias.copy_(torch.tensor([torch.nan, torch.inf]))
    settings = {"sizes": [1, 2], "alpha": 0.1, "bias": True, "gain": None, "form": "rate"}
    extra = {"note": "größe", "losses": [0.5, 1e-300]}
    assert save_checkpoint(path, model, readout, settings=settings, step=17, extra=extra) == path

    checkpoint = load_checkpoint(str(path))
    assert (checkpoint.model, checkpoint.step) == (None, 17)
    assert (checkpoint.settings, checkpoint.extra) == (settings, extra)
    again, again_readout = Toy(seed=1).to(dtype), Readout(4, 2, generator=1, dtype=dtype)
    assert bits(again)["w"] != bits(model)["w"]
    checkpoint.load_into(again)
    checkpoint.load_into(again_readout, prefix="readout")
    assert bits(again) == bits(model)
    assert bits(again_readout) == bits(readout)
    assert again.b.dtype == again_readout.weight.dtype == dtype
    assert again.arrangement.dtype == torch.int64


def test_defaults(path) -> None:
    path.parent.mkdir()
    checkpoint = load_checkpoint(save_checkpoint(path, Toy()))
    assert (checkpoint.model, checkpoint.settings, checkpoint.step, checkpoint.extra) == (None, {}, 0, {})
    assert set(checkpoint.tensors) == {"model.w", "model.b", "model.arrangement"}


def test_a_checkpoint_is_a_copy(path) -> None:
    path.parent.mkdir()
    model = Toy()
    checkpoint = load_checkpoint(save_checkpoint(path, model))
    before = bits(model)
    again = Toy(seed=1)
    checkpoint.load_into(again)
    with torch.no_grad():
        again.b.add_(1)
    assert bits(model) == before
    checkpoint.load_into(again)
    assert bits(again) == before


def test_tied_weights(path) -> None:
    path.parent.mkdir()
    checkpoint = load_checkpoint(save_checkpoint(path, Tied()))
    again = Tied(seed=1)
    assert bits(again) != bits(Tied())
    checkpoint.load_into(again)
    assert bits(again) == bits(Tied())
    assert again.V is again.w


def test_the_file_is_plain_safetensors(saved) -> None:
    assert torch.equal(load_file(saved)["model.w"], Toy().w.detach())


# -- files that cannot be read -------------------------------------------------------------------------------


def refused(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert repr(str(path)) in str(caught.value)
    assert str(caught.value).startswith("checkpoint: expected ")
    return str(caught.value)


def test_missing_file(path, saved) -> None:
    assert "which does not exist" in refused(path.with_name("other.safetensors"))
    assert "which does not exist" in refused(path.with_name("x" * 300))
    assert "which is a folder" in refused(path.parent)
    assert load_checkpoint(path).step == 3


@pytest.mark.parametrize("kept", [0, 7, 100, -1])
def test_truncated_file(path, saved, kept) -> None:
    path.write_bytes(path.read_bytes()[:kept])
    assert "which is corrupt" in refused(path)


@pytest.mark.parametrize("place", [0, 8, 20])
def test_corrupt_file(path, saved, place) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 0xFF
    path.write_bytes(content)
    assert "which is corrupt" in refused(path)


@pytest.mark.parametrize("kind", ["text", "zip", "pickle"])
def test_another_kind_of_file(path, saved, kind) -> None:
    if kind == "text":
        path.write_text("step,loss\n" * 50)
    else:
        torch.save(Toy().state_dict(), path, _use_new_zipfile_serialization=kind == "zip")
    assert "expected a safetensors file" in refused(path)


@pytest.mark.parametrize(
    "metadata",
    [
        None,
        {"format": "pt"},
        {"kpframe": "not JSON"},
        {"kpframe": "[1, 2]"},
        {"kpframe": json.dumps({key: value for key, value in HEADER.items() if key != "step"})},
        {"kpframe": json.dumps(HEADER | {"format": "one"})},
    ],
    ids=["none", "other", "no JSON", "list", "no step", "no number"],
)
def test_safetensors_without_our_header(path, saved, metadata) -> None:
    save_file({"model.w": torch.ones(2)}, path, metadata=metadata)
    assert "expected kpframe's header" in refused(path)
    save_file({"model.w": torch.ones(2)}, path, metadata={"kpframe": json.dumps(HEADER)})
    assert load_checkpoint(path).step == 3


def test_newer_format(path, saved) -> None:
    save_file({}, path, metadata={"kpframe": json.dumps(HEADER | {"format": FORMAT + 1})})
    message = refused(path)
    assert f"expected format {FORMAT} or older" in message
    assert message.endswith(f"got {FORMAT + 1}; upgrade kpframe")


# -- checkpoints that do not fit -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("make", "prefix", "message"),
    [
        (lambda: Toy(5), "model", r"model\.w: expected \[5, 5\] torch.float32, got \[4, 4\] torch.float32"),
        (lambda: Toy().double(), "model", r"model\.w: expected \[4, 4\] torch.float64, got .* torch.float32"),
        (lambda: torch.nn.Linear(4, 4), "model", r"model\.weight: expected \[4, 4\] .*, got nothing"),
        (lambda: torch.nn.Module(), "model", r"model\.\w+: expected nothing, got \[4"),
        (lambda: Readout(4, 3), "readout", r"readout\.weight: expected \[3, 4\] .*, got \[2, 4\]"),
        (lambda: Readout(4, 2), "decoder", r"decoder\.weight: expected \[2, 4\] .*, got nothing"),
    ],
    ids=["shape", "dtype", "missing", "unexpected", "readout", "prefix"],
)
def test_tensors_that_do_not_fit(saved, make, prefix, message) -> None:
    checkpoint, module = load_checkpoint(saved), make()
    before = bits(module)
    with pytest.raises(CheckpointError, match=f"checkpoint: {message}"):
        checkpoint.load_into(module, prefix)
    assert bits(module) == before
    checkpoint.load_into(Toy())


def test_build_needs_a_registered_model(path, saved) -> None:
    with pytest.raises(CheckpointError, match=r"no registered model's name; use load_into\(model\)"):
        load_checkpoint(saved).build_model()
    save_checkpoint(path, Toy(), name="no_such_model")
    with pytest.raises(UnknownNameError, match="no_such_model"):
        load_checkpoint(path).build_model()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_build_takes_the_dtype_of_the_floats(path, monkeypatch, dtype) -> None:
    monkeypatch.setattr(
        "kpframe.study._networks.checkpoint.create_model", lambda name, size: Toy(size, seed=1)
    )
    path.parent.mkdir()
    model = Toy(5).to(dtype)
    checkpoint = load_checkpoint(save_checkpoint(path, model, name="toy", settings={"size": 5}))
    again = checkpoint.build_model()
    assert again.w.dtype == dtype
    assert bits(again) == bits(model)


# -- whole or not there --------------------------------------------------------------------------------------


def listing(folder: Path) -> list[str]:
    return [entry.name for entry in folder.iterdir()]


def test_no_partial_file_is_left(path, saved) -> None:
    assert listing(path.parent) == ["model.safetensors"]
    save_checkpoint(path, Toy(seed=1), step=4)
    assert listing(path.parent) == ["model.safetensors"]
    assert load_checkpoint(path).step == 4


@pytest.mark.parametrize("stage", ["fsync", "replace"])
@pytest.mark.parametrize("error", [OSError("disk full"), KeyboardInterrupt()], ids=["error", "interrupt"])
def test_a_failure_leaves_the_older_checkpoint(path, saved, monkeypatch, stage, error) -> None:
    before = path.read_bytes()

    def fail(*arguments: object) -> None:
        raise error

    with monkeypatch.context() as patched:
        patched.setattr(*((os, "fsync") if stage == "fsync" else (Path, "replace")), fail)
        with pytest.raises(type(error)) as caught:
            save_checkpoint(path, Toy(seed=1), step=4)
    assert isinstance(caught.value, OutputError) == isinstance(error, OSError)
    assert listing(path.parent) == ["model.safetensors"]
    assert path.read_bytes() == before


# -- what is not what was written ----------------------------------------------------------------------------


def test_every_flipped_bit_is_seen(path, saved) -> None:
    """A bit of a weight, a shape, a step or a setting is refused: other numbers are never read."""
    content = path.read_bytes()
    before = load_checkpoint(path)
    size = sum(tensor.nbytes for tensor in before.tensors.values())
    places = torch.randint(len(content), (120,), generator=torch.Generator().manual_seed(0)).tolist()
    refusals = 0
    for place in [*places, *range(len(content) - 40, len(content))]:
        flipped = bytearray(content)
        flipped[place] ^= 1 << place % 8
        path.write_bytes(flipped)
        for read in (load_checkpoint, load_weights):
            try:
                found = read(path)
            except CheckpointError:
                refusals += 1
                continue
            # padding, or the name under which the header or its checksum stands: what is read is right
            assert place < len(content) - size
            tensors = found if isinstance(found, dict) else found.tensors
            assert {n: bits(t) for n, t in tensors.items()} == {n: bits(t) for n, t in before.tensors.items()}
            if not isinstance(found, dict):
                assert (found.step, found.settings, found.extra) == (3, {}, {})
    assert refusals > 250
    path.write_bytes(content)
    assert load_checkpoint(path).step == 3


def test_flipped_weights_are_named(path, saved) -> None:
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)
    for read in (load_checkpoint, load_weights):
        with pytest.raises(CheckpointError, match=r"expected the contents that were written .* damaged"):
            read(path)


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("model", 3, "a name or null as 'model'"),
        ("settings", [["size", 4]], "an object as 'settings'"),
        ("step", "3", "a whole number >= 0 as 'step'"),
        ("step", -1, "a whole number >= 0 as 'step'"),
        ("step", True, "a whole number >= 0 as 'step'"),
        ("extra", None, "an object as 'extra'"),
        ("shared", ["w"], "an object of names as 'shared'"),
        ("shared", {"w": 1}, "an object of names as 'shared'"),
        ("fixed", "w", "a list of names as 'fixed'"),
        ("fixed", [1], "a list of names as 'fixed'"),
    ],
)
def test_fields_of_another_type(path, saved, field, value, expected) -> None:
    save_file({"model.w": torch.ones(2)}, path, metadata={"kpframe": json.dumps(HEADER | {field: value})})
    assert f"expected {expected} in the header" in refused(path)


def test_files_from_before_there_were_checksums(path, saved) -> None:
    tensors = load_checkpoint(path).tensors
    save_file(dict(tensors), path, metadata={"kpframe": json.dumps(HEADER)})
    assert bits(load_checkpoint(path).tensors["model.w"]) == bits(tensors["model.w"])
    save_file(dict(tensors), path, metadata={"kpframe": json.dumps(HEADER | {"checksum": "0"})})
    assert "damaged" in refused(path)  # the partner


def test_what_json_cannot_hold_writes_nothing(path, saved) -> None:
    before = path.read_bytes()
    with pytest.raises(CheckpointError, match=r"JSON can hold, got others \(.*Tensor"):
        save_checkpoint(path, Toy(seed=1), extra={"losses": torch.ones(3)})
    assert listing(path.parent) == ["model.safetensors"]
    assert path.read_bytes() == before
