"""Figures of one operator: its spectrum, eigenfunctions and matrix."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes

from kpframe.errors import ArgumentError, MemoryBudgetError, mismatch, shown
from kpframe.operators import Operator, Space
from kpframe.spectra import EigenPairs, eigsh, svd
from kpframe.study._plot.look import COLOURS, MARKERS, Panels, panels_of, say, short
from kpframe.study._plot.maps import colour_bar, colours_of
from kpframe.study._plot.ticks import finish, flat, whole, wide

#: Largest matrix that is drawn unless a budget says otherwise [byte].
MATRIX = 2**28
#: Most blocks of a matrix that are named.
BLOCKS = 8


def spectrum_of_operator(
    op: Operator, *, ax: Axes | None, k: int, budget: int | None, generator: torch.Generator | None
) -> Axes:
    """Draw the leading eigenvalues of a self-adjoint operator, or singular values of another one."""
    found, values = _leading(op, k, budget, generator)
    converged = found.converged.cpu().numpy()
    panel: Axes = panels_of(ax, 1, 1, (5.2, 3.4))[0, 0]
    places = np.arange(1, len(values) + 1)
    panel.plot(places, values, color=COLOURS[0], marker="o", ms=4, lw=1.2)
    panel.plot(places, np.where(converged, np.nan, values), color=COLOURS[0], marker="o", ms=4, lw=0, mfc="w")
    eigen = isinstance(found, EigenPairs)
    panel.set(xlabel="k", ylabel="eigenvalue" if eigen else "singular value", title=_formula(op))
    if wide(values):
        panel.set_yscale("log")
    elif values.min() < 0:
        panel.axhline(0, color="0.7", lw=0.8, zorder=0)
    whole(panel.xaxis)
    say(np.array([[panel]]), [_open(found, eigen, int((~converged).sum()))], ax)
    finish([panel])
    return panel


def _leading(op: Operator, k: int, budget: int | None, generator: torch.Generator | None) -> tuple[Any, Any]:
    if not isinstance(op, Operator):
        raise ArgumentError(mismatch("op", "an Operator", shown(op)))
    k = min(k, op.domain.size, op.codomain.size)
    if op.self_adjoint:
        pairs = eigsh(op, k=k, which="magnitude", budget=budget, generator=generator)
        return pairs, pairs.eigenvalues.detach().cpu().double().numpy()
    triplets = svd(op, k=k, budget=budget, generator=generator)
    return triplets, triplets.S.detach().cpu().double().numpy()


def _open(found: Any, eigen: bool, count: int) -> str:
    products = f"{found.num_matvecs} products, {found.method}."
    if not count:
        return products
    what = "eigenvalue" if eigen else "singular value"
    many = f"{count} {what}{'s' if count > 1 else ''} that did not converge"
    return f"Open: {many}, lower bounds of magnitude; budget=... allows more. {products}"


def eigenfunctions_of_operator(
    op: Operator,
    *,
    axes: Axes | Panels,
    k: int,
    budget: int | None,
    generator: torch.Generator | None,
) -> np.ndarray:
    """Draw the leading eigenvectors, or left singular vectors, along the axes of their space.

    Lines over the one axis of a space that has one; otherwise maps, with time (or the last axis) across.
    """
    found, values = _leading(op, k, budget, generator)
    eigen = isinstance(found, EigenPairs)
    vectors = (found.eigenvectors if eigen else found.U).detach().cpu().double().numpy()
    converged = found.converged.cpu().numpy()
    space = op.codomain
    sign = r"\lambda" if eigen else r"\sigma"
    titles = [
        rf"{place + 1}: ${sign}$ = {value:.3g}{'' if known else ', not converged'}"
        for place, (value, known) in enumerate(zip(values, converged, strict=True))
    ]
    kept = [name for name in space.names if space[name].size > 1] or list(space.names)[-1:]
    vectors = vectors.reshape(len(values), *(space[name].size for name in kept))
    if len(kept) == 1:
        grid = panels_of(axes, 1, 1, (6.4, 3.4))
        _functions(grid[0, 0], vectors, titles, converged)
        grid[0, 0].set(xlabel=kept[0], ylabel="eigenfunction" if eigen else "left singular vector")
    else:
        grid = _function_maps(axes, vectors, kept, titles)
    say(grid, [_open(found, eigen, 0), f"Of {_formula(op)}."], axes)
    finish(flat(grid))
    return grid


def _functions(panel: Axes, vectors: np.ndarray, titles: list[str], converged: np.ndarray) -> None:
    for place, (vector, title) in enumerate(zip(vectors, titles, strict=True)):
        panel.plot(
            np.arange(len(vector)),
            vector,
            color=COLOURS[place % len(COLOURS)],
            ls="-" if converged[place] else ":",
            marker=MARKERS[place % len(MARKERS)] if len(vector) <= 40 else "",
            mfc=None if converged[place] else "w",
            ms=3.5,
            lw=1.2,
            label=title,
        )
    panel.axhline(0, color="0.8", lw=0.8, zorder=0)
    whole(panel.xaxis)
    panel.legend(frameon=False, fontsize=8)


def _function_maps(
    axes: Axes | Panels, vectors: np.ndarray, kept: list[str], titles: list[str]
) -> np.ndarray:
    across = "time" if "time" in kept else kept[-1]
    rows = [name for name in kept if name != across]
    tables = np.moveaxis(vectors, 1 + kept.index(across), -1)
    tables = tables.reshape(len(vectors), -1, tables.shape[-1])
    columns = min(3, len(tables))
    height = -(-len(tables) // columns)
    grid = panels_of(axes, height, columns, (1.2 + 2.4 * columns, 0.6 + 2.5 * height), square=True)
    limit = float(np.abs(tables).max()) or 1.0
    for place, (panel, table, title) in enumerate(zip(grid.flat, tables, titles, strict=False)):
        image = panel.imshow(
            table, cmap="RdBu_r", vmin=-limit, vmax=limit, aspect="auto", interpolation="nearest"
        )
        panel.set_title(title, fontsize=9)
        panel.set_xlabel(across)
        if place % columns == 0:
            panel.set_ylabel(" × ".join(rows))
        whole(panel.xaxis, 5)
        whole(panel.yaxis, 5)
    for panel in grid.ravel()[len(tables) :]:
        panel.set_axis_off()
    colour_bar(grid, image, "entry")
    return grid


def matrix(op: Operator, /, *, ax: Axes | None = None, budget: int = MATRIX) -> Axes:
    """The dense matrix of an operator, rows its codomain and columns its domain, axes by their names.

    Entries stand in row-major order of the axes; ticks are at the blocks of the first axis with several
    places, or of the parts of an axis that has parts: parameters, components of a state.

    Args:
        op: any operator.
        ax: to draw on.
        budget: bytes that the matrix may take.

    Raises:
        ArgumentError: for something that is no operator.
        MemoryBudgetError: for a matrix over the budget; it says how many bytes it needs.

    Examples:
        >>> import kpframe.plot, torch
        >>> space = kpframe.Space.of(time=2, hidden=3)
        >>> axes = kpframe.plot.matrix(kpframe.DiagonalOperator(torch.ones(2, 3), space))
        >>> axes.get_ylabel()
        'time 2 × hidden 3'
    """
    if not isinstance(op, Operator):
        raise ArgumentError(mismatch("op", "an Operator", shown(op)))
    needed = op.codomain.size * op.domain.size * op.dtype.itemsize
    if needed > budget:
        shape = f"[{op.codomain.size}, {op.domain.size}]"
        got = f"{shape} {op.dtype}, which needs {needed} bytes; reduce the operator first (mean, select, "
        raise MemoryBudgetError(
            mismatch("budget", f"a matrix within {budget} bytes", f"{got}project) or raise budget")
        )
    table = op.to_dense(max(budget, needed)).detach().cpu().double().numpy()
    low, high, colours = colours_of([xr.DataArray(table)])
    panel: Axes = panels_of(ax, 1, 1, (5.0, 4.2), square=True)[0, 0]
    image = panel.imshow(table, vmin=low, vmax=high, cmap=colours, interpolation="nearest", aspect="auto")
    for axis, space, line in (
        (panel.yaxis, op.codomain, panel.axhline),
        (panel.xaxis, op.domain, panel.axvline),
    ):
        axis.set_label_text(" × ".join(f"{name} {space[name].size}" for name in space.names))
        _blocks(axis, space, line)
    panel.set_title(_formula(op))
    colour_bar(np.array([[panel]]), image, "entry")
    finish([panel])
    return panel


def _blocks(axis: Any, space: Space, line: Any) -> None:
    """Name the blocks of an axis: its parts, or the places of its first name with several."""
    names, sizes = _parts(space)
    if len(names) < 2:
        whole(axis)
        return
    ends = np.cumsum(sizes)
    chosen = np.unique(np.linspace(0, len(names) - 1, min(len(names), BLOCKS)).round().astype(int))
    centres = ends - np.asarray(sizes) / 2 - 0.5
    long = axis.axis_name == "x" and max(len(names[place]) for place in chosen) > 4
    turned = {"rotation": 45, "ha": "right"} if long else {}
    axis.set_ticks(centres[chosen], [short(names[place], 24) for place in chosen], **turned)
    axis.set_tick_params(length=0, labelsize=8)
    if len(names) <= 4 * BLOCKS:
        for end in ends[:-1]:
            line(end - 0.5, color="k", lw=0.3)


def _parts(space: Space) -> tuple[list[str], list[int]]:
    several = [name for name in space.names if space[name].size > 1]
    if not several:
        return [], []
    first = space[several[0]]
    inner = int(np.prod([space[name].size for name in several[1:]], dtype=int))
    if len(first.parts) > 1:
        return [part.name for part in first.parts], [part.size * inner for part in first.parts]
    if inner == 1:
        return [], []
    return [f"{first.name} {place}" for place in range(first.size)], [inner] * first.size


def _formula(op: Operator) -> str:
    return short(repr(op).replace("$", r"\$"), 48)
