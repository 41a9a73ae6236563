"""What the page of ``kpframe demo`` and its lines on the terminal must say of the dataset."""

from __future__ import annotations

import json
from contextlib import redirect_stdout
from importlib import import_module
from io import StringIO

import numpy as np
import pytest
import xarray as xr

from .page import HALF_95, Page, intervals, lines, pair, plain, spoken, ticks


def score_of(data: xr.Dataset) -> tuple[str, str]:
    """Return the variable that scores a network and what it is called."""
    return ("test_r2", "R^2") if "test_r2" in data else ("test_accuracy", "accuracy")


def score_text(data: xr.Dataset, value: xr.DataArray) -> str:
    return f"{100 * float(value):.1f}%" if score_of(data)[0] == "test_accuracy" else f"{float(value):.4f}"


def after(step: xr.DataArray) -> str:
    return f"after {int(step)} updates"


def rows_of(value: object, path: str = "") -> list[list[str]]:
    """Return settings as rows: keys joined by dots, items of a list of tables or lists counted from 1."""
    if isinstance(value, dict) and value:
        items = [(f"{path}.{key}".lstrip("."), own) for key, own in value.items()]
    elif isinstance(value, list) and any(isinstance(own, dict | list) for own in value):
        items = [(f"{path}[{place}]", own) for place, own in enumerate(value, 1)]
    else:
        entries = value if isinstance(value, list) else [value]
        written = {None: "none", True: "true", False: "false"}
        texts = [written[one] if one is None or one is True or one is False else str(one) for one in entries]
        return [[path, ", ".join(texts)]]
    return [row for name, own in items for row in rows_of(own, name)]


def seeds_of(settings: dict) -> str:
    """Return which seeds there were: of a study a list, of a training how many from which one on."""
    known = settings.get("seeds", 1)
    if isinstance(known, list):
        return spoken([str(seed) for seed in known])
    return str(settings["seed"]) if known == 1 else f"{known}, from {settings['seed']}"


def check_provenance(page: Page, data: xr.Dataset) -> None:
    """All attributes and settings of a dataset stand on its page, and the findings in its first lines."""
    (table,) = page.section("Provenance").tables
    assert table[0] == ["what", "value"]
    rest = {n.replace("_", " "): " ".join(str(v).split()) for n, v in data.attrs.items() if n != "settings"}
    assert dict(table[1:]) == rest
    (table,) = page.section("Data and settings").tables
    settings = json.loads(data.attrs["settings"])
    assert table[1:] == rows_of(settings)
    first = [one.text[0] for one in page.sections.values() if one.figures]
    assert page.section("What was found").items == first[:12]
    terms = page.sections[""].terms
    shown = dict(zip(terms[::2], terms[1::2], strict=True))
    assert shown["seeds"] == seeds_of(settings)
    assert shown.get("numbers") == settings.get("dtype")


def check_lead(page: Page, data: xr.Dataset) -> None:
    assert page.title == data.attrs["title"]
    names = spoken(data.network.values.tolist())
    count = data.sizes["update"]
    assert page.sections[""].caption.startswith(
        f"{names} were trained for {count} updates. At {data.sizes['step']} steps of the training"
    )
    check_provenance(page, data)


def check_loss_panel(panel, loss: xr.DataArray, dim: str) -> None:
    """Losses are running means at the updates that the last network of each had made, on a log axis."""
    window = max(1, loss.sizes["update"] // 60)
    shown = lines(panel)
    assert list(shown) == loss[dim].values.tolist()
    for name, (x, y) in shown.items():
        values = loss.sel({dim: name}).values
        values = values[np.isfinite(values)]
        means = [values[i : i + window].mean() for i in range(len(values) - window + 1)]
        np.testing.assert_allclose(y, means, rtol=1e-12)
        np.testing.assert_array_equal(x, np.arange(window - 1, len(values)))
    assert panel.get_xlabel() == "updates made"
    assert panel.get_yscale() == "log"
    unit = {"nat": " [nat]", "1": ""}[loss.attrs["units"]]
    mean = f", mean of {window}" if window > 1 else ""
    assert panel.get_ylabel() == f"training loss{unit}{mean}"


def check_learning(page: Page, data: xr.Dataset) -> None:
    section, (score, name) = page.section("Learning"), score_of(data)
    left, right = section.panels
    check_loss_panel(left, data.training_loss, "network")
    shown = lines(right)
    assert list(shown) == data.network.values.tolist()
    for network, (x, y) in shown.items():
        np.testing.assert_array_equal(x, data.step)
        np.testing.assert_array_equal(y, data[score].sel(network=network))
    assert right.get_xlabel() == "updates made"
    assert plain(right.get_ylabel()) == f"test {name}"
    low, high = right.get_ylim()
    assert low <= float(data[score].min())
    assert float(data[score].max()) <= high
    assert right.get_yscale() == "linear"
    text = right.yaxis.get_major_formatter()(0.5)
    assert text == ("50%" if name == "accuracy" else text.rstrip("%"))
    if name == "accuracy":
        assert (low, high) == pytest.approx((0, 1), abs=0.03)
    for line, other in zip(left.get_lines(), right.get_lines(), strict=True):
        assert line.get_color() == other.get_color()  # one legend for both panels
    scores = [
        f"{score_text(data, own[-1])} in {n} (from {score_text(data, own[0])} before training)"
        for n in data.network.values
        for own in [data[score].sel(network=n)]
    ]
    assert section.text[0] == f"Test {name} after {int(data.step[-1])} updates: {spoken(scores)}."


def check_bars(panel, value: xr.DataArray, stderr: xr.DataArray) -> None:
    """A line for each last coordinate over the steps, with its 95% intervals."""
    dim = next(str(d) for d in value.dims if d != "step")
    shown, bars = lines(panel), intervals(panel)
    assert [plain(label) for label in shown] == value[dim].values.tolist()
    for label, (x, y) in shown.items():
        one, error = value.sel({dim: plain(label)}), stderr.sel({dim: plain(label)})
        np.testing.assert_array_equal(y, one)
        np.testing.assert_allclose(bars[label][:, 0], one - HALF_95 * error, rtol=1e-9)
        np.testing.assert_allclose(bars[label][:, 1], one + HALF_95 * error, rtol=1e-9)
        np.testing.assert_array_equal(x, value.step)
    check_steps(panel, value)


def check_steps(panel, value: xr.DataArray) -> None:
    assert panel.get_xlabel() == "updates made"
    assert panel.get_xscale() == "linear"  # the last step is less than 30 times the first one
    low, high = panel.get_xlim()
    assert low <= value.step.min() <= value.step.max() <= high


UNCHANGED = "did not change beyond its 95% interval"


def check_ranks(page: Page, data: xr.Dataset) -> None:
    section = page.section("Effective ranks along the training")
    assert [panel.get_title() for panel in section.panels] == data.network.values.tolist()
    for panel in section.panels:
        one = data.sel(network=panel.get_title())
        check_bars(panel, one.effective_rank, one.effective_rank_stderr)
        assert panel.get_yscale() == "log"
    assert section.panels[0].get_ylabel() == "effective rank"
    for part in section.text[0].split("that of ")[1:]:
        operator = next(name for name in data.operator.values if part.startswith(f"{name} "))
        for network in data.network.values:
            one = data.sel(network=network, operator=operator)
            ends = [(float(one.effective_rank[i]), float(one.effective_rank_stderr[i])) for i in (0, -1)]
            told = [pair(*end) if end[1] else f"{end[0]:.4g}" for end in ends]
            (first, e), (last, f) = ends
            if abs(last - first) > HALF_95 * np.hypot(e, f):
                clause, verb = f"from {told[0]} to {told[1]} in {network}", "rose" if last > first else "fell"
            else:
                clause, verb = f"in {network} ({told[0]}, then {told[1]})", UNCHANGED
            before, found, _ = part.partition(clause)
            assert found
            assert max("rose", "fell", UNCHANGED, key=before.rfind) == verb
    assert section.text[0].count("that of ") == data.sizes["operator"]
    assert "± is one standard error of the estimates" in section.caption
    assert "bars are 95% intervals of the same" in section.caption
    assert "they do not say how far other initial weights and other training trials would lead" in (
        section.caption
    )
    (dimension,) = set(data.state_dimension.values.ravel().tolist())
    assert f"the space has {dimension} dimensions." in section.caption


def check_spectra(page: Page, data: xr.Dataset) -> None:
    section = page.section("Spectra before and after")
    titles = [plain(panel.get_title()) for panel in section.panels]
    assert titles == [f"{n}, {o}" for n in data.network.values for o in data.operator.values]
    for panel, title in zip(section.panels, titles, strict=True):
        one = data.sel(network=title.split(", ")[0], operator=title.split(", ")[1])
        shown = lines(panel)
        assert list(shown) == [f"after {int(data.step[i])} updates" for i in (0, -1)]
        for place, (label, (x, y)) in zip((0, -1), shown.items(), strict=True):
            np.testing.assert_array_equal(x, data.k)
            np.testing.assert_array_equal(y, one.singular_value.isel(step=place))
            check_open(panel, label, one.isel(step=place))
        assert panel.get_yscale() == "log"
        assert panel.get_xlabel() == "k"
    assert section.panels[0].get_ylabel() == "singular value"
    start = f"Largest singular value {after(data.step[-1])}, as a multiple of that before training: "
    assert section.text[0].startswith(start)
    parts = section.text[0].removeprefix(start).removesuffix(".").split("; ")
    assert len(parts) == data.sizes["operator"]
    for part in parts:
        operator = next(name for name in data.operator.values if part.startswith(f"{name} "))
        said = part.removeprefix(f"{operator} ").split(" and ")
        for network, text in zip(data.network.values, said, strict=True):
            number, where = text.split(" in ")
            top = data.singular_value.sel(network=network, operator=operator, k=1)
            assert where == network
            assert float(number) == pytest.approx(float(top[-1]) / float(top[0]), rel=0.05)
            assert len(number.replace(".", "").lstrip("0")) >= 2
    worst = float((data.singular_value_residual / data.singular_value.sel(k=1)).max())
    assert f"The largest residual of a singular vector is {worst:.1e} of the leading value" in section.caption
    check_open_markers(section.caption, data.singular_value_converged.isel(step=[0, -1]))


def check_open_markers(caption: str, converged: xr.DataArray) -> None:
    """Open markers are explained where there are some, and only there."""
    assert ("Open markers: lower bounds, as the value did not converge." in caption) != bool(converged.all())


def check_open(panel, label: str, one: xr.Dataset) -> None:
    """Values that did not converge are open markers of the line's colour, and no others are."""
    (line,) = [line for line in panel.get_lines() if line.get_label() == label]
    open_ = [
        other.get_ydata()
        for other in panel.get_lines()
        if other.get_markerfacecolor() == "w" and other.get_color() == line.get_color()
    ]
    assert line.get_markerfacecolor() != "w"
    np.testing.assert_array_equal(open_, [one.singular_value.where(~one.singular_value_converged)])


def check_eigenfunctions(page: Page, data: xr.Dataset) -> None:
    section, last = page.section("Eigenfunctions over time"), data.isel(step=-1)
    titles = [plain(panel.get_title()) for panel in section.panels]
    assert titles == [f"{n}, {o}" for n in data.network.values for o in data.operator.values]
    for panel, title in zip(section.panels, titles, strict=True):
        one = last.sel(network=title.split(", ")[0], operator=title.split(", ")[1])
        shares = [f"{mode + 1}: {100 * float(one.time_explained[mode]):.0f}%" for mode in range(3)]
        assert list(lines(panel)) == shares
        for mode, (x, y) in enumerate(lines(panel).values()):
            np.testing.assert_array_equal(x, data.time)
            assert x[0] == 0  # steps count from 0, as in select(time=...)
            np.testing.assert_array_equal(y, one.time_eigenfunction[mode])
        assert (panel.get_xlabel(), panel.get_yscale()) == ("step", "linear")
    said = []
    for operator in sorted(data.operator.values.tolist(), key=lambda name: name != "Phi"):
        own = [
            f"{100 * share[-1]:.0f}% in {n} (was {100 * share[0]:.0f}%)"
            for n in data.network.values
            for share in [data.time_explained.sel(network=n, operator=operator)[:, 0].values]
        ]
        said.append(f"of {operator}, {spoken(own)}")
    assert section.text[0] == (
        f"Share of the first eigenfunction over time, {after(data.step[-1])}: {'; '.join(said)}."
    )


def cosines(kernel: np.ndarray) -> np.ndarray:
    size = len(kernel)
    found = [kernel[i, j] / (kernel[i, i] * kernel[j, j]) ** 0.5 for i in range(size) for j in range(size)]
    return np.array(found).reshape(size, size)


def left_out_error(cosine: np.ndarray, labels: np.ndarray) -> float:
    """Return the jackknife's standard error of the mean cosine within classes less that between them."""
    found = []
    for trial in range(len(labels)):
        kept = np.arange(len(labels)) != trial
        own, rest = cosine[np.ix_(kept, kept)], labels[kept]
        alike = rest[:, None] == rest
        within = alike & ~np.eye(len(rest), dtype=bool)
        found.append(own[within].mean() - own[~alike].mean() if within.any() else np.nan)
    values = np.array(found)
    return float(np.sqrt((len(labels) - 1) * values.var()))


def check_trials(page: Page, data: xr.Dataset) -> None:
    section, steps = page.section("Which trials learn together"), [0, data.sizes["step"] - 1]
    phi = data.trial_kernel.sel(operator="Phi")
    expected = [(n, i) for n in data.network.values for i in steps]
    labels = data.trial_label.values if "trial_label" in data.coords else None
    for panel, (network, place) in zip(section.panels, expected, strict=True):
        assert panel.get_title() == f"{network}, after {int(data.step[place])} updates"
        (image,) = panel.images
        shown = np.asarray(image.get_array())
        np.testing.assert_allclose(shown, cosines(phi.sel(network=network).isel(step=place).values))
        assert (image.get_clim(), image.cmap.name, image.origin) == ((-1, 1), "RdBu_r", "upper")
        if labels is None:
            assert (panel.get_xlabel(), panel.get_ylabel()) == ("trial", "trial")
        else:
            centres = {float(np.flatnonzero(labels == c).mean()): str(c) for c in np.unique(labels)}
            assert ticks(panel.xaxis) == ticks(panel.yaxis) == centres
    assert plain(section.bar.get_ylabel()) == "cosine between trials in Phi"
    assert "red pairs of trials are moved alike by learning from either of them, blue pairs oppositely" in (
        section.caption
    )
    if labels is None:
        off = ~np.eye(data.sizes["trial"], dtype=bool)
        said = [
            f"{cosines(phi.sel(network=n).isel(step=-1).values)[off].mean():.2f} in {n}"
            for n in data.network.values
        ]
        assert section.text[0] == f"Mean cosine between two trials {after(data.step[-1])}: {spoken(said)}."
        assert "class" not in section.caption
        return
    same = (labels[:, None] == labels) & ~np.eye(len(labels), dtype=bool)
    said = []
    for network in data.network.values:
        cosine = cosines(phi.sel(network=network).isel(step=-1).values)
        within, between = cosine[same].mean(), cosine[labels[:, None] != labels].mean()
        gap, error = within - between, left_out_error(cosine, labels)
        more = "not distinguishably more or less than"
        if abs(gap) > HALF_95 * error:
            more = "more than" if gap > 0 else "less than"
        said.append(
            f"in {network} trials of one class are moved alike {more} those of two (mean cosines "
            f"{within:.2f} within and {between:.2f} between classes, difference "
            + (pair(gap, error) if np.isfinite(error) else "")
        )
    parts = section.text[0].removeprefix(f"{after(data.step[-1]).capitalize()}, ").split("; ")
    for part, own in zip(parts, said, strict=True):
        assert part.startswith(own)


def check_rules(page: Page, data: xr.Dataset) -> None:
    section = page.section("Learning rules against the exact gradient")
    names = data.network.values.tolist()
    top, bottom = section.panels[: len(names)], section.panels[len(names) :]
    assert [panel.get_title() for panel in top] == names
    for network, above, below in zip(names, top, bottom, strict=True):
        one = data.sel(network=network)
        shown = lines(above)
        assert list(shown) == data.rule.values.tolist()
        for rule, (x, y) in shown.items():
            np.testing.assert_array_equal(x, data.step)
            np.testing.assert_array_equal(y, one.gradient_cosine.sel(rule=rule))
        check_steps(above, one.gradient_cosine)
        check_bars(below, one.flow_alignment, one.flow_alignment_stderr)
        assert above.get_yscale() == below.get_yscale() == "linear"
    assert top[0].get_ylabel() == "cosine of updates"
    assert plain(bottom[0].get_ylabel()) == "alignment with Phi"
    assert "Top: the cosine between the summed update of a rule and the exact" in section.caption
    assert "alignment of the whole flow that the rule induces with Phi, for any error, with 95%" in (
        section.caption
    )
    parts = section.text[0].removeprefix(f"{after(data.step[-1]).capitalize()}, ").split("; ")
    for network, part in zip(names, parts, strict=True):
        last = data.gradient_cosine.sel(network=network).isel(step=-1).dropna("rule")
        order = last.sortby(last)
        low, high = ((f"“{order.rule[i].item()}”", f"{float(order[i]):.4f}") for i in (0, -1))
        if order.size > 1:
            assert f"nearest to the exact gradient is that of {high[0]} (cosine {high[1]})" in part
            assert f"the furthest that of {low[0]} ({low[1]})" in part
        else:
            assert f"the update of {high[0]} has the cosine {high[1]} with the exact gradient" in part
            assert ("1 rule could not be measured" in part) == (data.sizes["rule"] == 2)
        flow = data.sel(network=network).isel(step=-1)
        best = flow.isel(rule=int(np.nanargmax(flow.flow_alignment.values)))
        told = pair(best.flow_alignment, best.flow_alignment_stderr)
        assert f"the flow most aligned with Phi that of “{best.rule.item()}” ({told})" in part
    for network, step, rule in np.ndindex(data.failure.shape):
        if text := data.failure.values[network, step, rule]:
            who = f"{data.rule.values[rule]} on {names[network]} {after(data.step[step])}"
            assert f"Failed: {who} ({text})." in section.caption
    assert section.caption.count("Failed: ") == int((data.failure != "").sum())


def known(value: xr.DataArray) -> str:
    """Return a figure to four places; a dash where a rule failed."""
    return "-" if np.isnan(float(value)) else f"{float(value):.4f}"


def check_tables(page: Page, data: xr.Dataset) -> None:
    section = page.section("The numbers")
    (ranks,) = page.section("Ranks, traces and singular values").tables
    (rules,) = page.section("Learning rules on the trained networks").tables
    assert "Estimates are given with one standard error" in section.caption
    expected = [
        {
            "network": network,
            "operator": operator,
            "update": str(step),
            "effective rank": pair(one.effective_rank, one.effective_rank_stderr),
            "trace": pair(one.trace, one.trace_stderr),
            "largest singular value": f"{float(one.singular_value.sel(k=1)):.4g}",
            "estimators (rank; trace)": f"{one.effective_rank_method.item()}; {one.trace_method.item()}",
        }
        for network in data.network.values
        for operator in data.operator.values
        for step in data.step.values[[0, -1]]
        for one in [data.sel(network=network, operator=operator, step=step)]
    ]
    assert [dict(zip(ranks[0], row, strict=True)) for row in ranks[1:]] == expected
    expected = [
        {
            "network": network,
            "rule": rule,
            "flow": one.formula.item(),
            "cosine of updates": known(one.gradient_cosine),
            "loss rate": known(one.loss_rate_ratio),
            "alignment with Phi": "-"
            if one.failure.item()
            else pair(one.flow_alignment, one.flow_alignment_stderr),
        }
        for network in data.network.values
        for rule in data.rule.values
        for one in [data.isel(step=-1).sel(network=network, rule=rule)]
    ]
    assert [dict(zip(rules[0], row, strict=True)) for row in rules[1:]] == expected
    assert "the speed at which the loss falls along the rule's update, relative to the exact gradient" in (
        section.caption
    )


def check_terminal(_: Page, data: xr.Dataset) -> None:
    """The terminal ends with a line for each network, whose figures are those of the page."""
    with redirect_stdout(StringIO()) as told:
        import_module("kpframe.cli._carry_out").show_demo(data)
    score, name = score_of(data)
    expected = [
        f"{network}: test {name} {score_text(data, one[score])}, effective rank of Phi "
        f"{pair(one.effective_rank.sel(operator='Phi'), one.effective_rank_stderr.sel(operator='Phi'))}"
        for network in data.network.values
        for one in [data.sel(network=network).isel(step=-1)]
    ]
    assert told.getvalue().splitlines()[: len(expected)] == expected


CHECKS = (
    check_lead,
    check_learning,
    check_ranks,
    check_spectra,
    check_eigenfunctions,
    check_trials,
    check_rules,
    check_tables,
    check_terminal,
)
