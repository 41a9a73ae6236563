"""Records of a run as one dataset: every value in its place, what is missing NaN, damage told."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree

import h5py
import numpy as np
import pytest
import xarray as xr

from kpframe.errors import ArgumentError
from kpframe.study._disk.results import read_dataset, write_dataset
from kpframe.study._quantity import Quantity
from kpframe.study._reading.merge import merged
from kpframe.study._reading.records import RecordReader
from kpframe.study._record import labelled

from .pages.data import study
from .recorded import ATTRIBUTES, cell, ended, figure, write_run


@pytest.fixture(scope="module")
def whole() -> xr.Dataset:
    """A study, all of it."""
    return study()


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory, whole: xr.Dataset) -> Path:
    """The same study as the folder of a run."""
    steps = whole.step.values.tolist()
    cells = [cell(str(name), steps) for name in whole.network.values]

    def measured(one, step):
        return whole.drop_vars(["training_loss", "update"]).sel(network=one["name"], step=step, drop=True)

    def losses(one):
        return ended(whole.training_loss.sel(network=one["name"]).values)

    return write_run(tmp_path_factory.mktemp("written") / "run", cells, measured, losses)


@pytest.fixture
def run(tmp_path: Path, written: Path) -> Path:
    """A copy of it to change, in a folder with a space in its name."""
    return Path(copytree(written, tmp_path / "my run"))


def attributed(path: Path, **attributes: str) -> None:
    """Give a file of a run further attributes."""
    with h5py.File(path, "r+") as file:
        file.attrs.update(attributes)


def test_a_run_in_pieces_is_the_whole(run: Path, whole: xr.Dataset) -> None:
    data = merged(run, {})
    assert list(data.data_vars)[-3:] == ["outcome", "stopped_at", "reason"]
    own = data.drop_vars(["outcome", "stopped_at", "reason"])
    xr.testing.assert_equal(own, whole)
    assert {name: v.dims for name, v in own.variables.items()} == {
        n: v.dims for n, v in whole.variables.items()
    }
    assert {name: v.dtype for name, v in own.variables.items() if v.dtype.kind != "O"} == {
        name: v.dtype for name, v in whole.variables.items() if v.dtype.kind not in "OUT"
    }
    assert data.outcome.values.tolist() == ["trained", "trained"]
    for name, variable in data.variables.items():
        assert variable.attrs["long_name"], name
        assert variable.attrs["units"], name
    assert data.attrs["title"] == ATTRIBUTES["title"]
    assert "also_made_with" not in data.attrs
    assert not {"cell", "step"} & set(data.attrs)
    (run / "steps" / "GRU-000030.nc").unlink()
    with pytest.raises(AssertionError):
        xr.testing.assert_equal(merged(run, {}).drop_vars(["outcome", "stopped_at", "reason"]), whole)


def test_a_run_goes_on_that_was_begun_with_another_library(run: Path) -> None:
    before = merged(run, {})
    for name in ("steps/GRU-000030.nc", "training/GRU.nc"):
        read_dataset(run / name).to_netcdf(run / name, engine="h5netcdf")
    xr.testing.assert_identical(merged(run, {}), before)
    data = read_dataset(run / "steps" / "GRU-000030.nc")
    data.assign(test_loss=data.test_loss + 1e-9).to_netcdf(run / "steps" / "GRU-000030.nc", engine="h5netcdf")
    assert not merged(run, {}).identical(before)


def test_it_is_the_same_each_time_to_the_last_bit(run: Path) -> None:
    def content() -> list[object]:
        data = merged(run, {})
        return [list(data.attrs.items())] + [
            (name, v.dims, v.dtype.str, v.values.tolist() if v.dtype.kind == "O" else v.values.tobytes())
            for name, v in data.variables.items()
        ]

    first = content()
    assert content() == first
    file = run / "steps" / "GRU-000030.nc"
    with h5py.File(file, "r+") as data:
        data["test_loss"][()] *= 1 + 1e-15
    assert content() != first


def test_what_is_not_there_yet_is_nan_and_the_rest_in_its_place(run: Path, whole: xr.Dataset) -> None:
    (run / "steps" / "GRU-000240.nc").unlink()
    (run / "training" / "GRU.nc").unlink()
    data = merged(run, {})
    assert data.state_dimension.dtype == data.singular_value_converged.dtype == np.float64
    expected = whole.state_dimension.values.astype(float)
    expected[0, 2] = np.nan
    np.testing.assert_array_equal(data.state_dimension, expected)
    assert data.trial_label.dtype == np.int64  # that of the trials, where it is known
    np.testing.assert_array_equal(data.trial_label, whole.trial_label)
    assert data.outcome.values.tolist() == ["", "trained"]
    assert data.failure.sel(network="GRU", step=240).values.tolist() == ["", ""]
    assert np.isnan(data.training_loss.sel(network="GRU")).all()
    np.testing.assert_array_equal(
        data.training_loss.sel(network="RNN"), whole.training_loss.sel(network="RNN")
    )
    np.testing.assert_array_equal(data.trial_kernel[1], whole.trial_kernel[1])
    assert np.isnan(data.trial_kernel[0, 2]).all()


def test_cells_that_start_from_the_same_network_share_step_0(tmp_path: Path) -> None:
    cells = [
        cell("a", (0, 10), trained_by="bptt"),
        cell("b", (10,), initial_of="a", trained_by="rflo"),
        cell("c", (10,), trained_by="snap1"),
    ]
    measured = lambda one, step: xr.Dataset({"rank": figure(ord(one["name"]) + step)})  # noqa: E731
    data = merged(write_run(tmp_path / "run", cells, measured), {})
    assert data.trained_by.values.tolist() == ["bptt", "rflo", "snap1"]
    np.testing.assert_array_equal(data["rank"], [[97, 107], [97, 108], [np.nan, 109]])


def test_cells_of_other_sizes_are_joined(tmp_path: Path) -> None:
    """Widths, numbers of values and parameters differ between networks, and quantities between steps."""
    own = {"small": (2, ["W", "b"]), "large": (3, ["W", "U", "b"])}

    def measured(one, step):
        count, names = own[one["name"]]
        data = xr.Dataset(
            {
                "value": figure(10.0 * count + np.arange(count), "k"),
                "norm": figure(np.arange(count) + step, "parameter"),
                "width": figure(count),
                "state": figure(np.arange(count), "hidden"),
            },
            {"k": np.arange(1, count + 1), "parameter": names},
        )
        return data.assign(late=figure(7)) if step else data

    data = merged(write_run(tmp_path / "run", [cell("small"), cell("large")], measured), {})
    assert data.parameter.values.tolist() == ["W", "b", "U"]
    np.testing.assert_array_equal(data.value[:, 0], [[20, 21, np.nan], [30, 31, 32]])
    np.testing.assert_array_equal(data.norm[:, 1], [[10, 11, np.nan], [10, 12, 11]])
    np.testing.assert_array_equal(data.width, [[2, 2], [3, 3]])
    assert data.width.dtype == np.int64
    np.testing.assert_array_equal(data.state[:, 0], [[0, 1, np.nan], [0, 1, 2]])
    np.testing.assert_array_equal(data.late, [[np.nan, 7], [np.nan, 7]])


def test_coordinates_are_those_of_the_cells_in_order(tmp_path: Path) -> None:
    gains, flags, names = (1.5, 0.5), (True, False), ("plain", 3)
    cells = [
        cell(f"{g}{f}{n}{s}", (0,), network="rnn", gain=g, flag=f, form=n, seed=s)
        for g in gains
        for f in flags
        for n in names
        for s in (4, 2)
        if (g, s) != (0.5, 2)
    ]
    place = {one["name"]: at for at, one in enumerate(cells)}
    measured = lambda one, step: xr.Dataset({"place": figure(place[one["name"]])})  # noqa: E731
    data = merged(write_run(tmp_path / "run", cells, measured), {})
    assert data.place.dims == ("network", "gain", "flag", "form", "seed", "step")
    assert data.gain.values.tolist() == [1.5, 0.5]
    assert data.flag.values.tolist() == ["true", "false"]
    assert data.form.values.tolist() == ["plain", "3"]
    assert data.seed.values.tolist() == [4, 2]
    found = data.place.sel(network="rnn", gain=1.5, flag="false", form="3", seed=2, step=0)
    assert found == place["1.5False32"]
    assert np.isnan(data.place.sel(gain=0.5, seed=2)).all()
    assert int(data.place.notnull().sum()) == len(cells)


def test_a_coordinate_has_the_dims_along_which_it_differs(tmp_path: Path) -> None:
    def measured(one, step):
        seed = one["coordinates"]["seed"]
        return xr.Dataset(
            {"kernel": figure([1.0, 2.0], "trial")},
            {"trial_label": ("trial", [seed, 1]), "method": ((), "same"), "moment": ("trial", [step, step])},
        )

    cells = [cell(f"{n}{s}", network=n, seed=s) for n in ("a", "b") for s in (0, 1)]
    data = merged(write_run(tmp_path / "run", cells, measured), {})
    assert data.trial_label.dims == ("seed", "trial")
    np.testing.assert_array_equal(data.trial_label, [[0, 1], [1, 1]])
    assert data.method.dims == ()
    assert data.moment.dims == ("step", "trial")
    assert data.kernel.dims == ("network", "seed", "step", "trial")


class Growth(Quantity):
    """What a figure grows by, from step to step; it needs all values of its own training, and no others."""

    of_network = True

    def measure(self, moment):
        raise AssertionError

    def across(self, recorded):
        assert not recorded["rank"].isnull().any()
        growth = recorded["rank"] - recorded["rank"].isel(step=0)
        return xr.Dataset({"growth": growth.assign_attrs(long_name="growth", units="1")})


class Plain(Quantity):
    def measure(self, moment):
        raise AssertionError


def grown(one, step):
    count = 2 if one["name"] == "a" else 3
    own = xr.Dataset({"rank": figure(np.arange(count) * (1.0 + step), "k")}, {"k": np.arange(count)})
    return labelled("early:grow", own).merge(labelled("plain", xr.Dataset({"rank": figure(5.0 + step)})))


def test_what_follows_from_all_steps_of_a_training(tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", [cell("a"), cell("b", (10, 30))], grown)
    data = merged(run, {"early:grow": Growth(), "plain": Plain()})
    assert "left_out" not in data.attrs
    nan = [np.nan] * 3
    np.testing.assert_array_equal(data.early_growth[0], [[0, 0, np.nan], [0, 10, np.nan], nan])
    np.testing.assert_array_equal(data.early_growth[1], [nan, [0, 0, 0], [0, 20, 40]])
    np.testing.assert_array_equal(data["rank"], [[5, 15, np.nan], [np.nan, 15, 35]])
    assert "early_growth" not in merged(run, {"plain": Plain()})


def test_what_follows_along_each_set_of_inputs(tmp_path: Path) -> None:
    class Along(Growth):
        of_network = False

        def across(self, recorded):
            assert recorded["rank"].dims == ("step",)
            return super().across(recorded)

    def measured(one, step):
        own = xr.Dataset(
            {"rank": figure([1.0 + step, 2.0 + 3 * step], "inputs")}, {"inputs": ["test", "train"]}
        )
        return labelled("grow", own)

    data = merged(write_run(tmp_path / "run", [cell("a")], measured), {"grow": Along()})
    np.testing.assert_array_equal(data.growth.transpose("network", "inputs", "step"), [[[0, 10], [0, 30]]])


def test_what_cannot_be_computed_of_all_steps_costs_no_more(tmp_path: Path) -> None:
    class Broken(Growth):
        def across(self, recorded):
            return 1 / 0

    run = write_run(tmp_path / "run", [cell("a")], grown)
    data = merged(run, {"early:grow": Broken()})
    (said,) = json.loads(data.attrs["left_out"])
    assert "a: early:grow" in said
    assert "division by zero" in said
    assert data["rank"].values.tolist() == [[5.0, 15.0]]


def test_a_damaged_file_is_named_with_what_to_do(run: Path) -> None:
    file = run / "steps" / "RNN-000030.nc"
    file.write_bytes(file.read_bytes()[:-200])
    with pytest.raises(ArgumentError, match=r"RNN-000030\.nc' is damaged .*; delete it, and kpframe resume"):
        merged(run, {})
    file.write_bytes(b"")
    with pytest.raises(ArgumentError, match=r"RNN-000030\.nc' is damaged"):
        merged(run, {})
    write_dataset(xr.Dataset(), file, {"run_id": "another"})
    with pytest.raises(ArgumentError, match=r"RNN-000030\.nc' belongs to another run"):
        merged(run, {})
    file.unlink()
    assert np.isnan(merged(run, {}).test_loss.sel(network="RNN", step=30))


def test_files_that_do_not_fit_each_other_are_named(tmp_path: Path) -> None:
    def measured(one, step):
        return xr.Dataset({"rank": figure([1.0, 2.0], "k" if step else "mode")})

    with pytest.raises(
        ArgumentError, match=r"a-000010\.nc: 'rank' has the dims \(k\), and \(mode\) in .*a-000000"
    ):
        merged(write_run(tmp_path / "run", [cell("a")], measured), {})


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"format": 99}, "in format 99, of a newer kpframe than this one"),
        ({"cells": None}, "is damaged: it does not say what"),
        ({"cells": [{"name": "a"}]}, "is damaged: it does not say what"),
        ({"cells": [cell("a", network="x"), cell("b", network="x")]}, "two of its cells have the same coord"),
        ({"cells": [cell("a", network="x"), cell("b", seed=1)]}, "its cells have different coordinates"),
        ({"id": 3}, "is damaged: it does not say what"),
    ],
)
def test_a_folder_that_cannot_be_read_says_why(tmp_path: Path, record, said: str) -> None:
    measured = lambda one, step: xr.Dataset({"rank": figure(1.0)})  # noqa: E731
    run = write_run(tmp_path / "run", [cell("a"), cell("b")], measured)
    whole = json.loads((run / "run.json").read_text())
    (run / "run.json").write_text(json.dumps(whole | record))
    with pytest.raises(ArgumentError, match=said):
        merged(run, {})


def test_a_run_that_records_no_trainings_says_so(run: Path) -> None:
    whole = json.loads((run / "run.json").read_text())
    del whole["cells"]
    (run / "run.json").write_text(json.dumps(whole))
    with pytest.raises(ArgumentError, match=r"kpframe run \(.*\) that recorded nothing training by training"):
        merged(run, {})


def test_a_path_that_is_no_run_says_what_it_is(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ArgumentError, match="which does not exist"):
        merged(tmp_path / "nothing")
    with pytest.raises(ArgumentError, match="which is a file"):
        merged(tmp_path / "file")
    with pytest.raises(ArgumentError, match=r"which has no run\.json"):
        merged(tmp_path)
    run = write_run(tmp_path / "run", [cell("a", ())], lambda one, step: xr.Dataset())
    with pytest.raises(ArgumentError, match="has recorded nothing yet; kpframe resume"):
        merged(run, {})


def test_other_versions_are_not_hidden(run: Path) -> None:
    file = run / "steps" / "RNN-000030.nc"
    write_dataset(read_dataset(file), file, {"kpframe_version": "9.9"})
    data = merged(run, {})
    assert data.attrs["kpframe_version"] == ATTRIBUTES["kpframe_version"]
    assert json.loads(data.attrs["also_made_with"]) == [{"kpframe_version": "9.9"}]


def test_steps_of_another_number_of_ranks_are_not_hidden(run: Path) -> None:
    """Steps that one process recorded say nothing of ranks: that is another number, too."""
    last = run / "steps" / "RNN-000030.nc"
    for file in {*run.rglob("*.nc")} - {last}:
        attributed(file, ranks="2", group_backend="gloo")
    data = merged(run, {})
    assert data.attrs["ranks"] == "2"
    assert json.loads(data.attrs["also_made_with"]) == [{"ranks": None, "group_backend": None}]
    attributed(last, ranks="3", group_backend="gloo")
    assert json.loads(merged(run, {}).attrs["also_made_with"]) == [{"ranks": "3"}]


def test_files_are_read_as_xarray_reads_them(tmp_path: Path, whole: xr.Dataset) -> None:
    """Also of a layout that is known, of packed numbers, and of dims that are swapped."""
    one = whole.isel(network=0, step=0)
    square = xr.Dataset({"m": (("a", "b"), np.arange(4).reshape(2, 2))})
    dated = xr.Dataset({"day": ("x", np.array(["2020-01-02", "2021-03-04"], "M8[ns]"))}, {"x": [0, 1]})
    packed = xr.Dataset({"v": ("x", [0.5, 1.0])})
    packed.v.encoding = {"scale_factor": 0.5, "dtype": "int16", "_FillValue": -1}
    bits = xr.Dataset({"v": ("x", np.array([3, 0], np.int8))})
    every = [
        one,
        whole.isel(network=1, step=2),
        square,
        square.transpose("b", "a"),
        square.assign_coords(a=[0, 1], b=[0, 1]),
        square.transpose("b", "a").assign_coords(a=[0, 1], b=[0, 1]),
        dated,
        packed,
        bits,
        bits.astype(bool),
        bits,
        xr.Dataset({"text": ("x", np.array(["naïve", ""], object))}),
    ]
    reader = RecordReader()
    for place, data in enumerate(every):
        path = write_dataset(data, tmp_path / f"{place}.nc")
        expected, found = read_dataset(path), reader.read(path, "")
        assert set(found.variables) == set(expected.variables)
        assert found.coordinates == set(expected.coords)
        for name, variable in expected.variables.items():
            dims, values = found.variables[name]
            assert dims == variable.dims
            assert values.dtype == variable.dtype or variable.dtype.kind in "OUT"
            np.testing.assert_array_equal(values, variable.values)
            assert found.about[name] == variable.attrs
        assert {n: v for n, v in found.attributes.items() if n != "title"} == {
            n: v for n, v in expected.attrs.items() if n != "title"
        }
