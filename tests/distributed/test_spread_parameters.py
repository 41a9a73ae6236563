"""Parameters that other tools keep in parts on several processes are refused, with the way out."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

import kpframe
from kpframe.errors import CheckpointError, UnsupportedError
from kpframe.models._linearize import linearize
from kpframe.study import Tracker
from kpframe.study._networks.weight_files import read_torch
from kpframe.study._scaling.local_ranks import one_rank

MESSAGE = (
    "{}: expected parameters that are whole on this process, got {}, which spreads them over several; gather"
)


@pytest.fixture(scope="module")
def mesh() -> Iterator[Any]:
    from torch.distributed.device_mesh import init_device_mesh

    with one_rank():
        yield init_device_mesh("cpu", (1,))


def of_parts(cell: nn.Module, mesh: Any) -> nn.Module:
    """Return a cell of which each parameter is a DTensor."""
    from torch.distributed.tensor import Shard, distribute_tensor

    for name, parameter in list(cell.named_parameters()):
        setattr(cell, name, nn.Parameter(distribute_tensor(parameter.detach(), mesh, [Shard(0)])))
    return cell


def fully_sharded(module: nn.Module, mesh: Any) -> nn.Module:
    from torch.distributed.fsdp import fully_shard

    fully_shard(module, mesh=mesh)
    return module


def whole(module: nn.Module) -> dict[str, torch.Tensor]:
    """Return what the message says."""
    from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

    return get_model_state_dict(module, options=StateDictOptions(full_state_dict=True))


@pytest.mark.parametrize(("spread", "kind"), [(of_parts, "DTensor"), (fully_sharded, "FSDPModule")])
def test_wrap_linearize_and_the_tracker_refuse_them(mesh, tmp_path: Path, spread, kind) -> None:
    x = torch.randn(2, 3, 3)
    for layer in (nn.GRUCell(3, 4), nn.GRU(3, 4, batch_first=True)):
        with pytest.raises(UnsupportedError) as caught:
            kpframe.wrap(spread(layer, mesh))
        assert str(caught.value).startswith(MESSAGE.format("module", kind))
    model = kpframe.wrap(nn.GRUCell(3, 4))
    linearize(model, x)
    spread(model.cell, mesh)
    with pytest.raises(UnsupportedError) as caught:
        linearize(model, x)
    assert str(caught.value).startswith(MESSAGE.format("model", kind))
    with pytest.raises(UnsupportedError) as caught:
        Tracker(spread(nn.GRUCell(3, 4), mesh), x, output=tmp_path / "run")
    assert str(caught.value).startswith(MESSAGE.format("model", kind))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("spread", [of_parts, fully_sharded])
def test_the_way_out_that_is_named(mesh, spread) -> None:
    torch.manual_seed(0)
    cell = nn.GRUCell(3, 4)
    x, q = torch.randn(2, 3, 3), torch.randn(2, 3, 4)
    expected = linearize(kpframe.wrap(cell), x).Phi(q)
    gathered, other = whole(spread(cell, mesh)), nn.GRUCell(3, 4)
    assert not torch.allclose(linearize(kpframe.wrap(other), x).Phi(q), expected)
    other.load_state_dict(gathered)
    torch.testing.assert_close(linearize(kpframe.wrap(other), x).Phi(q), expected)


def test_files_of_parts_are_refused(mesh, tmp_path: Path) -> None:
    path = tmp_path / "parts.pt"
    torch.save(of_parts(nn.GRUCell(3, 4), mesh).state_dict(), path)
    with pytest.raises(
        CheckpointError, match=r"expected whole tensors in .*, got parts of some, DTensor; gather"
    ):
        read_torch(path)


@pytest.mark.slow
def test_a_process_that_has_not_loaded_their_class_refuses_files_of_parts(mesh, tmp_path: Path) -> None:
    path = tmp_path / "parts.pt"
    torch.save(of_parts(nn.GRUCell(3, 4), mesh).state_dict(), path)
    code = f"from kpframe.study._networks.weight_files import read_torch; read_torch({str(path)!r})"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    last = found.stderr.splitlines()[-1]
    assert f"checkpoint: expected whole tensors in {str(path)!r}, got parts of some, DTensor; gather" in last
