"""Alignments of operators: of each with itself at other steps, and of several with each other at one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import xarray as xr

from kpframe.operators._base import Operator
from kpframe.plugin._core_quantities import OperatorAlignmentSettings
from kpframe.plugin._takes import takes_settings
from kpframe.spectra import alignment
from kpframe.study._moment import Moment, operator_of
from kpframe.study._operator_quantity import OperatorQuantity
from kpframe.study._quantities.dims import attributes, number_coordinate, operator_coordinate
from kpframe.study._quantities.sketches import DIRECTIONS, OperatorSketch, cosines
from kpframe.study._quantities.steps import over_steps
from kpframe.study._quantity import Quantity
from kpframe.study._remembered import Remembered

_COSINE = "alignment <A, B> / (|A| |B|) of an operator"


class Alignment(OperatorQuantity):
    """Alignment of each operator at each step with that at each other step.

    At a step a small sketch is kept of each operator, from random probes that are the same at all steps; from
    these follow, over all steps together, ``alignment_map [operator, step, step_other]`` and, as parts of
    it, the alignments with the first step, the one before and the final one. Exact where the state has no
    more dimensions than the budget has products. With ``probes = "same"`` it shares its products with ranks,
    traces and norms.
    """

    on_ranks = "all"

    def among(self, moment: Moment) -> Mapping[str, Operator]:
        """Return the operators, whose products are shared with ranks and the like."""
        return moment.remembered

    def of(self, moment: Moment, place: int, operator: Operator) -> OperatorSketch:
        """Return the sketch of an operator."""
        source = moment.generator if moment.around.same_probes else moment.shared_generator
        return OperatorSketch.of(operator, moment.around.budget, source())  # the same for all operators

    def together(self, moment: Moment, kept: Sequence[OperatorSketch]) -> xr.Dataset:
        """Return the sketches ``[operator, probe, probe_other]`` and ``[operator, direction, ...]``."""
        # an operator without directions has a gram of more probes
        most = max(len(one.gram) for one in kept)
        grams = np.stack([_padded(one.gram, (most, most)) for one in kept])
        probed = np.stack([_padded(one.probed, (DIRECTIONS, most)) for one in kept])
        rows = np.stack([one.directions for one in kept]).astype(np.float32)
        text = "sketch for alignments:"
        return xr.Dataset(
            {
                "alignment_gram": (
                    ("operator", "probe", "probe_other"),
                    grams,
                    attributes(f"{text} <z, A z'> for probes z, z'"),
                ),
                "alignment_probed": (
                    ("operator", "direction", "probe"),
                    probed,
                    attributes(f"{text} <u, z> for leading directions u"),
                ),
                "alignment_value": (
                    ("operator", "direction"),
                    np.stack([one.values for one in kept]),
                    attributes(f"{text} size along the leading directions"),
                ),
                "alignment_direction": (
                    ("operator", "direction", "hash"),
                    rows,
                    attributes(f"{text} leading directions, hashed to sums where they are longer"),
                ),
                "alignment_exact": (
                    "operator",
                    np.array([float(one.exact) for one in kept]),
                    attributes("1 where alignments are exact, 0 where they are estimated"),
                ),
            },
            coords={
                "operator": operator_coordinate(moment.operators),
                "probe": number_coordinate("probe", most, "random probe"),
                "probe_other": number_coordinate("probe_other", most, "random probe"),
                "direction": number_coordinate("direction", DIRECTIONS, "leading direction"),
                "hash": number_coordinate("hash", rows.shape[2], "sum of entries"),
            },
        )

    def across(self, recorded: xr.Dataset) -> xr.Dataset | None:
        """Return ``alignment_map``, ``alignment_with_first``, ``_previous``, ``_final``, and errors."""
        count = recorded.sizes["step"]
        shape = (recorded.sizes["operator"], count, count)
        values, errors = np.full(shape, np.nan), np.full(shape, np.nan)
        for place in range(shape[0]):
            one = recorded.isel(operator=place).transpose("step", "direction", ...)
            there = np.flatnonzero(one.alignment_exact.notnull().values)
            if not len(there):
                continue
            chosen = np.ix_(there, there)
            value, error = cosines([_sketch(one.isel(step=int(step))) for step in there])
            values[place][chosen], errors[place][chosen] = value, error
        return over_steps(
            recorded, "alignment", ("operator",), values, errors, f"{_COSINE} with itself at another step"
        )


def _padded(values: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return an array with NaN behind it, up to a shape."""
    widths = [(0, whole - own) for whole, own in zip(shape, values.shape, strict=True)]
    return np.pad(values, widths, constant_values=np.nan)


def _sketch(one: xr.Dataset) -> OperatorSketch:
    gram = one.alignment_gram.transpose("probe", "probe_other").values
    num = int(np.isfinite(gram[0]).sum())
    return OperatorSketch(
        gram[:num, :num],
        one.alignment_value.values,
        one.alignment_probed.transpose("direction", "probe").values[:, :num],
        one.alignment_direction.transpose("direction", "hash").values.astype(np.float64),
        bool(one.alignment_exact == 1),
    )


class OperatorAlignment(Quantity):
    """Alignments of the operators with each other at one step, and with further ones.

    ``operator_alignment [operator, operator_other]``: along ``operator_other`` are the operators that are
    measured, and those of the setting ``others``.
    """

    on_ranks = "all"

    @takes_settings(OperatorAlignmentSettings)
    def __init__(self, settings: OperatorAlignmentSettings) -> None:
        self.others = settings.others

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return the alignments; all draw from ``moment.generator(0)``."""
        columns: dict[str, Operator] = dict(moment.remembered)
        for name in self.others:
            if name not in columns:
                columns[name] = Remembered(operator_of(moment.flow, name))
        names = list(moment.operators)
        values = np.empty((len(names), len(columns)))
        errors = np.empty_like(values)
        for row, name in enumerate(names):
            for column, (other, operator) in enumerate(columns.items()):
                if column < row:
                    values[row, column], errors[row, column] = values[column, row], errors[column, row]
                    continue
                found = alignment(
                    columns[name], operator, budget=moment.around.budget, generator=moment.generator()
                )
                own = name == other and found.value == found.value  # 1 but for a zero operator
                values[row, column] = 1.0 if own else found.value
                errors[row, column] = 0.0 if own else found.stderr
        dims = ("operator", "operator_other")
        return xr.Dataset(
            {
                "operator_alignment": (dims, values, attributes(f"{_COSINE} with another")),
                "operator_alignment_stderr": (dims, errors, attributes("standard error of the alignment")),
            },
            coords={
                "operator": operator_coordinate(names),
                "operator_other": ("operator_other", list(columns), attributes("operator on states")),
            },
        )

    def check(self, moment: Moment) -> None:
        """Raise ``ArgumentError`` for a formula of no operator on states."""
        for name in self.others:
            operator_of(moment.flow, name)
