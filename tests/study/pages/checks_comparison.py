"""What the page of ``kpframe compare`` and its table on the terminal must say of the dataset."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO

import numpy as np
import xarray as xr

from .checks_report import check_open, check_open_markers, check_provenance
from .page import Page, Section, lines, pair, plain, rows_on_terminal, spoken, ticks

#: Rows of the table of a checkpoint, by column.
HEAD = (
    "rule",
    "flow",
    "cosine of updates",
    "descent",
    "norm ratio",
    "metric's condition number",
    "alignment with Phi",
    "effective rank of F F*",
    "symmetric part",
    "|P - P_rule| / |P|",
)


def each(page: Page, data: xr.Dataset, heading: str) -> Iterator[tuple[xr.Dataset, Section]]:
    """Yield each checkpoint with its section of that heading."""
    for name in data.checkpoint.values:
        yield compared(data, name), page.sections[f"{name}: {heading}"]


def compared(data: xr.Dataset, name: str) -> xr.Dataset:
    """Return a checkpoint with the rules that did not fail on it."""
    one = data.sel(checkpoint=name)
    kept = data.rule.values[one.failure.values == ""].tolist()
    return one.sel(rule=kept, rule_other=kept)


def check_rule_lines(panel, value: xr.DataArray) -> None:
    """One line for each rule, over the other dimension's own coordinate."""
    (dim,) = set(value.dims) - {"rule"}
    shown = lines(panel)
    assert list(shown) == value.rule.values.tolist()
    for rule, (x, y) in shown.items():
        np.testing.assert_array_equal(x, value[dim])
        np.testing.assert_array_equal(y, value.sel(rule=rule))
    looks = {(line.get_color(), line.get_marker()) for line in panel.get_lines() if line.get_label() in shown}
    assert len(looks) == len(shown)


def check_lead(page: Page, data: xr.Dataset) -> None:
    assert page.title == data.attrs["title"]
    assert page.sections[""].caption.endswith(f": {spoken(data.rule.values.tolist())}.")
    check_provenance(page, data)


def check_agreement(page: Page, data: xr.Dataset) -> None:
    for one, section in each(page, data, "Which rules agree"):
        (panel,) = section.panels
        (image,) = panel.images
        np.testing.assert_array_equal(image.get_array(), one.rule_cosine)
        assert (image.get_clim(), image.cmap.name, image.origin) == ((-1, 1), "RdBu_r", "upper")
        numbered = [f"{plain(rule)} {place}" for place, rule in enumerate(one.rule.values, 1)]
        assert [plain(text) for text in ticks(panel.yaxis).values()] == numbered
        assert ticks(panel.xaxis) == {place: str(place + 1) for place in range(len(numbered))}
        written = {text.get_position(): text.get_text() for text in panel.texts}
        assert written == {
            (j, i): f"{float(one.rule_cosine[i, j]):.2f}"
            for i in range(len(numbered))
            for j in range(len(numbered))
        }
        assert "Cosines between the updates of two rules" in section.caption


def unit(one: xr.Dataset) -> str:
    """Return what a label says of the unit of the loss."""
    return {"nat": " [nat]", "1": ""}[one.loss_rate_by_lag.units]


def check_lags(page: Page, data: xr.Dataset) -> None:
    for one, section in each(page, data, "How far errors travel"):
        (panel,) = section.panels
        check_rule_lines(panel, -one.loss_rate_by_lag)  # a loss that falls is drawn upwards
        assert plain(panel.get_ylabel()) == f"fall of the loss{unit(one)} per unit learning rate"
        assert panel.get_xlabel() == "steps the error travels back"
        assert panel.get_yscale() == "linear"
        assert "speed at which the loss falls" in section.caption
        assert "below zero the loss grows" in section.caption


def check_times(page: Page, data: xr.Dataset) -> None:
    for one, section in each(page, data, "Step by step"):
        titles = [panel.get_title().removesuffix("-facing") for panel in section.panels]
        assert titles == one.facing.values.tolist()
        for panel, facing in zip(section.panels, titles, strict=True):
            check_rule_lines(panel, one.cosine_by_time.sel(facing=facing))
            low, high = panel.get_ylim()
            assert low <= -1
            assert high >= 1
            left, right = panel.get_xlim()
            assert left < 0
            assert right > one.sizes["time"] - 1
            assert panel.get_yscale() == "linear"
        assert [panel.get_xlabel() for panel in section.panels[2:]] == ["step", "step"]
        assert section.panels[0].get_ylabel() == section.panels[2].get_ylabel() == "cosine"
        assert "Past-facing: the contribution of the error at a step." in section.caption


def check_pairs(page: Page, data: xr.Dataset) -> None:
    for one, section in each(page, data, "Where learning comes from"):
        assert [plain(panel.get_title()) for panel in section.panels] == one.rule.values.tolist()
        fall, bounds = -one.loss_rate_by_pair, set()
        for panel, rule in zip(section.panels, one.rule.values, strict=True):
            (image,) = panel.images
            np.testing.assert_array_equal(image.get_array(), fall.sel(rule=rule))
            assert (image.cmap.name, image.origin) == ("RdBu_r", "lower")
            assert (image.get_extent()[0], image.get_extent()[2]) == (-0.5, -0.5)  # steps count from 0
            bounds.add(image.get_clim())
        assert len(bounds) == 1  # one colour bar for all panels
        low, high = bounds.pop()
        assert low == -high
        assert float(abs(fall).quantile(0.98)) <= high <= float(abs(fall).max())  # a few may be beyond
        assert plain(section.bar.get_ylabel()) == f"fall of the loss{unit(one)} per unit learning rate"
        beyond = float(abs(fall).max()) > high
        # the ends of a bar that is cut off are drawn as triangles
        (bar,) = [image.colorbar for panel in section.panels for image in panel.images if image.colorbar]
        assert bar.extend == ("both" if beyond else "neither")
        assert section.panels[0].get_ylabel() == "step of error"
        assert section.panels[-1].get_xlabel() == "step of use"
        assert (
            "the loss falls by an error at one step that reaches the parameters' use at an earlier one"
            in (section.caption)
        )


def check_spectra(page: Page, data: xr.Dataset) -> None:
    for one, section in each(page, data, "Spectra"):
        (panel,) = section.panels
        check_rule_lines(panel, one.singular_value)
        for rule in one.rule.values:
            check_open(panel, rule, one.sel(rule=rule))
        assert (panel.get_xlabel(), panel.get_ylabel()) == ("k", "singular value")
        assert panel.get_yscale() == "log"
        assert "Leading singular values of P K P_rule* E" in section.caption
        check_open_markers(section.caption, one.singular_value_converged)


def written(row: xr.Dataset) -> dict[str, str]:
    """Return the cells of a rule."""
    low, high = (float(row[f"symmetric_{end}"]) for end in ("smallest", "largest"))
    below, above = (not bool(row[f"symmetric_{end}_converged"]) for end in ("smallest", "largest"))
    ends = f"{'≤ ' if below else ''}{low:.3g} to {'≥ ' if above else ''}{high:.3g}"
    apart = f"{'' if bool(row.propagator_error_converged) else '~ '}{float(row.propagator_error):.3g}"
    cells = (
        row.rule.item(),
        row.formula.item(),
        f"{float(row.update_cosine):.4f}",
        f"{float(row.descent):.4f}",
        f"{float(row.norm_ratio):.3g}",
        f"{float(row.metric_condition):.3g}",
        pair(row.flow_alignment, row.flow_alignment_stderr),
        pair(row.effective_rank, row.effective_rank_stderr),
        "none" if np.isnan(low) else ends,
        apart,
    )
    return dict(zip(HEAD, cells, strict=True))


def check_tables(page: Page, data: xr.Dataset) -> None:
    for name in data.checkpoint.values:
        (table,) = page.sections[name].tables
        one = compared(data, name)
        expected = [written(one.sel(rule=rule)) for rule in one.rule.values]
        assert [dict(zip(table[0], row, strict=True)) for row in table[1:]] == expected
    (table,) = page.section("How the estimates were made").tables
    columns = ("flow_alignment", "effective_rank", "singular_value", "symmetric")
    heads = ("alignment with Phi", "effective rank", "singular values", "symmetric part")
    assert table[0] == ["checkpoint", "rule", *heads]
    assert table[1:] == [
        [name, rule, *(data[f"{c}_method"].sel(checkpoint=name, rule=rule).item() for c in columns)]
        for name in data.checkpoint.values
        for rule in compared(data, name).rule.values
    ]
    note = page.section("The numbers").caption
    assert "≤ and ≥ mark an eigenvalue that did not converge" in note
    assert "Estimates are given with one standard error" in note
    assert "below zero there are errors that the rule makes larger" in note
    for name in data.checkpoint.values:
        for rule in data.rule.values:
            text = data.failure.sel(checkpoint=name, rule=rule).item()
            model, why = data.model.sel(checkpoint=name).item(), text.removeprefix("UnsupportedError: ")
            skipped = f"Skipped: {rule} does not apply to {name} (model {model}): {why}."
            said = f"Failed: {name}, {rule}: {text}." if text == why else skipped
            assert (said in note) == bool(text)


def check_terminal(_: Page, data: xr.Dataset) -> None:
    """The terminal shows columns of the page's tables, cell by cell."""
    with redirect_stdout(StringIO()) as told:
        import_module("kpframe.cli._compare").show(data)
    head, *rows = rows_on_terminal(told.getvalue())[: 1 + int((data.failure == "").sum())]
    assert head[0] == "checkpoint"
    assert set(head[1:]) >= {"rule", "cosine of updates", "descent", "alignment with Phi", "symmetric part"}
    expected = [
        [name, *(written(data.sel(checkpoint=name, rule=rule))[column] for column in head[1:])]
        for name in data.checkpoint.values
        for rule in compared(data, name).rule.values
    ]
    assert rows == expected


CHECKS = (
    check_lead,
    check_agreement,
    check_lags,
    check_times,
    check_pairs,
    check_spectra,
    check_tables,
    check_terminal,
)
