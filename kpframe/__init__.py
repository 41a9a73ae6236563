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
    "DiagonalOperator": "operators",
    "Estimate": "spectra",
    "Flow": "flow",
    "FunctionOperator": "operators",
    "IdentityOperator": "operators",
    "KpframeError": "errors",
    "LearningRule": "rules",
    "MatrixOperator": "operators",
    "Model": "models",
    "Operator": "operators",
    "OuterProductOperator": "operators",
    "ParameterOperator": "flow",
    "Propagator": "flow",
    "Readout": "readout",
    "Reducer": "operators",
    "Site": "models",
    "SiteModel": "models",
    "Space": "operators",
    "Stage": "models",
    "StepJacobian": "flow",
    "StochasticRule": "rules",
    "Task": "tasks",
    "Trajectory": "flow",
    "Trials": "tasks",
    "Update": "rules",
    "ZeroOperator": "operators",
    "alignment": "spectra",
    "create_model": "models",
    "create_reducer": "operators",
    "create_rule": "rules",
    "create_task": "tasks",
    "effective_rank": "spectra",
    "eigsh": "spectra",
    "frobenius_norm": "spectra",
    "linearize": "models",
    "lyapunov_exponents": "spectra",
    "open_run": "study",
    "spectral_density": "spectra",
    "svd": "spectra",
    "trace": "spectra",
    "wrap": "models",
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
    "open_run",
    "spectral_density",
    "svd",
    "trace",
    "wrap",
]

if TYPE_CHECKING:
    from kpframe.errors import KpframeError
    from kpframe.flow import Flow, ParameterOperator, Propagator, StepJacobian, Trajectory
    from kpframe.models import Model, Site, SiteModel, Stage, create_model, linearize, wrap
    from kpframe.operators import (
        DiagonalOperator,
        FunctionOperator,
        IdentityOperator,
        MatrixOperator,
        Operator,
        OuterProductOperator,
        Reducer,
        Space,
        ZeroOperator,
        create_reducer,
    )
    from kpframe.readout import Readout
    from kpframe.rules import LearningRule, StochasticRule, Update, create_rule
    from kpframe.spectra import (
        Estimate,
        alignment,
        effective_rank,
        eigsh,
        frobenius_norm,
        lyapunov_exponents,
        spectral_density,
        svd,
        trace,
    )
    from kpframe.study import open_run
    from kpframe.tasks import Task, Trials, create_task


#: Public modules, used by their own name: ``kpframe.readout.error``, ``kpframe.testing.check_model``.
_MODULES = (
    "checkpoint",
    "comparison",
    "errors",
    "flow",
    "forecast",
    "gradient_flow",
    "interchange",
    "lightning",
    "models",
    "operators",
    "plot",
    "plugin",
    "readout",
    "rules",
    "spectra",
    "study",
    "tasks",
    "testing",
    "training",
)


def __getattr__(name: str) -> object:
    if name in _MODULES:
        return import_module(f"kpframe.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'kpframe' has no attribute {name!r}")
    value = getattr(import_module(f"kpframe.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOME, *_MODULES})
