"""A tracker in anyone's loop: what it leaves alone, what it records, and what happens when things fail."""

from __future__ import annotations

import copy
import errno
import json
import math
import tracemalloc
from contextlib import contextmanager
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

import kpframe
from kpframe.errors import ArgumentError, OutputError, TrackingWarning, UnknownNameError
from kpframe.study._disk import files as _files
from kpframe.study._disk.folder import read_record
from kpframe.study._disk.results import read_dataset
from kpframe.study._tracking import live_network as _live_network
from kpframe.study._tracking import losses as _losses
from kpframe.study._tracking.folder import TrackerFolder
from kpframe.study._tracking.tracker import Tracker
from kpframe.tasks._task import Trials

from .loops import INPUT, MODULES, WIDTH, Loop, WeightSum, differences, probe

DEFAULTS = {"quantities": {"weight_sum": WeightSum()}, "schedule": [0, 1, 3, 8], "quiet": True}


def tracker(loop: Loop, path: Path, **options: object) -> Tracker:
    return Tracker(loop.module, probe(), **{"readout": loop.head, "output": path} | DEFAULTS | options)


def recorded(path: Path, name: str = "weight_sum") -> dict[int, float]:
    found = {}
    for file in sorted((path / "steps").glob("*.nc")):
        with h5py.File(file) as data:  # one number, in a tenth of the time that the whole takes
            found[data.attrs["step"].item()] = float(data[name][()])
    return found


def losses_of(path: Path):
    (file,) = (path / "training").glob("*.nc")
    return read_dataset(file)


@pytest.fixture(autouse=True)
def no_results_at_the_end(monkeypatch) -> None:
    """Leave out what takes most of the time; tests of whole runs are elsewhere."""
    monkeypatch.setattr(TrackerFolder, "gather", lambda folder, quantities: None)


# -- it changes nothing ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODULES)
@pytest.mark.rows(4)
def test_the_training_is_the_same_bit_for_bit(kind: str, tmp_path: Path) -> None:
    alone, watched = Loop(kind), None
    alone.run()
    expected = alone.everything()
    watched = Loop(kind)
    quantities = {"weight_sum": WeightSum(draws=True), "trace": "trace"}
    with tracker(watched, tmp_path / "run", quantities=quantities) as track:
        watched.run(track)
    assert differences(watched.everything(), expected) == []
    assert track.steps == (0, 1, 3, 8)
    assert track.missing == {}


def test_a_tracker_that_draws_from_the_global_generators_would_be_seen(tmp_path: Path, monkeypatch) -> None:
    @contextmanager
    def touched(device: torch.device):
        yield

    alone, watched = Loop(), None
    alone.run()
    expected = alone.everything()
    monkeypatch.setattr("kpframe.study._tracking.tracker.untouched", touched)
    watched = Loop()
    with tracker(watched, tmp_path, quantities={"weight_sum": WeightSum(draws=True)}) as track:
        watched.run(track)
    found = differences(watched.everything(), expected)
    assert {"torch", "numpy", "python", "module.weight_hh", "module.weight_hh grad"} <= set(found)


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, lambda: torch.autocast("cpu")])
@pytest.mark.rows(3)
def test_what_is_switched_on_around_a_call_changes_no_figure(around, tmp_path: Path) -> None:
    loop, found = Loop(), []
    for name in ("plain", "inside"):
        with tracker(loop, tmp_path / name, quantities=["trace"]) as track:
            if name == "plain":
                track(0)
            else:
                with around():
                    track(0)
        (file,) = (tmp_path / name / "steps").glob("*.nc")
        found.append(read_dataset(file).trace.values)
    assert (found[0] == found[1]).all()
    assert (found[0] > 0).all()


# -- what it records ---------------------------------------------------------------------------------------


def test_the_figures_are_those_of_the_network_at_the_step(tmp_path: Path) -> None:
    loop, sums, traces = Loop(), {}, {}
    with tracker(loop, tmp_path, quantities={"weight_sum": WeightSum(), "trace": "trace"}) as track:

        def both(step: int, loss: object = None) -> None:
            track(step, loss)
            sums[step] = sum(float(p.detach().double().sum()) for p in loop.module.parameters())
            if step not in (0, 1, 3, 8):
                return
            K = kpframe.linearize(kpframe.wrap(loop.module), probe()).K
            traces[step] = float(np.trace(K.to_dense().double().numpy()))

        loop.run(both)
    assert recorded(tmp_path) == {step: sums[step] for step in (0, 1, 3, 8)}
    assert recorded(tmp_path)[0] != recorded(tmp_path)[1]
    for file in (tmp_path / "steps").glob("*.nc"):
        data = read_dataset(file)
        value, error = (float(data[name].sel(operator="K")) for name in ("trace", "trace_stderr"))
        assert abs(value - traces[data.attrs["step"]]) <= 5 * error + 1e-5 * value
    assert recorded(tmp_path, "previous_step") == pytest.approx({0: np.nan, 1: 0, 3: 1, 8: 3}, nan_ok=True)
    assert recorded(tmp_path, "first_step") == pytest.approx({0: 0, 1: 0, 3: 0, 8: 0})


def test_the_losses_and_what_recording_cost_are_kept(tmp_path: Path) -> None:
    loop, told = Loop(), {}
    with tracker(loop, tmp_path) as track:

        def both(step: int, loss: torch.Tensor | None = None) -> None:
            if loss is not None:
                told[step] = loss.item()
            track(step, loss)

        loop.run(both)
    data = losses_of(tmp_path)
    assert dict(zip(data["update"].values.tolist(), data.training_loss.values.tolist(), strict=True)) == told
    assert (str(data.outcome.values), str(data.reason.values)) == ("trained", "")
    assert math.isnan(data.stopped_at)
    assert 0 < data.recording_seconds <= data.loop_seconds <= track.overhead.total
    assert data.loop_seconds.attrs["units"] == "s"
    assert track.overhead.share == track.overhead.recording / track.overhead.total
    assert all(
        variable.attrs["long_name"] and variable.attrs["units"] for variable in data.variables.values()
    )


@pytest.mark.parametrize("loss", [0.25, np.float32(0.25), torch.tensor([0.25], requires_grad=True), 1])
@pytest.mark.rows(2)
def test_losses_of_every_kind(loss, tmp_path: Path) -> None:
    loop = Loop()
    with tracker(loop, tmp_path) as track:
        track(0)
        track(1, loss)
        track(1, 99.0)  # the same network: it has its loss
        track(2)
        track(2, loss)
    data = losses_of(tmp_path)
    assert data["update"].values.tolist() == [1, 2]
    assert data.training_loss.values.tolist() == [float(torch.as_tensor(loss).detach())] * 2


@pytest.mark.parametrize("count", [2, 3, 7])
def test_losses_on_another_device_are_fetched_together(count: int, monkeypatch) -> None:
    monkeypatch.setattr(_losses, "_is_elsewhere", lambda tensor: True)
    monkeypatch.setattr(_losses, "_WAITING", 3)
    losses, loss = _losses.Losses(), torch.zeros(1)
    for step in range(count):
        losses.add(step, loss.fill_(step / 2))  # written to again before it is fetched
        assert len(losses._waiting) == (step + 1) % 3
    assert losses.at(count - 1) == (count - 1) / 2
    assert losses.dataset("trained", math.nan, "", "1").training_loss.values.tolist() == [
        step / 2 for step in range(count)
    ]


@pytest.mark.parametrize("loss", ["0.25", torch.ones(2), None.__class__, [0.1]])
def test_what_is_no_loss_is_refused(loss, tmp_path: Path) -> None:
    with (
        pytest.raises(ArgumentError, match="loss: expected one number, got"),
        tracker(Loop(), tmp_path) as track,
    ):
        track(1, loss)


def test_the_run_is_one_of_one_training(tmp_path: Path) -> None:
    loop = Loop()
    with tracker(loop, tmp_path, title="mine", seed=7) as track:
        record = read_record(tmp_path)
        loop.run(track)
    assert record["state"] == "running"
    record = read_record(tmp_path)
    assert (record["command"], record["state"]) == ("track", "finished")
    assert record["cells"] == [
        {
            "name": "RNNCell",
            "coordinates": {"network": "RNNCell", "seed": 7},
            "steps": [0, 1, 3, 8],
            "initial_of": None,
        }
    ]
    checkpoint = kpframe.checkpoint.load_checkpoint(tmp_path / "checkpoints" / "RNNCell-000008.safetensors")
    assert checkpoint.extra == {"run": record["id"], "cell": "RNNCell", "seed": 7, "reads": [0, 4]}
    assert torch.equal(checkpoint.tensors["model.cell.weight_hh"], loop.module.weight_hh)
    assert torch.equal(checkpoint.tensors["readout.weight"], loop.head.weight)


def test_unseen_inputs_are_recorded_beside(tmp_path: Path) -> None:
    loop, other = Loop(), 3 * probe()
    for name, options in (("both", {"unseen": other}), ("one", {}), ("other", {})):
        inputs = other if name == "other" else probe()
        options = {"readout": loop.head, "output": tmp_path / name, "quantities": ["trace"], **options}
        with Tracker(loop.module, inputs, quiet=True, **options) as track:
            track(0)
    both, one, other_data = (
        read_dataset(tmp_path / name / "steps" / "RNNCell-000000.nc").trace
        for name in ("both", "one", "other")
    )
    assert both["inputs"].values.tolist() == ["probe", "unseen"]
    assert (both.sel(inputs="probe").values == one.values).all()
    assert (both.sel(inputs="unseen").values == other_data.values).all()
    assert (one.values != other_data.values).any()


def test_what_a_study_records_is_recorded_as_far_as_it_can_be(tmp_path: Path, capsys) -> None:
    loop = Loop()
    x = probe()
    trials = Trials.from_tensors(x, x.sum(dim=2, keepdim=True))
    with tracker(loop, tmp_path / "a", quantities=None, readout=None, quiet=False) as track:
        track(0)
    assert track.left_out == {"scores": "needs a readout (readout=) and test trials (test=)"}
    assert "left out: scores needs a readout" in capsys.readouterr().err
    with tracker(loop, tmp_path / "b", quantities=None, test=trials) as track:
        track(0)
    assert track.left_out == {}
    data = read_dataset(tmp_path / "b" / "steps" / "RNNCell-000000.nc")
    states = kpframe.wrap(loop.module).rollout(x).states
    loss = (loop.head(states) - trials.targets).square().mean().item()
    assert float(data.test_loss) == pytest.approx(loss, rel=1e-6)
    with pytest.raises(ArgumentError, match=r"quantities: scores needs test trials \(test=\)"):
        tracker(loop, tmp_path / "c", quantities=["scores"])


def test_quantities_as_text(tmp_path: Path) -> None:
    texts = ["spectrum(k=2)", "late:spectrum(k=3)", "trace"]
    with tracker(Loop(), tmp_path, quantities=texts) as track:
        track(0)
    data = read_dataset(tmp_path / "steps" / "RNNCell-000000.nc")
    assert (data.sizes["k"], data.sizes["late_k"]) == (2, 3)
    assert data["quantity"].values.tolist() == ["spectrum", "late:spectrum", "trace"]
    mapped = {"late": "spectrum(k=3)", "spectrum": "spectrum(k=2)"}
    with tracker(Loop(), tmp_path / "mapped", quantities=mapped) as track:
        track(0)
    again = read_dataset(tmp_path / "mapped" / "steps" / "RNNCell-000000.nc")
    assert (again.late_singular_value.values == data.late_singular_value.values).all()


# -- when it records ---------------------------------------------------------------------------------------


def test_a_step_that_does_not_come_is_made_up_for(tmp_path: Path) -> None:
    loop = Loop()
    with tracker(loop, tmp_path, schedule=[0, 3, 10, 11]) as track:
        for step in (2, 4, 9, 20, 30):
            track(step)
        track.record(31)
        track.record(31)
    assert track.steps == (2, 4, 20, 31)


def test_steps_that_go_back_are_left_out_with_a_warning(tmp_path: Path, capsys) -> None:
    loop = Loop()
    with tracker(loop, tmp_path, quiet=False) as track:
        loop.run(track)
        with pytest.warns(TrackingWarning, match=r"step: expected one after 8, got 0; .* of all epochs"):
            track(0, 1.0)
        track(3, 1.0)
        track(9, 1.0)
    assert track.steps == (0, 1, 3, 8)
    assert losses_of(tmp_path)["update"].values.tolist() == [*range(1, 10)]
    assert "2 calls with steps that went back were left out" in capsys.readouterr().err


@pytest.mark.parametrize("step", [-1, 1.5, "3", None, True])
def test_what_is_no_step_is_refused(step, tmp_path: Path) -> None:
    with (
        pytest.raises(ArgumentError, match="step: expected a whole number >= 0"),
        tracker(Loop(), tmp_path) as track,
    ):
        track(step)


def test_calls_outside_are_refused(tmp_path: Path) -> None:
    track = tracker(Loop(), tmp_path)
    with pytest.raises(ArgumentError, match="Tracker: expected to be called inside"):
        track(0)
    assert not (tmp_path / "run.json").exists()
    with track:
        track(0)
        with pytest.raises(ArgumentError, match="expected to be entered once"):
            track.__enter__()
    with pytest.raises(ArgumentError, match="Tracker: expected to be called inside"):
        track(1)


# -- when things fail --------------------------------------------------------------------------------------


def test_an_error_in_the_loop_goes_on_untouched_and_the_run_can_be_gone_on_with(tmp_path: Path) -> None:
    undisturbed = Loop()
    with tracker(undisturbed, tmp_path / "whole") as track:
        undisturbed.run(track)
    loop, error = Loop(), RuntimeError("out of memory")
    with pytest.raises(RuntimeError) as caught, tracker(loop, tmp_path / "parts") as track:
        loop.fail(track, error, last=4)
    assert caught.value is error
    assert read_record(tmp_path / "parts")["state"] == "interrupted"
    data = losses_of(tmp_path / "parts")
    assert (str(data.outcome.values), float(data.stopped_at)) == ("interrupted", 5)
    assert str(data.reason.values) == "RuntimeError: out of memory"
    with pytest.raises(OutputError, match=r"holds what a tracker recorded \(interrupted, .*resume=True goes"):
        tracker(loop, tmp_path / "parts").__enter__()
    with tracker(loop, tmp_path / "parts", resume=True) as track:
        loop.run(track, first=5)
    assert track.steps == (0, 1, 3, 8)
    for name in ("weight_sum", "first_step", "previous_step"):
        assert recorded(tmp_path / "parts", name) == pytest.approx(
            recorded(tmp_path / "whole", name), abs=0, rel=0, nan_ok=True
        )
    one, other = (losses_of(tmp_path / name) for name in ("parts", "whole"))
    assert one.training_loss.equals(other.training_loss)
    assert one.attrs["run_id"] == data.attrs["run_id"]
    assert one.loop_seconds > data.loop_seconds > 0


def test_going_on_from_an_earlier_step_leaves_what_came_after_it(tmp_path: Path) -> None:
    loop = Loop()
    with tracker(loop, tmp_path) as track:
        loop.run(track)
    before = recorded(tmp_path)
    with tracker(loop, tmp_path, resume=True) as track:
        track(3)
        assert sorted(recorded(tmp_path)) == [0, 1, 3]
        assert len([*tmp_path.glob("checkpoints/*")]) == 3
        loop.run(track, first=4, last=9)
    after = recorded(tmp_path)
    assert sorted(after) == [0, 1, 3, 8]
    assert [before[step] == after[step] for step in (0, 1, 3, 8)] == [True, True, True, False]
    assert losses_of(tmp_path)["update"].values.tolist() == [*range(1, 10)]
    assert recorded(tmp_path, "previous_step")[8] == 3


def test_losses_that_are_damaged_cost_only_themselves(tmp_path: Path, capsys) -> None:
    loop = Loop()
    with tracker(loop, tmp_path) as track:
        loop.run(track, last=4)
    (tmp_path / "training" / "RNNCell.nc").write_bytes(b"damaged")
    before = {path: path.read_bytes() for path in tmp_path.glob("steps/*")}
    with tracker(loop, tmp_path, resume=True) as track:
        track(3)
        loop.run(track, first=4)
    assert list(track.missing) == ["what was recorded before"]
    assert "could not be kept; the training goes on" in capsys.readouterr().err
    assert read_record(tmp_path)["cells"][0]["steps"] == [0, 1, 3, 8]
    assert before == {path: path.read_bytes() for path in before}
    assert losses_of(tmp_path)["update"].values.tolist() == [4, 5, 6, 7, 8]


def test_going_on_with_another_run_is_refused(tmp_path: Path) -> None:
    loop = Loop()
    with tracker(loop, tmp_path) as track:
        track(0)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    for options, differ in (
        ({"budget": 8}, "budget"),
        ({"quantities": ["trace"], "operators": ["K"]}, "operators, quantities"),
        ({"readout": None}, "readout"),
    ):
        with pytest.raises(OutputError, match=f"recorded with another {differ}; resume=True needs the same"):
            tracker(loop, tmp_path, resume=True, **options).__enter__()
    with pytest.raises(ArgumentError, match="resume: expected False beside overwrite=True"):
        tracker(loop, tmp_path, resume=True, overwrite=True)
    assert files == {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with tracker(loop, tmp_path, budget=8, overwrite=True) as track:
        track(1)
    assert list(recorded(tmp_path)) == [1]


def test_a_quantity_that_fails_costs_its_own_figures(tmp_path: Path) -> None:
    loop = Loop()
    with tracker(loop, tmp_path, quantities={"bad": WeightSum(fails=True), "trace": "trace"}) as track:
        loop.run(track)
    for file in (tmp_path / "steps").glob("*.nc"):
        data = read_dataset(file)
        assert data.quantity_failure.values.tolist() == ["ValueError: out of luck", ""]
        assert (data.trace.values > 0).all()
        assert "weight_sum" not in data
    assert track.missing == {}
    assert "step 8: bad: ValueError: out of luck" in track.table()


def test_weights_that_are_no_numbers_are_recorded_as_failures(tmp_path: Path) -> None:
    loop = Loop()
    with tracker(loop, tmp_path, quantities=["trace"]) as track:
        track(0)
        with torch.no_grad():
            loop.module.weight_hh[0, 0] = math.nan
        track(1, math.nan)
        track(3, math.inf)
    assert track.steps == (0, 1, 3)
    assert track.missing == {}
    data = read_dataset(tmp_path / "steps" / "RNNCell-000001.nc")
    assert "NonFiniteError: parameter" in str(data.quantity_failure.values[0])
    assert losses_of(tmp_path).training_loss.values.tolist() == pytest.approx(
        [math.nan, math.inf], nan_ok=True
    )


def test_a_full_disk_does_not_end_the_training(tmp_path: Path, monkeypatch, capsys) -> None:
    alone, loop, write = Loop(), None, _files._write
    alone.run()
    expected = alone.everything()
    full = [False]

    def limited(path: Path, content: bytes) -> None:
        if full[0]:
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, content)

    monkeypatch.setattr(_files, "_write", limited)
    loop = Loop()
    with tracker(loop, tmp_path) as track:

        def both(step: int, loss: object = None) -> None:
            full[0] = 1 <= step < 8
            track(step, loss)

        with pytest.warns(TrackingWarning, match="step 1 could not be kept; the training goes on") as warned:
            loop.run(both)
    assert len(warned) == 1
    assert differences(loop.everything(), expected) == []
    assert track.steps == (0, 8)
    assert list(track.missing) == ["step 1", "step 3"]
    assert "cannot write" in track.missing["step 3"]
    assert "kpframe: missing: step 1, step 3 (cannot write" in capsys.readouterr().err
    assert sorted(recorded(tmp_path)) == [0, 8]


def test_a_disk_that_stays_full_does_not_hide_the_loops_own_error(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    loop, error = Loop(), ValueError("mine")

    def full(path: Path, content: bytes) -> None:
        raise OSError(errno.ENOSPC, "full")

    def update() -> None:
        monkeypatch.setattr(_files, "_write", full)

    loop.update = update
    with pytest.raises(ValueError, match="mine") as caught, tracker(loop, tmp_path) as track:
        loop.fail(track, error, last=1)
    assert caught.value is error
    assert list(track.missing) == ["step 1", "the losses"]
    assert "step 1 could not be kept; the training goes on (cannot write" in capsys.readouterr().err


def test_where_warnings_are_errors_the_training_still_goes_on(tmp_path: Path, monkeypatch, capsys) -> None:
    def write_step(*given: object, **options: object) -> None:
        raise ValueError("no")

    loop = Loop()
    with tracker(loop, tmp_path) as track:
        monkeypatch.setattr("kpframe.study._tracking.tracker.write_step", write_step)
        loop.run(track)  # pytest makes errors of warnings
    assert list(track.missing) == ["step 0", "step 1", "step 3", "step 8"]
    assert "step 0 could not be kept; the training goes on (ValueError: no)" in capsys.readouterr().err


def test_one_process_writes_a_folder(tmp_path: Path) -> None:
    with (
        tracker(Loop(), tmp_path),
        pytest.raises(OutputError, match="in use by kpframe track"),
        tracker(Loop(), tmp_path),
    ):
        pass


def test_a_folder_of_another_command_is_refused(tmp_path: Path) -> None:
    with tracker(Loop(), tmp_path) as track:
        track(0)
    record = json.loads((tmp_path / "run.json").read_text()) | {"command": "train"}
    (tmp_path / "run.json").write_text(json.dumps(record))
    for options in ({}, {"resume": True}):
        with pytest.raises(OutputError, match=r"kpframe train, .*overwrite=True replaces it"):
            tracker(Loop(), tmp_path, **options).__enter__()


# -- what it is given --------------------------------------------------------------------------------------


def test_wrong_arguments_are_refused_before_the_training(tmp_path: Path) -> None:
    loop, x = Loop(), probe()
    trials = Trials.from_tensors(x, x.sum(dim=2, keepdim=True))
    for options, message in (
        ({"loss": "mse"}, "loss: expected targets beside it"),
        (
            {"targets": trials.targets, "loss": "cross_entropy"},
            "loss: expected 'mse', or none, by the targets",
        ),
        ({"targets": trials.targets, "loss": "mes"}, r"got 'mes'; did you mean 'mse'\?"),
        ({"rules": ["no_such_rule"]}, "no_such_rule"),
        ({"operators": ["Q"]}, "operator: expected a product of P, K"),
        ({"operators": "K"}, "operators: expected a list of names, got 'K'"),
        ({"operators": []}, "operators: expected names, at least one"),
        ({"quantities": ["trase"]}, "trase"),
        ({"quantities": ["trace", "trace"]}, "quantities: expected each once"),
        ({"quantities": ["trace", "trace()"]}, "quantities: expected another label for each"),
        ({"quantities": ["spectrum(k=0)"]}, "k"),
        ({"quantities": ["spectrum(3)"]}, "quantities: expected a quantity such as trace"),
        ({"quantities": [3]}, r"quantities\['int'\]: expected a kpframe.study.Quantity or its text"),
        ({"quantities": []}, "quantities: expected at least one"),
        ({"quantities": "trace"}, "quantities: expected a list of texts or objects"),
        ({"budget": 1}, "budget: expected a whole number >= 4"),
        ({"seed": -1}, "seed: expected a whole number in"),
        ({"schedule": []}, "schedule: expected steps"),
        ({"learning_rate": 0}, "learning_rate: expected a finite number > 0, got 0.0"),
        ({"learning_rate": "fast"}, "learning_rate: expected a finite number > 0, got 'fast'"),
        ({"test": x}, "test: expected kpframe.Trials, got Tensor"),
        ({"unseen": [1]}, r"unseen: expected a tensor \[B, T, I\] or kpframe.Trials, got list"),
        ({"unseen": x[..., :1]}, "shape"),
        (
            {"readout": torch.nn.Sequential(loop.head)},
            "readout: expected a kpframe.Readout or a torch.nn.Linear",
        ),
        ({"readout": torch.nn.Linear(3, 1)}, "readout: expected in_features 4, or those of one component"),
        ({"readout": copy.deepcopy(loop.head).double(), "targets": trials.targets}, "dtype"),
        ({"title": "a\nb"}, "title"),
    ):
        with pytest.raises((ArgumentError, UnknownNameError, TypeError), match=message):
            tracker(loop, tmp_path / "run", **options)
    assert not (tmp_path / "run").exists()


def test_inputs_and_modules_that_are_none(tmp_path: Path) -> None:
    loop = Loop()
    for model, inputs, message in (
        (loop.module, [1.0], r"inputs: expected a tensor \[B, T, I\] or kpframe.Trials, got list"),
        (loop.module, probe().double(), "dtype"),
        (loop.module, probe()[0], "shape"),
        (torch.nn.Linear(2, 2), probe(), r"model: input_size: .* \(give the recurrent cell or layer alone"),
        ("rnn", probe(), "model: expected a torch.nn.Module, got str"),
    ):
        with pytest.raises((ArgumentError, TypeError), match=message):
            Tracker(model, inputs, output=tmp_path / "run")


def test_targets_make_trials_and_inputs_may_be_written_to(tmp_path: Path) -> None:
    loop, x = Loop(), probe()
    y = x.sum(dim=2, keepdim=True)
    with tracker(loop, tmp_path / "a", targets=y, quantities=["trace"]) as track:
        x.zero_()
        track(0)
    x = probe()
    with Tracker(
        loop.module, Trials.from_tensors(x, y), readout=loop.head, output=tmp_path / "b", quantities=["trace"]
    ) as track:
        track(0)
    one, other = (read_dataset(tmp_path / name / "steps" / "RNNCell-000000.nc") for name in "ab")
    assert (one.trace.values == other.trace.values).all()
    assert json.loads(one.attrs["settings"])["loss"] == "mse"
    with pytest.raises(ArgumentError, match="targets: expected none beside trials"):
        Tracker(loop.module, Trials.from_tensors(x, y), targets=y)


def test_wrappers_of_torch_are_looked_through(tmp_path: Path) -> None:
    loop = Loop()
    parallel = torch.nn.DataParallel(loop.module)
    for name, module in (
        ("plain", loop.module),
        ("parallel", parallel),
        ("twice", torch.nn.DataParallel(parallel)),
    ):
        options = {"readout": loop.head, "output": tmp_path / name, **DEFAULTS}
        with Tracker(module, probe(), **options) as track:
            track(0)
    assert recorded(tmp_path / "plain") == recorded(tmp_path / "parallel") == recorded(tmp_path / "twice")


class Counting:
    """A hook that keeps what it sees."""

    def __init__(self) -> None:
        self.seen = 0

    def __call__(self, module: torch.nn.Module, given: object, out: torch.Tensor) -> torch.Tensor:
        self.seen += 1
        return 0.5 * out


def test_hooks_that_are_objects_are_copied_and_honoured(tmp_path: Path) -> None:
    loop, hook = Loop(), Counting()
    loop.module.register_forward_hook(hook)
    expected = kpframe.linearize(kpframe.wrap(loop.module), probe()).trajectory.states
    before = hook.seen
    with tracker(loop, tmp_path, quantities=["trace"]) as track:
        track(0)
        moment = track._moment(0)
        assert torch.equal(moment.flow.trajectory.states, expected)
    assert hook.seen == before
    loop.module(probe()[:, 0], torch.zeros(3, WIDTH))
    assert hook.seen == before + 1


def test_hooks_that_a_recording_would_call_are_refused(tmp_path: Path) -> None:
    loop, seen = Loop(), []
    handle = loop.module.register_forward_hook(lambda module, given, out: seen.append(out))
    with pytest.raises(
        kpframe.errors.UnsupportedError, match=r"model: expected no hook .*<lambda> on RNNCell"
    ):
        tracker(loop, tmp_path)
    handle.remove()
    loop.module.weight_hh.register_hook(lambda gradient: 2 * gradient)
    with pytest.raises(
        kpframe.errors.UnsupportedError, match="parameter 'weight_hh': expected one without hooks"
    ):
        tracker(loop, tmp_path)
    assert seen == []


def test_a_readout_reads_the_output_of_the_last_layer(tmp_path: Path) -> None:
    torch.manual_seed(0)
    for layer in (torch.nn.LSTM(INPUT, WIDTH, num_layers=2), torch.nn.GRU(INPUT, WIDTH, num_layers=3)):
        head = torch.nn.Linear(WIDTH, 2)
        with _live_network.untouched(torch.device("cpu")):
            model, readout = _live_network.LiveNetwork(layer, head).copies()
        states = model.rollout(probe()).states
        expected = head(layer(probe().transpose(0, 1))[0].transpose(0, 1))
        torch.testing.assert_close(readout(states), expected, rtol=1e-5, atol=1e-6)
        assert not torch.allclose(head(states[..., :WIDTH]), expected)


# -- what it costs -----------------------------------------------------------------------------------------


def test_calls_between_recordings_hold_no_memory(tmp_path: Path) -> None:
    loop, loss = Loop(), torch.ones((), requires_grad=True) * 2
    with tracker(loop, tmp_path, schedule=[0]) as track:
        track(0)
        tracemalloc.start()
        for step in range(1, 100_001):
            track(step, loss)
        held, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
    assert 1.6e6 <= held < 2.4e6  # two numbers of eight bytes for each call
    assert losses_of(tmp_path).sizes["update"] == 100_000
