"""Faults in what checkpoints keep."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from kpframe import Readout, wrap
from kpframe.errors import CheckpointError

from .planting import Fault


def check_checkpoint() -> None:
    """A checkpoint gives back what was saved, and is refused when a byte of it is another one."""
    checkpoint = import_module("kpframe.study._networks.checkpoint")
    torch.manual_seed(3)
    model, readout = wrap(torch.nn.RNNCell(2, 3)), Readout(3, 2, generator=4)
    first = next(iter(dict(model.named_parameters())))
    model.get_parameter(first).requires_grad_(False)
    with TemporaryDirectory() as folder:
        path = Path(folder) / "a.safetensors"
        checkpoint.save_checkpoint(
            path, model, readout, name="tiny", settings={"size": 3}, step=712, extra={"reads": [0, 3]}
        )
        found = checkpoint.load_checkpoint(path)
        assert (found.model, found.step, found.settings) == ("tiny", 712, {"size": 3})
        assert found.extra == {"reads": [0, 3]}
        assert list(found.fixed) == [first]
        expected = {f"model.{name}": value for name, value in model.state_dict().items()}
        expected |= {f"readout.{name}": value for name, value in readout.state_dict().items()}
        assert set(found.tensors) == set(expected)
        assert all(torch.equal(found.tensors[name], value) for name, value in expected.items())
        content = path.read_bytes()
        for old, new in ((content[-1:], bytes([content[-1] ^ 1])), (b"712", b"713")):
            place = content.rindex(old)
            path.write_bytes(content[:place] + new + content[place + len(old) :])
            said = "nothing"
            try:
                checkpoint.load_checkpoint(path)
            except CheckpointError as error:
                said = str(error)
            assert said.endswith("it is damaged; copy it again"), said


C = "study/_networks/checkpoint.py"

FAULTS = (
    Fault("a checkpoint of no step", C, '"step": step,', '"step": 0,', check_checkpoint),
    Fault("no extras", C, '"extra": dict(extra or {})', '"extra": {}', check_checkpoint),
    Fault("a readout in the model", C, 'f"readout.{k}": v for', 'f"model.{k}": v for', check_checkpoint),
    Fault(
        "free parameters for fixed ones",
        C,
        "if not p.requires_grad]",
        "if p.requires_grad]",
        check_checkpoint,
    ),
    Fault(
        "a checksum of the first entries",
        C,
        "tensor.reshape(-1).view",
        "tensor.reshape(-1)[:1].view",
        check_checkpoint,
    ),
)
