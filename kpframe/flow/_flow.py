"""``Flow``: the operators of a model along one trajectory, what it asks of the model, and forms by name."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any, Protocol

import torch

from kpframe.errors import ArgumentError, PluginError, PluginWarning, mismatch, shown
from kpframe.flow._neural_tangent import neural_tangent, total_jacobian
from kpframe.flow._parameter_jacobian import ParameterJacobian
from kpframe.flow._parameter_operator import ParameterOperator
from kpframe.flow._propagator import Propagator
from kpframe.flow._segmented import SegmentedPropagator
from kpframe.flow._segments import SegmentedStepJacobian
from kpframe.flow._step_jacobian import StepJacobian
from kpframe.flow._trajectory import Trajectory
from kpframe.operators._base import Operator
from kpframe.operators._cards import byte_text, card, numbers_text
from kpframe.operators._elementary import IdentityOperator
from kpframe.operators._isolation import isolated
from kpframe.plugin._manager import create, get_manager
from kpframe.plugin._specs import FormSpec

#: A form by its name among what plugins and the core offer, or its class, or any ``factory(A, **settings)``.
PropagatorForm = str | Callable[..., Propagator]
#: The same for ``factory(J, **settings)``.
ParameterOperatorForm = str | Callable[..., ParameterOperator]

#: Asks for the form, among those that plugins offer, that is known to be the fastest for an A.
FASTEST = "fastest"


class Dynamics(Protocol):
    """What a flow needs of a model ``h_t = f(h_{t-1}, x_t, theta)``; ``kpframe.Model`` has it all."""

    input_size: int
    time_varying: bool

    @property
    def components(self) -> Mapping[str, int]:
        """The state's components and their widths, in order."""

    @property
    def width(self) -> int:
        """Width H of the state."""

    def step(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        """Return the next state ``[N, H]``."""

    def initial_state(self, batch: int) -> torch.Tensor:
        """Return ``h_0`` ``[batch, H]``."""

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """Return theta."""

    def rollout(
        self, x: torch.Tensor, h0: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> Trajectory:
        """Run the model over ``x`` ``[B, T, I]``."""

    def unread(self, trajectory: Trajectory) -> frozenset[str]:
        """Return the names of the parameters that nothing along a trajectory reads."""


class Flow:
    """The operators of a model along one trajectory.

    A flow is a value: it holds its own copy of the parameters, so training the model further does not
    change it, and flows from different steps of a training can be compared.

    Attributes:
        model: the model as it was when linearized (a copy).
        trajectory: the roll-out, detached.
        P: the propagator ``(I - A Z)^{-1}``.
        K: the parameter operator ``J M J*``.

    Examples:
        >>> import kpframe, torch
        >>> generator = torch.manual_seed(0)
        >>> flow = kpframe.linearize(kpframe.wrap(torch.nn.RNNCell(3, 4)), torch.randn(2, 5, 3))
        >>> print(flow.A, flow.J, flow.P, flow.K, flow.Phi, flow.G)
        A J P K P K P* P J
        >>> print(flow.P.domain, flow.J.domain, sep="; ")
        batch=2, time=5, hidden=4; parameter=36
        >>> flow.P.inverse(flow.P(flow.trajectory.states)).allclose(flow.trajectory.states, atol=1e-6)
        True
    """

    def __init__(self, model: Dynamics, trajectory: Trajectory, P: Propagator, K: ParameterOperator) -> None:
        self.model = model
        self.trajectory = trajectory
        self.P = P
        self.K = K
        P.A.keeping(trajectory.mask)

    @property
    def A(self) -> StepJacobian:
        """The step Jacobian ``A_t = df/dh_{t-1}``."""
        return self.P.A

    @property
    def J(self) -> ParameterJacobian:
        """The parameter Jacobian ``df/dtheta`` at fixed ``h_{t-1}``."""
        return self.K.jacobian

    @cached_property
    def Phi(self) -> Operator:
        """The neural tangent operator ``P K P*``; equals ``G G*`` with ``G = dh/dtheta = P J``."""
        return neural_tangent(self.P, self.K)

    @cached_property
    def G(self) -> Operator:
        """The total derivative ``dh/dtheta = P J``, parameter space -> state space."""
        return total_jacobian(self.P, self.J)

    @cached_property
    def unread(self) -> frozenset[str]:
        """Names of parameters that nothing along the trajectory reads: a readout inside the module.

        Their columns of J are zero. It does not teach them, so that their ``.grad`` is not a rule's to fill.
        """
        return self.model.unread(self.trajectory)

    def with_propagator(self, propagator: PropagatorForm, **settings: Any) -> Flow:
        """Return the flow with P in another form, of the same A.

        Args:
            propagator: a name (``"scan"``, ``"stepwise"``, ``"dense"``, ``"graph"``, or what a plugin
                offers), a class, or any ``factory(A, **settings)``; ``"fastest"`` takes the first form of an
                installed plugin that prefers this A (``Propagator.prefers``), and P as it is where none does.
            settings: of that form.

        Raises:
            UnknownNameError: for an unknown name; lists those there are.
            UnsupportedError: for a form that does not fit A; says why.
            ArgumentError: for a factory that makes something else than a propagator on A's space.

        Examples:
            >>> import kpframe, torch
            >>> generator = torch.manual_seed(0)
            >>> flow = kpframe.linearize(kpframe.wrap(torch.nn.RNNCell(3, 4)), torch.randn(2, 5, 3))
            >>> flow.with_propagator("dense").P.method
            'dense'
        """
        if propagator == FASTEST:
            preferred = preferred_form(self.A)
            return self if preferred is None else self.with_propagator(preferred, **settings)
        P = make_propagator(propagator, self.A, **settings)
        return Flow(self.model, self.trajectory, P, self.K)

    def with_parameter_operator(self, parameter_operator: ParameterOperatorForm, **settings: Any) -> Flow:
        """Return the flow with K in another form, of the same J and metric; see ``with_propagator``.

        Args:
            parameter_operator: a name (``"product"``, ``"gram"``, or what a plugin offers), a class, or any
                ``factory(J, **settings)``.
            settings: of that form.
        """
        K = make_parameter_operator(parameter_operator, self.J, **settings)
        if not isinstance(self.K.metric, IdentityOperator):
            K = K.with_metric(self.K.metric, name=self.K.name)
        return Flow(self.model, self.trajectory, self.P, K)

    def __repr__(self) -> str:
        return (
            f"Flow({type(self.model).__name__}, {self.trajectory.space}, "
            f"parameters={self.J.domain.size}, P: {self.P.method}, K: {self.K.method})"
        )

    def _repr_html_(self) -> str:
        states = self.trajectory.space
        parts = ", ".join(f"{part.name} {list(part.shape)}" for part in self.J.domain.axes[0].parts)
        rows = [
            ("states", f"{states} ({states.dimension:,} numbers)"),
            ("parameters", f"{self.J.domain.size:,}: {parts}"),
            ("P", f"{self.P.method}: {self.P.why}"),
            ("K", self.K.method),
            ("memory", f"{byte_text(states.size * self.P.dtype.itemsize)} a vector of states"),
            ("numbers", numbers_text(self.P)),
        ]
        return card(f"{type(self.model).__name__}, linearized: Phi = P K P*", rows)


def check_flow(flow: object, argument: str = "flow") -> None:
    """Raise ``ArgumentError`` unless ``flow`` is one, with a remedy."""
    if not isinstance(flow, Flow):
        raise ArgumentError(mismatch(argument, "a Flow", shown(flow)) + "; linearize(model, x) returns one")


def preferred_form(A: StepJacobian, *, automatic: bool = False) -> str | None:
    """Return the name of the first form of P among those of plugins that prefers A; None where none does.

    Where trials are sharded, ranks take a form only if all prefer one.

    Args:
        A: the step Jacobian.
        automatic: ask those alone that may be taken unasked.
    """
    found = _preferred(A, automatic)
    return None if A.domain.any(found is None) else found


def _preferred(A: StepJacobian, automatic: bool) -> str | None:
    if isinstance(A, SegmentedStepJacobian):
        A = A.at(0)  # each segment is to have the form
    for name, form in _offered("propagator", Propagator, automatic):
        if form.fits(A) is None and form.prefers(A):
            return name
    return None


def automatic_form(J: ParameterJacobian) -> str | None:
    """Return the name of the first form of K among those of plugins that may be taken unasked and fits J."""
    for name, form in _offered("parameter_operator", ParameterOperator, True):
        if form.fits(J) is None:
            return name
    return None


def _offered(kind: str, cls: type[Any], automatic: bool) -> Iterator[tuple[str, Any]]:
    """Yield the names and classes of forms; a plugin whose form cannot be imported is warned of."""
    manager = get_manager()
    for spec in manager.specs(kind):
        if automatic and not (isinstance(spec, FormSpec) and spec.automatic):
            continue
        try:
            form = manager.factory(spec)
        except PluginError as error:
            warnings.warn(str(error), PluginWarning, stacklevel=4)
            continue
        if isinstance(form, type) and issubclass(form, cls):
            yield f"{manager.plugin_of(spec).distribution}:{spec.name}", form


def make_propagator(form: PropagatorForm, A: StepJacobian, **settings: Any) -> Propagator:
    """Return ``P`` of a step Jacobian in a form by its name or factory; raises like ``with_propagator``."""
    if isinstance(A, SegmentedStepJacobian):
        made = SegmentedPropagator(A, form=partial(make_propagator, form, **settings))
        made.why = f"propagator={form!r} of each segment" if isinstance(form, str) else made.why
        return made
    P: Propagator = _make("propagator", form, settings, Propagator, A)
    return P


def make_parameter_operator(
    form: ParameterOperatorForm, J: ParameterJacobian, **settings: Any
) -> ParameterOperator:
    """Return ``K`` of a parameter Jacobian in a form by its name or factory."""
    K: ParameterOperator = _make("parameter_operator", form, settings, ParameterOperator, J)
    return K


def _make(kind: str, form: object, settings: Mapping[str, Any], cls: type[Any], of: Operator) -> Any:
    what = f"a {kind.replace('_', ' ')}"

    def make() -> Any:
        if isinstance(form, str):
            return create(kind, form, settings, cls, of)
        if callable(form):
            return form(of, **settings)
        raise ArgumentError(mismatch(kind, f"the name of {what}, or a factory of one", shown(form)))

    shards = of.codomain.shards
    with isolated(of.device, f"with_{kind}"):
        made = make() if shards is None else shards.together(make)
    if not isinstance(made, cls):
        raise ArgumentError(mismatch(kind, f"a factory that returns {what}", shown(made)))
    if made.domain != of.codomain:
        raise ArgumentError(mismatch(kind, f"{what} on ({of.codomain})", f"one on ({made.domain})"))
    if isinstance(made, Propagator) and isinstance(form, str):
        made.why = f"{kind}={form!r}"
    return made
