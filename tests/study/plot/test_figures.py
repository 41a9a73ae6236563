"""Every figure of a run against what is recorded, and readable whatever the size of the data."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pytest
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy import stats

from kpframe import plot
from kpframe.errors import ArgumentError
from kpframe.study._plot.look import on

from .data import OPERATORS, compared, few_ticks, line_of, recorded

LONG = "a very long label of a network, longer than any panel is wide, with <b>tags</b> and $x_1$ in it, " * 2
#: Figures of few panels that between them use each kind of axis.
QUICK = ("losses", "alignment_maps", "credit_by_lag")
ONE = {"steps": [30], "networks": ["RNN"], "rules": ["r"], "time": 1, "trials": 1, "width": 1, "updates": 1}


def small(**sizes) -> xr.Dataset:
    return recorded(networks=["RNN"], **sizes)


def panel_of(drawn) -> Axes:
    return drawn if isinstance(drawn, Axes) else drawn.flat[0]


def check(name: str, data: xr.Dataset, **how) -> Figure:
    figure = on(getattr(plot, name)(data, **how))
    assert few_ticks(figure) == []
    return figure


@pytest.mark.parametrize("name", QUICK)
@pytest.mark.rows(3)
def test_one_of_everything_has_three_ticks_on_each_axis_and_can_be_seen(name: str) -> None:
    data = recorded(**ONE)
    figure = check(name, data)
    for panel in figure.axes:
        for line in panel.get_lines():
            assert line.get_marker() not in ("", "None") or len(line.get_xdata()) > 1


CASES = {
    "one of everything": ONE,
    "many": {
        "steps": [0, *range(1, 40), 500, 20000],
        "networks": [f"net {place}" for place in range(8)],
        "rules": [f"rule {place}" for place in range(40)],
        "width": 30,
        "time": 300,
        "trials": 60,
        "updates": 3000,
    },
    "odd names, gaps and seeds": {
        "networks": [LONG, "_$b$ & <i>"],
        "seeds": 3,
        "gains": [0.01, 1.0, 30.0],
        "rules": [LONG, "_x$"],
    },
}


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_every_figure_is_readable(case: str) -> None:
    data = recorded(**CASES[case])
    if "seed" in data.dims:
        for values in data.data_vars.values():
            if {"step", "network"} <= set(values.dims) and values.dtype.kind == "f":
                values[{"network": 0, "gain": 0, "step": 1}] = np.nan
    names = plot.figures_of(data)
    assert len(names) >= 35
    for name in names:
        check(name, data)


def test_what_is_left_out_is_said() -> None:
    data = recorded(networks=[f"net {place}" for place in range(20)], rules=["r"])
    figure = on(plot.state_dimensions(data))
    (legend,) = figure.legends
    assert len(legend.get_texts()) == 14
    assert "Not drawn: 6 more lines; network=[...] chooses." in " ".join(
        legend.get_title().get_text().split()
    )
    all_drawn = on(plot.state_dimensions(data, network=["net 3", "net 19"]))
    assert [text.get_text() for text in all_drawn.legends[0].get_texts()] == ["net 3", "net 19"]
    assert "Not drawn" not in all_drawn.legends[0].get_title().get_text()


def test_lines_over_steps_are_the_values_with_intervals_of_the_estimates() -> None:
    data = recorded()
    panels = plot.effective_ranks(data)
    assert [panel.get_title() for panel in panels.flat] == ["GRU", "RNN"]
    own = data.effective_rank.sel(network="RNN", operator="Phi")
    x, y = line_of(panels.flat[1], r"$\Phi$")
    np.testing.assert_array_equal(x, data.step)
    np.testing.assert_array_equal(y, own)
    bars = next(one for one in panels.flat[1].containers if one.get_label() == r"$\Phi$").lines[2][0]
    half = np.array([part[1, 1] - part[0, 1] for part in bars.get_segments()]) / 2
    np.testing.assert_allclose(half, 1.96 * data.effective_rank_stderr.sel(network="RNN", operator="Phi"))
    title = on(panels).legends[0].get_title().get_text()
    assert title == "Bars: 95% intervals of the estimates."


def test_intervals_over_seeds_are_students() -> None:
    data = small(seeds=4)
    (panel,) = plot.effective_ranks(data, operator="K").flat
    own = data.effective_rank.sel(network="RNN", operator="K")
    bars = panel.containers[0].lines[2][0].get_segments()
    for place, ends in enumerate(bars):
        values = own.isel(step=place).values
        expected = stats.t.interval(0.95, 3, values.mean(), stats.sem(values))
        np.testing.assert_allclose(ends[:, 1], expected, rtol=1e-9)
    text = on(panel).get_supxlabel()
    assert text == "Bars: 95% intervals over 4 seeds, by Student's t."
    one = plot.effective_ranks(data, operator="K", seed=2).flat[0]
    assert on(one).get_supxlabel() == "Bars: 95% intervals of the estimates."


def test_steps_stand_by_their_number_unless_asked() -> None:
    data = small()  # steps 0, 1, 10, 300
    panel = plot.scores(data)
    assert panel.get_xscale() == "symlog"
    np.testing.assert_array_equal(panel.get_lines()[0].get_xdata(), [0, 1, 10, 300])
    assert panel.get_xticks().tolist() == [0, 1, 10, 100]
    marked = plot.alignments(data).flat[0]  # with a line at 1
    assert marked.get_xticks().tolist() == [0, 1, 10, 100]
    assert -1 < marked.get_xlim()[0] < 0
    panel = plot.scores(data, step_axis="index")
    assert panel.get_xscale() == "linear"
    np.testing.assert_array_equal(panel.get_lines()[0].get_xdata(), [0, 1, 2, 3])
    assert [text.get_text() for text in panel.get_xticklabels()] == ["0", "1", "10", "300"]
    assert plot.scores(small(steps=[1, 10, 300])).get_xscale() == "log"
    assert plot.scores(small(steps=[0, 10, 20])).get_xscale() == "linear"
    with pytest.raises(ArgumentError, match=r"step_axis: expected 'true' or 'index', got 'log'"):
        plot.scores(data, step_axis="log")


def test_a_panel_for_each_point_of_a_sweep_or_a_line() -> None:
    data = recorded(gains=[0.5, 1.5])
    assert [panel.get_title() for panel in plot.effective_ranks(data).flat if panel.axison] == [
        f"{network}, gain {gain}" for network in ("GRU", "RNN") for gain in (0.5, 1.5)
    ]
    panels = plot.effective_ranks(data, panels="gain", operator="Phi")
    assert [panel.get_title() for panel in panels.flat] == ["gain 0.5", "gain 1.5"]
    for panel, gain in zip(panels.flat, (0.5, 1.5), strict=True):
        own = data.effective_rank.sel(gain=gain, operator="Phi")
        for network in ("GRU", "RNN"):
            np.testing.assert_array_equal(line_of(panel, network)[1], own.sel(network=network))
    with pytest.raises(ArgumentError, match=r"panels: expected dims of effective_rank: .*, got 'gian'; did"):
        plot.effective_ranks(data, panels="gian")


def test_curves_mark_what_did_not_converge() -> None:
    data = small(width=5)
    panels = plot.spectrum(data)
    assert [panel.get_title() for panel in panels.flat] == ["$PP^*$", "$K$", r"$\Phi$"]
    panel = panels.flat[2]
    one = data.sel(network="RNN", operator="Phi")
    for step in (0, 300):
        x, y = line_of(panel, f"after {step} updates")
        np.testing.assert_array_equal(x, data.k)
        np.testing.assert_array_equal(y, one.singular_value.sel(step=step))
    open_ = [line.get_ydata() for line in panel.get_lines() if line.get_markerfacecolor() == "w"]
    expected = one.singular_value.where(~one.singular_value_converged)
    np.testing.assert_array_equal(open_, expected.sel(step=[0, 300]))
    assert np.isnan(expected.values).any()
    assert not np.isnan(expected.values).all()
    chosen = plot.spectrum(data, step=[1, 10, 300]).flat[0].get_legend_handles_labels()[1]
    assert chosen == ["after 1 update", "after 10 updates", "after 300 updates"]


def test_maps_have_colours_by_the_signs_of_their_values() -> None:
    data = small()
    (first, last) = plot.routing(data).flat
    (image,) = last.images
    np.testing.assert_array_equal(image.get_array(), data.routing.sel(network="RNN", step=300))
    drawn = data.routing.sel(network="RNN", step=[0, 300])
    assert (image.cmap.name, image.get_clim()) == ("viridis", (0, float(drawn.max())))
    assert image.get_clim() == first.images[0].get_clim()
    image = plot.credit(data).flat[1].images[0]
    most = float(np.abs(data.credit.sel(step=[0, 300])).max())
    assert (image.cmap.name, image.get_clim()) == ("RdBu_r", (-most, most))
    image = (
        plot.heat_maps(data.assign(credit=-np.abs(data.credit)), "credit", "time", "time_other")
        .flat[0]
        .images[0]
    )
    assert image.cmap.name == "viridis_r"
    assert image.get_clim()[1] == 0


def test_maps_over_steps_stand_by_their_number_unless_asked() -> None:
    data = small()
    panel = plot.alignment_maps(data, operator="Phi").flat[0]
    (mesh,) = panel.collections
    edges = mesh.get_coordinates()[0, :, 0]
    np.testing.assert_allclose(edges, [-0.5, 0.5, 10**0.5, 3000**0.5, 300**1.5 / 10**0.5])
    assert panel.get_xscale() == panel.get_yscale() == "symlog"
    assert panel.yaxis_inverted()
    own = data.alignment_map.sel(network="RNN", operator="Phi")
    np.testing.assert_array_equal(mesh.get_array(), own)
    panel = plot.alignment_maps(data, operator="Phi", step_axis="index").flat[0]
    np.testing.assert_array_equal(panel.images[0].get_array(), own)
    assert [text.get_text() for text in panel.get_xticklabels()] == ["0", "1", "10", "300"]


def test_missing_values_are_grey_and_said() -> None:
    data = small()
    data.ftle[{"step": 3, "trial": 1, "time": 2}] = np.nan
    panels = plot.finite_time_exponents(data)
    array = panels.flat[1].images[0].get_array()
    assert np.flatnonzero(np.ma.getmaskarray(array)).tolist() == [1 * 5 + 2]
    assert "Grey: no value." in on(panels).get_supxlabel()
    assert mpl.colors.to_hex(panels.flat[1].images[0].cmap.get_bad()) == "#d9d9d9"
    data.state_participation_ratio[:] = np.nan
    assert [text.get_text() for text in plot.state_dimensions(data).texts] == ["no values"]


def test_a_sweep_beside_its_theory() -> None:
    data = recorded(gains=[0.5, 1.0, 2.0])
    panel = plot.sweep(data, "effective_rank", "gain", operator="K", theory=lambda g: 3 * g).flat[0]
    own = data.effective_rank.sel(operator="K", step=300, network="RNN")
    x, y = line_of(panel, "RNN")
    np.testing.assert_array_equal(x, data.gain)
    np.testing.assert_array_equal(y, own)
    x, y = line_of(panel, "theory")
    np.testing.assert_allclose(y, 3 * x)
    assert (x[0], x[-1]) == (0.5, 2.0)
    early = plot.sweep(data, "effective_rank", "gain", operator="K", step=1).flat[0]
    np.testing.assert_array_equal(
        line_of(early, "RNN")[1], data.effective_rank.sel(operator="K", step=1, network="RNN")
    )
    with pytest.raises(
        ArgumentError, match=r"theory: expected 3 values, one for each gain, got shape \(2,\)"
    ):
        plot.sweep(data, "effective_rank", "gain", theory=[1.0, 2.0])


def test_a_map_of_two_axes_of_a_sweep() -> None:
    data = recorded(gains=[0.5, 1.0, 2.0])
    panel = plot.heat_maps(data, "effective_rank", "network", "gain", operator="K", step=10).flat[0]
    np.testing.assert_array_equal(panel.images[0].get_array(), data.effective_rank.sel(operator="K", step=10))
    assert [text.get_text() for text in panel.get_xticklabels()] == ["0.5", "1", "2"]
    assert [text.get_text() for text in panel.get_yticklabels()] == ["GRU", "RNN"]
    with pytest.raises(ArgumentError, match="columns: expected another dim than rows, 'gain'"):
        plot.heat_maps(data, "effective_rank", "gain", "gain")


def test_alignments_along_gain_have_a_line_for_each_step() -> None:
    data = small(gains=[0.5, 1.5], steps=[0, 300])
    pair = {"operator": "P P*", "operator_other": "Phi"}
    (panel,) = [one for one in plot.operator_alignments(data, x="gain", **pair).flat if one.axison]
    for step in (0, 300):
        own = data.operator_alignment.sel(step=step, network="RNN", **pair)
        np.testing.assert_array_equal(line_of(panel, f"after {step} updates")[1], own)


def test_trajectories_with_the_readout() -> None:
    data = small()
    panel = plot.trajectories(data, step=10, components=(1, 3)).flat[0]
    paths = data.pc_trajectory.sel(network="RNN", step=10)
    for trial, line in enumerate(panel.get_lines()[::2]):
        np.testing.assert_array_equal(np.array(line.get_xydata()), paths[trial][:, [0, 2]])
    rows = data.pc_readout.sel(network="RNN", step=10).values[:, [0, 2]]
    tips = np.array([arrow.xy for arrow in panel.texts])
    np.testing.assert_allclose(tips[1] * np.linalg.norm(rows[0]), rows[1] * np.linalg.norm(tips[0]))
    share = float(data.pc_explained.sel(network="RNN", step=10, pc=3))
    assert panel.get_ylabel() == f"component 3 ({share:.0%})"
    with pytest.raises(ArgumentError, match=r"components: expected two of \[1, 2, 3\], got \(1, 4\)"):
        plot.trajectories(data, components=(1, 4))


def test_figures_of_rules_at_once() -> None:
    data = compared()
    panel = plot.losses(data)
    (cross,) = [line for line in panel.get_lines() if line.get_marker() == "x"]
    assert cross.get_xdata()[0] == 29  # the loss at update 30 is that after 29 updates
    many = compared([f"rule {place}" for place in range(40)])
    panel = plot.rule_cosines(many)
    assert panel.images[0].get_array().shape == (40, 40)
    assert not panel.texts
    assert few_ticks(on(plot.rule_cosines(data))) == []
    legend = on(plot.lags(many)).legends[0]
    assert len(legend.get_texts()) == 14
    assert "26 more rules; rule=[...] chooses" in " ".join(legend.get_title().get_text().split())
    both = xr.concat([data, data], "checkpoint").assign_coords(checkpoint=["a", "b"])
    with pytest.raises(ArgumentError, match=r"checkpoint: expected one, got 2 \('a', 'b'\); choose: check"):
        plot.rule_cosines(both)
    np.testing.assert_array_equal(
        plot.rule_cosines(both, checkpoint="b").images[0].get_array(), data.rule_cosine
    )


def test_axes_that_are_given_are_drawn_on() -> None:
    data = recorded()
    figure = Figure()
    given = figure.subplots(1, 2)
    panels = plot.effective_ranks(data, axes=given)
    assert [one is other for one, other in zip(panels.flat, given, strict=True)] == [True, True]
    assert figure.legends == []
    ax = Figure().subplots()
    assert plot.scores(data, ax=ax) is ax
    with pytest.raises(ArgumentError, match=r"axes: expected 2 Axes \(1 x 2\), got 1 of them"):
        plot.effective_ranks(data, axes=[ax])


def test_what_is_missing_names_the_quantity_to_record() -> None:
    data = small().drop_vars(["effective_rank", "test_accuracy"])
    with pytest.raises(ArgumentError) as error:
        plot.effective_ranks(data)
    assert str(error.value) == (
        "effective_ranks: the data have no 'effective_rank'; record it: "
        '[[quantity]] name = "effective_rank"'
    )
    with pytest.raises(ArgumentError, match=r"'test_accuracy or test_r2'; record it: .* name = \"scores\""):
        plot.scores(data)
    assert "effective_ranks" not in plot.figures_of(data)
    assert {"effective_ranks", "scores", "spectrum"} <= set(plot.figures_of(small()))


def test_a_quantity_with_a_label_of_its_own() -> None:
    from kpframe.study._record import labelled

    plain, other = small(), recorded(networks=["RNN"], width=2)
    for data in (plain, other):
        for values in data.data_vars.values():
            values.attrs["quantity"] = "spectrum"
    late = labelled("late:spectrum", 3 * other[["singular_value", "singular_value_converged"]])
    for values in late.data_vars.values():
        values.attrs["quantity"] = "late:spectrum"
    both = plain.merge(late)
    assert both.sizes["k"] == 3 > both.sizes["late_k"] == 2

    def drawn(data: xr.Dataset, **how) -> np.ndarray:
        return np.asarray(panel_of(plot.spectrum(data, **how)).get_lines()[0].get_ydata(), float)

    np.testing.assert_array_equal(drawn(both), drawn(plain))
    np.testing.assert_array_equal(drawn(both, label="late"), 3 * drawn(other))
    with pytest.raises(ArgumentError, match="label: expected a label that a quantity of the study has: late"):
        plot.spectrum(both, label="lat")
    with pytest.raises(ArgumentError, match="as no quantity of the study has a label, got 'late'"):
        plot.spectrum(plain, label="late")


def test_a_selection_that_is_not_there() -> None:
    data = small()
    with pytest.raises(ArgumentError, match=r"operator: expected one of 'P P\*', 'K', 'Phi', got 'Phy'; did"):
        plot.traces(data, operator="Phy")
    with pytest.raises(
        ArgumentError, match=r"netwrk: expected one of .*, got no dim of the data; did you mean"
    ):
        plot.traces(data, netwrk="RNN")
    with pytest.raises(ArgumentError, match=r"name: expected a variable of the data: .*did you mean 'trace'"):
        plot.series(data, "trac")
    with pytest.raises(ArgumentError, match="data: expected a Dataset, a DataTree or the folder of a run"):
        plot.traces(3)


def test_a_tree_is_taken_with_its_losses() -> None:
    data = small()
    own = data[["training_loss"]]
    root = data.drop_vars("training_loss").drop_dims("update")
    tree = xr.DataTree.from_dict({"/": root, "training": own})
    line = plot.losses(tree).get_lines()[0]
    np.testing.assert_array_equal(line.get_ydata(), plot.losses(data).get_lines()[0].get_ydata())
    several = xr.DataTree.from_dict({"/a": root, "/b": root})
    with pytest.raises(ArgumentError, match="data: expected one run, got 2; take one of them: 'a', 'b'"):
        plot.losses(several)


@pytest.mark.slow
def test_nothing_needs_pyplot() -> None:
    import subprocess
    import sys

    code = (
        "import sys, kpframe; print('matplotlib' in sys.modules)\n"
        "import kpframe.plot; print('matplotlib' in sys.modules, 'matplotlib.pyplot' in sys.modules)\n"
        "sys.modules['matplotlib'] = None; del sys.modules['kpframe.plot']\n"
        "for n in [n for n in sys.modules if n.startswith('kpframe.study._plot')]: del sys.modules[n]\n"
        "try: import kpframe.plot\n"
        "except kpframe.errors.MissingDependencyError as error: print(error)"
    )
    told = subprocess.check_output([sys.executable, "-c", code], text=True).splitlines()
    assert told[:2] == ["False", "True False"]
    assert told[2] == "figures need matplotlib: pip install 'kpframe[study]'"


def test_operators_are_in_one_colour_each() -> None:
    panel = plot.effective_ranks(small()).flat[0]
    colours = [bars.lines[0].get_color() for bars in panel.containers]
    assert len(set(colours)) == len(OPERATORS)
