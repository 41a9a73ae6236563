"""Captions are computed: of data with the opposite finding they say the opposite, of none nothing."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr

from kpframe.study._plot.grouped import grouped, variables_of
from kpframe.study._report import captions_of_operators as operators
from kpframe.study._report import captions_of_rules as rules
from kpframe.study._report import captions_of_runs as runs

from ..recorded import figure  # noqa: TID252
from .data import comparison, seeds, study, training


def with_rank(first: float, last: float, error: float = 1.0) -> str:
    """What is said of effective ranks that go from one value to another in the one network."""
    data = study().isel(network=[0]).sel(operator=["Phi"])
    data.effective_rank[0, :, 0], data.effective_rank_stderr[:] = [first, first, last], error
    return operators.effective_ranks(data).found


def test_a_rank_falls_rises_or_does_neither_beyond_its_interval() -> None:
    assert with_rank(40, 20) == "Effective rank: that of Phi fell from 40.0 ± 1.0 to 20.0 ± 1.0 in GRU."
    assert with_rank(20, 40) == "Effective rank: that of Phi rose from 20.0 ± 1.0 to 40.0 ± 1.0 in GRU."
    same = "did not change beyond its 95% interval in GRU (40.0 ± 1.0, then 38.0 ± 1.0)."
    assert with_rank(40, 38) == f"Effective rank: that of Phi {same}"  # of a difference with an error of 1.4
    assert "fell" in with_rank(40, 38, error=0.5)
    assert with_rank(40, 40) == "Effective rank: that of Phi stayed at 40.0 ± 1.0 in GRU."


def test_a_rank_that_is_not_known_to_the_end_says_until_when() -> None:
    data = study().isel(network=[0]).sel(operator=["Phi"])
    data.effective_rank[0, :, 0], data.effective_rank_stderr[:] = [40, 20, np.nan], 1.0
    assert "(not known later than after 30 updates)" in operators.effective_ranks(data).found
    data.effective_rank[0, 1:, 0] = np.nan
    assert operators.effective_ranks(data).found == ""


def test_one_step_alone_has_no_change_to_tell() -> None:
    caption = operators.effective_ranks(study().isel(step=[1]))
    assert not {"rose", "fell"} & set(caption.found.split())
    assert "One step alone is recorded, after 30 updates" in caption.about


def group(values: np.ndarray, errors: np.ndarray | None = None) -> tuple:
    """A run with a figure along network, maybe seed, and step."""
    dims = ("network", "seed", "step") if values.ndim == 3 else ("network", "step")
    table = {"rank": figure(values, dims)}
    if errors is not None:
        table["rank_stderr"] = figure(errors, dims)
    names = [f"n{place}" for place in range(values.shape[0])]
    coords = {"network": names, "step": np.arange(values.shape[-1])}
    if values.ndim == 3:
        coords["seed"] = np.arange(values.shape[1])
    run = grouped(xr.Dataset(table, coords), [dim for dim in dims if dim != "step"])
    return run, variables_of(run)


def test_over_seeds_a_change_is_judged_by_the_differences_of_each_seed() -> None:
    level = np.array([10.0, 20.0, 30.0, 40.0])[:, None]
    moved = level - np.array([[0.0, 1.0], [0.0, 1.1], [0.0, 0.9], [0.0, 1.0]])
    found = runs.series(*group(moved[None]), "covers").found
    assert found == "A figure fell from 25 ± 10 to 24 ± 11 in n0."  # though its seeds are far apart
    found = runs.series(*group((moved + np.array([[0, 2.0], [0, 0], [0, 3.0], [0, 0]]))[None]), "").found
    assert "did not change beyond its 95% interval" in found
    moved[1:, 1] = np.nan
    assert "known of 1 of 4 seeds" in runs.series(*group(moved[None]), "").found
    moved[:] = np.nan
    moved[0, 0] = 1.0
    assert runs.series(*group(np.stack([level + np.array([0, 1]), moved])), "").found.endswith(
        "is not known at two steps in n1."
    )


def test_hundreds_of_groups_are_counted() -> None:
    last = np.concatenate([np.full(200, 1.0), np.full(60, 3.0), np.full(40, 2.01)])
    values = np.stack([np.full(300, 2.0), last], axis=1)
    values[7, 1] = -40.0
    found = runs.series(*group(values, np.full_like(values, 0.1)), "").found
    assert "fell in 200 (most clearly in n7, from 2.00 ± 0.10 to -40.00 ± 0.10)" in found
    assert "rose in 60 of 300 networks" in found
    assert "did not change beyond its 95% interval in 40" in found
    assert len(found) < 400


def kernels(within: float, between: float) -> xr.Dataset:
    data = study().isel(network=[0])
    labels = np.repeat([1, 2], 8)
    cosine = np.where(labels[:, None] == labels, within, between) + 0.001 * np.cos(
        np.arange(256).reshape(16, 16)
    )
    np.fill_diagonal(cosine, 1.0)
    own = xr.DataArray(
        np.broadcast_to((cosine + cosine.T) / 2, (1, 3, 2, 16, 16)),
        dims=("network", "step", "operator", "trial", "trial_other"),
        coords={name: data[name] for name in ("network", "step", "operator")},
    )
    return xr.Dataset({"trial_kernel": own}).assign_coords(trial_label=("trial", labels))


@pytest.mark.parametrize(
    ("within", "between", "said"),
    [(0.8, 0.1, "more than"), (0.1, 0.8, "less than"), (0.4, 0.4, "not distinguishably more or less than")],
)
def test_trials_of_a_class_are_alike_or_not(within: float, between: float, said: str) -> None:
    found = operators.trial_kernels(kernels(within, between)).found
    assert f"trials of one class are moved alike {said} those of two" in found
    assert f"{within:.2f} within and {between:.2f} between" in found


def test_the_nearest_rule_is_the_one_that_is_nearest() -> None:
    data = study()
    data.gradient_cosine[:, -1] = [[0.9, 0.4], [0.4, 0.9]]
    data.flow_alignment[:, -1], data.flow_alignment_stderr[:, -1] = [[0.5, 0.9], [0.9, 0.89]], 0.01
    gru, rnn = rules.rules(data).found.split("; ")
    a, b = (f"“{rule}”" for rule in data.rule.values)
    assert f"nearest to the exact gradient is that of {a} (cosine 0.9000), the furthest that of {b}" in gru
    assert f"most aligned with Phi that of {b} (0.900 ± 0.010)" in gru
    assert "not told apart" not in gru
    assert f"nearest to the exact gradient is that of {b} (cosine 0.9000), the furthest that of {a}" in rnn
    assert f"not told apart from {b} (0.890 ± 0.010)" in rnn
    data.gradient_cosine[:, -1] = 1.0
    assert "have the exact" in rules.rules(data).found.replace("has the exact", "have the exact")


def test_the_lowest_loss_and_whether_seeds_agree() -> None:
    data = training()
    data.test_loss[:] = [0.5, np.nan, 0.2, np.nan]
    found = rules.rule_losses(data).found
    assert "is that of rflo, 0.2000" in found
    assert "the next, bptt, is higher by 0.3. Of one seed" in found
    data.test_loss[0] = 0.1
    assert "is that of bptt, 0.1000" in rules.rule_losses(data).found
    data.test_loss[:] = np.nan
    assert rules.rule_losses(data).found == "No rule came to the end of its training."
    several = seeds(4)
    several.test_loss_by_seed.loc[{"rule": "bptt"}] = [0.3, 0.31, 0.29, 0.3]
    several.test_loss_by_seed.loc[{"rule": "rflo"}] = [0.5, 0.52, 0.49, 0.5]
    several.test_loss.loc[{"rule": ["bptt", "rflo"]}] = [0.3, 0.5]
    assert "the next, rflo, is higher by 0.2025 ± 0.0" in rules.rule_losses(several).found
    several.test_loss_by_seed.loc[{"rule": "rflo"}] = [0.1, 0.8, 0.2, 0.9]
    assert "is not told apart from it by the seeds" in rules.rule_losses(several).found


def test_the_network_least_like_the_first_is_named() -> None:
    data = training()
    data.alignment_with_first_stderr[:] = 0.01
    for least, values in (("rflo", [1, 0.9, 0.3, 0.6]), ("snap1", [1, 0.9, 0.3, 0.2])):
        data.alignment_with_first[:] = values
        told = f"least aligned with that of bptt is that of {least} ({min(values):.3f} ± 0.010)"
        assert told in rules.rule_geometry(data).found


def test_comparisons_name_the_rules_and_steps_that_stand_out() -> None:
    one = comparison(1).isel(checkpoint=0)
    cosines = np.eye(4)
    cosines[0, 1] = cosines[1, 0] = 0.9
    cosines[2, 3] = cosines[3, 2] = -0.7
    one["rule_cosine"] = one.rule_cosine.copy(data=cosines)
    found = rules.rule_cosines(one).found
    assert "agree most are those of bptt and truncated_bptt(window=2) (0.90)" in found
    assert "least those of rflo and “no flow” (-0.70), which oppose each other" in found
    falls = np.array([[1.0, 0, 0, 0], [1, 1, 1, 1], [0, 0, 0, 4], [-1, 0, 0, 0]])
    one["loss_rate_by_lag"] = one.loss_rate_by_lag.copy(data=-falls)
    found = rules.lags(one).found
    assert "100% for bptt, 25% for truncated_bptt(window=2) (90% within 3 steps)" in found
    assert "0% for rflo (90% within 3 steps)" in found
    assert "The loss grows along “no flow”." in found
    rate = np.zeros((4, 4, 4))
    rate[:, 3, 1] = -0.5
    one["loss_rate_by_pair"] = one.loss_rate_by_pair.copy(data=rate)
    assert "for bptt 0.5 nat from the error at step 3 to the use at step 1" in rules.pairs(one).found
    one["singular_value"] = one.singular_value * np.nan
    assert rules.flow_spectra(one).found == "No rule here has a flow on the state space."


def test_losses_tell_of_trainings_that_did_not_come_to_their_end() -> None:
    updates = np.arange(1, 41)
    falling = np.exp(-updates / 10)
    data = xr.Dataset(
        {
            "training_loss": figure(np.stack([falling, falling[::-1]]), ("network", "update")),
            "outcome": figure(np.array(["trained", "diverged"]), "network"),
        },
        {"network": ["a", "b"], "update": updates},
    )
    caption = runs.losses(grouped(data, ["network"]))
    assert caption.found.startswith("The training loss rose from 0.")
    assert "in b; fell from 0." in caption.found
    assert "1 of 2 trainings diverged: see the table of trainings." in caption.about
    assert "there is no interval" in caption.about


def test_curves_and_maps_say_where_they_are_largest() -> None:
    values = np.zeros((1, 2, 4, 4))
    values[0, 1, 2, 3] = 7.0
    steps = {"network": ["a"], "step": [0, 9], "time": np.arange(4), "time_other": np.arange(4)}
    run = grouped(
        xr.Dataset({"kernel": figure(values, ("network", "step", "time", "time_other"))}, steps), ["network"]
    )
    found = runs.maps(run, variables_of(run)[0]).found
    assert found == (
        "A figure after 9 updates off its diagonal is between 0 (time 0, time_other 1) and 7 (time 2, "
        "time_other 3) in a."
    )
    two = values[:, :, 2:, 2:] + values[:, :, 2:, 2:].swapaxes(-1, -2)  # one pair alone
    pair = xr.Dataset({"kernel": figure(two, ("network", "step", "time", "time_other"))}, {"network": ["a"]})
    run = grouped(pair, ["network"])
    assert runs.maps(run, variables_of(run)[0]).found == "A figure after 1 update off its diagonal is 7 in a."
    run = grouped(
        xr.Dataset({"curve": figure(values[..., 3], ("network", "step", "time"))}, steps), ["network"]
    )
    assert (
        "after 9 updates is largest at time 2 in a (0 to 7)"
        in runs.curves(run, variables_of(run)[0], "").found
    )
