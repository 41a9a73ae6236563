"""Results in other libraries' forms: xarray with named dims, numpy arrays, curvlinops operators.

The libraries are imported inside the functions, so that the core needs none of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch

from kpframe.errors import ArgumentError, DtypeError, MissingDependencyError, ShapeError, mismatch
from kpframe.flow._trajectory import Trajectory
from kpframe.operators._base import Operator
from kpframe.operators._spaces import HIDDEN, PARAMETER, Space
from kpframe.spectra import EigenPairs, SingularTriplets, SpectralDensity
from kpframe.spectra._lyapunov import LyapunovSpectrum

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    from scipy.sparse.linalg import LinearOperator


#: What the variables and coordinates of results are.
_LONG_NAMES = {
    "states": "hidden states",
    "initial_state": "state before the first step",
    "inputs": "inputs",
    "mask": "whether a step exists",
    "eigenvalue": "eigenvalue",
    "eigenvector": "eigenvector, of norm 1",
    "residual_norm": "norm of the residual",
    "converged": "whether it is within the tolerance, and none is missing before it",
    "singular_value": "singular value",
    "left": "left singular vector, of norm 1",
    "right": "right singular vector, of norm 1",
    "node": "node of the Lanczos quadrature",
    "weight": "weight of the node",
    "exponent": "Lyapunov exponent, per unit of dt",
    "dimension": "Kaplan-Yorke dimension",
    "expansion_rate": "sum of the positive exponents, per unit of dt",
    "steps": "steps that the exponents are means over",
    "hidden_part": "component of the state",
    "parameter_part": "parameter",
}


def to_numpy(tensor: torch.Tensor) -> np.ndarray[Any, Any]:
    """Return the values of ``tensor`` as an array of its shape and dtype, on the CPU, apart from autograd."""
    return tensor.detach().cpu().numpy()


def named_array(tensor: torch.Tensor, space: Space, *leading: str, name: str | None = None) -> xr.DataArray:
    """Return ``tensor`` ``[*leading, *space]`` as an array called ``name``, its dims the names of its axes.

    The parts of an axis (components of a state, parameters) become the coordinate ``<axis>_part``.

    Raises:
        ShapeError: when the tensor does not have these dimensions.

    Examples:
        >>> import kpframe.interchange, torch
        >>> space = kpframe.Space.of(time=2, hidden=3)
        >>> kpframe.interchange.named_array(torch.zeros(4, 2, 3), space, "probe").dims
        ('probe', 'time', 'hidden')
    """
    if tensor.ndim != len(leading) + len(space.axes) or tuple(tensor.shape[len(leading) :]) != space.shape:
        expected = ", ".join([*leading, str(space)])
        raise ShapeError(mismatch("tensor", f"shape [{expected}]", f"shape {list(tensor.shape)}"))
    xarray = _import("xarray")
    coordinates = {
        f"{axis.name}_part": (axis.name, [part.name for part in axis.parts for _ in range(part.size)])
        for axis in space.axes
        if axis.parts and axis.name in (HIDDEN, PARAMETER)
    }
    dims = (*leading, *space.names)
    array: xr.DataArray = xarray.DataArray(to_numpy(tensor), dims=dims, coords=coordinates, name=name)
    return array


def to_xarray(result: object, operator: Operator | None = None) -> xr.Dataset:
    """Return a result as a dataset with named dims.

    Args:
        result: a ``Trajectory``, ``EigenPairs``, ``SingularTriplets``,
            ``SpectralDensity`` or ``LyapunovSpectrum``.
        operator: the operator whose eigenpairs or singular triplets these are; its axes name their dims.

    Raises:
        ArgumentError: for another kind of result, or a missing operator.
    """
    xarray = _import("xarray")
    variables: dict[str, Any]
    if isinstance(result, Trajectory):
        start = result.space.without("time")
        variables = {
            "states": named_array(result.states, result.space),
            "initial_state": named_array(result.initial_state, start),
            "inputs": (("batch", "time", "input"), to_numpy(result.inputs)),
        }
        if result.mask is not None:
            variables["mask"] = (("batch", "time"), to_numpy(result.mask))
        return _dataset(xarray, variables, {})
    if isinstance(result, EigenPairs):
        space = _needed(operator, result).domain
        variables = {
            "eigenvalue": ("k", to_numpy(result.eigenvalues)),
            "eigenvector": named_array(result.eigenvectors, space, "k"),
            "residual_norm": ("k", to_numpy(result.residual_norms)),
            "converged": ("k", to_numpy(result.converged)),
        }
        return _dataset(xarray, variables, _spent(result, operator))
    if isinstance(result, SingularTriplets):
        op = _needed(operator, result)
        variables = {
            "singular_value": ("k", to_numpy(result.S)),
            "left": _sided(result.U, op.codomain, "left", same=op.square),
            "right": _sided(result.V, op.domain, "right", same=op.square),
            "residual_norm": ("k", to_numpy(result.residual_norms)),
            "converged": ("k", to_numpy(result.converged)),
        }
        return _dataset(xarray, variables, _spent(result, operator))
    if isinstance(result, SpectralDensity):
        variables = {
            "node": (("probe", "lanczos_step"), to_numpy(result.nodes)),
            "weight": (("probe", "lanczos_step"), to_numpy(result.weights)),
        }
        return _dataset(xarray, variables, {**_spent(result, operator), "dimension": result.dimension})
    if isinstance(result, LyapunovSpectrum):
        variables = {
            "exponent": (("batch", "k"), to_numpy(result.exponents)),
            "dimension": ("batch", to_numpy(result.dimension)),
            "expansion_rate": ("batch", to_numpy(result.expansion_rate)),
        }
        if isinstance(result.steps, torch.Tensor):  # each trial has its own
            variables["steps"] = ("batch", to_numpy(result.steps))
            return _dataset(xarray, variables, {"dt": result.dt})
        return _dataset(xarray, variables, {"dt": result.dt, "steps": result.steps})
    raise ArgumentError(
        mismatch(
            "result",
            "a Trajectory, EigenPairs, SingularTriplets, SpectralDensity or LyapunovSpectrum",
            type(result).__name__,
        )
    )


def to_curvlinops(operator: Operator) -> Any:
    """Return ``operator`` as a ``curvlinops`` ``PyTorchLinearOperator`` between tensors of its spaces.

    Raises:
        MissingDependencyError: when curvlinops is not installed.
    """
    base = _import("curvlinops._torch_base", package="curvlinops-for-pytorch").PyTorchLinearOperator

    class KpframeOperator(base):  # type: ignore[misc, valid-type]
        def __init__(self, inner: Operator) -> None:
            super().__init__([inner.domain.shape], [inner.codomain.shape])
            self._inner = inner

        @property
        def device(self) -> torch.device:
            return self._inner.device

        @property
        def dtype(self) -> torch.dtype:
            return self._inner.dtype

        def _matmat(self, X: list[torch.Tensor]) -> list[torch.Tensor]:
            return [self._inner(X[0].movedim(-1, 0)).movedim(0, -1)]

        def to_scipy(self, dtype: Any = None) -> LinearOperator:
            """Return the SciPy form, which takes complex vectors whole; raises ``DtypeError``."""
            flat = self._inner.to_scipy()
            if dtype is not None and flat.dtype != dtype:
                raise DtypeError(mismatch("dtype", f"{flat.dtype} or None (nothing is cast)", dtype))
            return flat

        def _adjoint(self) -> KpframeOperator:
            return KpframeOperator(self._inner.T)

    return KpframeOperator(operator)


def dsa_arrays(trajectory: Trajectory) -> list[np.ndarray[Any, Any]]:
    """Return an array ``[steps, hidden]`` for each trial of ``trajectory``, without padding, as for DSA."""
    states = to_numpy(trajectory.states)
    if trajectory.mask is None:
        return list(states)
    return [trial[keep] for trial, keep in zip(states, to_numpy(trajectory.mask), strict=True)]


def netrep_array(trajectory: Trajectory) -> np.ndarray[Any, Any]:
    """Return the valid states ``[samples, hidden]`` of all trials of ``trajectory``, in a row, for netrep."""
    states = trajectory.states
    rows = states.reshape(-1, states.shape[-1]) if trajectory.mask is None else states[trajectory.mask]
    return to_numpy(rows)


def _sided(tensor: torch.Tensor, space: Space, side: str, *, same: bool) -> xr.DataArray:
    """Return singular vectors; where the two sides' spaces differ, their dims are told apart."""
    array = named_array(tensor, space, "k")
    return array if same else array.rename({axis: f"{side}_{axis}" for axis in space.names})


def _needed(operator: Operator | None, result: object) -> Operator:
    if operator is None:
        raise ArgumentError(mismatch("operator", f"the operator of these {type(result).__name__}", None))
    return operator


def _spent(
    result: EigenPairs | SingularTriplets | SpectralDensity, operator: Operator | None
) -> dict[str, Any]:
    name = {} if operator is None else {"operator": repr(operator)}
    return {"method": result.method, "num_matvecs": result.num_matvecs, **name}


def _dataset(xarray: Any, variables: dict[str, Any], attributes: dict[str, Any]) -> xr.Dataset:
    data: xr.Dataset = xarray.Dataset(variables, attrs=attributes)
    rate = "1/step" if attributes.get("dt") == 1 else "1/time"
    for name, variable in data.variables.items():
        text = _LONG_NAMES.get(str(name).removeprefix("left_").removeprefix("right_"), str(name))
        units = rate if name in ("exponent", "expansion_rate") else "1"
        variable.attrs |= {"long_name": text, "units": units}
    return data


def _import(module: str, package: str | None = None) -> Any:
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependencyError(
            f"this needs {module.partition('.')[0]}, which is not installed: "
            f"pip install {package or 'kpframe[study]'}"
        ) from error
