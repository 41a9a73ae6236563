"""Reduced operators: spectra and eigenfunctions against dense matrices, signs and overlaps over steps."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import xarray as xr

from kpframe.errors import ArgumentError
from kpframe.operators import FunctionOperator
from kpframe.operators._count import counted_products
from kpframe.study import Moment, Probe, Surroundings, create_quantity
from kpframe.study._disk.folder import RunWriter
from kpframe.study._record import write_step

F64 = torch.float64
B, T, H = 5, 4, 4


def moments(offered, steps: int, trials: int = B, **around):
    torch.manual_seed(2)
    model = offered.Small(2).double()
    inputs = torch.randn(trials, T, 2, generator=torch.Generator().manual_seed(1), dtype=F64)
    for step in range(steps):
        with torch.no_grad():
            model.W += 0.2 * torch.randn(H, H, generator=torch.Generator().manual_seed(step), dtype=F64)
        surroundings = Surroundings({"test": Probe(inputs)}, **around)
        yield Moment(copy.deepcopy(model), None, surroundings, step=step)


@pytest.fixture(scope="module")
def moment(offered) -> Moment:
    (one,) = moments(offered, 1, operators=("P P*", "K", "P K"))
    return one


def dense(moment: Moment, name: str) -> torch.Tensor:
    P, J = moment.flow.P.to_dense(), moment.flow.J.to_dense()
    whole = {"P P*": P @ P.T, "K": J @ J.T, "P K": P @ J @ J.T}[name]
    return whole.reshape(B, T, H, B, T, H)


REDUCTIONS = {
    "average over trials": ({}, "bthcsk->thsk", B**2, ("time", "hidden")),
    "average over trials, traced over units": ({"trace": ["hidden"]}, "bthcsh->ts", B**2, ("time",)),
    "sum over time": ({"mean": [], "sum": ["time"]}, "bthcsk->bhck", 1, ("trial", "hidden")),
    "all of it": ({"mean": []}, "bthcsk->bthcsk", 1, ("trial", "time", "hidden")),
}


@pytest.mark.parametrize("case", REDUCTIONS)
def test_figures_are_those_of_dense_matrices(moment, case) -> None:
    settings, sums, count, dims = REDUCTIONS[case]
    data = create_quantity("views", k=4, tolerance=1e-7, budget=200, **settings).measure(moment)
    assert data.view_function.dims == ("operator", "view_mode", *dims)
    for name in ("P P*", "K", "P K"):
        matrix = torch.einsum(sums, dense(moment, name)) / count
        side = int(matrix.numel() ** 0.5)
        matrix = matrix.reshape(side, side)
        one = data.sel(operator=name)
        np.testing.assert_allclose(one.view_trace, matrix.trace(), rtol=1e-8)
        if name == "P K":
            np.testing.assert_allclose(one.view_value, torch.linalg.svdvals(matrix)[:4], rtol=1e-6)
            assert one.view_explained.isnull().all()
            gram = matrix @ matrix.T
        else:
            values = torch.linalg.eigvalsh(matrix).flip(0)
            np.testing.assert_allclose(one.view_value, values[:4], rtol=1e-6, atol=1e-9)
            np.testing.assert_allclose(one.view_explained, values[:4] / matrix.trace(), rtol=1e-6, atol=1e-9)
            rank = values.sum() ** 2 / values.square().sum()
            np.testing.assert_allclose(one.view_effective_rank, rank, rtol=1e-6)
            gram = matrix
        f = torch.from_numpy(one.view_function.values.reshape(4, -1))
        torch.testing.assert_close(f @ f.T, torch.eye(4, dtype=F64), rtol=0, atol=1e-8)
        image = f[0] @ gram
        torch.testing.assert_close(image, (image @ f[0]) * f[0], rtol=1e-5, atol=1e-7)


def test_residuals_are_measured_and_flags_earned(offered) -> None:
    trials = 60
    (moment,) = moments(offered, 1, trials, operators=("P P*",), budget=8)
    quantity = create_quantity("views", k=1, tolerance=1e-12, mean=[])
    data = quantity.measure(moment).isel(operator=0, view_mode=0)  # from 24 products
    f = torch.from_numpy(data.view_function.values.reshape(-1))
    matrix = moment.operators["P P*"].to_dense()
    residual = float((matrix @ f - float(data.view_value) * f).norm())
    assert float(data.view_residual) == pytest.approx(residual, rel=1e-3, abs=1e-12)
    assert not bool(data.view_converged)
    assert bool(create_quantity("views", k=1, tolerance=0.5, mean=[]).measure(moment).view_converged.all())
    assert float(data.view_explained_stderr) > 0


def test_chosen_entries_keep_their_places(moment) -> None:
    settings = {"select": {"time": [1, 3]}, "mean": ["batch"], "k": 2}
    data = create_quantity("views", **settings).measure(moment)
    assert list(data.time.values) == [1, 3]
    last = create_quantity("views", select={"time": -1}, k=2).measure(moment)
    assert last.view_function.dims == ("operator", "view_mode", "hidden")
    halves = create_quantity("views", bin={"time": 2}, trace=["hidden"], k=2).measure(moment)
    assert list(halves.time.values) == [0, 2]
    named = create_quantity("views", select={"hidden": "h"}, k=2).measure(moment)
    assert list(named.hidden.values) == list(range(H))


def test_reductions_that_do_not_go_together_are_refused_before_training(moment) -> None:
    with pytest.raises(ArgumentError, match="units"):
        create_quantity("views", mean=["units"]).check(moment)
    with pytest.raises(ArgumentError):
        create_quantity("views", mean=["batch"], trace=["batch"]).check(moment)
    create_quantity("views").check(moment)


def test_signs_follow_from_step_to_step_and_overlaps_are_those_of_the_functions(offered) -> None:
    quantity = create_quantity("views", k=3)
    rows = [quantity.measure(moment) for moment in moments(offered, 5, operators=("P P*",))]
    flipped = rows[2].copy(deep=True)
    flipped["view_function"] = -flipped.view_function
    recorded = xr.concat([*rows[:2], flipped, *rows[3:]], dim=xr.Variable("step", range(5)))
    data = quantity.across(recorded)
    functions = recorded.view_function[:, 0].values.reshape(5, 3, -1)
    for mode in range(3):
        signed = functions[:, mode] * data.view_sign.values[0, mode][:, None]
        steps = np.einsum("sn,sn->s", signed[1:], signed[:-1])
        assert (steps >= 0).all()
        overlaps = np.abs(functions[:, mode] @ functions[:, mode].T)
        np.testing.assert_allclose(data.view_overlap_map[0, mode], overlaps, rtol=1e-10, atol=1e-12)
        np.testing.assert_allclose(data.view_overlap_with_final[0, mode], overlaps[:, -1], rtol=1e-10)
    assert (data.view_sign == -1).any()
    assert float(data.view_overlap_map[0, 0].min()) < 0.999
    failed = recorded.isel(step=[0, 1, 3]).reindex(step=range(4))
    part = quantity.across(failed)
    assert part.view_sign.isel(step=2).isnull().all()
    np.testing.assert_allclose(
        part.view_overlap_with_previous.isel(step=3),
        data.view_overlap_map.isel(step=3, step_other=1),
        rtol=1e-10,
    )


def test_averages_over_other_axes_keep_the_blocks_of_an_operator(moment) -> None:
    K = moment.flow.K
    labels = torch.tensor([0, 1, 2, 3])

    class Labelled(FunctionOperator):
        self_adjoint = positive = True

        def block_labels(self) -> torch.Tensor:
            return labels

    units = torch.eye(H, dtype=F64)

    def product(q: torch.Tensor) -> torch.Tensor:
        return torch.stack([K(q * unit) * unit for unit in units]).sum(0)  # each unit by itself

    blocks = Labelled(K.domain, K.domain, product, product, dtype=F64)
    for reduced in (blocks.mean("batch"), blocks.select(time=-1), blocks.sum("batch").bin(time=2)):
        assert reduced.block_labels() is labels
        dense = reduced.to_dense().reshape(-1, H, reduced.domain.size // H, H)
        assert float((dense * (1 - units)[None, :, None, :]).abs().max()) == 0
        assert float(dense.abs().max()) > 0
    for reduced in (blocks.mean("hidden"), blocks.select(hidden=[3, 1, 2, 0]), blocks.select(hidden=0)):
        assert reduced.block_labels() is None
    assert blocks.project(torch.randn(H, H, dtype=F64), name="hidden").block_labels() is None


def test_eigenfunctions_begin_from_those_recorded_before(offered, tmp_path) -> None:
    """A run that goes on has the files of an undisturbed one; a step alone finds the same pairs otherwise."""
    settings = {"k": 2, "tolerance": 0.05, "mean": [], "budget": 2}
    operators = ("P P*",)

    def recorded(name: str, steps: range) -> list[xr.Dataset]:
        folder = RunWriter(tmp_path / name, "a run", {"run_id": "a run"})
        quantities = {"views": create_quantity("views", **settings)}
        made = list(moments(offered, 3, operators=operators, same_probes=True))
        found = []
        for step in steps:
            with counted_products() as count:
                found.append(write_step(folder, "cell", made[step], quantities, name="small", settings={}))
            found[-1].attrs["products"] = count.products
        return found

    whole = recorded("whole", range(3))
    begun = recorded("begun", range(2))
    (last,) = recorded("begun", range(2, 3))  # by objects that know the files alone
    for one, other in zip(whole, [*begun, last], strict=True):
        xr.testing.assert_identical(one, other)
    (alone,) = recorded("alone", range(2, 3))
    np.testing.assert_allclose(alone.view_value, last.view_value, rtol=0.05)
    assert not np.array_equal(alone.view_function, last.view_function)
    assert alone.view_converged.all()
    assert last.view_converged.all()
    assert last.attrs["products"] != alone.attrs["products"]
    path = tmp_path / "begun" / "steps" / "cell-000001.nc"
    path.write_bytes(path.read_bytes()[:100])
    (damaged,) = recorded("begun", range(2, 3))
    np.testing.assert_array_equal(damaged.view_function, alone.view_function)
