"""A cell is trained and recorded, and goes on where it was ended with the figures of an undisturbed one."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path, PurePath
from shutil import copytree

import numpy as np
import pytest
import torch
import xarray as xr
from attrs import evolve

from kpframe.errors import CheckpointError
from kpframe.study._cells import Cell, checkpoint_file, record_file, state_file, training_file
from kpframe.study._disk.folder import RunWriter
from kpframe.study._disk.results import read_dataset
from kpframe.study._networks.checkpoint import load_checkpoint
from kpframe.study._running import train_cell as _train_cell
from kpframe.study._running.build import network_of, task_of
from kpframe.study._running.interrupts import ended_by_signals
from kpframe.study._running.state_file import read_state
from kpframe.study._running.train_cell import read_training, train_cell
from kpframe.study._running.training import Trainer, redrawn

from .conftest import toy_cell

CELLS: dict[str, Callable[..., Cell]] = {
    "adam": toy_cell,
    "momentum": lambda **more: toy_cell(optimizer="sgd", momentum=0.9, **more),
    "drawn": lambda **more: toy_cell(rule="own_drawn @ own_window", **more),
    "initial of another": lambda **more: toy_cell(initial_of="other", **more),
}


@pytest.fixture(scope="module", autouse=True)
def _offered(offered: object) -> None:
    pass


class Killed(BaseException):
    """Nothing is written any more."""


def writer(path: Path) -> RunWriter:
    return RunWriter(path, "0123", {"run_id": "0123", "title": "t"})


def files(path: Path) -> set[str]:
    return {str(file.relative_to(path)) for file in path.rglob("*.*")}


def held(file: Path) -> tuple[dict[str, torch.Tensor], object]:
    found = load_checkpoint(file)
    return {**found.tensors, "step": torch.tensor(found.step)}, found.extra


def check_equal(one: Path, other: Path) -> None:
    """Check that two folders hold the same, bit for bit."""
    assert files(one) == files(other)
    for name in files(one):
        if (one / name).read_bytes() == (other / name).read_bytes():
            continue  # need not be read, which takes long
        if name.endswith(".nc"):
            xr.testing.assert_identical(read_dataset(one / name), read_dataset(other / name))
            continue
        (tensors, extra), (others, more) = held(one / name), held(other / name)
        assert extra == more
        assert list(tensors) == list(others)
        assert all(torch.equal(tensors[n], others[n]) for n in tensors)


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    made: dict[str, Path] = {}

    def of(kind: str) -> Path:
        if kind not in made:
            made[kind] = tmp_path_factory.mktemp("undisturbed")
            train_cell(CELLS[kind](), writer(made[kind]))
        return made[kind]

    return of


# -- undisturbed ---------------------------------------------------------------------------------------------


def test_the_figures_are_those_of_training_by_hand(tmp_path: Path) -> None:
    cell, said = toy_cell(seed=2), []
    train_cell(cell, writer(tmp_path), lambda *told: said.append(told))
    task = task_of(cell)
    model, readout = network_of(cell, task)
    trainer = Trainer(model, readout, task, cell.training, seed=2)
    losses = [progress.loss for progress in trainer.run()]
    ended = read_training(writer(tmp_path), "small")
    np.testing.assert_array_equal(ended.losses, losses)
    assert (ended.outcome, ended.reason, np.isnan(ended.stopped_at)) == ("trained", "", True)
    last = load_checkpoint(tmp_path / checkpoint_file("small", 6))
    for name, value in model.state_dict().items():
        assert torch.equal(last.tensors[f"model.{name}"], value)
    assert last.extra["task"] == {"name": "sum", "settings": {}}
    assert (last.extra["seed"], last.extra["reads"], last.extra["rule"]) == (2, [0, 4], None)
    probe = task.sample(3, generator=2, split="test", dtype=torch.float64)
    states = [
        network.rollout(probe.inputs).states.detach()
        for network in (network_of(cell, task)[0], _built(tmp_path, 2), model)
    ]
    data = read_dataset(tmp_path / record_file("small", 6)).sel(inputs="test")
    assert data.from_first.item() == pytest.approx(float((states[2] - states[0]).norm()), rel=1e-12)
    assert data.from_previous.item() == pytest.approx(float((states[2] - states[1]).norm()), rel=1e-12)
    assert 0 < data.from_previous < data.from_first
    initial = read_dataset(tmp_path / record_file("small", 0))
    assert initial.from_first.values.tolist() == [0, 0]
    assert initial.from_previous.isnull().all()
    label = "small, seed 2"  # of the coordinates
    assert said[0] == (label, 0, 6, pytest.approx(np.nan, nan_ok=True), "recording step 0")
    assert [told[1] for told in said if not told[4]] == [1, 2, 3, 4, 5, 6]
    assert [told[1] for told in said if told[4]] == [0, 2, 6]
    assert said[1][3] == losses[0]
    assert not (tmp_path / state_file("small")).exists()


def _built(path: Path, step: int) -> torch.nn.Module:
    return load_checkpoint(path / checkpoint_file("small", step)).build_model()


def test_a_cell_that_starts_from_anothers_network_records_no_step_0(
    undisturbed: Callable[[str], Path],
) -> None:
    own, other = undisturbed("initial of another"), undisturbed("adam")
    assert not (own / record_file("small", 0)).exists()
    for step in (2, 6):  # the first and the previous network are the same nevertheless
        one, two = (read_dataset(path / record_file("small", step)) for path in (own, other))
        xr.testing.assert_identical(one, two)
    assert float(one.from_first[0]) > 0


def test_a_stochastic_rule_draws_anew_for_each_update(undisturbed: Callable[[str], Path]) -> None:
    cell = CELLS["drawn"]()
    losses = read_training(writer(undisturbed("drawn")), "small").losses
    plain = read_training(writer(undisturbed("adam")), "small").losses
    assert losses[0] == pytest.approx(plain[0], rel=1e-12)
    assert not np.allclose(losses[2:], plain[2:], rtol=1e-6)
    trainer = _train_cell._Training(cell, writer(Path()), None, None, None).trainer()
    draws, seeds = torch.Generator().manual_seed(0), []
    rule = trainer.rule
    for progress in trainer.run():
        rule = redrawn(rule, draws)
        assert trainer.rule.outer.seed == rule.outer.seed
        seeds.append(rule.outer.seed)
        assert progress.loss == losses[progress.step - 1]
    assert len(set(seeds)) == 6


# -- ended at any time ---------------------------------------------------------------------------------------


@pytest.mark.rows(5)
@pytest.mark.parametrize(("kind", "every"), [*((kind, 0.0) for kind in CELLS), ("adam", 30.0)])
def test_killed_at_each_moment(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: Callable[[str], Path],
    kind: str,
    every: float,
) -> None:
    """At each report in turn; what is written goes on to the same, and hardly anything is done twice."""
    expected, different = undisturbed(kind), undisturbed("momentum" if kind == "adam" else "adam")
    monkeypatch.setattr(_train_cell, "SAVE_EVERY", every)
    cell, made, updates, calls = CELLS[kind](), [], [], 0
    wrote = _train_cell.write_step
    monkeypatch.setattr(
        _train_cell, "write_step", lambda *a, **k: (made.append(a[2].step), wrote(*a, **k))[1]
    )
    for kills in range(30):
        calls = 0

        def report(label: str, step: int, total: int, loss: float, doing: str, kills: int = kills) -> None:
            nonlocal calls
            calls += 1
            if not doing:
                updates.append(step)
            if calls > 1 + (kills if every else kills % 2):
                raise Killed

        try:
            train_cell(cell, writer(tmp_path), report)
        except Killed:
            continue
        break
    assert kills > 3
    check_equal(tmp_path, expected)
    assert len(made) == len(set(made)) == len(cell.steps)  # it is ended before a step is written, not within
    if every == 0:
        assert updates == sorted(updates)
        assert len(updates) <= 6 + kills
    with pytest.raises(AssertionError):
        check_equal(tmp_path, different)


def test_ended_within_a_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Callable[[str], Path]
) -> None:
    """Between the checkpoint and its record, and before the checkpoint."""
    save, write = RunWriter.write_dataset, _train_cell.write_step
    for name, at in (("write_step", 2), ("write_dataset", 2), ("write_step", 6), ("write_dataset", 6)):

        def ended(*arguments: object, step: int = at, **more: object) -> object:
            if isinstance(arguments[0], RunWriter) and f"{step:06d}" in str(arguments[1]):
                raise Killed
            if len(arguments) > 2 and getattr(arguments[2], "step", None) == step:
                raise Killed
            return (save if isinstance(arguments[1], PurePath) else write)(*arguments, **more)

        with monkeypatch.context() as patch, pytest.raises(Killed):  # noqa: PT012
            patch.setattr(_train_cell if name == "write_step" else RunWriter, name, ended)
            train_cell(toy_cell(), writer(tmp_path))
        assert (tmp_path / checkpoint_file("small", at)).exists() is (name == "write_dataset")
        assert not (tmp_path / record_file("small", at)).exists()
        state, losses = read_state(tmp_path / state_file("small"), run="0123", cell="small")
        assert state.made == at == np.isfinite(losses).sum()
    said: list[object] = []
    train_cell(toy_cell(), writer(tmp_path), lambda *told: said.append(told[1]))
    assert said == [6]
    check_equal(tmp_path, undisturbed("adam"))


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
def test_ctrl_c_in_the_midst_of_an_update(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    undisturbed: Callable[[str], Path],
    number: signal.Signals,
) -> None:
    update, at = Trainer._update, 3

    def disturbed(self: Trainer, step: int) -> torch.Tensor:
        loss = update(self, step)  # made, and not yet told
        if step == at:
            os.kill(os.getpid(), number)
        return loss

    with monkeypatch.context() as patch, ended_by_signals(), pytest.raises(KeyboardInterrupt):  # noqa: PT012
        patch.setattr(Trainer, "_update", disturbed)
        train_cell(toy_cell(), writer(tmp_path))
    state, losses = read_state(tmp_path / state_file("small"), run="0123", cell="small")
    assert state.made == at
    assert np.isfinite(losses).tolist() == [True] * 3 + [False] * 3
    made: list[int] = []
    train_cell(toy_cell(), writer(tmp_path), lambda *told: made.append(told[1]))
    assert made == [4, 5, 6, 6]
    check_equal(tmp_path, undisturbed("adam"))


def test_what_has_ended_is_left_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: Callable[[str], Path]
) -> None:
    copytree(undisturbed("adam"), tmp_path, dirs_exist_ok=True)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*.*")}
    monkeypatch.setattr(Trainer, "_update", None)
    said: list[object] = []
    train_cell(toy_cell(), writer(tmp_path), lambda *told: said.append(told), said.append)
    assert said == []
    assert {path: path.read_bytes() for path in tmp_path.rglob("*.*")} == before


# -- trainings that stop -------------------------------------------------------------------------------------


def test_a_training_that_diverges_keeps_what_it_had(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cell = toy_cell(rule="own_exact")
    gradient = Trainer._gradient

    def wild(self: Trainer, trials: object) -> torch.Tensor:
        loss = gradient(self, trials)
        if self.made == 3:
            self.model.W.grad.fill_(torch.inf)
        return loss

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_gradient", wild)
        train_cell(cell, writer(tmp_path))
    ended = read_training(writer(tmp_path), "small")
    assert (ended.outcome, ended.stopped_at) == ("diverged", 5)
    assert "training diverged at step 5" in ended.reason or "NonFinite" in ended.reason
    assert np.isfinite(ended.losses).tolist() == [True] * 4 + [False] * 2
    assert files(tmp_path) == {
        *(str(record_file("small", step)) for step in (0, 2)),
        *(str(checkpoint_file("small", step)) for step in (0, 2)),
        str(training_file("small")),
    }
    said: list[object] = []
    (tmp_path / record_file("small", 2)).unlink()
    train_cell(cell, writer(tmp_path), lambda *told: said.append(told[4]), said.append)
    assert said == ["recording step 2"]  # and nothing is trained again


def test_a_rule_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def failing(self: Trainer, trials: object) -> torch.Tensor:
        if self.made == 2:
            raise torch.linalg.LinAlgError("no\nconvergence")
        return gradient(self, trials)

    gradient = Trainer._gradient
    monkeypatch.setattr(Trainer, "_gradient", failing)
    train_cell(toy_cell(), writer(tmp_path))
    ended = read_training(writer(tmp_path), "small")
    assert (ended.outcome, ended.stopped_at, ended.reason) == ("failed", 3, "LinAlgError: no convergence")
    assert (tmp_path / record_file("small", 2)).exists()


# -- files that are damaged ----------------------------------------------------------------------------------


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-9] ^= 1
    path.write_bytes(content)


ANEW = "begins anew, for the networks that are lost: checkpoints"
DAMAGES: list[tuple[Callable[[Path], None], object, list[str]]] = [
    (cut, record_file("small", 2), ["000002.nc', which is corrupt", "it is made anew"]),
    (Path.unlink, record_file("small", 2), []),
    (cut, training_file("small"), ["small.nc', which is corrupt"]),
    (
        cut,
        checkpoint_file("small", 2),
        ["corrupt", ANEW],
    ),
    (flip, checkpoint_file("small", 6), ["damaged", "begins anew"]),
    (Path.unlink, checkpoint_file("small", 0), [ANEW]),
]


@pytest.mark.rows(6)
@pytest.mark.parametrize(("damage", "name", "said"), DAMAGES)
def test_a_file_that_is_damaged_when_all_has_ended(
    tmp_path: Path,
    undisturbed: Callable[[str], Path],
    damage: Callable[[Path], None],
    name: object,
    said: list[str],
) -> None:
    copytree(undisturbed("adam"), tmp_path, dirs_exist_ok=True)
    damage(tmp_path / str(name))
    told: list[str] = []
    train_cell(toy_cell(), writer(tmp_path), tell=told.append)
    check_equal(tmp_path, undisturbed("adam"))
    assert all(line.startswith("small, seed 0: ") for line in told)
    assert all(part in "; ".join(told) for part in said)
    assert bool(told) is bool(said)
    assert len(told) == len(set(told))


@pytest.mark.rows(6)
@pytest.mark.parametrize(
    ("damage", "name", "said"),
    [
        (cut, state_file("small"), "it is made anew"),
        (flip, state_file("small"), "damaged; copy it again; it is made anew"),
        (lambda path: path.write_bytes(b""), state_file("small"), "it is made anew"),
        (cut, checkpoint_file("small", 2), "begins anew"),
        (cut, record_file("small", 0), "it is made anew"),
    ],
)
def test_a_file_that_is_damaged_under_way(
    tmp_path: Path,
    undisturbed: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[Path], None],
    name: object,
    said: str,
) -> None:
    monkeypatch.setattr(_train_cell, "SAVE_EVERY", 0.0)

    def report(*told: object) -> None:
        if told[1] == 5:
            raise Killed

    with pytest.raises(Killed):
        train_cell(toy_cell(), writer(tmp_path), report)
    damage(tmp_path / str(name))
    lines: list[str] = []
    train_cell(toy_cell(), writer(tmp_path), tell=lines.append)
    assert said in "; ".join(lines)
    check_equal(tmp_path, undisturbed("adam"))


@pytest.mark.slow
def test_files_of_another_run_are_made_anew(tmp_path: Path, undisturbed: Callable[[str], Path]) -> None:
    other = RunWriter(tmp_path, "4567", {"run_id": "4567", "title": "t"})
    train_cell(toy_cell(seed=1), other)
    lines: list[str] = []
    train_cell(toy_cell(), writer(tmp_path), tell=lines.append)
    assert any("expected run 0123, cell small, got run 4567, cell small" in line for line in lines)
    assert any("expected one of this run" in line for line in lines)
    check_equal(tmp_path, undisturbed("adam"))


def test_a_state_of_another_network_changes_nothing() -> None:
    cell = toy_cell()
    task = task_of(cell)

    def made(**settings: object) -> Trainer:
        return Trainer(*network_of(cell, task), task, evolve(cell.training, **settings), seed=0)

    trainer = made()
    state = trainer.state()
    wrong = evolve(state, tensors={n: t for n, t in state.tensors.items() if n != "model.b"})
    for given in (
        wrong,
        evolve(state, made=7),
        evolve(state, tensors={**state.tensors, "draws": torch.ones(1)}),
    ):
        before = trainer.state()
        with pytest.raises(CheckpointError, match="state: expected one of this training"):
            trainer.restore(given)
        assert all(torch.equal(t, before.tensors[n]) for n, t in trainer.state().tensors.items())
    run = made().run()
    next(run)
