"""The abstract recurrent model, and the operators that automatic differentiation gives any of them."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from functools import cached_property, partial

import torch

from kpframe.autograd import Linearization, recording
from kpframe.errors import ArgumentError, DtypeError, ShapeError, closest, mismatch
from kpframe.held import detached_copies
from kpframe.parameter import ParameterJacobian, ParameterOperator
from kpframe.propagator import Propagator
from kpframe.rollout_graph import GraphPropagator, RolloutGraph
from kpframe.spaces import Space, parameter_space, state_space
from kpframe.step_check import saved_by_a_row
from kpframe.step_jacobian import DenseStepJacobian, StepJacobian
from kpframe.trajectory import Trajectory, check_inputs
from kpframe.whole import whole

#: Widest state whose step Jacobians are written out when a model brings no structure.
DENSE_WIDTH = 16


class Model(torch.nn.Module, ABC):
    """A recurrent dynamical system ``h_t = f(h_{t-1}, x_t, theta)``; the author writes ``step``.

    Theta is every parameter of the module that requires a gradient. Everything else (roll-out,
    linearization, P, K, Phi, learning rules) follows by automatic differentiation; a model that knows
    its structure overrides ``propagator`` and ``parameter_operator``, or derives from
    ``SiteModel``, which does both.

    Args:
        input_size: width of the input.
        state: the state's named components and their widths, in order: ``{"h": 32, "c": 32}``.
        trainable_initial_state: makes ``h_0`` a parameter ``h0`` ``[H]``, shared by all trials.
    """

    #: Whether ``step`` needs the step index ``t``.
    time_varying = False
    #: The only number of steps that the model can make, if there is one (depth as time).
    steps: int | None = None

    def __init__(
        self, input_size: int, state: Mapping[str, int], *, trainable_initial_state: bool = False
    ) -> None:
        super().__init__()
        input_size = whole(input_size, "input_size")
        state = {name: whole(width, f"state[{name!r}]") for name, width in state.items()}
        if not state:
            raise ArgumentError(mismatch("state", "at least one component", "none"))
        self.input_size = input_size
        #: Number of signals among the input's columns; a model that also takes noise there has fewer.
        self.signal_size = input_size
        self.components = state
        self.trainable_initial_state = trainable_initial_state
        if trainable_initial_state:
            self.h0 = torch.nn.Parameter(torch.zeros(self.width))

    @abstractmethod
    def step(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        """Return the next state. Pure: reads its arguments, the module's parameters and buffers only.

        Args:
            x: ``[N, I]``, the inputs of N independent rows.
            h: ``[N, H]``, their states.
            t: ``[N]`` int64, their step indices from 0; given to models with ``time_varying = True``.

        Returns:
            ``[N, H]``.
        """

    def forward(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        """Return the next state; the same as ``step``."""
        return self.step(x, h, t)

    def __deepcopy__(self, memo: dict[int, object]) -> Model:
        """Copy the model, with what calls left in its modules (a last activation) cut off from its graph."""
        for key, tensor in detached_copies(self).items():
            memo.setdefault(key, tensor)
        made: Model = type(self).__new__(type(self))
        memo[id(self)] = made
        made.__setstate__(copy.deepcopy(self.__getstate__(), memo))  # type: ignore[no-untyped-call]
        for parameter in made.parameters():
            if not parameter.is_leaf:  # torch.jit copies with the graph of the copying
                parameter.detach_().requires_grad_()
        return made

    @property
    def width(self) -> int:
        """Width H of the state, all components together."""
        return sum(self.components.values())

    def stretch(self, component: str) -> slice:
        """Return where a component lies in the state; raises ``ArgumentError`` for an unknown one."""
        if component not in self.components:
            known = ", ".join(map(repr, self.components))
            raise ArgumentError(
                mismatch(
                    "component", f"one of {known}", f"{component!r}{closest(component, self.components)}"
                )
            )
        names = list(self.components)
        start = sum(self.components[name] for name in names[: names.index(component)])
        return slice(start, start + self.components[component])

    def initial_state(self, batch: int) -> torch.Tensor:  # [batch, H]
        """Return ``h_0``: the parameter ``h0`` when it is trainable, else zeros."""
        if self.trainable_initial_state:
            return self.h0.expand(batch, -1)
        like = self._like()
        if like is None:
            return torch.zeros(batch, self.width)
        return torch.zeros(batch, self.width, dtype=like.dtype, device=like.device)

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """Return theta: the parameters that require a gradient, by name, in order.

        A parameter that acts at several places is one, under the first of its names.
        """
        return {name: p for name, p in self.named_parameters() if p.requires_grad}

    def shared_names(self) -> dict[str, str]:
        """Return the further names of parameters that are shared -> the name that ``trainable`` has."""
        own = {id(p): name for name, p in self.trainable().items()}
        every = self.named_parameters(remove_duplicate=False)
        return {name: own[id(p)] for name, p in every if own.get(id(p), name) != name}

    @property
    def parameter_space(self) -> Space:
        """The space of theta, flattened, with the layout name -> slice."""
        shapes = {name: tuple(p.shape) for name, p in self.trainable().items()}
        return parameter_space(shapes, self.shared_names())

    def rollout(
        self, x: torch.Tensor, h0: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> Trajectory:
        """Run the model over ``x`` ``[B, T, I]``; differentiable.

        Args:
            x: the inputs.
            h0: the initial states ``[B, H]``; the model's own when left out.
            mask: bool ``[B, T]``; where it is False the state is held and ``x`` is not looked at.

        Raises:
            ShapeError, DtypeError, DeviceError, NonFiniteError: naming the argument.
        """
        trajectory = self.begin(x, h0, mask)
        h = trajectory.initial_state
        states = []
        for t in range(x.shape[1]):
            h = self._advance(trajectory, t, h)
            states.append(h)
        return self.finish(trajectory, torch.stack(states, dim=1))

    def propagator(self, trajectory: Trajectory) -> Propagator:
        """Return ``P`` along a trajectory; override to return a structured one.

        A state of at most ``DENSE_WIDTH`` entries gets its blocks ``A_t`` written out, ``[B, T, H, H]``: that
        is at most ``DENSE_WIDTH`` trajectories, and each product is then cheap. A wider one keeps the graph
        of the whole roll-out.
        """
        if self.width <= DENSE_WIDTH:
            blocks = DenseStepJacobian(step_blocks(self, trajectory), trajectory.space)
            return Propagator(
                blocks, why=f"a state of {self.width} <= {DENSE_WIDTH} entries, no structure known"
            )
        why = f"a state of {self.width} > {DENSE_WIDTH} entries, no structure known"
        A = AutogradStepJacobian(self, trajectory)
        return GraphPropagator(A, RolloutGraph(self, trajectory), why=why)

    def parameter_operator(self, trajectory: Trajectory) -> ParameterOperator:
        """Return ``K`` along a trajectory; override to return a structured one."""
        return ParameterOperator(AutogradParameterJacobian(self, trajectory))

    def operators(self, trajectory: Trajectory) -> tuple[Propagator, ParameterOperator]:
        """Return ``P`` and ``K``; override where the two can share work."""
        return self.propagator(trajectory), self.parameter_operator(trajectory)

    def recorded_bytes(self, trajectory: Trajectory) -> int:
        """Return about how many bytes the operators need for each step of each trial.

        ``linearize`` refuses by this what would not fit; override beside ``operators``.
        """
        return graph_bytes(self, trajectory, "dense" if self.width <= DENSE_WIDTH else "graph")

    def begin(self, x: torch.Tensor, h0: torch.Tensor | None, mask: torch.Tensor | None) -> Trajectory:
        """Return a trajectory without states, its inputs checked: how a ``rollout`` of one's own starts.

        Padding is zero in its ``inputs``; ``initial_state`` is ``h0``, or the model's own where it is None.

        Raises:
            ShapeError, DtypeError, DeviceError, NonFiniteError: naming the argument.
        """
        like = self._like()
        check_inputs(
            x,
            h0,
            mask,
            input_size=self.input_size,
            width=self.width,
            steps=self.steps,
            dtype=None if like is None else like.dtype,
            device=None if like is None else like.device,
        )
        batch, time = x.shape[:2]
        space = state_space(batch, time, self.components)
        if mask is not None:
            x = x.masked_fill(~mask.unsqueeze(-1), 0)  # padding may hold NaN, which 0 * NaN would spread
        start = self.initial_state(batch) if h0 is None else h0
        if like is None:
            start = start.to(x)  # a model without any tensor follows its input
        if tuple(start.shape) != (batch, self.width):
            raise ShapeError(
                mismatch(
                    f"{type(self).__name__}.initial_state({batch})",
                    f"shape [batch={batch}, hidden={self.width}]",
                    list(start.shape),
                )
            )
        return Trajectory(x.new_empty(0), x, start, space, mask, given=h0 is not None)

    @staticmethod
    def finish(trajectory: Trajectory, states: torch.Tensor) -> Trajectory:
        """Return the trajectory of ``begin`` with its states ``[B, T, H]``: how a ``rollout`` ends."""
        t = trajectory
        return Trajectory(states, t.inputs, t.initial_state, t.space, t.mask, t.given)

    # -- shared by roll-outs and linearizations --------------------------------------------------------------

    def _like(self) -> torch.Tensor | None:
        """Return a floating-point tensor of the module, whose dtype and device everything follows."""
        tensors = [*self.parameters(), *self.buffers()]
        return next((tensor for tensor in tensors if tensor.is_floating_point()), None)

    def _advance(self, trajectory: Trajectory, t: int, h: torch.Tensor) -> torch.Tensor:  # [B, H] -> [B, H]
        """Return the state after step ``t``, held where the mask is False."""
        index = torch.full((len(h),), t, device=h.device) if self.time_varying else None
        return self._rows(
            trajectory.inputs[:, t], h, index, None if trajectory.mask is None else trajectory.mask[:, t]
        )

    def _rows(
        self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None, mask: torch.Tensor | None
    ) -> torch.Tensor:  # [N, H]
        """Return the next states of N rows, held where the mask is False."""
        out = self.step(x, h, t) if self.time_varying else self.step(x, h)
        if not isinstance(out, torch.Tensor) or out.shape != h.shape:
            got = f"shape {list(out.shape)}" if isinstance(out, torch.Tensor) else type(out).__name__
            raise ShapeError(mismatch(f"{type(self).__name__}.step", f"a state {list(h.shape)}", got))
        if out.dtype != h.dtype:
            raise DtypeError(mismatch(f"{type(self).__name__}.step", f"dtype {h.dtype}", out.dtype))
        return out if mask is None else torch.where(mask.unsqueeze(-1), out, h)


def graph_bytes(model: Model, trajectory: Trajectory, method: str) -> int:
    """Return about how many bytes a form by automatic differentiation needs for a step of a trial.

    What one more row makes autograd keep, for the step and twice as much for its reverse pass; for P and
    for J. Beside that the states of the roll-out, and blocks twice while they are formed.
    """
    kept = 3 * (1 if method == "dense" else 2) * saved_by_a_row(model, trajectory)
    entries = 4 + (2 * model.width if method == "dense" else 0)
    return kept + trajectory.states.itemsize * model.width * entries


def step_blocks(model: Model, trajectory: Trajectory) -> torch.Tensor:  # [B, T, H, H]
    """Return the dense ``A_t`` of any model by H reverse passes over all trials and steps at once."""
    batch, time, hidden = trajectory.space.shape
    with recording(trajectory.states.device, "A"):
        previous = trajectory.previous.detach().reshape(batch * time, hidden).requires_grad_()
        out = Linearization(_all_rows(model, trajectory, previous), (previous,))
    unit = torch.eye(hidden, dtype=previous.dtype, device=previous.device)
    rows = out.vjp(unit.unsqueeze(1).expand(hidden, batch * time, hidden))[0]  # [H, B T, H]
    return rows.movedim(0, 1).reshape(batch, time, hidden, hidden)


def _all_rows(model: Model, trajectory: Trajectory, previous: torch.Tensor) -> torch.Tensor:  # [B T, H]
    """Return the next states of all trials and steps, each from its own ``h_{t-1}`` in ``previous``."""
    batch, time, _ = trajectory.space.shape
    t = torch.arange(time, device=previous.device).repeat(batch) if model.time_varying else None
    mask = None if trajectory.mask is None else trajectory.mask.reshape(-1)
    return model._rows(trajectory.inputs.reshape(batch * time, -1), previous, t, mask)


class AutogradStepJacobian(StepJacobian):
    """``A`` of any model: one retained graph for each step, recorded when the step is first needed."""

    method = "autograd"

    def __init__(self, model: Model, trajectory: Trajectory) -> None:
        states = trajectory.states
        super().__init__(trajectory.space, dtype=states.dtype, device=states.device)
        self._model, self._trajectory = model, trajectory
        self._recorded: dict[int, Linearization] = {}

    def step(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t v``."""
        return self._at(t).jvp((v.reshape(-1, *v.shape[-2:]),)).reshape(v.shape)

    def step_adjoint(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t* v``."""
        return self._at(t).vjp(v.reshape(-1, *v.shape[-2:]))[0].reshape(v.shape)

    def _at(self, t: int) -> Linearization:
        if t not in self._recorded:
            recipe = partial(_record_step, self._model, self._trajectory, t)
            self._recorded[t] = Linearization.of(recipe, self.device)
        return self._recorded[t]


def _record_step(
    model: Model, trajectory: Trajectory, t: int
) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    source = trajectory.initial_state if t == 0 else trajectory.states[:, t - 1]
    h = source.detach().clone().requires_grad_()
    return model._advance(trajectory, t, h), (h,)


class AutogradParameterJacobian(ParameterJacobian):
    """``J`` of any model: one retained graph of all steps at once, each from its own ``h_{t-1}``.

    It is recorded with the first product.
    """

    method = "autograd"

    def __init__(self, model: Model, trajectory: Trajectory) -> None:
        states = trajectory.states
        super().__init__(model.parameter_space, trajectory.space, dtype=states.dtype, device=states.device)
        self._parts = self.domain.axes[0].parts
        self._model, self._trajectory = model, trajectory

    @cached_property
    def _linearization(self) -> Linearization:
        return Linearization.of(partial(_record_steps, self._model, self._trajectory), self.device)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        probes = q.shape[:-1]
        if not self._parts:
            return q.new_zeros(*probes, *self.codomain.shape)
        rows = q.reshape(-1, q.shape[-1])
        tangents = [rows[:, part.slice].reshape(-1, *part.shape) for part in self._parts]
        return self._linearization.jvp(tangents).reshape(*probes, *self.codomain.shape)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        probes = r.shape[:-3]
        rows = r.reshape(-1, *self.codomain.shape)
        gradients = self._linearization.vjp(rows)
        if not gradients:
            return r.new_zeros(*probes, 0)
        return torch.cat([g.reshape(len(rows), -1) for g in gradients], dim=-1).reshape(*probes, -1)


def _record_steps(model: Model, trajectory: Trajectory) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
    batch, time, hidden = trajectory.space.shape
    previous = trajectory.previous.detach()
    if not trajectory.given:  # h_0 may depend on theta
        start = model.initial_state(batch).to(previous)
        previous = torch.cat([start.unsqueeze(1), previous[:, 1:]], dim=1)
    out = _all_rows(model, trajectory, previous.reshape(batch * time, hidden))
    return out.reshape(batch, time, hidden), tuple(model.trainable().values())
