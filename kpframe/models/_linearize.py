"""``linearize(model, x)``: the operators that say how learning moves a trajectory."""

from __future__ import annotations

import copy
from functools import partial
from typing import Any, TypeVar

import torch
from attrs import evolve

from kpframe.errors import ArgumentError, MemoryBudgetError, mismatch, say
from kpframe.flow._flow import (
    FASTEST,
    Flow,
    ParameterOperatorForm,
    PropagatorForm,
    automatic_form,
    make_propagator,
    preferred_form,
)
from kpframe.flow._parameter_operator import ParameterOperator, ProductParameterOperator
from kpframe.flow._propagator import Propagator, ScanPropagator
from kpframe.flow._sharded_jacobian import ShardedParameterJacobian
from kpframe.flow._step_jacobian import DenseStepJacobian
from kpframe.flow._trajectory import Trajectory
from kpframe.models._autograd.forms import (
    AutogradParameterJacobian,
    AutogradStepJacobian,
    graph_bytes,
    step_blocks,
)
from kpframe.models._autograd.rollout import GraphPropagator
from kpframe.models._few_rows import few_rows
from kpframe.models._held import held_tensors
from kpframe.models._kept import ModelSegments, check_keep, counts_steps, segment_length
from kpframe.models._model import Model
from kpframe.models._ranks import shards_of
from kpframe.models._sites.parameter_operator import GramParameterOperator
from kpframe.models._sites.pointwise import recording_steps
from kpframe.models._spread import check_whole
from kpframe.models._step_check import check_hooks, check_kept, check_parameters, check_start, check_step
from kpframe.operators._finite import check_finite
from kpframe.operators._isolation import constant, isolated
from kpframe.operators._memory import check_memory
from kpframe.operators._shards import Shards
from kpframe.operators._spaces import BATCH
from kpframe.plugin._manager import get_manager

T = TypeVar("T")

#: How the operators of a flow can be computed.
METHODS = ("auto", "autograd", "graph", "dense")


def linearize(
    model: Model,
    x: torch.Tensor,
    h0: torch.Tensor | None = None,
    mask: torch.Tensor | None = None,
    *,
    method: str = "auto",
    propagator: PropagatorForm = "auto",
    parameter_operator: ParameterOperatorForm = "auto",
    group: Any = None,
    keep: str | int = "all",
    max_bytes: int | None = None,
) -> Flow:
    """Roll a model out and return the operators along the trajectory.

    Args:
        model: a ``Model``; ``wrap`` makes one of any cell.
        x: ``[B, T, I]`` inputs, of the model's dtype, on its device.
        h0: ``[B, H]`` initial states, taken as constants; the model's own (zero, or trainable) when left out.
        mask: bool ``[B, T]``; False marks padded steps, which hold the state: A = I and J = 0 there.
        method: who makes A and J, the model's structure or automatic differentiation. ``"auto"`` uses the
            structure the model brings and else chooses by the width of the state (``flow.P.method`` and
            ``flow.P.why`` say what and why). The others know no structure: ``"graph"`` keeps the graph of the
            whole roll-out, ``"dense"`` writes the step Jacobians ``[B, T, H, H]`` out, ``"autograd"`` keeps a
            graph for each step and is the independent twin that the others are tested against.
        propagator: how P is computed from that A: the name of a form (``"scan"``, ``"stepwise"``,
            ``"dense"``, ``"graph"``, or what a plugin offers), its class, or any ``factory(A)``, such as
            ``functools.partial(DensePropagator, max_bytes=2**34)``. ``"auto"`` is the one that suits A
            among those that the model and the core bring, or, in place of A's own scan, what an installed
            plugin offers to give the same products to rounding in less time (kpframe-native);
            ``flow.P.why`` says so. ``"fastest"`` asks the other forms of plugins, too, see
            ``Flow.with_propagator``.
        parameter_operator: how K is computed from that J: ``"product"``, ``"gram"`` or what a plugin offers,
            likewise.
        group: a ``torch.distributed`` process group over whose ranks the trials are sharded: ``x``, ``h0``
            and ``mask`` are this rank's own, one at least. All ranks call with the same model. The operators'
            adjoints and inner products are those of all trials together.
        keep: how many states are kept along the trajectory: ``"all"``, or ``"sqrt"`` of the number of steps,
            or so many. Between kept states each product rolls the model out again, one segment at a time:
            memory falls from T states to about 2 sqrt(T), beside the vectors of a product, at the price of
            one more roll-out in each pass over time (two of them in Phi). The operators are the same;
            ``trajectory.states`` rolls out each time it is asked for. Models that vary in time have A and J
            by automatic differentiation then, but for those of weight sites that are the same at each step.
        max_bytes: about the most bytes that recording may take; most of what is free when left out.

    Raises:
        RankError: for ranks that disagree, are gone, or were never started; says which rank and what.
        ShapeError, DtypeError, DeviceError: for inputs that do not fit the model.
        UnsupportedError: for derivatives that are not linear or that autograd cannot take twice, and for
            hooks on parameters; says what to do. For a form that does not fit A or J; says why.
        UnknownNameError: for a form that nobody offers; lists those there are.
        NonFiniteError: for NaN or infinity in inputs, parameters or the roll-out; names the first step,
            trial and component.
        MemoryBudgetError: before anything is recorded, when the need is over ``max_bytes``; ``keep="sqrt"``
            needs less.
        ArgumentError: for a ``keep`` that names nothing, or is more than one state a step.
        UnsupportedError: inside a transform of ``torch.func``; for parameters that are spread over processes.

    Examples:
        >>> import kpframe, torch
        >>> generator = torch.manual_seed(0)
        >>> flow = kpframe.linearize(kpframe.wrap(torch.nn.GRUCell(3, 4)), torch.randn(2, 5, 3))
        >>> flow
        Flow(WrappedCell, batch=2, time=5, hidden=4, parameters=108, P: ..., K: autograd)
        >>> flow.Phi
        P K P*
        >>> dh = flow.Phi(torch.ones(2, 5, 4))
        >>> torch.allclose(dh, (flow.P @ flow.J @ flow.J.T @ flow.P.T)(torch.ones(2, 5, 4)))
        True
    """
    if not isinstance(model, Model):
        raise ArgumentError(
            mismatch("model", "a kpframe.Model (kpframe.wrap makes one of a cell)", type(model).__name__)
        )
    check_whole(model, "model")
    if method not in METHODS:
        raise ArgumentError(mismatch("method", f"one of {', '.join(map(repr, METHODS))}", repr(method)))
    if keep != "all":
        check_keep(keep)
    for kind, form, own in (
        ("propagator", propagator, ("auto", FASTEST)),
        ("parameter_operator", parameter_operator, ("auto",)),
    ):
        if isinstance(form, str) and form not in own:
            get_manager().find(kind, form)  # a misspelt name is refused before any work
    with isolated(getattr(x, "device", None), "linearize"):
        if group is None:
            flow = _linearize(model, x, h0, mask, method, keep, max_bytes, None)
        else:
            settings = {
                "h0 given": h0 is not None,
                "mask given": mask is not None,
                "method": method,
                "keep": keep,
                "propagator": propagator,
                "parameter_operator": parameter_operator,
            }
            shards = shards_of(group, model, x, settings)
            flow = shards.together(lambda: _linearize(model, x, h0, mask, method, keep, max_bytes, shards))
        if propagator == parameter_operator == method == "auto":
            flow = _compiled(flow)
    if propagator != "auto":
        flow = flow.with_propagator(propagator)
    return flow if parameter_operator == "auto" else flow.with_parameter_operator(parameter_operator)


def _linearize(
    model: Model,
    x: torch.Tensor,
    h0: torch.Tensor | None,
    mask: torch.Tensor | None,
    method: str,
    keep: str | int,
    max_bytes: int | None,
    shards: Shards | None,
) -> Flow:
    budget = _Budget(model, x, keep, max_bytes)
    budget.check_states()
    check_parameters(model)
    check_hooks(model.trainable())
    original, model = model, _copy(model)
    held = _held(model)
    for name, parameter in model.named_parameters():
        check_finite(parameter.detach(), f"parameter {name}")
    x, h0, mask = _constant(x), _constant(h0), _constant(mask)
    forms = partial(_forms, model, method, keep != "all")

    def record(trajectory: Trajectory) -> tuple[Propagator, ParameterOperator]:
        """Return P and K along a trajectory, or its first segment, after what can be checked of the model."""
        if _held(model) != held:
            check_kept(_copy(original), trajectory)
        if not trajectory.given and type(model).initial_state is not Model.initial_state:
            check_start(model, trajectory)
        with few_rows(model, trajectory) as rows:
            auto = method == "auto" and (keep == "all" or counts_steps(model))
            each = model.recorded_bytes(trajectory) if auto else graph_bytes(model, trajectory, method)
        budget.check(each)
        P, K = forms(trajectory)
        derived = isinstance(P.A, AutogradStepJacobian) or isinstance(K.jacobian, AutogradParameterJacobian)
        check_step(model, rows, twice=derived)
        return P, K

    if keep != "all":
        with torch.no_grad():
            begun = _own(model.begin(x, h0, mask), shards)
        segments = ModelSegments(model, begun, segment_length(keep, x.shape[1]), forms)
        segments.run(record)
        return segments.flow()
    with recording_steps(budget.allows):
        with torch.no_grad():
            run = model.rollout(x, h0, mask)
        trajectory = _own(run, shards)
        check_finite(trajectory.states, "roll-out", trajectory.space)
        P, K = record(trajectory)
    if shards is not None:
        form = GramParameterOperator if isinstance(K, GramParameterOperator) else ProductParameterOperator
        K = form(ShardedParameterJacobian(K.jacobian), K.metric, name=K.name)
    return Flow(model, trajectory, P, K)


def _compiled(flow: Flow) -> Flow:
    """Return the flow with P in the form of a plugin that may stand for A's own scan, where one prefers A.

    With it goes K, in the form of a plugin that may stand for that of the sites and fits J.
    """
    if type(flow.P) is not ScanPropagator:
        return flow
    form = preferred_form(flow.A, automatic=True)
    if form is not None:
        P = make_propagator(form, flow.A)
        P.why = f"{form} is installed and prefers this step Jacobian"
        flow = Flow(flow.model, flow.trajectory, P, flow.K)
    form = automatic_form(flow.J)
    return flow if form is None else flow.with_parameter_operator(form)


def _own(trajectory: Trajectory, shards: Shards | None) -> Trajectory:
    """Return a trajectory in which what the caller may still write to is copied, and nothing has a graph."""
    states = trajectory.states
    return evolve(
        trajectory,
        states=states.detach() if states.requires_grad else states,
        inputs=trajectory.inputs.detach().clone(),
        initial_state=trajectory.initial_state.detach().clone(),
        mask=None if trajectory.mask is None else trajectory.mask.clone(),
        space=trajectory.space.replace(BATCH, evolve(trajectory.space[BATCH], shards=shards)),
    )


def _forms(
    model: Model, method: str, in_segments: bool, trajectory: Trajectory
) -> tuple[Propagator, ParameterOperator]:
    """Return P and K along a trajectory, or along a segment of one."""
    if method != "auto":
        return _derived(model, trajectory, method)
    if in_segments and not counts_steps(model):
        return Model.propagator(model, trajectory), Model.parameter_operator(model, trajectory)
    return model.operators(trajectory)


def _derived(model: Model, trajectory: Trajectory, method: str) -> tuple[Propagator, ParameterOperator]:
    return _FORMS[method](model, trajectory), ProductParameterOperator(
        AutogradParameterJacobian(model, trajectory)
    )


def _copy(model: Model) -> Model:
    try:
        return copy.deepcopy(model)
    except Exception as error:
        expected = "one that copy.deepcopy copies, since linearize works on a copy"
        raise ArgumentError(mismatch("model", expected, say(error))) from error


def _held(model: Model) -> dict[str, tuple[int, int]]:
    """Return which tensors a model holds besides its parameters, and how often they were written to."""
    return {name: (id(tensor), tensor._version) for name, tensor in held_tensors(model)}


def _constant(value: T) -> T:
    """Return a tensor that a graph can hold; the roll-out says what is wrong with anything else."""
    return constant(value, "linearize") if isinstance(value, torch.Tensor) else value  # type: ignore[return-value]


def _autograd(model: Model, trajectory: Trajectory) -> Propagator:
    return ScanPropagator(AutogradStepJacobian(model, trajectory), why="method='autograd'")


def _graph(model: Model, trajectory: Trajectory) -> Propagator:
    return GraphPropagator(AutogradStepJacobian(model, trajectory), why="method='graph'")


def _dense(model: Model, trajectory: Trajectory) -> Propagator:
    blocks = step_blocks(model, trajectory)
    return ScanPropagator(DenseStepJacobian(blocks, trajectory.space), why="method='dense'")


_FORMS = {"autograd": _autograd, "graph": _graph, "dense": _dense}


class _Budget:
    """What recording may take: refuses what would not fit, before it is recorded.

    Args:
        model: the model.
        x: the inputs; the roll-out says what is wrong with those that are none.
        keep: see ``linearize``.
        max_bytes: the most that may be taken; None for most of what is free.
    """

    def __init__(self, model: Model, x: torch.Tensor, keep: str | int, max_bytes: int | None) -> None:
        self._max_bytes, self._rows = max_bytes, 0
        if not isinstance(x, torch.Tensor) or x.ndim != 3 or 0 in x.shape:
            return
        batch, time = x.shape[:2]
        length = time if keep == "all" else segment_length(keep, time)
        segments = -(-time // length)
        self._device, self._rows = x.device, batch * length
        self._state = model.width * x.itemsize
        self._kept = batch * segments * self._state if segments > 1 else 0
        sizes = f"[batch={batch}, time={time}, hidden={model.width}]"
        self._what = f"linearize of {type(model).__name__} on {sizes}"
        fewer = "take fewer trials or steps at a time"
        if keep == "all":
            fewer = f"keep fewer states (keep='sqrt': exact, for more time), {fewer}"
        self._remedy = (
            f"{fewer}, float32 instead of float64, or set max_bytes to go ahead with an estimate above what "
            "is free"
        )

    def allows(self, each: int) -> bool:
        """Return whether ``each`` more bytes for a step of a trial fit beside the states."""
        try:
            self.check(4 * self._state + each)
        except MemoryBudgetError:
            return False
        return True

    def check_states(self) -> None:
        """Refuse states that would not fit, twice while they are stacked."""
        if self._rows:
            self.check(4 * self._state)

    def check(self, each: int) -> None:
        """Refuse what would not fit; ``each`` is what a step of a trial needs [bytes]."""
        if self._rows:
            needed = each * self._rows + self._kept
            check_memory(self._what, needed, self._device, self._remedy, self._max_bytes)
