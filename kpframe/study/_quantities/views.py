"""Reduced operators: averages, traces and slices of operators, with ranks, spectra and eigenfunctions."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
import xarray as xr
from attrs import frozen

from kpframe.operators._base import Operator
from kpframe.operators._spaces import Space
from kpframe.plugin._core_quantities import ViewSettings
from kpframe.plugin._takes import takes_settings
from kpframe.spectra import Estimate, effective_rank, eigsh, svd, trace
from kpframe.spectra._numerics.ranks import whole_rows
from kpframe.study._moment import Moment
from kpframe.study._operator_quantity import OperatorQuantity
from kpframe.study._quantities.dims import attributes, number_coordinate, numbers, operator_coordinate
from kpframe.study._quantities.steps import over_steps
from kpframe.study._remembered import Remembered

#: What axes of operators are called in datasets, and what counts along them.
_DIMS = {"batch": "trial", "time": "time", "hidden": "hidden"}
_TEXTS = {"trial": "trial", "time": "step of a trial", "hidden": "unit"}
_OVERLAP = "overlap |<f, g>| of an eigenfunction with that of the same place at another step"


@frozen(eq=False)
class _View:
    """What is found of a reduced operator."""

    rank: Estimate
    trace: Estimate
    positive: bool
    space: Space
    values: np.ndarray  # [k]
    residuals: np.ndarray  # [k]
    converged: np.ndarray  # [k]
    functions: np.ndarray  # [k, n]


class Views(OperatorQuantity):
    """Reduced operators: their ranks and traces, leading eigenvalues and eigenfunctions.

    By default the average over trials, whose eigenfunctions are over time and units. Of operators that are
    not positive the values are singular values and the functions what the operator makes (left singular
    functions), which explain no share of a trace: NaN. From all steps together follow ``view_sign``, by which
    eigenfunctions are multiplied so that none flips from a step to the next, and the overlaps of each
    eigenfunction with that of the same place at other steps.

    In a run that records step after step, eigenfunctions begin from those of the step before, as its file has
    them, which takes about half of the products; what these leave out is looked for with random vectors of
    the step's own.
    """

    on_ranks = "all"

    @takes_settings(ViewSettings)
    def __init__(self, settings: ViewSettings) -> None:
        self.settings = settings

    def reduced(self, operator: Operator) -> Operator:
        """Return the reduced operator; raises ``AxisError`` for an axis that it has not."""
        how = self.settings
        if how.select:
            operator = operator.select(**how.select)
        if how.bin:
            operator = operator.bin(**how.bin)
        if how.mean:
            operator = operator.mean(*how.mean)
        if how.sum:
            operator = operator.sum(*how.sum)
        return operator.partial_trace(*how.trace) if how.trace else operator

    def check(self, moment: Moment) -> None:
        """Raise ``AxisError`` for reductions that do not go together."""
        for operator in moment.operators.values():
            self.reduced(operator)

    def among(self, moment: Moment) -> dict[str, Operator]:
        """Return the reduced operators."""
        return {name: Remembered(self.reduced(op)) for name, op in moment.operators.items()}

    def of(self, moment: Moment, place: int, operator: Operator) -> _View:
        """Return a reduced operator's figures; they draw from ``moment.generator(0)``, ``(1)``, ..."""
        budget = self.settings.budget or moment.around.budget
        rank = effective_rank(operator, budget=budget, generator=moment.generator(place))
        total = trace(operator, budget=budget, generator=moment.generator(place))
        count = min(self.settings.k, operator.domain.dimension)
        near = self._before(moment, place, operator.domain, count)
        source = moment.generator(place) if near is None else moment.own_generator(place)
        leading = self._leading(operator, count, source, near)
        return _View(rank, total, operator.positive, operator.domain, *leading)

    def together(self, moment: Moment, found: Sequence[_View]) -> xr.Dataset:
        """Return the figures."""
        space = found[0].space
        values, residuals, converged, functions = (
            np.stack([getattr(one, name) for one in found])
            for name in ("values", "residuals", "converged", "functions")
        )
        count = values.shape[1]
        ranks, traces = [one.rank for one in found], [one.trace for one in found]
        positive = np.array([one.positive for one in found])
        total = np.array([one.value for one in traces])
        spread = np.array([one.stderr for one in traces])
        known = np.where(positive & (total > 0), total, np.nan)[:, None]
        share = np.where(positive[:, None], np.clip(values, 0, None), np.nan) / known
        mode = ("operator", "view_mode")
        data = xr.Dataset(
            {
                "view_value": (mode, values, attributes("leading eigenvalues of the reduced operator")),
                "view_residual": (mode, residuals, attributes("residual norm of each eigenfunction")),
                "view_converged": (
                    mode,
                    converged,
                    attributes("whether a value is within the tolerance and none is missing before"),
                ),
                "view_explained": (mode, share, attributes("share of the trace that it explains")),
                "view_explained_stderr": (
                    mode,
                    share * spread[:, None] / known,
                    attributes("standard error of the share"),
                ),
                "view_function": (
                    (*mode, *(_DIMS.get(name, name) for name in space.names)),
                    functions.reshape(len(found), count, *(axis.total for axis in space.axes)),
                    attributes("eigenfunctions of the reduced operator, orthonormal")
                    | {"reduced_by": self._reduced_by},
                ),
            },
            coords={
                "operator": operator_coordinate(moment.operators),
                "view_mode": number_coordinate("view_mode", count, "place of an eigenfunction"),
                **self._coordinates(moment.flow.P),
            },
        )
        estimates = {"effective_rank": ranks, "trace": traces}
        for what, every in estimates.items():
            name, text = f"view_{what}", f"{what.replace('_', ' ')} of the reduced operator"
            numbers_of = np.array([(one.value, one.stderr) for one in every])
            data[name] = ("operator", numbers_of[:, 0], attributes(text))
            data[f"{name}_stderr"] = ("operator", numbers_of[:, 1], attributes(f"standard error: {text}"))
        return data

    def _before(self, moment: Moment, place: int, space: Space, count: int) -> torch.Tensor | None:
        """Return the eigenfunctions ``[k, *space]`` that were recorded at the step before, if they were."""
        recorded = moment.record_before() if moment.group is None else None
        for name, variable in {} if recorded is None else recorded.data_vars.items():
            if (
                not str(name).endswith("view_function")
                or variable.attrs.get("reduced_by") != self._reduced_by
            ):
                continue
            chosen = {"operator": list(moment.operators)[place], "inputs": moment.inputs}
            chosen = {dim: label for dim, label in chosen.items() if dim in variable.dims}
            if any(label not in variable[dim].values for dim, label in chosen.items()):
                continue
            values = variable.sel(chosen).values
            if values.shape == (count, *space.shape) and np.isfinite(values).all():
                return torch.as_tensor(values)
        return None

    @property
    def _reduced_by(self) -> str:
        """The reductions, as an attribute of what is recorded of them."""
        how = self.settings
        return repr(
            {"select": how.select, "bin": how.bin, "mean": how.mean, "sum": how.sum, "trace": how.trace}
        )

    def _leading(
        self, view: Operator, count: int, source: torch.Generator, near: torch.Tensor | None
    ) -> list[np.ndarray]:
        """Return values, residuals, whether they have converged, and functions ``[k, n]``."""
        tol = self.settings.tolerance
        if view.positive:
            given = None if near is None else near.to(view.device, view.dtype)
            pairs = eigsh(view, k=count, tol=tol, budget=24 * count, generator=source, near=given)
            found = (pairs.eigenvalues, pairs.residual_norms, pairs.converged, pairs.eigenvectors)
        else:
            triplets = svd(view, k=count, tol=tol, budget=48 * count, generator=source)
            found = (triplets.S, triplets.residual_norms, triplets.converged, triplets.U)
        functions = whole_rows(found[3].flatten(1), view.domain).cpu().numpy()
        return [*(numbers(part) for part in found[:3]), functions]

    def _coordinates(self, operator: Operator) -> dict[str, xr.Variable]:
        """Return the coordinates of the axes that are left: places in the axes of the states."""
        how = self.settings
        chosen, windows = how.select or {}, how.bin or {}
        gone = {*how.mean, *how.sum, *how.trace}
        found = {}
        for axis in operator.domain.axes:
            places = np.arange(axis.total)
            if axis.name in chosen:
                places = places[_index(chosen[axis.name], axis)]
            if axis.name in windows:
                places = places[:: windows[axis.name]]
            if axis.name not in gone and places.ndim:
                dim = _DIMS.get(axis.name, axis.name)
                found[dim] = xr.Variable(dim, places, attributes(_TEXTS.get(dim, dim)))
        return found

    def across(self, recorded: xr.Dataset) -> xr.Dataset | None:
        """Return ``view_sign``, ``view_overlap_map`` and the overlaps with first, previous and final step."""
        dims = ("operator", "view_mode", "step")
        functions = recorded.view_function.transpose(*dims, ...).values
        shape = functions.shape[:3]
        rows = np.nan_to_num(functions.reshape(*shape, -1).astype(np.float64))  # entries that others have
        there = recorded.view_value.transpose(*dims).notnull().values
        inner = np.einsum("omsn,omtn->omst", rows, rows, optimize=True)
        signs = np.where(there, 1.0, np.nan)
        for operator, mode in np.ndindex(*shape[:2]):
            steps = np.flatnonzero(there[operator, mode])
            for before, step in pairwise(steps):
                turned = signs[operator, mode, before] * inner[operator, mode, before, step] < 0
                signs[operator, mode, step] = -1.0 if turned else 1.0
        both = there[..., :, None] & there[..., None, :]
        overlap = np.where(both, np.abs(inner), np.nan)
        data = over_steps(recorded, "view_overlap", dims[:2], overlap, None, _OVERLAP)
        text = "sign by which an eigenfunction continues that of the step before"
        data["view_sign"] = (dims, signs, attributes(text))
        return data


def _index(value: Any, axis: Any) -> Any:
    """Return what ``select`` takes of an axis as an index of an array."""
    if isinstance(value, str):
        return axis.part(value).slice
    return value if isinstance(value, int | slice) else np.asarray(value)
