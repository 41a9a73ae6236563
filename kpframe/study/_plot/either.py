"""``spectrum`` and ``eigenfunctions``: of an operator in a notebook, or of what a run has recorded."""

from __future__ import annotations

from typing import Any, overload

import numpy as np
import torch
import xarray as xr
from matplotlib.axes import Axes

from kpframe.errors import ArgumentError, mismatch, whole
from kpframe.operators import Operator
from kpframe.study._plot.look import Panels
from kpframe.study._plot.operator import eigenfunctions_of_operator, spectrum_of_operator
from kpframe.study._plot.operators import eigenfunctions_over_training, spectrum_over_training
from kpframe.study._plot.source import Source, figure


@figure("singular_value", "singular_value_converged", quantity="spectrum", name="spectrum")
def _recorded_spectrum(data: xr.Dataset, /, *, axes: Panels = None, **selection: Any) -> np.ndarray:
    return spectrum_over_training(data, axes)


@figure("time_eigenfunction", "time_explained", quantity="time_kernel", name="eigenfunctions")
def _recorded_eigenfunctions(
    data: xr.Dataset, /, *, axes: Panels = None, modes: int = 3, **selection: Any
) -> np.ndarray:
    return eigenfunctions_over_training(data, axes, modes)


@overload
def spectrum(
    data: Operator,
    /,
    *,
    ax: Axes | None = None,
    k: int = 16,
    budget: int | None = None,
    generator: torch.Generator | None = None,
) -> Axes: ...


@overload
def spectrum(data: Source, /, *, axes: Panels = None, **selection: Any) -> np.ndarray: ...


def spectrum(data: Source | Operator, /, **how: Any) -> Axes | np.ndarray:
    """Leading singular values, of one operator or of those that a run has recorded; ``how`` depends on which.

    Of an operator: ``spectrum(op, ax=None, k=16, budget=None, generator=None)``. Eigenvalues of the largest
    magnitude where it is self-adjoint, otherwise singular values; those that did not converge within
    ``budget`` products have open markers. Of a run: ``spectrum(run, axes=None, **selection)``, at the first
    and the last step, a panel for each operator of a training; open markers are lower bounds.

    Raises:
        ArgumentError: for a run without the quantity ``spectrum``, a selection that is not there, and a
            budget that does not suffice.

    Examples:
        >>> import kpframe.plot, torch
        >>> axes = kpframe.plot.spectrum(kpframe.DiagonalOperator(torch.tensor([3.0, 2.0, 1.0])), k=3)
        >>> axes.get_xlabel(), axes.get_yscale()
        ('k', 'linear')
    """
    if isinstance(data, Operator):
        how = _of_operator("spectrum", how, ax=None, k=16, budget=None, generator=None)
        return spectrum_of_operator(data, **how | {"k": whole(how["k"], "k")})
    return _recorded_spectrum(data, **how)


@overload
def eigenfunctions(
    data: Operator,
    /,
    *,
    axes: Axes | Panels = None,
    k: int = 3,
    budget: int | None = None,
    generator: torch.Generator | None = None,
) -> np.ndarray: ...


@overload
def eigenfunctions(
    data: Source, /, *, axes: Panels = None, modes: int = 3, **selection: Any
) -> np.ndarray: ...


def eigenfunctions(data: Source | Operator, /, **how: Any) -> np.ndarray:
    """Leading eigenfunctions, of one operator or of those that a run has recorded; ``how`` depends on which.

    Of an operator: ``eigenfunctions(op, axes=None, k=3, budget=None, generator=None)``. Eigenvectors where it
    is self-adjoint, otherwise left singular vectors: lines over a space of one axis (reduce the operator to
    it), maps otherwise. Of a run: ``eigenfunctions(run, axes=None, modes=3, **selection)``, over the steps of
    a trial after training, of each operator averaged over trials and traced over units, with the share of the
    trace that each explains.

    Raises:
        ArgumentError: for a run without the quantity ``time_kernel``, a selection that is not there, and a
            budget that does not suffice.
    """
    if isinstance(data, Operator):
        how = _of_operator("eigenfunctions", how, axes=None, k=3, budget=None, generator=None)
        return eigenfunctions_of_operator(data, **how | {"k": whole(how["k"], "k")})
    if "modes" in how:
        how = how | {"modes": whole(how["modes"], "modes")}
    return _recorded_eigenfunctions(data, **how)


def _of_operator(name: str, given: dict[str, Any], **known: Any) -> dict[str, Any]:
    if wrong := sorted(set(given) - set(known)):
        wanted = f"of an operator one of {', '.join(known)}"
        raise ArgumentError(f"{name}: {mismatch(wrong[0], wanted, 'what figures of a run take')}")
    return known | given
