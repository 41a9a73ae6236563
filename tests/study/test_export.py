"""Figures for other programs: every value comes back as it is, at its coordinates."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from kpframe.errors import ArgumentError, OutputError
from kpframe.study._reading.export import chosen, export_csv, export_npz

from .recorded import figure


def data() -> xr.Dataset:
    rank = np.array([[0.1 + 0.2, np.nan], [1e-310, -np.inf]])
    return xr.Dataset(
        {
            "rank": figure(rank, ("network", "step"), units="mV"),
            "single": figure(np.float32([0.1, 0.7]), "network"),
            "count": figure(np.array([2**53 + 1, -3]), "network"),
            "good": figure(np.array([True, False]), "step"),
            "why": figure(np.array(["", 'said "a, b"\nand <c>'], object), "network"),
            "bare": figure(np.array([5.0, 6.0, 7.0]), "hidden"),
            "alone": figure(2.5),
        },
        {
            "network": ["GRU, large", "=RNN"],
            "step": [0, 10],
            "method": ("network", np.array(["exact", "xtrace"], object)),
        },
        {"title": "A & B", "state": "finished"},
    )


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_csv_has_a_row_for_each_value_to_the_last_bit(tmp_path: Path) -> None:
    whole = data()
    count = export_csv(whole, tmp_path / "a.csv")
    found = rows(tmp_path / "a.csv")
    assert count == len(found) == 4 + 2 + 2 + 2 + 2 + 3 + 1 + 2
    assert list(found[0]) == ["variable", "network", "step", "hidden", "value", "text", "units"]
    for row in found:
        own = whole[row["variable"]]
        at = {d: row[d] if d == "network" else int(row[d]) for d in own.dims}
        assert all((row[dim] == "") == (dim not in own.dims) for dim in ("network", "step", "hidden"))
        expected = own.isel(at) if "hidden" in at else own.sel(at)
        if own.dtype.kind == "O":
            assert (row["value"], row["text"]) == ("", str(expected.item()))
        elif own.dtype.kind == "i":
            assert int(row["value"]) == expected.item()
        else:
            np.testing.assert_array_equal(own.dtype.type(float(row["value"])), expected.values)
        assert row["units"] == own.attrs.get("units", "1")
    assert found[0]["value"] == "0.30000000000000004"


def test_npz_has_the_arrays_their_dims_and_coordinates(tmp_path: Path) -> None:
    whole = data()
    assert export_npz(whole, tmp_path / "a.npz") == len(whole.variables)
    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        for name, variable in whole.variables.items():
            np.testing.assert_array_equal(found[name], variable.values)
            assert found[f"{name}__dims"].tolist() == list(variable.dims)
            assert found[f"{name}__units"].item() == variable.attrs.get("units", "1")
            assert variable.dtype.kind in "OU" or found[name].dtype == variable.dtype
        assert json.loads(found["run__attributes"].item()) == whole.attrs
        assert len(found.files) == 3 * len(whole.variables) + 1
    first = (tmp_path / "a.npz").read_bytes()
    export_npz(whole, tmp_path / "a.npz")
    assert (tmp_path / "a.npz").read_bytes() == first
    with pytest.raises(ArgumentError, match="names that differ, got rank__units, twice"):
        export_npz(whole.assign(rank__units=1), tmp_path / "b.npz")
    assert not (tmp_path / "b.npz").exists()


def test_a_dim_that_is_called_as_a_column_has_another_name(tmp_path: Path) -> None:
    one = xr.Dataset({"x": ("value", [3.0])}, {"value": [0.5]})
    export_csv(one, tmp_path / "a.csv")
    assert rows(tmp_path / "a.csv") == [
        {"variable": "x", "coordinate_value": "0.5", "value": "3.0", "text": "", "units": "1"}
    ]


def test_long_tables_are_written_whole(tmp_path: Path) -> None:
    values = np.random.default_rng(0).normal(size=(3, 20_001))
    export_csv(xr.Dataset({"x": (("a", "b"), values)}), tmp_path / "a.csv")
    found = [float(row["value"]) for row in rows(tmp_path / "a.csv")]
    np.testing.assert_array_equal(found, values.ravel())


def test_variables_are_chosen_by_name_and_left_out_by_size() -> None:
    whole = data()
    own, left_out = chosen(whole, ["alone", "rank"])
    assert list(own.data_vars) == ["alone", "rank"]
    assert set(own.coords) == {"network", "step"}
    assert left_out == []
    assert "method" in chosen(whole)[0].coords
    assert "method" in chosen(whole, ["method", "rank"])[0].coords
    own, left_out = chosen(whole, most=3)
    assert "rank" not in own
    assert "bare" in own
    assert left_out == ["rank (4 values)"]
    with pytest.raises(ArgumentError, match=r"got 'rnk'; did you mean 'rank'\?"):
        chosen(whole, ["rnk"])


def test_what_fails_leaves_no_file(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="its folder does not exist"):
        export_csv(data(), tmp_path / "none" / "a.csv")
    broken = xr.Dataset({"x": ("a", np.array([1.0, 2.0]))}, {"a": ("a", np.array([1, 2]))})
    file = tmp_path / "old.csv"
    file.write_text("old")

    class Bad(dict):
        def get(self, *_):
            raise RuntimeError("while it is written")

    broken.x.variable._attrs = Bad()
    with pytest.raises(RuntimeError):
        export_csv(broken, file)
    assert file.read_text() == "old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["old.csv"]
