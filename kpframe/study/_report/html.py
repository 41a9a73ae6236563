"""The report: one HTML file with figures, sentences, tables and provenance, and nothing to fetch."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import xarray as xr
from attrs import frozen
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from kpframe.study._disk.files import write_text
from kpframe.study._plot import operators, rules, training
from kpframe.study._plot.look import after, drawable, on, open_markers, svg, unit_of
from kpframe.study._plot.training import SCORES, score_name, score_of


@frozen
class Section:
    """A figure with its heading and the sentences under it."""

    title: str
    figure: Markup
    alt: str
    text: str


def write_report(data: xr.Dataset, path: Path) -> Path:
    """Write the report of a study's dataset, as ``run_study`` returns it; return its path."""
    return write_page(
        path,
        "report.html.j2",
        title=data.attrs["title"],
        lead=_lead(data),
        sections=_sections(data),
        ranks=_rank_rows(data),
        rules=_rule_rows(data) if "rule" in data.dims else [],
        provenance=provenance_rows(data),
    )


def write_page(path: Path, template: str, **values: object) -> Path:
    """Write a page from a template beside this file, whole or not at all; raises ``OutputError``."""
    environment = Environment(
        loader=PackageLoader("kpframe.study._report"), autoescape=True, undefined=StrictUndefined
    )
    return write_text(path, environment.get_template(template).render(**values))


@frozen(eq=False)
class Known:
    """A section that a run of few networks has where its variables are there.

    Attributes:
        title: of it.
        draw: its panels.
        say: its sentences.
        needs: variables that it is made of.
        shows: others that stand in it; of those that say how good a network is, one must be there.
        partly: whether some values may be missing, as of a rule that failed.
    """

    title: str
    draw: Callable[[xr.Dataset], np.ndarray]
    say: Callable[[xr.Dataset], str]
    needs: tuple[str, ...]
    shows: tuple[str, ...] = ()
    partly: bool = False

    def fits(self, data: xr.Dataset) -> bool:
        """Whether all that it is made of is there, of Phi, too, without gaps."""
        if any(name not in data for name in self.needs):
            return False
        if self.shows == SCORES and not any(name in data for name in self.shows):
            return False
        if "operator" in data.dims and "Phi" not in data.operator.values:
            return False
        whole = [bool(data[name].notnull().all()) for name in self.needs]
        return all(whole) or (self.partly and bool(data[self.needs[0]].notnull().any()))


def _sections(data: xr.Dataset) -> list[Section]:
    seen = drawable(data, width=40)
    return [section(known, data, seen) for known in known_sections() if known.needs[0] in data]


def section(known: Known, data: xr.Dataset, seen: xr.Dataset) -> Section:
    """Return a section of data, drawn from the same as matplotlib takes it (see ``drawable``)."""
    return Section(known.title, Markup(svg(on(known.draw(seen)))), known.title, known.say(data))


def unit(values: xr.DataArray) -> str:
    """Return the unit of values as a sentence has it, ``" [nat]"``; nothing for numbers without one."""
    return unit_of(values)


def _lead(data: xr.Dataset) -> str:
    names = _and([str(network) for network in data.network.values])
    return (
        f"{names} were trained for {data.sizes['update']} updates. At {data.sizes['step']} steps of the "
        "training their operators were built along the same held-out trials: the propagator P, which "
        "carries a change of the state forward in time; the parameter operator K, which says what the "
        "parameters can change within a step; and the neural tangent operator Phi = P K P*, which says how "
        "gradient descent moves the whole trajectory."
    )


def _learning_text(data: xr.Dataset) -> str:
    last = data.isel(step=-1)
    name = score_name(data)
    scores = [f"{network} {score_text(last.sel(network=network))}" for network in data.network.values]
    return f"Test {name} {after(int(data.step[-1]))}: {_and(scores)}."


def _rank_text(data: xr.Dataset) -> str:
    said = []
    for network in data.network.values:
        one = data.sel(network=network, operator="Phi")
        first, last = (plus_minus(one.effective_rank[i], one.effective_rank_stderr[i]) for i in (0, -1))
        said.append(f"from {first} to {last} in the {network}")
    return (
        "The effective rank counts the directions of trajectory space (trials, time and units together) "
        f"that an operator uses evenly. That of Phi went {_and(said)} (± one standard error; the bars are "
        "95% intervals). Both are those of the estimates, for these networks along these trials: of one "
        "seed, they do not say how far other initial weights and other training trials would lead. The "
        f"trajectory space has {_dimension(data)} dimensions. The figures of P are those of P P*."
    )


def _spectra_text(data: xr.Dataset) -> str:
    growth = []
    for network in data.network.values:
        top = data.singular_value.sel(network=network, operator="Phi").isel(k=0)
        growth.append(f"{two_digits(float(top[-1] / top[0]))} times as large as before in the {network}")
    worst = float((data.singular_value_residual / data.singular_value.isel(k=0)).max())
    return (
        "The leading singular values of each operator; large ones are directions in which the same error "
        f"moves the trajectory far. After training the largest one of Phi is {_and(growth)}. The largest "
        f"residual of a singular vector is {worst:.1e} of the leading value."
        f"{open_markers(data.singular_value_converged.isel(step=[0, -1]))}"
    )


def _time_text(data: xr.Dataset) -> str:
    shares = []
    for network in data.network.values:
        one = data.time_explained.isel(step=-1).sel(network=network, operator="Phi")
        shares.append(f"{float(one[0]):.0%} in the {network}")
    return (
        "After training, averaged over trials and traced over units, each operator becomes a kernel over "
        "time. Its eigenfunctions are the time courses along which changes are coordinated; the share is the "
        f"part of the kernel's trace that each explains. The first one of Phi explains {_and(shares)}."
    )


def _trial_text(data: xr.Dataset) -> str:
    text = (
        "Averaged over time and traced over units, Phi becomes a kernel between trials: red pairs of trials "
        "are moved alike by learning from either of them, blue pairs oppositely."
    )
    if "trial_label" not in data.coords:
        return text
    labels = data.trial_label.values.reshape(-1, data.sizes["trial"])[0]
    same = (labels[:, None] == labels[None, :]) & ~np.eye(len(labels), dtype=bool)
    other = labels[:, None] != labels[None, :]
    said = []
    for network in data.network.values:
        kernel = data.trial_kernel.sel(network=network, operator="Phi").isel(step=-1).values
        cosine = operators.as_cosines(kernel)
        said.append(f"{cosine[same].mean():.2f} within and {cosine[other].mean():.2f} between ({network})")
    return f"{text} Trials are ordered by class; after training the mean cosine is {_and(said)} classes."


def _rule_text(data: xr.Dataset) -> str:
    last = data.isel(step=-1)
    said = []
    for network in data.network.values:
        cosines = last.gradient_cosine.sel(network=network).values
        if np.isnan(cosines).all():
            said.append(f"none in the {network}")
            continue
        low = int(np.nanargmin(cosines))
        said.append(f"{float(cosines[low]):.4f} for “{data.rule.values[low]}” in the {network}")
    return (
        "Top: the cosine between the summed update of a rule and the exact gradient on the probe trials. "
        "Bottom: the alignment of the whole flow that the rule induces with Phi, for any error, with 95% "
        f"intervals of the estimates. After training the lowest cosine is {_and(said)}. Alignment and cosine "
        "differ because the task's error is one direction among many."
        + "".join(f" Failed: {failure}." for failure in failed_rules(data))
    )


def failed_rules(data: xr.Dataset) -> list[str]:
    """Return which rules raised an error on which network, at which step and why."""
    if "failure" not in data:
        return []
    return [
        f"{rule} on {network} {after(int(step))} ({text})"
        for network in data.network.values
        for rule in data.rule.values
        for step in data.step.values
        if (text := str(data.failure.sel(network=network, rule=rule, step=step).item()))
    ]


def _rank_rows(data: xr.Dataset) -> list[list[str]]:
    rows = []
    for network in data.network.values:
        for operator in data.operator.values:
            for step in (data.step.values[0], data.step.values[-1]):
                one = data.sel(network=network, operator=operator, step=step)
                rows.append(
                    [
                        str(network),
                        str(operator),
                        str(step),
                        plus_minus(one.effective_rank, one.effective_rank_stderr),
                        plus_minus(one.trace, one.trace_stderr),
                        f"{float(one.singular_value[0]):.4g}",
                        _method(one),
                    ]
                )
    return rows


def _method(one: xr.Dataset) -> str:
    """Return how rank and trace of an operator were found."""
    names = ("method",) if "method" in one.coords else ("effective_rank_method", "trace_method")
    return "; ".join(str(one[name].item()) for name in names)


def _rule_rows(data: xr.Dataset) -> list[list[str]]:
    last = data.isel(step=-1)
    return [
        [
            str(network),
            str(rule),
            str(one.formula.item()),
            *(
                ["-"] * 3  # a rule that failed
                if bool(one.gradient_cosine.isnull())
                else [
                    f"{float(one.gradient_cosine):.4f}",
                    f"{float(one.loss_rate_ratio):.4f}",
                    plus_minus(one.flow_alignment, one.flow_alignment_stderr),
                ]
            ),
        ]
        for network in data.network.values
        for rule in data.rule.values
        for one in [last.sel(network=network, rule=rule)]
    ]


def provenance_rows(data: xr.Dataset) -> list[tuple[str, str]]:
    """Return a dataset's attributes as rows of a table, settings indented."""
    rows = []
    for name, value in data.attrs.items():
        if name == "settings":
            value = json.dumps(json.loads(value), indent=2)
        rows.append((name.replace("_", " "), str(value)))
    return rows


def _dimension(data: xr.Dataset) -> str:
    sizes = sorted({int(width) for width in data.state_dimension.values.ravel()})
    return " or ".join(str(size) for size in sizes)


def plus_minus(value: xr.DataArray, stderr: xr.DataArray) -> str:
    """Return a value and its standard error, both to two digits of the error."""
    number, error = float(value), float(stderr)
    if math.isnan(number):
        return "none"
    if not (0 < error < math.inf):
        return f"{number:.5g} (exact)" if error == 0 else f"{number:.5g} ± {error}"
    place = 1 - math.floor(math.log10(error))
    return f"{round(number, place):.{max(place, 0)}f} ± {round(error, place):.{max(place, 0)}f}"


def score_text(one: xr.Dataset) -> str:
    """Return a network's accuracy in percent, or its R^2."""
    value = float(one[score_of(one)])
    return f"{value:.1%}" if score_of(one) == "test_accuracy" else f"{value:.4f}"


def two_digits(value: float) -> str:
    """Return a number to two digits, zeros among them."""
    return f"{value:#.2g}".rstrip(".")


def _and(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1]


def known_sections() -> tuple[Known, ...]:
    """Return what a study of few networks shows, in order."""
    return (
        Known("Learning", training.learning, _learning_text, ("training_loss", "test_loss"), SCORES),
        Known(
            "Effective ranks along the training",
            operators.effective_ranks,
            _rank_text,
            ("effective_rank", "effective_rank_stderr", "state_dimension"),
        ),
        Known(
            "Spectra before and after",
            operators.spectrum,
            _spectra_text,
            ("singular_value", "singular_value_residual", "singular_value_converged"),
        ),
        Known(
            "Eigenfunctions over time",
            operators.eigenfunctions,
            _time_text,
            ("time_eigenfunction", "time_explained"),
        ),
        Known("Which trials learn together", operators.trial_kernels, _trial_text, ("trial_kernel",)),
        Known(
            "Learning rules against the exact gradient",
            rules.rules,
            _rule_text,
            ("gradient_cosine", "flow_alignment", "flow_alignment_stderr"),
            ("loss_rate_ratio",),
            partly=True,
        ),
    )
