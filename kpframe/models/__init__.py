"""Models, and ``linearize``: who makes the operators of a flow."""

from kpframe.models._autograd.linearization import Linearization
from kpframe.models._autograd.rollout import GraphPropagator
from kpframe.models._initial_weights import normal_, uniform_
from kpframe.models._linearize import linearize
from kpframe.models._model import Model, create_model
from kpframe.models._sites.declaration import INPUT, PRIME, Site, Stage, component_widths
from kpframe.models._sites.model import SiteModel
from kpframe.models._sites.parameter_operator import GramParameterOperator, SiteParameterJacobian
from kpframe.models._sites.step_jacobian import SiteStepJacobian
from kpframe.models._wrap.cell import WrappedCell, wrap

__all__ = [
    "INPUT",
    "PRIME",
    "GramParameterOperator",
    "GraphPropagator",
    "Linearization",
    "Model",
    "Site",
    "SiteModel",
    "SiteParameterJacobian",
    "SiteStepJacobian",
    "Stage",
    "WrappedCell",
    "component_widths",
    "create_model",
    "linearize",
    "normal_",
    "uniform_",
    "wrap",
]
