"""What is read as networks: own files and foreign ones, folders and their steps, and clear refusals."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kpframe import Readout, linearize, wrap
from kpframe.errors import ArgumentError, CheckpointError, KpframeError, SettingsError, UnknownNameError
from kpframe.study._networks.checkpoint import save_checkpoint
from kpframe.study._networks.given_model import GivenModel, importable
from kpframe.study._networks.sources import find_cells, read_network, step_numbers
from kpframe.testing._toys import Elman

NETS = """
import torch
import kpframe

LIMIT = 3

class Own(kpframe.Model):
    def __init__(self, input_size=3, width=4):
        super().__init__(input_size, {"h": width})
        self.core = torch.nn.Linear(input_size + width, width)

    def step(self, x, h, t=None):
        return torch.tanh(self.core(torch.cat([x, h], dim=1)))

def cell(width=4):
    return torch.nn.GRUCell(3, width)

def lstm():
    return torch.nn.LSTMCell(3, 4)

def model():
    return Own()

def lost():
    return {}["weights"]

def number():
    return 3

def kind():
    return torch.nn.GRUCell

def wide():
    return torch.nn.Linear(3, 4)
"""


@pytest.fixture
def nets(tmp_path: Path):
    """Put a module ``kpf_nets`` where it can be imported from."""
    folder = tmp_path / "with spaces"
    folder.mkdir()
    (folder / "kpf_nets.py").write_text(NETS)
    (folder / "kpf_broken.py").write_text("import os\n\nraise ValueError('no GPU here')\n")
    (folder / "kpf_lacking.py").write_text("import kpf_no_such_library\n")
    with importable(folder):
        yield folder
    for name in ("kpf_nets", "kpf_broken", "kpf_lacking"):
        sys.modules.pop(name, None)


def weights(seed: int = 0, kind: type = torch.nn.GRUCell, front: str = "") -> dict[str, torch.Tensor]:
    torch.manual_seed(seed)
    return {f"{front}{name}": tensor.clone() for name, tensor in kind(3, 4).state_dict().items()}


def states(model) -> torch.Tensor:
    dtype = next(model.parameters()).dtype
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(dtype)
    return linearize(model, x).trajectory.states


def expected(tensors: dict[str, torch.Tensor]) -> torch.Tensor:
    """Return the states by torch itself."""
    cell = torch.nn.GRUCell(3, 4)
    cell.load_state_dict(tensors)
    x = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1), dtype=torch.float64).float()
    h, found = torch.zeros(2, 4), []
    with torch.no_grad():
        for t in range(5):
            h = cell(x[:, t], h)
            found.append(h)
    return torch.stack(found, dim=1)


HEAD = {"head.weight": torch.arange(8.0).reshape(2, 4), "head.bias": torch.tensor([1.0, -1.0])}
FOREIGN = {
    "plain.pt": (lambda path: torch.save(weights(), path), {}),
    "lightning.ckpt": (
        lambda path: torch.save({"state_dict": weights(front="model."), "epoch": 3}, path),
        {},
    ),
    "deep.safetensors": (
        lambda path: save_file({**weights(front="encoder.rnn."), **HEAD}, path),
        {"renames": [("encoder.rnn.", "")], "readout": "head"},
    ),
    "whole.pth": (
        lambda path: torch.save({k.replace("weight_ih", "weight_i"): v for k, v in weights().items()}, path),
        {"renames": [("weight_i", "weight_ih")]},
    ),
    "half.pt": (lambda path: torch.save({k: v.half() for k, v in weights().items()}, path), {}),
    "more.pt": (
        lambda path: torch.save(weights() | {"decoder.0.w": torch.ones(2)}, path),
        {"ignore": ["decoder."]},
    ),
}


@pytest.mark.parametrize("name", FOREIGN)
def test_weights_of_another_program(tmp_path: Path, nets: Path, name: str) -> None:
    write, given = FOREIGN[name]
    write(tmp_path / name)
    found = read_network(tmp_path / name, GivenModel("kpf_nets:cell", **given))
    wanted = weights() if name != "half.pt" else {k: v.half().float() for k, v in weights().items()}
    assert torch.allclose(states(found.model), expected(wanted), atol=1e-6)
    assert not torch.allclose(states(found.model), expected(weights(1)), atol=1e-2)
    assert found.checkpoint is None
    if "readout" in given:
        assert found.readout is not None
        h = torch.randn(3, 4)
        with torch.no_grad():
            assert torch.allclose(found.readout(h), h @ HEAD["head.weight"].T + HEAD["head.bias"])
    else:
        assert found.readout is None


def test_doubles_are_kept_and_others_become_them_when_asked(tmp_path: Path, nets: Path) -> None:
    torch.save({k: v.double() * (1 + 1e-12) for k, v in weights().items()}, tmp_path / "d.pt")
    torch.save(weights(), tmp_path / "f.pt")
    given = GivenModel("kpf_nets:cell")
    assert states(read_network(tmp_path / "d.pt", given).model).dtype == torch.float64
    assert states(read_network(tmp_path / "f.pt", given).model).dtype == torch.float32
    wide = read_network(tmp_path / "f.pt", GivenModel("kpf_nets:cell", dtype="float64")).model
    assert torch.equal(wide.cell.weight_hh, weights()["weight_hh"].double())


def test_a_model_of_kpframe_and_a_function_itself(tmp_path: Path, nets: Path) -> None:
    import kpf_nets

    made = kpf_nets.Own()
    torch.save(made.state_dict(), tmp_path / "own.pt")
    for factory in ("kpf_nets:model", "kpf_nets:Own", kpf_nets.Own):
        given = GivenModel(factory)
        assert torch.equal(states(read_network(tmp_path / "own.pt", given).model), states(made))
    assert GivenModel(kpf_nets.Own).name == "kpf_nets:Own"
    assert not torch.equal(states(kpf_nets.Own()), states(made))


def test_own_files_rebuild_their_model_or_take_one_that_is_given(tmp_path: Path, offered, nets: Path) -> None:
    made, readout = offered.Small(3), Readout(4, 2, hidden=slice(1, 3), generator=3)
    path = tmp_path / "own.safetensors"
    extra = {"reads": [1, 3], "task": {"name": "sum", "settings": {}}}
    save_checkpoint(path, made, readout, name="small", settings={"input_size": 3}, step=7, extra=extra)
    found = read_network(path, GivenModel())
    assert found.checkpoint is not None
    assert found.checkpoint.step == 7
    assert torch.equal(states(found.model), states(made))
    assert torch.equal(found.readout.weight, readout.weight)
    assert found.readout.hidden == slice(1, 3)
    again = read_network(path, GivenModel(offered.Small, {"input_size": 3}, dtype="float64"))
    assert torch.allclose(states(again.model).float(), states(made), atol=1e-6)
    assert again.readout.hidden == slice(1, 3)
    assert again.readout.weight.dtype == torch.float64
    cell = wrap(torch.nn.GRUCell(3, 4))
    save_checkpoint(tmp_path / "wrapped.safetensors", cell)
    with pytest.raises(ArgumentError, match=r"--model, a registered name or module:factory, as 'wrapped"):
        read_network(tmp_path / "wrapped.safetensors", GivenModel())
    by_hand = read_network(tmp_path / "wrapped.safetensors", GivenModel("kpf_nets:cell")).model
    assert torch.equal(states(by_hand), states(cell))


def refused(path: Path, *, error: type[Exception] = KpframeError, **given: object) -> str:
    with pytest.raises(error) as caught:
        read_network(path, GivenModel(**given))
    return str(caught.value)


def test_another_architecture_is_told_at_once(tmp_path: Path, nets: Path) -> None:
    tensors = weights(front="rnn.") | {"rnn.bias_hh": torch.ones(9), "head.weight": torch.ones(2, 4)}
    del tensors["rnn.bias_ih"]
    torch.save(tensors, tmp_path / "a.pt")
    said = refused(tmp_path / "a.pt", error=CheckpointError, model="kpf_nets:cell")
    for part in (
        "weight_ih: expected [12, 3] torch.float32, got nothing",
        "rnn.weight_hh: expected nothing, got [12, 4]",
        "head.weight: expected nothing, got [2, 4]",
        "weight_ih is near to rnn.weight_ih, weight_hh is near to rnn.weight_hh",
        "--map 'rnn.=' takes 'rnn.' off the front of names",
        "--ignore 'head.' leaves out",
    ):
        assert part in said
    said = refused(
        tmp_path / "a.pt",
        model="kpf_nets:cell",
        renames=[("rnn.", "")],
        readout="head",
        error=CheckpointError,
    )
    assert "bias_ih: expected [12] torch.float32, got nothing" in said
    assert "bias_hh: expected [12] torch.float32, got [9] torch.float32" in said
    assert "weight" not in said


def test_renamings_that_cannot_be(tmp_path: Path, nets: Path) -> None:
    torch.save(weights(front="encoder.rnn.") | HEAD, tmp_path / "a.pt")
    options = {"model": "kpf_nets:cell", "readout": "head"}
    said = refused(tmp_path / "a.pt", renames=[("encoder.rn.", "")], **options)
    assert "map: expected a name or the front of names, got 'encoder.rn.', with which none of" in said
    assert "did you mean 'encoder.rnn.'?" in said
    twice = [("encoder.rnn.", ""), ("encoder.rnn.bias_hh", "bias_ih")]
    said = refused(tmp_path / "a.pt", renames=twice, **options)
    assert "got 'encoder.rnn.bias_ih' and 'encoder.rnn.bias_hh', both 'bias_ih'" in said
    said = refused(tmp_path / "a.pt", renames=[("encoder.rnn.", "")], ignore=["headd"], **options)
    assert "ignore: expected the front of names, got 'headd'" in said
    said = refused(tmp_path / "a.pt", model="kpf_nets:cell", readout="heads")
    assert "readout: expected heads.weight [outputs, units], and heads.bias [outputs]" in said
    assert "did you mean 'head'?" in said
    said = refused(tmp_path / "a.pt", renames=[("encoder.rnn.", "")])
    assert "model: expected" in said
    with pytest.raises(ArgumentError, match="a registered model or module:factory beside map, got none"):
        GivenModel(renames=[("a", "b")]).check()


def test_which_part_of_the_state_is_read(tmp_path: Path, nets: Path) -> None:
    torch.save(weights(kind=torch.nn.LSTMCell) | HEAD, tmp_path / "a.pt")
    options = {"model": "kpf_nets:lstm", "readout": "head"}
    said = refused(tmp_path / "a.pt", error=CheckpointError, **options)
    assert "reads: expected one of h, c, which are all of the 4 units that are read, got none" in said
    found = read_network(tmp_path / "a.pt", GivenModel(**options, reads="c"))
    assert found.readout.hidden == slice(4, 8)
    assert torch.equal(found.readout.full_weight()[:, 4:], HEAD["head.weight"])
    torch.save(weights(kind=torch.nn.LSTMCell) | {"head.weight": torch.ones(1, 3)}, tmp_path / "b.pt")
    said = refused(tmp_path / "b.pt", **options)
    assert "a readout of all 8 units of the state, or of a component (h 4, c 4), got one of 3 units" in said


FACTORIES = {
    "kpf_nets:cel": (ArgumentError, "'kpf_nets' has no 'cel'; did you mean 'cell'?"),
    "kpf_net:cell": (ArgumentError, "there is no module 'kpf_net' in"),
    "kpf_lacking:cell": (ArgumentError, "No module named 'kpf_no_such_library', in kpf_lacking.py, line 1"),
    "kpf_broken:cell": (
        ArgumentError,
        "raised ValueError: no GPU here, in kpf_broken.py, line 3",
    ),
    "kpf_nets:LIMIT": (
        ArgumentError,
        "class that makes a model, got 'kpf_nets:LIMIT', which is a int",
    ),
    "kpf_nets:lost": (
        SettingsError,
        "lost(), which raised KeyError: 'weights', in kpf_nets.py, line",
    ),
    "kpf_nets:number": (ArgumentError, "kpf_nets:number, which returned a int"),
    "kpf_nets:kind": (ArgumentError, "kpf_nets:kind, which returned the class GRUCell"),
    "kpf_nets:wide": (
        ArgumentError,
        "kpframe.wrap takes as it is, got Linear from 'kpf_nets:wide'",
    ),
    "kpf-nets:cell": (ArgumentError, "expected a registered name, or module:factory such as 'mynets:build'"),
    "no_such": (UnknownNameError, "or give your own as module:factory"),
}


@pytest.mark.parametrize("text", FACTORIES)
def test_factories_that_make_no_model(tmp_path: Path, nets: Path, text: str) -> None:
    kind = torch.nn.Linear if text.endswith("wide") else torch.nn.GRUCell
    torch.save(weights(kind=kind), tmp_path / "a.pt")
    error, message = FACTORIES[text]
    assert message in refused(tmp_path / "a.pt", model=text, error=error)


def test_settings_of_a_factory(tmp_path: Path, nets: Path) -> None:
    torch.save(weights(), tmp_path / "a.pt")
    said = refused(tmp_path / "a.pt", model="kpf_nets:cell", settings={"widht": 4}, error=SettingsError)
    assert "kpf_nets:cell(widht=4), which raised TypeError" in said
    said = refused(tmp_path / "a.pt", model="kpf_nets:cell", settings={"width": 5}, error=CheckpointError)
    assert "weight_hh: expected [15, 5] torch.float32, got [12, 4]" in said


# -- folders -------------------------------------------------------------------------------------------------

STEPS = {
    ("model_step=300.pt", "model_step=20.pt"): (300, 20),
    ("ckpt-000300.safetensors", "ckpt-000020.safetensors"): (300, 20),
    ("epoch=3-step=120.ckpt", "epoch=9-step=7.ckpt"): (120, 7),
    ("300.pt", "20.pt"): (300, 20),
    ("300-gru64.pt", "20-gru64.pt"): (300, 20),
    ("epoch3-300.pt", "epoch4-400.pt"): (300, 400),
    ("model-step300-v1.ckpt", "model-step400-v2.ckpt"): (300, 400),
    ("net_v1_10.pt", "net_v2_20.pt"): (10, 20),
    ("epoch03-loss=0.25.pt", "epoch04-loss=0.5.pt"): (3, 4),
    ("Step_5.pth", "Step_10.pth"): (5, 10),
    ("global_step10.pt", "init.pt"): (10, None),
    ("ckpt-10k.pt", "ckpt-1e5.pt"): (None, None),
    ("step=300k.pt", "step=1.5.pt"): (None, None),
    ("final.pt", "3f2a.pt"): (None, None),
}


@pytest.mark.parametrize("names", STEPS, ids=lambda names: names[0])
def test_steps_in_names(names: tuple[str, ...]) -> None:
    assert tuple(step_numbers(names).values()) == STEPS[names]


def test_a_folder_by_its_steps(tmp_path: Path) -> None:
    folder = tmp_path / "my <nets>"
    folder.mkdir()
    for step in (1000, 200, 30):
        torch.save(weights(step), folder / f"ckpt {step}.pt")
    (folder / "notes.txt").write_text("300")
    (folder / ".hidden-5.pt").write_text("")
    (folder / "old").mkdir()
    (cell,) = find_cells(folder)
    assert [file.step for file in cell.files] == [30, 200, 1000]
    assert [file.path.name for file in cell.files] == ["ckpt 30.pt", "ckpt 200.pt", "ckpt 1000.pt"]
    assert cell.coordinates == {"network": "my <nets>"}
    assert re.fullmatch(r"[\w.=-]+", cell.name)
    (alone,) = find_cells(folder / "ckpt 30.pt")
    assert alone.files[0].step == 0  # that number may be anything
    torch.save(weights(), tmp_path / "gru64_step=9.pt")
    assert find_cells(tmp_path / "gru64_step=9.pt")[0].files[0].step == 9


def test_steps_of_own_files_stand_in_them(tmp_path: Path, offered) -> None:
    for name, step in (("a", 5), ("b", 100), ("c", 20)):
        save_checkpoint(tmp_path / f"{name}.safetensors", Elman(3, 4), step=step)
    assert [(file.path.stem, file.step) for file in find_cells(tmp_path)[0].files] == [
        ("a", 5),
        ("c", 20),
        ("b", 100),
    ]
    for name in ("a", "b", "c"):
        (tmp_path / f"{name}.safetensors").unlink()
        save_checkpoint(tmp_path / f"ckpt-{ord(name)}.safetensors", Elman(3, 4))  # which says no step
    assert [file.step for file in find_cells(tmp_path)[0].files] == [97, 98, 99]


def run_folder(path: Path, **record: object) -> Path:
    (path / "checkpoints").mkdir(parents=True)
    for cell, step in (("gru-seed=0", 0), ("gru-seed=0", 10), ("rnn-seed=0", 10), ("rnn-seed=0", 5)):
        save_checkpoint(
            path / "checkpoints" / f"{cell}-{step:06d}.safetensors",
            Elman(3, 4),
            step=step,
            extra={"cell": cell, "run": "0123456789abcdef"},
        )
    content = {
        "format": 1,
        "id": "0123456789abcdef",
        "command": "study",
        "state": "finished",
        "created": "",
        "settings": {},
        "cells": [
            {
                "name": f"{name.lower()}-seed=0",
                "coordinates": {"network": name, "seed": 0},
                "initial_of": first,
            }
            for name, first in (("RNN", "gru-seed=0"), ("GRU", None))
        ],
    }
    for cell in content["cells"]:
        cell["steps"] = [10]
    (path / "run.json").write_text(json.dumps(content | record))
    return path


def test_the_cells_of_a_run(tmp_path: Path) -> None:
    cells = find_cells(run_folder(tmp_path / "run"))
    assert [(cell.name, dict(cell.coordinates)) for cell in cells] == [
        ("rnn-seed=0", {"network": "RNN", "seed": 0}),
        ("gru-seed=0", {"network": "GRU", "seed": 0}),
    ]
    assert [file.step for file in cells[0].files] == [0, 5, 10]
    assert cells[0].files[0].path.name == "gru-seed=0-000000.safetensors"
    with pytest.raises(CheckpointError, match="expected checkpoints of run fedcba9876543210 in"):
        find_cells(run_folder(tmp_path / "other", id="fedcba9876543210"))
    for number, record in enumerate(({"format": 99}, {"cells": 3}, {"cells": [{"name": "rnn"}]})):
        said = "one of a newer kpframe" if "format" in record else "one that is damaged"
        with pytest.raises(CheckpointError, match=rf"a run.json that this kpframe knows in .*, got {said}"):
            find_cells(run_folder(tmp_path / f"run {number}", **record))


def test_sources_that_are_none(tmp_path: Path) -> None:
    def refused(source: Path) -> str:
        with pytest.raises(CheckpointError) as caught:
            find_cells(source)
        return str(caught.value)

    assert "which does not exist" in refused(tmp_path / "nowhere")
    assert "source: expected a checkpoint (*.safetensors, *.pt, *.pth, *.ckpt), or a folder" in refused(
        tmp_path
    )
    for name in ("a-300.pt", "b-300.pt", "c-20.pt"):
        torch.save(weights(), tmp_path / name)
    said = refused(tmp_path)
    assert "expected one file for each step, got 'a-300.pt', 'b-300.pt', with step 300 more than once" in said
    assert "c-20" not in said
    (tmp_path / "b-300.pt").rename(tmp_path / "final.pt")
    assert (
        "expected a number of updates in the name of each file, such as step=300, got 'final.pt'"
        in refused(tmp_path)
    )
    (tmp_path / "final.pt").rename(tmp_path / "step=3-global_step=4.pt")
    assert "one number after 'step' in a name, got 'step=3-global_step=4' with 3 and 4" in refused(tmp_path)
