"""kpframe: the geometry of learning in recurrent models.

For a recurrent model ``h_t = f(h_{t-1}, x_t, theta)`` and a trajectory, ``linearize`` returns the
propagator P, the parameter operator K and the neural tangent operator Phi = P K P*, as matrix-free
operators on ``[batch, time, hidden]`` tensors. Names load on first use, so that importing the package
costs nothing that is not used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_HOME = {
    "Estimate": "spectra",
    "Flow": "flow",
    "IdentityOperator": "operators",
    "DiagonalOperator": "operators",
    "FunctionOperator": "operators",
    "KpframeError": "errors",
    "LearningRule": "rules",
    "MatrixOperator": "operators",
    "Model": "model",
    "Operator": "operators",
    "OuterProductOperator": "operators",
    "ParameterOperator": "parameter",
    "Propagator": "propagator",
    "Readout": "readout",
    "Reducer": "reducer",
    "Site": "site_layout",
    "SiteModel": "sites",
    "Space": "spaces",
    "Stage": "site_layout",
    "StepJacobian": "step_jacobian",
    "StochasticRule": "rules",
    "Task": "tasks",
    "Trajectory": "trajectory",
    "Trials": "tasks",
    "Update": "update",
    "ZeroOperator": "operators",
    "alignment": "spectra",
    "create_model": "registry",
    "create_reducer": "registry",
    "create_rule": "registry",
    "create_task": "registry",
    "effective_rank": "spectra",
    "eigsh": "spectra",
    "frobenius_norm": "spectra",
    "linearize": "flow",
    "lyapunov_exponents": "spectra.lyapunov",
    "spectral_density": "spectra",
    "svd": "spectra",
    "trace": "spectra",
    "wrap": "wrapped",
}

__all__ = [
    "DiagonalOperator",
    "Estimate",
    "Flow",
    "FunctionOperator",
    "IdentityOperator",
    "KpframeError",
    "LearningRule",
    "MatrixOperator",
    "Model",
    "Operator",
    "OuterProductOperator",
    "ParameterOperator",
    "Propagator",
    "Readout",
    "Reducer",
    "Site",
    "SiteModel",
    "Space",
    "Stage",
    "StepJacobian",
    "StochasticRule",
    "Task",
    "Trajectory",
    "Trials",
    "Update",
    "ZeroOperator",
    "alignment",
    "create_model",
    "create_reducer",
    "create_rule",
    "create_task",
    "effective_rank",
    "eigsh",
    "frobenius_norm",
    "linearize",
    "lyapunov_exponents",
    "spectral_density",
    "svd",
    "trace",
    "wrap",
]

if TYPE_CHECKING:
    from kpframe.errors import KpframeError
    from kpframe.flow import Flow, linearize
    from kpframe.model import Model
    from kpframe.operators import (
        DiagonalOperator,
        FunctionOperator,
        IdentityOperator,
        MatrixOperator,
        Operator,
        OuterProductOperator,
        ZeroOperator,
    )
    from kpframe.parameter import ParameterOperator
    from kpframe.propagator import Propagator
    from kpframe.readout import Readout
    from kpframe.reducer import Reducer
    from kpframe.registry import create_model, create_reducer, create_rule, create_task
    from kpframe.rules import LearningRule, StochasticRule
    from kpframe.site_layout import Site, Stage
    from kpframe.sites import SiteModel
    from kpframe.spaces import Space
    from kpframe.spectra import (
        Estimate,
        alignment,
        effective_rank,
        eigsh,
        frobenius_norm,
        spectral_density,
        svd,
        trace,
    )
    from kpframe.spectra.lyapunov import lyapunov_exponents
    from kpframe.step_jacobian import StepJacobian
    from kpframe.tasks import Task, Trials
    from kpframe.trajectory import Trajectory
    from kpframe.update import Update
    from kpframe.wrapped import wrap


#: Rooms that are used by their own name: ``kpframe.plugin.temporary``, ``kpframe.testing.check_model``.
_ROOMS = ("plugin", "testing")


def __getattr__(name: str) -> object:
    if name in _ROOMS:
        return import_module(f"kpframe.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'kpframe' has no attribute {name!r}")
    value = getattr(import_module(f"kpframe.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_ROOMS})
