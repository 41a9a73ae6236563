"""Models, and ``linearize``: who makes the operators of a flow."""

from kpframe.models._autograd.linearization import Linearization
from kpframe.models._autograd.rollout import GraphPropagator
from kpframe.models._initial_weights import normal_, uniform_
from kpframe.models._linearize import linearize
from kpframe.models._model import Model, create_model
from kpframe.models._sites.declaration import Site, Stage
from kpframe.models._sites.model import SiteModel
from kpframe.models._sites.parameter_operator import GramParameterOperator
from kpframe.models._wrap.cell import WrappedCell, wrap

__all__ = [
    "GramParameterOperator",
    "GraphPropagator",
    "Linearization",
    "Model",
    "Site",
    "SiteModel",
    "Stage",
    "WrappedCell",
    "create_model",
    "linearize",
    "normal_",
    "uniform_",
    "wrap",
]
