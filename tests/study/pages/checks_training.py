"""What the page of ``kpframe train`` and its table on the terminal must say of the dataset."""

from __future__ import annotations

from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO

import numpy as np
import xarray as xr
from scipy import stats

from .checks_report import check_loss_panel, check_provenance, score_of
from .page import HALF_95, Page, lengths, lines, marked, pair, plain, rows_on_terminal, spoken, ticks


def check_lead(page: Page, data: xr.Dataset) -> None:
    assert page.title == data.attrs["title"]
    rules = spoken(data.rule.values.tolist())
    count = data.sizes.get("seed", 1)
    start = "One initial network" if count == 1 else f"From each of {count} seeds one initial network"
    assert page.sections[""].caption.startswith(f"{start}, trained on the same trials for ")
    assert f"on the same trials for {data.sizes['update']} updates by each of the rules: {rules}." in (
        page.sections[""].caption
    )
    check_provenance(page, data)


def check_learning(page: Page, data: xr.Dataset) -> None:
    section, (score, name) = page.section("Learning"), score_of(data)
    (panel,) = section.panels
    check_loss_panel(panel, data.training_loss, "rule")
    gone = data.rule.values[data.diverged_at.notnull()].tolist()
    shown = lines(panel)
    # a loss at update u is that of the network after u - 1 updates
    expected = [(float(data.diverged_at.sel(rule=rule)) - 1, shown[rule][1][-1]) for rule in gone]
    assert marked(panel) == expected
    before = f"{figure(data, 'test_loss_before')} and {name} {figure(data, f'{score}_before')}"
    assert f"Before training the test loss is {before}." in section.caption
    known = data.test_loss.dropna("rule")
    order = known.sortby(known)
    best, other = (data.sel(rule=order.rule[place]) for place in (0, 1))
    assert section.text[0].startswith(
        f"The lowest test loss after {data.sizes['update']} updates is that of {best.rule.item()}, "
        f"{figure(best, 'test_loss')} ({name} {figure(best, score)}); the next, {other.rule.item()}, is "
    )
    if "seed" in data.dims:
        gaps = (other.test_loss_by_seed - best.test_loss_by_seed).dropna("seed").values
        low, high = stats.t.interval(0.95, len(gaps) - 1, gaps.mean(), stats.sem(gaps))
        told = f"{pair(gaps.mean(), (high - low) / 2 / stats.norm.ppf(0.975))} over {len(gaps)} seeds"
        verdict = f"is higher by {told}" if low > 0 else f"is not told apart from it by the seeds ({told})"
        assert f"the next, {other.rule.item()}, {verdict}" in section.text[0]
    else:
        gaps = [f"{float(order[place] - order[0]):.4g}" for place in (1, -1)]
        highest = ""
        if order.size > 2:
            highest = f"; the highest, {quoted(order.rule[-1].item())}, is higher by {gaps[1]}"
        assert section.text[0].endswith(
            f"; the next, {other.rule.item()}, is higher by {gaps[0]}{highest}. Of one seed: whether other "
            "seeds would agree is not known."
        )
    if gone:
        assert f"Diverged, at the crosses: {', '.join(gone)}." in section.caption
    else:
        assert "Diverged" not in section.caption


def quoted(name: str) -> str:
    """Return a label as a sentence has it: in quotes where it has spaces or commas."""
    return f"“{name}”" if any(mark in name for mark in ", ") else name


def check_geometry(page: Page, data: xr.Dataset) -> None:
    section = page.section("The geometry they end in")
    *ranks, likeness = section.panels
    figures = [
        *(
            (data.effective_rank.sel(operator=o), data.effective_rank_stderr.sel(operator=o))
            for o in data.operator
        ),
        (data.alignment_with_first, data.alignment_with_first_stderr),
    ]
    for panel, (value, stderr) in zip(section.panels, figures, strict=True):
        shown, ends = lengths(panel)
        np.testing.assert_array_equal(shown, value)
        half = HALF_95 * stderr.where(np.isfinite(stderr))  # infinite: known of one seed only
        np.testing.assert_allclose(ends[:, 0], value - half, rtol=1e-9)
        np.testing.assert_allclose(ends[:, 1], value + half, rtol=1e-9)
        assert panel.get_xscale() == "linear"
    assert [panel.get_xlabel() for panel in ranks] == [f"effective rank of {o}" for o in data.operator.values]
    for panel, before in zip(ranks, data.effective_rank_before.values, strict=True):
        (line,) = [line for line in panel.get_lines() if line.get_linestyle() == "--"]
        assert list(line.get_xdata()) == [before, before]
    assert plain(likeness.get_xlabel()) == "alignment of Phi with that of the first rule"
    assert ranks[0].yaxis_inverted()
    names = dict(enumerate(data.rule.values.tolist()))
    assert {place: plain(text) for place, text in ticks(ranks[0].yaxis).items()} == names
    assert "After training, on the same held-out trials, with 95% intervals. Dashed: before training." in (
        section.caption
    )
    assert "A rule that diverged or failed has no bar." in section.caption
    first = data.rule.values[0]
    ranks = data.effective_rank.sel(operator="Phi").dropna("rule")
    low, high = (
        data.sel(rule=ranks.rule[int(place)], operator="Phi")
        for place in (ranks.argmin("rule"), ranks.argmax("rule"))
    )
    told = [
        f"{pair(one.effective_rank, one.effective_rank_stderr)} ({quoted(one.rule.item())})"
        for one in (low, high)
    ]
    if all(np.isfinite([float(low.effective_rank_stderr), float(high.effective_rank_stderr)])):
        assert f"{told[0]} to {told[1]}" in section.text[0]
    likeness = data.alignment_with_first[1:].dropna("rule")
    least = data.sel(rule=likeness.rule[int(likeness.argmin("rule"))])
    told = pair(least.alignment_with_first, least.alignment_with_first_stderr)
    if np.isfinite(float(least.alignment_with_first_stderr)):
        assert (
            f"the Phi least aligned with that of {first} is that of {quoted(least.rule.item())} ({told})"
            in (section.text[0])
        )
    what = "mean over seeds, by Student's t" if "seed" in data.dims else "estimates, for these networks"
    assert f"The intervals are those of the {what}." in section.caption


def number(value: xr.DataArray) -> str:
    return "-" if np.isnan(float(value)) else f"{float(value):.4f}"


def figure(data: xr.Dataset, name: str) -> str:
    """Return a figure, with its standard error over seeds where there are several."""
    return estimate(data[name], data[f"{name}_stderr"]) if "seed" in data.dims else number(data[name])


def estimate(value: xr.DataArray, stderr: xr.DataArray) -> str:
    return "-" if np.isnan(float(value)) else pair(value, stderr)


def results(data: xr.Dataset) -> list[dict[str, str]]:
    """Return the cells of the table of results, rule by rule."""
    score, name = score_of(data)
    found = []
    for rule in data.rule.values:
        one, gone = data.sel(rule=rule), bool(data.diverged_at.sel(rule=rule).notnull())
        ranks = {
            f"effective rank of {o}": estimate(
                one.effective_rank.sel(operator=o), one.effective_rank_stderr.sel(operator=o)
            )
            for o in data.operator.values
        }
        found.append(
            {
                "rule": rule,
                "test loss": figure(one, "test_loss"),
                f"test {name}": figure(one, score),
                "diverged at": f"update {int(one.diverged_at)}" if gone else "-",
                **ranks,
                "alignment with the first": estimate(
                    one.alignment_with_first, one.alignment_with_first_stderr
                ),
                "alignment with the initial": estimate(
                    one.alignment_with_initial, one.alignment_with_initial_stderr
                ),
                **(
                    {"seeds": f"{int(one.seeds_counted)} of {data.sizes['seed']}"}
                    if "seed" in data.dims
                    else {"checkpoint": one.checkpoint.item() or "-"}
                ),
            }
        )
    return found


def failures(data: xr.Dataset) -> list[str]:
    """Return what is said of each rule that raised an error."""
    return [
        f"{rule}, at update {int(one.failed_at)} ({one.reason.item()})"
        for rule in data.rule.values
        for one in [data.sel(rule=rule)]
        if one.outcome.item() == "failed"
    ]


def check_results(page: Page, data: xr.Dataset) -> None:
    (table,) = page.section("Results").tables
    assert [dict(zip(table[0], row, strict=True)) for row in table[1:]] == results(data)
    (table,) = page.section("How the estimates were made").tables
    ranks = {
        f"effective rank of {o}": data.effective_rank_method.sel(operator=o) for o in data.operator.values
    }
    how = ranks | {
        f"alignment with the {name}": data[f"alignment_with_{name}_method"] for name in ("first", "initial")
    }
    assert table[0] == ["rule", *how]
    assert table[1:] == [
        [rule, *(methods.sel(rule=rule).item() or "-" for methods in how.values())]
        for rule in data.rule.values
    ]
    note = page.section("The numbers").caption
    assert "Estimates are given with one standard error" in note
    covers = page.section("What was found").caption
    if "seed" in data.dims:
        assert (
            f"Means over the seeds {', '.join(str(seed) for seed in data.seed.values)}, each with" in covers
        )
    else:
        assert "One seed: ± and bars are those of the estimates alone" in covers
    assert note.endswith(" ".join(f"Failed: {failure}." for failure in failures(data)))


def check_changes(page: Page, data: xr.Dataset) -> None:
    (table,) = page.section("Change of each parameter, |change| / |initial|").tables
    assert table[0] == ["rule", *data.parameter.values]
    share = data.parameter_change / data.parameter_norm_before
    for row, rule in zip(table[1:], data.rule.values, strict=True):
        assert row == [rule, *(number(share.sel(rule=rule, parameter=name)) for name in data.parameter)]
    (table,) = page.section("Cosines between the changes of the parameters").tables
    names = [f"{place} {rule}" for place, rule in enumerate(data.rule.values, 1)]
    assert table[0] == ["rule", *(str(place) for place in range(1, len(names) + 1))]
    for row, name, rule in zip(table[1:], names, data.rule.values, strict=True):
        cosines = [number(data.change_cosine.sel(rule=rule, rule_other=other)) for other in data.rule_other]
        assert row == [name, *cosines]


def check_terminal(_: Page, data: xr.Dataset) -> None:
    """The terminal shows columns of the page's table of results, cell by cell."""
    with redirect_stdout(StringIO()) as told:
        import_module("kpframe.cli._train").show(data)
    head, *rows = rows_on_terminal(told.getvalue())[: 1 + data.sizes["rule"]]
    assert {"rule", "test loss", f"test {score_of(data)[1]}", "diverged at"} <= set(head)
    assert rows == [[row[column] for column in head] for row in results(data)]


CHECKS = (check_lead, check_learning, check_geometry, check_results, check_changes, check_terminal)
