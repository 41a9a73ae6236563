"""What captions say: a finding with its uncertainty, computed, and what is drawn."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr
from attrs import frozen

from kpframe.study._over_seeds import stderr_of_mean
from kpframe.study._plot.look import HALF_95, after
from kpframe.study._report.words import counted, estimated, joined, named

#: Most groups that a sentence tells of one by one, and whose change it tells so.
MOST, PAIR = 4, 2
#: What a change is called.
VERBS = {"rose": "rose", "fell": "fell", "same": "did not change beyond its 95% interval", "equal": "stayed"}


@frozen
class Caption:
    """The sentences under a figure.

    Attributes:
        found: the finding with its uncertainty; empty where nothing can be said.
        about: what is drawn, what intervals cover, what is left out.
    """

    found: str
    about: str = ""

    def __str__(self) -> str:
        return " ".join(text for text in (self.found, self.about) if text)

    def and_about(self, *texts: str) -> Caption:
        """Return a caption that says more of what is drawn."""
        return Caption(self.found, " ".join(text.strip() for text in (self.about, *texts) if text.strip()))


@frozen
class Change:
    """How a figure went from one place to another.

    Attributes:
        way: "rose", "fell"; "same" within the 95% interval; "equal"; "missing" where too little is known.
        before, after: the figure at both, in text, with one standard error where there is one.
        size: of the change in standard errors, or relative where there are none; to tell the largest.
        note: what a reader must know besides; empty for nothing.
    """

    way: str
    before: str = ""
    after: str = ""
    size: float = 0.0
    note: str = ""

    @property
    def text(self) -> str:
        """From where to where."""
        if self.way == "same":
            return f"({self.before}, then {self.after}{self.note and '; '}{self.note})"
        if self.way == "equal":
            return f"at {self.after}"
        return f"from {self.before} to {self.after}{f' ({self.note})' if self.note else ''}"


def change_along(values: xr.DataArray, errors: xr.DataArray | None, dim: str = "step") -> Change:
    """Return how a figure changed from the first to the last place along a dim at which it is known.

    Over several seeds by the differences of each seed, with Student's t; else by the standard errors of the
    estimates at both places.

    Args:
        values: along the dim, and ``seed`` where there are several.
        errors: standard errors of estimates.
    """
    values = values.astype(float)
    there = values.notnull()
    known = np.flatnonzero(there.any("seed") if "seed" in values.dims else there)
    if len(known) < 2:
        return Change("missing")
    places = {"first": int(known[0]), "last": int(known[-1])}
    notes = []
    if dim == "step" and places["last"] < values.sizes[dim] - 1:
        notes.append(f"not known later than {after(int(values[dim][places['last']]))}")
    if dim == "step" and places["first"] > 0:
        notes.append(f"not known earlier than {after(int(values[dim][places['first']]))}")
    first, last = (values.isel({dim: place}) for place in places.values())
    if "seed" in values.dims:
        both = first.notnull() & last.notnull()
        if not bool(both.any()):
            return Change("missing")
        count = int(both.sum())
        if count < values.sizes["seed"]:
            notes.append(f"known of {count} of {values.sizes['seed']} seeds")
        first, last = first.where(both), last.where(both)
        error = float(stderr_of_mean(last - first, "seed"))
        ends = [(float(one.mean()), float(stderr_of_mean(one, "seed"))) for one in (first, last)]
        if count == 1:
            error = math.nan
    else:
        around = [
            math.nan if errors is None else float(errors.isel({dim: place})) for place in places.values()
        ]
        error = math.hypot(*around)
        ends = [(float(first), around[0]), (float(last), around[1])]
    return _change(ends, error, "; ".join(notes))


def _change(ends: Sequence[tuple[float, float]], error: float, note: str) -> Change:
    (first, _), (last, _) = ends
    before, later = (estimated(value, 0.0 if math.isnan(own) else own) for value, own in ends)
    moved = last - first
    if moved == 0:
        return Change("equal", before, later, 0.0, note)
    way = "rose" if moved > 0 else "fell"
    if math.isnan(error):
        return Change(way, before, later, abs(moved) / max(abs(first), abs(last)), note)
    if abs(moved) <= HALF_95 * error:
        return Change("same", before, later, abs(moved) / error, note)
    return Change(way, before, later, abs(moved) / error if error else math.inf, note)


def changes(found: Mapping[str, Change], of: str = "network") -> str:
    """Return changes of several groups in a few words: each one's, or how many went which way."""
    if not any(one.way != "missing" for one in found.values()):
        return ""
    if len(found) > PAIR:
        return _counts(found, of)
    said = []
    for way, verb in VERBS.items():
        own = [f"{one.text} in {named(label)}" for label, one in found.items() if one.way == way]
        if way == "same":
            own = [f"in {named(label)} {one.text}" for label, one in found.items() if one.way == way]
        if own:
            said.append(f"{verb} {joined(own)}")
    missing = [named(label) for label, one in found.items() if one.way == "missing"]
    if missing:
        said.append(f"is not known at two steps in {joined(missing)}")
    return "; ".join(said)


def _counts(found: Mapping[str, Change], of: str) -> str:
    """Return how many went which way, and which of each way did most clearly."""
    said: list[str] = []
    for way, verb in VERBS.items():
        own = {label: one for label, one in found.items() if one.way == way}
        if not own:
            continue
        label, most = max(own.items(), key=lambda item: item[1].size)
        clearly = "most clearly in" if len(own) > 1 else "in"
        shown = f" ({clearly} {named(label)}, {most.text})" if way in ("rose", "fell") else ""
        if len(own) == len(found):
            count = f"all {counted(len(found), of)}"
        else:
            count = str(len(own)) if said else f"{len(own)} of {counted(len(found), of)}"
        said.append(f"{verb} in {count}{shown}")
    missing = sum(one.way == "missing" for one in found.values())
    if missing:
        said.append(f"is not known at two steps in {missing}")
    return joined(said)


def levels(found: Mapping[str, str]) -> str:
    """Return figures of several groups at the one step there is."""
    shown = [f"{text} in {named(label)}" for label, text in list(found.items())[:MOST]]
    more = f" ({len(found) - MOST} more are drawn)" if len(found) > MOST else ""
    return joined(shown) + more


def when(step: int) -> str:
    """Return when something was recorded."""
    return after(step) if step else "before training"


def one_step(data: xr.Dataset | xr.DataArray) -> str:
    """Return what is said where one step is all there is; nothing where there are more."""
    if "step" not in data.dims or data.sizes["step"] > 1:
        return ""
    return f"One step alone is recorded, {after(int(data.step[0]))}: how it changes cannot be said."


def of_estimates() -> str:
    """Return what ± covers where figures are those of one seed."""
    return (
        "± is one standard error of the estimates, for these networks along these trials, and bars are 95% "
        "intervals of the same: of one seed, they do not say how far other initial weights and other "
        "training trials would lead."
    )
