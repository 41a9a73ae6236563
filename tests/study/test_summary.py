"""Tables of figures: intervals over seeds by Student's t, of estimates otherwise, and each says which."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from kpframe.errors import ArgumentError
from kpframe.study import open_run, summary

from .recorded import cell, ended, figure, write_run

SEEDS = np.array(
    [[4.0, 7.0, 5.5, 9.0], [2.0, np.nan, 2.5, np.nan], [3.0, np.nan, np.nan, np.nan], [np.nan] * 4]
)


def several(values: np.ndarray = SEEDS) -> xr.Dataset:
    """One figure of networks by seed."""
    return xr.Dataset(
        {
            "rank": figure(values[:, :, None], ("network", "seed", "step")),
            "rank_stderr": figure(0.01 * values[:, :, None], ("network", "seed", "step")),
            "loss": figure(2 * values[:, :, None], ("network", "seed", "step"), units="nat"),
            "curve": figure(np.zeros((4, 4, 1, 2)), ("network", "seed", "step", "time")),
            "words": figure(np.full((4, 4, 1), "x"), ("network", "seed", "step")),
        },
        {"network": ["a", "b", "c", "d"], "seed": np.arange(values.shape[1]), "step": [10]},
    )


@pytest.mark.parametrize("level", [0.95, 0.5])
def test_over_seeds_it_is_the_t_interval(level: float) -> None:
    table = summary(several(), level=level)
    for name, row, count in (("a", SEEDS[0], 4), ("b", SEEDS[1, [0, 2]], 2)):
        own = table.loc[f"rank[{name}, step 10]"]
        low, high = stats.t.interval(level, count - 1, row.mean(), stats.sem(row))
        assert own["mean"] == pytest.approx(row.mean(), rel=1e-14)
        assert (own.low, own.high) == pytest.approx((low, high), rel=1e-12)
        assert (own.n, own.missing, own.units, own.covers) == (count, 4 - count, "1", "seeds")
        wide = stats.t.interval(0.95, count - 1, row.mean(), stats.sem(row))
        assert 2 * stats.norm.ppf(0.975) * own.stderr == pytest.approx(wide[1] - wide[0], rel=1e-12)
    assert table.loc["loss[a, step 10]"].units == "nat"
    assert table.loc["loss[a, step 10]"].stderr == pytest.approx(2 * table.loc["rank[a, step 10]"].stderr)
    assert (
        table.attrs["intervals"] == f"intervals at {100 * level:g}%; seeds: Student t over values along seed"
    )


def test_one_value_of_several_has_an_infinite_interval_and_none_has_nan() -> None:
    table = summary(several())
    one, none = table.loc["rank[c, step 10]"], table.loc["rank[d, step 10]"]
    assert (one["mean"], one.stderr, one.low, one.high) == (3.0, np.inf, -np.inf, np.inf)
    assert (one.n, one.missing, one.covers) == (1, 3, "seeds")
    assert np.isnan([none["mean"], none.stderr, none.low, none.high]).all()
    assert (none.n, none.missing) == (0, 4)


@pytest.mark.parametrize("data", [several().isel(seed=[2]), several().isel(seed=2, drop=True)])
def test_of_one_seed_it_is_the_estimate_alone(data: xr.Dataset) -> None:
    table = summary(data)
    own = table.loc["rank[a, step 10]"]
    assert (own["mean"], own.stderr, own.n, own.covers) == (5.5, pytest.approx(0.055), 1, "estimate")
    assert (own.low, own.high) == pytest.approx((5.5 - 1.96 * 0.055, 5.5 + 1.96 * 0.055), abs=1e-5)
    loss = table.loc["loss[a, step 10]"]
    assert (loss["mean"], loss.covers) == (11.0, "nothing")
    assert np.isnan([loss.stderr, loss.low, loss.high]).all()
    assert table.loc["rank[c, step 10]"].missing == 1
    assert "estimate: of the estimates, for these networks along these trials" in table.attrs["intervals"]
    assert summary(several()).loc["rank[a, step 10]"].covers == "seeds"


def test_figures_are_chosen_by_their_dims_or_by_name() -> None:
    data = several()
    assert {name.split("[")[0] for name in summary(data).index} == {"rank", "loss"}
    table = summary(data, "curve")
    assert table.index.tolist()[:2] == ["curve[a, step 10, time 0]", "curve[a, step 10, time 1]"]
    assert len(table) == 8
    assert summary(data, ["loss", "rank"]).index[0] == "loss[a, step 10]"
    each = summary(data, "rank", over=None)
    assert each.loc["rank[a, seed 1, step 10]"]["mean"] == 7.0
    assert set(each.covers) == {"estimate", "nothing"}
    over = summary(data.isel(network=[0, 1], seed=[0]), "rank", over="network")
    assert over["mean"].tolist() == [3.0]
    assert over.covers.tolist() == ["networks"]


def test_means_over_seeds_in_a_file_are_not_taken_for_estimates() -> None:
    """Of a figure that is a mean already, the values of each seed are at hand."""
    data = several()
    mean = data["rank"].mean("seed")
    own = xr.Dataset({"rank": mean, "rank_stderr": 0 * mean, "rank_by_seed": data["rank"]})
    pd = pytest.importorskip("pandas")
    columns = ["mean", "stderr", "low", "high", "n", "covers"]
    pd.testing.assert_frame_equal(summary(own)[columns], summary(data, "rank")[columns])


def test_a_run_by_its_path_and_as_a_tree(tmp_path: Path) -> None:
    cells = [cell(f"a{seed}", (0,), network="a", seed=seed) for seed in (3, 5)]
    measured = lambda one, step: xr.Dataset({"rank": figure(float(one["name"][1]))})  # noqa: E731
    losses = lambda one: ended(np.array([2.0, 1.0])).assign(seconds=figure(3.0))  # noqa: E731
    run = write_run(tmp_path / "my run", cells, measured, losses)
    table = summary(run)
    assert table.index.tolist() == ["rank[a, step 0]"]
    assert table["mean"].tolist() == [4.0]
    assert summary(run, "seconds").index.tolist() == ["seconds[a]"]
    losses_of = summary(run, "training_loss")
    assert losses_of["mean"].tolist() == [2.0, 1.0]
    assert losses_of.index.tolist() == ["training_loss[a, update 1]", "training_loss[a, update 2]"]
    with open_run([run]) as tree:
        assert summary(tree).index.tolist() == ["my run/rank[a, step 0]"]


def test_what_cannot_be_shown_is_named() -> None:
    data = several()
    with pytest.raises(
        ArgumentError, match=r"names of variables of the run, got 'rnak'; did you mean 'rank'\?"
    ):
        summary(data, "rnak")
    with pytest.raises(ArgumentError, match="names of numbers, got 'words', which is text"):
        summary(data, ["words"])
    with pytest.raises(ArgumentError, match=r"over: expected one of .*; did you mean 'network'\?"):
        summary(data, over="netwrok")
    for level in (0, 1, 95, "95%", True):
        with pytest.raises(ArgumentError, match="level: expected a number between 0 and 1"):
            summary(data, level=level)
    with pytest.raises(ArgumentError, match="a DataTree, a Dataset or the path of a run, got int"):
        summary(3)
