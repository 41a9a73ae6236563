"""The page of any run against what it has recorded: its figures, bars, what is left out or failed."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from kpframe.errors import ArgumentError
from kpframe.study._disk.results import write_dataset
from kpframe.study._plot.grouped import grouped, stacked, variables_of
from kpframe.study._plot.recorded import maps
from kpframe.study._reading.join import Part, join
from kpframe.study._report.html import write_report
from kpframe.study._report.run import write_run_report

from ..recorded import ATTRIBUTES, cell, ended, figure, write_run  # noqa: TID252
from .data import comparison, study, training
from .page import Page, drawn, intervals, lines, pair, plain, read

LONG = "a very long label of a network, longer than any panel is wide, with <b>tags</b> in it"
GAINS, SEEDS, STEPS = (0.5, 1.0, 4.0), (0, 1, 2), (0, 10, 240)
NETWORKS = ("GRU <b>", "$RNN_1$")


def swept() -> tuple[list, Callable, Callable]:
    """A sweep of two networks over three gains, from three seeds; one training diverged, one is under way."""
    cells = [
        cell(f"{n}{g}{s}", STEPS, network=name, gain=g, seed=s)
        for n, name in zip("gr", NETWORKS, strict=True)
        for g in GAINS
        for s in SEEDS
    ]
    for place, one in enumerate(cells):
        one["name"] = f"c{place}"
    draw = np.random.default_rng(0)

    def measured(one, step):
        if one["name"] == "c17" and step == 240:
            return xr.Dataset()
        kernel = draw.normal(size=(2, 4, 4))
        failing = one["coordinates"]["gain"] == 4.0
        data = xr.Dataset(
            {
                "loss": figure(
                    float(np.exp(draw.normal())), text="test loss", units="nat", quantity="scores"
                ),
                "rank": figure(np.exp(draw.normal(size=2)), "operator"),
                "rank_stderr": figure([0.01, 0.02], "operator"),
                "value": figure(np.full((2, 3), np.nan if failing else 1 + draw.random()), ("operator", "k")),
                "value_converged": figure(np.tile([True, False, True], (2, 1)), ("operator", "k")),
                "kernel": figure(kernel, ("operator", "time", "time_other"), quantity="views"),
                "block": figure(np.zeros((2, 2, 2)), ("time_a", "time_b", "time_c"), quantity="views"),
                "width": figure(37),
                "share": figure(1 + 1e-7 * len(one["name"])),
                "overlap": figure([1.0, 1 + 4e-7, 1.0], "k"),
                "quantity_failure": ("quantity", np.array(["", "LinAlgError: no <limit>" * failing], object)),
            },
            {"operator": ["K", "Phi"], "k": [1, 2, 3], "time": np.arange(4), "quantity": ["ranks", "values"]},
        )
        data["value"].attrs["quantity"] = "values"
        return data

    def losses(one):
        if one["name"] == "c17":
            return None
        made = np.exp(draw.normal(size=240))
        if one["name"] == "c16":
            made[100:] = np.nan
            return ended(made, "diverged", "NonFiniteError: <loss>")
        return ended(made)

    return cells, measured, losses


def few(step: int | None = None) -> tuple[list, Callable, Callable]:
    """Two networks from one seed, at three steps or at one."""
    data = study()
    own = data.drop_vars(["training_loss", "update"])
    cells = [
        cell(str(n), [step] if step is not None else data.step.values.tolist()) for n in data.network.values
    ]
    return (
        cells,
        lambda one, at: own.sel(network=one["name"], step=at, drop=True),
        lambda one: None if step is not None else ended(data.training_loss.sel(network=one["name"]).values),
    )


RUNS: dict[str, tuple[Callable, dict]] = {
    "swept": (swept, {"state": "finished"}),
    "few": (few, {"state": "finished"}),
    "one step": (lambda: few(step=30), {"command": "track", "state": "finished"}),
}


@cache
def made(kind: str) -> tuple[Page, xr.Dataset, str]:
    """The page of a run, what it has recorded, and the text of the page."""
    parts, record = RUNS[kind]
    cells, measured, losses = parts()
    data = together(cells, measured, losses)
    with TemporaryDirectory() as folder, drawn() as figures:
        run = write_run(Path(folder) / "run", [one | {"steps": []} for one in cells], measured, **record)
        write_dataset(data, run / "results.nc")
        path = write_run_report(run)
        assert path == run / "report.html"
        html = path.read_text(encoding="utf-8")
        return read(html, figures), data, html


def together(cells: list, measured: Callable, losses: Callable) -> xr.Dataset:
    """Return what the cells measure as one dataset, without files between."""
    names = list(cells[0]["coordinates"])
    along = {
        name: xr.Variable(name, list(dict.fromkeys(one["coordinates"][name] for one in cells)))
        for name in names
    }
    parts = []
    for one in cells:
        steps = {"step": xr.Variable("step", one["steps"])}
        rows = [Part.of(measured(one, step), (at,), str(step)) for at, step in enumerate(one["steps"])]
        data = join(rows, steps)
        if (came := losses(one)) is not None:
            data = data.merge(came)
        place = tuple(along[name].values.tolist().index(one["coordinates"][name]) for name in names)
        parts.append(Part.of(data, place, one["name"]))
    return join(parts, along).assign_attrs(ATTRIBUTES)


def t_interval(values: np.ndarray) -> tuple[float, float, float]:
    known = values[~np.isnan(values)]
    low, high = stats.t.interval(0.95, len(known) - 1, known.mean(), stats.sem(known))
    return known.mean(), low, high


@pytest.mark.slow
def test_a_sweep_has_means_and_t_intervals_over_its_axis() -> None:
    page, data, _ = made("swept")
    section = page.section("Figures at the last step, over gain")
    panels = {plain(panel.get_title()): panel for panel in section.panels}
    assert set(panels) == {"loss", "rank, K", "rank, Phi"}  # what is the same everywhere is not drawn
    for title, panel in panels.items():
        name, _, operator = title.partition(", ")
        values = data[name].sel(operator=operator) if operator else data[name]
        shown = {plain(label).replace("\\", ""): xy for label, xy in lines(panel).items()}
        bars = {plain(label).replace("\\", ""): ends for label, ends in intervals(panel).items()}
        assert list(shown) == list(NETWORKS)
        for network, (x, y) in shown.items():
            np.testing.assert_array_equal(x, GAINS)
            for at, gain in enumerate(GAINS):
                own = values.sel(network=network, gain=gain, step=240).values
                mean, low, high = t_interval(own)
                assert y[at] == pytest.approx(mean, rel=1e-12)
                assert bars[network][at] == pytest.approx((low, high), rel=1e-9)
    assert (
        "Means over the seeds 0, 1, 2; bars are 95% intervals by Student's t over the seeds"
        in section.caption
    )
    assert "At the last step recorded, 240 updates." in section.caption


def test_figures_over_steps_have_a_line_for_each_group() -> None:
    page, data, _ = made("swept")
    section = page.section("A figure (ranks)")
    assert [plain(panel.get_title()) for panel in section.panels] == ["rank, K", "rank, Phi"]
    for panel, operator in zip(section.panels, ("K", "Phi"), strict=True):
        shown = lines(panel)
        assert [plain(name).replace("\\", "") for name in shown] == [
            f"{n}, gain {g}" for n in NETWORKS for g in GAINS
        ]
        for (x, y), (network, gain) in zip(
            shown.values(), ((n, g) for n in NETWORKS for g in GAINS), strict=True
        ):
            own = data["rank"].sel(network=network, gain=gain, operator=operator)
            np.testing.assert_array_equal(x, STEPS)
            np.testing.assert_allclose(y, own.mean("seed"))
        assert panel.get_xlabel() == "updates made"
    assert "rank: a figure." in section.caption
    told = page.section("The numbers").caption
    for name in ("width is 37", "share is 1", "overlap is 1"):  # but for rounding
        assert f"{name} everywhere." in told


def test_curves_show_which_values_are_bounds_and_what_is_left_out() -> None:
    page, data, _ = made("swept")
    section = page.section("A figure (value)")
    assert len(section.panels) == 4 * 2
    panel = section.panels[1]
    assert plain(panel.get_title()) == "GRU <b>, gain 0.5, Phi"
    own = data.value.sel(network="GRU <b>", gain=0.5, operator="Phi").mean("seed")
    for (x, y), step in zip(lines(panel).values(), (0, 240), strict=True):
        np.testing.assert_array_equal(x, [1, 2, 3])
        np.testing.assert_allclose(y, own.sel(step=step))
    open_ = [line.get_ydata() for line in panel.get_lines() if line.get_markerfacecolor() == "w"]
    assert [np.flatnonzero(~np.isnan(ydata)).tolist() for ydata in open_] == [[1], [1]]
    assert "Open markers: lower bounds, as the value did not converge." in section.caption
    assert "Not drawn: 2 more groups." in section.caption
    empty = section.panels[5]
    assert plain(empty.get_title()) == "GRU <b>, gain 4.0, Phi"
    assert [text.get_text() for text in empty.texts] == ["no values"]


def test_matrices_are_maps_of_one_seed_and_say_so() -> None:
    page, data, _ = made("swept")
    section = page.section("A figure (kernel)")
    panel = section.panels[1]
    assert plain(panel.get_title()) == "GRU <b>, gain 0.5, Phi, after 240 updates"
    (image,) = panel.images
    own = data.kernel.sel(network="GRU <b>", gain=0.5, seed=0, operator="Phi", step=240)
    np.testing.assert_array_equal(image.get_array(), own)
    assert image.get_clim()[0] == -image.get_clim()[1]
    assert "Of seed 0 alone." in section.caption
    last, where = data.kernel.sel(network="GRU <b>", gain=0.5, seed=0, operator="Phi", step=240).values, {}
    np.fill_diagonal(last, np.nan)
    for how, find in (("min", np.nanargmin), ("max", np.nanargmax)):
        row, column = np.unravel_index(find(last), last.shape)
        where[how] = f"{last[row, column]:.3g} (time {row}, time_other {column})"
    assert section.text[0].startswith(
        f"A figure of Phi in seed 0 after 240 updates off its diagonal is between {where['min']} and "
        f"{where['max']} in “GRU <b>, gain 0.5”"
    )
    assert "Recorded and not drawn: block (" in page.section("The numbers").caption


def test_a_matrix_over_steps_with_modes_is_that_of_the_first() -> None:
    values = np.random.default_rng(0).normal(size=(1, 3, 3, 2))
    steps = [0, 5, 9]
    data = xr.Dataset(
        {"likeness": figure(values, ("network", "step", "step_other", "view_mode"))},
        {"network": ["a"], "step": steps, "step_other": steps, "view_mode": [1, 2]},
    )
    run = grouped(data, ["network"])
    (variable,) = variables_of(run)
    drawn_map = maps(run, variable)
    (mesh,) = drawn_map.figure.axes[0].collections
    np.testing.assert_array_equal(mesh.get_array(), values[0, :, :, 0])
    np.testing.assert_allclose(mesh.get_coordinates()[0, :, 0], [-2.5, 2.5, 7, 11])  # by their number
    assert "Of the first view mode alone." in drawn_map.left_out


def test_losses_have_a_line_for_each_seed_in_the_colour_of_the_group() -> None:
    page, _, _ = made("swept")
    (panel,) = page.section("Learning").panels
    ends = [line for line in panel.get_lines() if line.get_marker() == "x"]
    assert [line.get_xdata()[0] for line in ends] == [100]  # the update at which one diverged
    assert len(panel.get_lines()) == 17 + 1
    assert len({line.get_color() for line in panel.get_lines()}) == 6
    assert len(lines(panel)) == 6


def test_failures_and_ends_are_listed() -> None:
    page, _, html = made("swept")
    numbers = page.section("The numbers").caption
    assert numbers.count("Failed: ") == 1
    assert (
        "Failed: values, at GRU <b>, gain 4.0, seed 0, step 0 and 16 more (LinAlgError: no <limit>)."
        in numbers
    )
    rows = page.section("How each training ended").tables[0]
    assert rows[0] == ["network", "seed", "training", "stopped at", "why", "last loss"]
    by = {(row[0], row[1]): row[2:5] for row in rows[1:]}
    assert by["$RNN_1$, gain 4.0", "1"] == ["diverged", "update 101", "NonFiniteError: <loss>"]
    assert by["$RNN_1$, gain 4.0", "2"] == ["no end recorded", "-", "-"]
    assert by["GRU <b>, gain 0.5", "0"] == ["trained", "-", "-"]
    assert "<b>" not in html.replace("&lt;b&gt;", "")


def test_tables_have_means_and_errors_over_seeds() -> None:
    page, data, _ = made("swept")
    rows = {
        tuple(row[1:4]): row[4:]
        for row in page.section("Figures at the last step recorded, after 240 updates").tables[0][1:]
    }
    assert page.section("Figures at the last step recorded, after 240 updates").tables[0][1][0] == "test loss"
    own = data["rank"].sel(network="GRU <b>", gain=1.0, step=240, operator="Phi").values
    mean, low, high = t_interval(own)
    assert rows["rank", "GRU <b>, gain 1.0", "Phi"] == [
        pair(mean, (high - low) / 2 / stats.norm.ppf(0.975)),
        "none",
        "3 of 3",
    ]
    assert rows["loss", "$RNN_1$, gain 4.0", ""][1:] == ["nat", "2 of 3"]
    assert "± is the standard error of the mean over the seeds" in page.section("What was found").caption


@pytest.mark.slow
def test_few_networks_from_one_seed_have_the_sections_of_a_study() -> None:
    page, data, _ = made("few")
    names = list(page.sections)
    for name in ("Learning", "Effective ranks along the training", "Spectra before and after"):
        assert names.count(name) == 1
    assert not any("effective_rank" in name for name in names)
    panel = page.section("Effective ranks along the training").panels[0]
    np.testing.assert_array_equal(
        lines(panel)[r"$\Phi$"][1], data.effective_rank.sel(network="GRU", operator="Phi")
    )
    section = page.section("The trace (trace)")
    panel = next(p for p in section.panels if plain(p.get_title()) == "trace, Phi")
    ends = intervals(panel)["RNN"]
    own = data.sel(network="RNN", operator="Phi")
    np.testing.assert_allclose(ends[:, 1] - ends[:, 0], 2 * 1.96 * own.trace_stderr, rtol=1e-6)
    assert "One seed: bars are 95% intervals of the estimates alone" in section.caption
    assert "so far" not in page.sections[""].caption


@pytest.mark.slow
def test_one_step_alone_tells_of_no_change() -> None:
    page, data, _ = made("one step")
    assert page.sections[""].text[0].startswith("2 networks: GRU and RNN. Recorded once, after 30 updates.")
    rank = data.effective_rank.sel(operator="Phi", network="RNN").item()
    error = data.effective_rank_stderr.sel(operator="Phi", network="RNN").item()
    section = page.section("The effective_rank (effective_rank)")
    caption = section.caption
    assert f"{pair(rank, error)} in RNN" in caption
    assert "One step alone is recorded, after 30 updates: how it changes cannot be said." in caption
    assert not any("before and after" in name for name in page.sections)
    panel = next(p for p in section.panels if plain(p.get_title()) == "effective rank, Phi")
    x, y = lines(panel)["RNN"]
    assert (x.tolist(), y.tolist()) == (
        [30],
        data.effective_rank.sel(network="RNN", operator="Phi").values.tolist(),
    )
    assert list(lines(page.section("The singular_value (singular_value)").panels[0])) == ["after 30 updates"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("command", "name", "data", "heading"),
    [
        ("train", "training", training, "The geometry they end in"),
        ("compare", "comparison", lambda: comparison(1), "RNN-000000: Which rules agree"),
        ("study", "results", study, "Which trials learn together"),
    ],
)
def test_commands_with_a_page_of_their_own_keep_it(tmp_path: Path, command, name, data, heading: str) -> None:
    run = write_run(tmp_path / "run", [], None, command=command, state="finished")
    record = json.loads((run / "run.json").read_text())
    del record["cells"]
    (run / "run.json").write_text(json.dumps(record))
    if name != "results":
        with pytest.raises(ArgumentError, match=rf"has no {name}\.nc yet"):
            write_run_report(run)
    write_dataset(data(), run / f"{name}.nc")
    with drawn() as figures:
        path = write_run_report(run)
    assert path == run / ("report.html" if name == "results" else f"{name}.html")
    assert heading in read(path.read_text(encoding="utf-8"), figures).sections


def test_the_page_needs_nothing_else_and_takes_any_name(tmp_path: Path) -> None:
    """Drawn indeed, with names that are markup, formulas or long."""
    measured = lambda one, step: xr.Dataset(  # noqa: E731
        {"figure": figure([1.0 + step, 2.0], "parameter", text="of <i>x</i>")},
        {"parameter": ["_b$1$", LONG]},
    )
    run = write_run(
        tmp_path / "run", [cell("a", network=LONG), cell("b", network="$x$ & <script>")], measured
    )
    html = write_run_report(run).read_text(encoding="utf-8")
    assert html.count("<svg") == 1
    assert not re.search(r"<script|<b>|<i>|src=|href=\"http|@import|url\(http", html)
    assert "&lt;script&gt;" in html


@pytest.mark.slow
def test_a_demo_that_is_finished_has_the_page_of_the_demo(tmp_path: Path) -> None:
    cells, measured, _ = few()
    cells = [one | {"steps": []} for one in cells]
    run = write_run(tmp_path / "run", cells, measured, command="demo", state="finished")
    data = together(*few())
    write_dataset(data, run / "results.nc")
    with drawn() as figures:
        page = read(write_run_report(run).read_text(encoding="utf-8"), figures)
    with drawn() as figures:
        expected = read(write_report(data, tmp_path / "page.html").read_text(encoding="utf-8"), figures)
    assert {name: one.text for name, one in page.sections.items()} == {
        name: one.text for name, one in expected.sections.items()
    }


def test_trainings_of_no_updates_are_told_apart_like_others() -> None:
    data = xr.Dataset(
        {
            "rank": (("network", "gain", "step"), np.arange(6.0).reshape(2, 3, 1)),
            "training_loss": (("network", "gain", "update"), np.empty((2, 3, 0))),
        },
        coords={"network": ["a", "b"], "gain": [0.5, 1.0, 2.0], "step": [0]},
    )
    found, labels = stacked(data, ["network", "gain"])
    assert labels[:2] == ["a, gain 0.5", "a, gain 1.0"]
    assert found["rank"].values.ravel().tolist() == [0, 1, 2, 3, 4, 5]
