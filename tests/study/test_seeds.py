"""Trainings from several seeds: means, and intervals that cover what a reader takes them for."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import scipy.stats
import xarray as xr

from kpframe.errors import ArgumentError
from kpframe.study._disk.results import read_dataset, write_dataset
from kpframe.study._rules.seeds import over_seeds

RULES = ["bptt", "short"]


def training(seed: int, rules: list[str] = RULES, gone: str = "") -> xr.Dataset:
    """Return a dataset as a training makes it, with figures drawn anew for each seed."""
    drawn = np.random.default_rng(seed)
    count = len(rules)
    lost = np.array([rule == gone for rule in rules])
    rank = np.where(lost[:, None], np.nan, drawn.normal(5, 1, (count, 2)))
    data = xr.Dataset(
        {
            "training_loss": (("rule", "update"), drawn.normal(3, 0.1, (count, 4))),
            "diverged_at": ("rule", np.where(lost, 2.0 + seed, np.nan)),
            "outcome": ("rule", np.where(lost, "diverged", "trained").astype(object)),
            "reason": ("rule", np.where(lost, "NonFiniteError: loss", "").astype(object)),
            "test_loss_before": ((), float(drawn.normal(2, 0.1))),
            "test_loss": ("rule", np.where(lost, np.nan, drawn.normal(1, 0.2, count))),
            "effective_rank": (("rule", "operator"), rank),
            "effective_rank_stderr": (("rule", "operator"), 0.01 + 0 * rank),
        },
        coords={
            "rule": rules,
            "rule_other": rules,
            "operator": ["Phi", "P P*"],
            "update": np.arange(1, 5),
            "checkpoint": ("rule", np.where(lost, "", [f"{rule}-{seed}" for rule in rules]).astype(object)),
        },
    )
    for name in data.data_vars:
        data[name].attrs = {"long_name": f"the {name}", "units": "nat" if "loss" in str(name) else "1"}
    return data


def test_means_and_student_intervals_over_seeds() -> None:
    seeds = [3, 4, 5, 6]
    data = over_seeds([training(seed) for seed in seeds], seeds)
    ranks = np.stack([training(seed).effective_rank.values for seed in seeds])
    np.testing.assert_array_equal(data.effective_rank_by_seed.transpose("seed", ...), ranks)
    np.testing.assert_allclose(data.effective_rank, ranks.mean(0), rtol=1e-12)
    low, high = scipy.stats.t.interval(0.95, 3, loc=ranks.mean(0), scale=scipy.stats.sem(ranks, axis=0))
    np.testing.assert_allclose(data.effective_rank - 1.959964 * data.effective_rank_stderr, low, rtol=1e-6)
    np.testing.assert_allclose(data.effective_rank + 1.959964 * data.effective_rank_stderr, high, rtol=1e-6)
    # an estimate of one seed is far better known than the figure of another seed
    assert (data.effective_rank_stderr_by_seed == 0.01).all()
    assert (data.effective_rank_stderr > 0.1).all()
    assert data.test_loss_before.ndim == 0
    assert float(data.test_loss_before_stderr) > 0
    assert data.training_loss.dims == ("rule", "update")
    assert data.test_loss.attrs == {"long_name": "the test_loss: mean over seeds", "units": "nat"}
    assert data.test_loss_stderr.attrs["long_name"] == "the test_loss: standard error of the mean over seeds"
    assert data.seeds_counted.values.tolist() == [4, 4]
    assert data.seed.values.tolist() == seeds


def test_intervals_cover_the_mean_over_all_seeds() -> None:
    """In 95 of 100 cases, where those of the estimates alone would cover next to none."""
    covered, alone, many = 0, 0, [f"rule {place}" for place in range(100)]
    for first in range(0, 12, 3):
        seeds = [first, first + 1, first + 2]
        data = over_seeds([training(seed, many) for seed in seeds], seeds)
        off = np.abs(data.effective_rank - 5)
        covered += int((off <= 1.96 * data.effective_rank_stderr).sum())
        alone += int((off <= 1.96 * data.effective_rank_stderr_by_seed.isel(seed=0)).sum())
    assert 0.92 < covered / 800 < 0.98
    assert alone / 800 < 0.1


def test_a_rule_that_diverged_in_a_seed_is_the_mean_of_the_others() -> None:
    trainings = [training(1), training(2, gone="short"), training(3, gone="short")]
    data = over_seeds(trainings, [1, 2, 3])
    assert data.seeds_counted.values.tolist() == [3, 1]
    short = data.sel(rule="short")
    np.testing.assert_array_equal(short.effective_rank, trainings[0].effective_rank.sel(rule="short"))
    assert (short.effective_rank_stderr == math.inf).all()  # of one seed alone nothing is known
    assert float(short.diverged_at) == 4
    assert np.isnan(data.diverged_at.sel(rule="bptt"))
    assert (short.outcome.item(), data.outcome.sel(rule="bptt").item()) == ("diverged", "trained")
    assert short.reason.item() == "seed 2: NonFiniteError: loss; seed 3: NonFiniteError: loss"
    assert data.reason.sel(rule="bptt").item() == ""
    assert short.checkpoint.item() == "short-1"
    assert short.checkpoint_by_seed.values.tolist() == ["short-1", "", ""]
    never = over_seeds([training(k, gone="short") for k in (1, 2)], [1, 2]).sel(rule="short")
    assert int(never.seeds_counted) == 0
    assert bool(never.effective_rank.isnull().all())
    assert bool(never.effective_rank_stderr.isnull().all())


def test_an_interrupted_seed_has_fewer_rules() -> None:
    data = over_seeds([training(1), training(2, ["bptt"])], [1, 2])
    assert data.rule.values.tolist() == RULES
    assert data.seeds_counted.values.tolist() == [2, 1]
    assert float(data.test_loss.sel(rule="short")) == float(training(1).test_loss.sel(rule="short"))
    assert data.outcome_by_seed.sel(rule="short").values.tolist() == ["trained", ""]


def test_it_comes_back_from_a_file(tmp_path: Path) -> None:
    data = over_seeds([training(1), training(2, gone="short")], [1, 2])
    xr.testing.assert_identical(read_dataset(write_dataset(data, tmp_path / "t.nc")), data)


@pytest.mark.parametrize(("count", "seeds"), [(1, [0]), (2, [0]), (0, [])])
def test_several_are_asked_for(count: int, seeds: list[int]) -> None:
    with pytest.raises(
        ArgumentError, match=r"trainings: expected two trainings or more, and a seed for each"
    ):
        over_seeds([training(k) for k in range(count)], seeds)
