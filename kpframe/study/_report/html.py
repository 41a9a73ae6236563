"""The page of a study of few networks, as ``kpframe demo`` writes it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

import numpy as np
import xarray as xr
from attrs import frozen
from matplotlib.figure import Figure

from kpframe.study._helper import Helpers
from kpframe.study._plot import either, operators, rules, training
from kpframe.study._plot.look import drawable, on
from kpframe.study._plot.training import SCORES
from kpframe.study._report import captions_of_operators, captions_of_rules
from kpframe.study._report.captions import Caption, of_estimates
from kpframe.study._report.drawing import on_no_paper
from kpframe.study._report.page import Section, Table, page_about, write_page
from kpframe.study._report.words import joined, plus_minus


def write_report(
    data: xr.Dataset, path: Path, *, files: bool = False, helpers: Helpers | None = None
) -> Path:
    """Write the report of a study's dataset, as ``run_study`` returns it; return its path.

    Args:
        data: of a study of few networks.
        path: of the page.
        files: whether its figures are written as files, too; all are drawn here then.
        helpers: processes that draw some of the figures.
    """
    seen = drawable(data, width=40)
    places = [place for place, known in enumerate(known_sections()) if known.needs[0] in data]
    if helpers and not files:
        drawn: Sequence[Figure | str] = helpers.share([partial(_text, at, seen) for at in places])
    else:
        drawn = [_figure(at, seen) for at in places]
    tables = [Table("Ranks, traces and singular values", _RANKS, _rank_rows(data))]
    notes = []
    if "rule" in data.dims:
        tables.append(Table("Learning rules on the trained networks", _RULES, _rule_rows(data)))
        notes.append(
            "The loss rate is the speed at which the loss falls along the rule's update, relative to the "
            "exact gradient."
        )
    return write_page(
        path,
        page_about(
            data,
            title=data.attrs["title"],
            done=[_lead(data)],
            sections=[
                Section(known.title, figure, known.say(data))
                for known, figure in zip([known_sections()[at] for at in places], drawn, strict=True)
            ],
            tables=tables,
            notes=notes,
            file="results.nc",
            covers=of_estimates(),
        ),
        files=files,
    )


def _figure(place: int, seen: xr.Dataset) -> Figure:
    """Return the figure of a section, by its place among those that there are."""
    return on(known_sections()[place].draw(seen))


def _text(place: int, seen: xr.Dataset) -> str:
    return on_no_paper(_figure(place, seen))


@frozen(eq=False)
class Known:
    """A section that a run of few networks has where its variables are there.

    Attributes:
        title: of it.
        draw: its panels.
        say: its caption.
        needs: variables that it is made of.
        shows: others that stand in it; of those that say how good a network is, one must be there.
        partly: whether some values may be missing, as of a rule that failed.
    """

    title: str
    draw: Callable[[xr.Dataset], np.ndarray]
    say: Callable[[xr.Dataset], Caption]
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


def section(known: Known, data: xr.Dataset, seen: xr.Dataset) -> Section:
    """Return a section of data, drawn from the same as matplotlib takes it (see ``drawable``)."""
    return Section(known.title, on(known.draw(seen)), known.say(data))


def _lead(data: xr.Dataset) -> str:
    names = joined([str(network) for network in data.network.values])
    return (
        f"{names} were trained for {data.sizes['update']} updates. At {data.sizes['step']} steps of the "
        f"training their operators were built along the same held-out trials. {OPERATORS}"
    )


#: What a stranger must know of the operators.
OPERATORS = (
    "The operators: the propagator P carries a change of the state forward in time; the parameter operator K "
    "says what the parameters can change within a step; the neural tangent operator Phi = P K P* says how "
    "gradient descent moves the whole trajectory."
)


_RANKS = (
    "network",
    "operator",
    "update",
    "effective rank",
    "trace",
    "largest singular value",
    "estimators (rank; trace)",
)
_RULES = ("network", "rule", "flow", "cosine of updates", "loss rate", "alignment with Phi")


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
                        f"{one.effective_rank_method.item()}; {one.trace_method.item()}",
                    ]
                )
    return rows


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


def known_sections() -> tuple[Known, ...]:
    """Return what a study of few networks shows, in order."""
    return (
        Known(
            "Learning",
            training.learning,
            captions_of_operators.learning,
            ("training_loss", "test_loss"),
            SCORES,
        ),
        Known(
            "Effective ranks along the training",
            operators.effective_ranks,
            captions_of_operators.effective_ranks,
            ("effective_rank", "effective_rank_stderr", "state_dimension"),
        ),
        Known(
            "Spectra before and after",
            either.spectrum,
            captions_of_operators.spectra,
            ("singular_value", "singular_value_residual", "singular_value_converged"),
        ),
        Known(
            "Eigenfunctions over time",
            either.eigenfunctions,
            captions_of_operators.eigenfunctions,
            ("time_eigenfunction", "time_explained"),
        ),
        Known(
            "Which trials learn together",
            operators.trial_kernels,
            captions_of_operators.trial_kernels,
            ("trial_kernel",),
        ),
        Known(
            "Learning rules against the exact gradient",
            rules.rules,
            captions_of_rules.rules,
            ("gradient_cosine", "flow_alignment", "flow_alignment_stderr"),
            ("loss_rate_ratio",),
            partly=True,
        ),
    )
