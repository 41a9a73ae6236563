"""The abstract recurrent model, and the operators that automatic differentiation gives any of them."""

from __future__ import annotations

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import torch

from kpframe.errors import ArgumentError, DtypeError, ShapeError, closest, mismatch, whole
from kpframe.flow._parameter_operator import ParameterOperator, ProductParameterOperator
from kpframe.flow._propagator import Propagator, ScanPropagator
from kpframe.flow._step_jacobian import DenseStepJacobian
from kpframe.flow._trajectory import Trajectory, check_inputs
from kpframe.models._autograd.forms import (
    AutogradParameterJacobian,
    AutogradStepJacobian,
    graph_bytes,
    step_blocks,
)
from kpframe.models._autograd.rollout import GraphPropagator
from kpframe.models._few_rows import unread_parameters
from kpframe.models._held import detached_copies
from kpframe.models._padding import where_valid
from kpframe.operators._spaces import Space, parameter_space, state_space
from kpframe.plugin._manager import create

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

    Raises:
        ArgumentError: for a state without components, or a width that is no whole number >= 1.

    Examples:
        >>> import kpframe, torch
        >>> class Leaky(kpframe.Model):
        ...     def __init__(self, input_size, hidden_size):
        ...         super().__init__(input_size, {"h": hidden_size})
        ...         self.weight = torch.nn.Parameter(0.1 * torch.ones(hidden_size, hidden_size))
        ...     def step(self, x, h, t=None):
        ...         return 0.5 * h + torch.tanh(h @ self.weight.T) + x.sum(1, keepdim=True)
        >>> flow = kpframe.linearize(Leaky(2, 3), torch.zeros(1, 4, 2))
        >>> flow.A.blocks()[0, 0]  # at h = 0: 0.5 I + W
        tensor([[0.6000, 0.1000, 0.1000],
                [0.1000, 0.6000, 0.1000],
                [0.1000, 0.1000, 0.6000]])
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

    def component_slice(self, component: str) -> slice:
        """Return where ``component`` lies in the state; raises ``ArgumentError`` for an unknown one."""
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
        """Return ``h_0`` ``[batch, H]``: the parameter ``h0`` when it is trainable, else zeros."""
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

    def unread(self, trajectory: Trajectory) -> frozenset[str]:
        """Return the names of the parameters that nothing along ``trajectory`` reads: a readout's, say."""
        return unread_parameters(self, trajectory)

    def rollout(
        self, x: torch.Tensor, h0: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> Trajectory:
        """Run the model over ``x`` ``[B, T, I]`` and return the trajectory; differentiable.

        Args:
            x: the inputs ``[B, T, I]``.
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
        """Return ``P`` along ``trajectory``; override to return a structured one.

        A state of at most ``DENSE_WIDTH`` entries gets its blocks ``A_t`` written out, ``[B, T, H, H]``: that
        is at most ``DENSE_WIDTH`` trajectories, and each product is then cheap. A wider one keeps the graph
        of the whole roll-out.
        """
        if self.width <= DENSE_WIDTH:
            blocks = DenseStepJacobian(step_blocks(self, trajectory), trajectory.space)
            return ScanPropagator(
                blocks, why=f"a state of {self.width} <= {DENSE_WIDTH} entries, no structure known"
            )
        why = f"a state of {self.width} > {DENSE_WIDTH} entries, no structure known"
        return GraphPropagator(AutogradStepJacobian(self, trajectory), why=why)

    def parameter_operator(self, trajectory: Trajectory) -> ParameterOperator:
        """Return ``K`` along ``trajectory``; override to return a structured one."""
        return ProductParameterOperator(AutogradParameterJacobian(self, trajectory))

    def operators(self, trajectory: Trajectory) -> tuple[Propagator, ParameterOperator]:
        """Return ``P`` and ``K`` along ``trajectory``; override where the two can share work."""
        return self.propagator(trajectory), self.parameter_operator(trajectory)

    def recorded_bytes(self, trajectory: Trajectory) -> int:
        """Return about how many bytes the operators along ``trajectory`` need for each step of each trial.

        ``linearize`` refuses by this what would not fit; override beside ``operators``.
        """
        return graph_bytes(self, trajectory, "dense" if self.width <= DENSE_WIDTH else "graph")

    def begin(self, x: torch.Tensor, h0: torch.Tensor | None, mask: torch.Tensor | None) -> Trajectory:
        """Return a trajectory without states, its inputs checked: how a ``rollout`` of one's own starts.

        Padding is zero in its ``inputs``; ``initial_state`` is ``h0``, or the model's own where it is None.
        See ``rollout`` for ``x``, ``h0`` and ``mask``.

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
        """Return the ``trajectory`` of ``begin`` with its ``states`` ``[B, T, H]``: how a roll-out ends."""
        t = trajectory
        return Trajectory(states, t.inputs, t.initial_state, t.space, t.mask, t.given, t.first)

    # -- shared by roll-outs and linearizations --------------------------------------------------------------

    def _like(self) -> torch.Tensor | None:
        """Return a floating-point tensor of the module, whose dtype and device everything follows."""
        tensors = [*self.parameters(), *self.buffers()]
        return next((tensor for tensor in tensors if tensor.is_floating_point()), None)

    def _advance(self, trajectory: Trajectory, t: int, h: torch.Tensor) -> torch.Tensor:  # [B, H] -> [B, H]
        """Return the state after step ``t``, held where the mask is False."""
        index = torch.full((len(h),), trajectory.first + t, device=h.device) if self.time_varying else None
        return self._rows(
            trajectory.inputs[:, t], h, index, None if trajectory.mask is None else trajectory.mask[:, t]
        )

    def _rows(
        self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None, mask: torch.Tensor | None
    ) -> torch.Tensor:  # [N, H]
        """Return the next states of N rows, held where the mask is False."""

        def step(h: torch.Tensor, x: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
            return self._checked_step(x, h, t)

        return where_valid(mask, step, h, x, *([] if t is None else [t]))

    def _checked_step(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        """Return ``step``, a state of the right shape and dtype."""
        out = self.step(x, h, t) if self.time_varying else self.step(x, h)
        if not isinstance(out, torch.Tensor) or out.shape != h.shape:
            got = f"shape {list(out.shape)}" if isinstance(out, torch.Tensor) else type(out).__name__
            raise ShapeError(mismatch(f"{type(self).__name__}.step", f"a state {list(h.shape)}", got))
        if out.dtype != h.dtype:
            raise DtypeError(mismatch(f"{type(self).__name__}.step", f"dtype {h.dtype}", out.dtype))
        return out


def create_model(name: str, /, **settings: Any) -> Model:
    """Return the model called ``name`` (or ``"distribution:name"``), built from its ``settings``.

    Raises:
        UnknownNameError: when no plugin, or more than one, offers the name.
        SettingsError: listing everything that is wrong with the settings.
        PluginError: when the plugin's factory cannot be used, or returns something else.

    Examples:
        >>> import kpframe
        >>> model = kpframe.create_model("gru", input_size=3, hidden_size=4, seed=0)
        >>> model.components
        {'h': 4}
    """

    made: Model = create("model", name, settings, Model)
    return made
