"""``wrap``, and the model that it makes of a cell."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, overload

import torch
from torch.nn.parameter import is_lazy

from kpframe.errors import ArgumentError, as_whole, mismatch
from kpframe.models._model import Model
from kpframe.models._spread import check_whole
from kpframe.models._step_check import check_parameters
from kpframe.models._wrap.layers import layers_of, wrap_layers
from kpframe.models._wrap.purity import check_modes, check_trial, modal_parts
from kpframe.models._wrap.signature import Signature, Start, Step, read_signature

#: Attributes that say how wide a module's input and state are.
_INPUT = ("input_size", "input_dim")
_STATE = ("hidden_size", "state_size", "hidden_dim")


class WrappedCell(Model):
    """A cell's module as a model; made by ``wrap``.

    Args:
        cell: the module itself.
        input_size: width of the input.
        signature: how the module is called, and the parts of its state.
        constants: what it is called with besides, by name.
        trainable_initial_state: makes ``h_0`` a parameter.
        initial_state: makes ``h_0`` of the module; None: zeros, or the parameter.

    Attributes:
        cell: the module itself.
        shapes: component of the state -> shape of the module's tensor ``[N, *shape]``; on the axis ``hidden``
            it is flattened, the last index running fastest.
    """

    def __init__(
        self,
        cell: torch.nn.Module,
        input_size: int,
        signature: Signature,
        constants: Mapping[str, object],
        trainable_initial_state: bool,
        initial_state: Start | None = None,
    ) -> None:
        super().__init__(input_size, signature.widths, trainable_initial_state=trainable_initial_state)
        if trainable_initial_state:
            tensors = [*cell.parameters(), *cell.buffers()]
            like = next((tensor for tensor in tensors if tensor.is_floating_point()), self.h0)
            self.h0 = torch.nn.Parameter(self.h0.detach().to(like))
        self.cell = cell
        self.training = cell.training
        self.shapes = dict(signature.shapes)
        self.time_varying = isinstance(signature.call, tuple) and "t" in {*signature.call} - {*constants}
        self._signature, self._modal, self._start = signature, modal_parts(cell), initial_state
        self._constants: dict[str, object] = {}
        self._tensors: list[str] = []  # of the constants; buffers, so that they follow dtype and device
        for name, value in constants.items():
            if isinstance(value, torch.Tensor):
                self.register_buffer(f"constant_{name}", value, persistent=False)
                self._tensors.append(name)
            else:
                self._constants[name] = value

    def step(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        """Return the next state ``[N, H]``, the components flat and side by side.

        Raises:
            ArgumentError: (of which ShapeError) for a state of another form, and where dropout or batch
                statistics have been switched on.
            DtypeError: for a state of another dtype.
        """
        check_modes(self._modal)
        tensors = {name: getattr(self, f"constant_{name}") for name in self._tensors}
        return self._signature.invoke(self.cell, x, h, t, {**self._constants, **tensors})

    def initial_state(self, batch: int) -> torch.Tensor:  # [batch, H]
        """Return ``h_0`` ``[batch, H]``: what the function given to ``wrap`` makes of it, ``h0``, or zeros.

        Raises:
            ShapeError, DtypeError: for what the function returns in another form.
        """
        start = super().initial_state(batch)
        return (
            start
            if self._start is None
            else self._signature.flatten(self._start(self.cell, batch), batch, start)
        )

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """Return theta under the cell's own parameter names."""
        return {name.removeprefix("cell."): p for name, p in super().trainable().items()}

    def shared_names(self) -> dict[str, str]:
        """Return the further names of shared parameters -> the name that ``trainable`` has."""
        every = {name.removeprefix("cell."): own for name, own in super().shared_names().items()}
        return {name: own for name, own in every.items() if name != own}

    def extra_repr(self) -> str:
        """Return the input's width, the state and how the cell is called, for ``repr``."""
        call = self._signature.call
        called = repr(",".join(call)) if isinstance(call, tuple) else getattr(call, "__name__", repr(call))
        returns = ",".join(self._signature.returns)
        return f"input_size={self.input_size}, state={self.shapes}, call={called}, returns={returns!r}"


@overload
def wrap(  # type: ignore[overload-overlap]
    module: torch.nn.RNNBase,
    call: Literal["x,h"] = "x,h",
    *,
    trainable_initial_state: bool = False,
    check: bool = True,
) -> Model: ...
@overload
def wrap(
    module: torch.nn.Module,
    call: str | Step = "x,h",
    *,
    input_size: int | None = None,
    state: int | Mapping[str, int | tuple[int, ...]] | None = None,
    returns: str = "state",
    container: type | None = None,
    constants: Mapping[str, object] | None = None,
    trainable_initial_state: bool = False,
    initial_state: Start | None = None,
    check: bool = True,
) -> WrappedCell: ...
def wrap(
    module: torch.nn.Module,
    call: str | Step = "x,h",
    *,
    input_size: int | None = None,
    state: int | Mapping[str, int | tuple[int, ...]] | None = None,
    returns: str = "state",
    container: type | None = None,
    constants: Mapping[str, object] | None = None,
    trainable_initial_state: bool = False,
    initial_state: Start | None = None,
    check: bool = True,
) -> Model:
    """Return a cell as a model; ``torch.nn.RNNCell``, ``GRUCell`` and ``LSTMCell`` need no other argument.

    Nor do ``torch.nn.RNN``, ``GRU`` and ``LSTM``, which run whole sequences through several layers: the model
    makes their steps, with the module's own parameters under their names (``weight_ih_l0``); training one
    trains the other. It is the model of an installed plugin that stands for them, which knows its weight
    sites, else one of automatic differentiation. Its components are ``h`` (of an LSTM ``h`` and ``c``), with
    several layers ``h_l0, h_l1 ...``; inputs are ``[B, T, I]`` whatever ``batch_first`` says. Dropout between
    layers must be switched off (``module.eval()``), and there is no step of a bidirectional network.

    The module itself is used, not a copy. It computes one step of N independent rows from inputs ``[N, I]``
    and states ``[N, *shape]``, and reads nothing but its arguments, parameters and buffers. Theta is what
    requires a gradient in it, under the module's own names::

        wrap(torch.nn.LSTMCell(3, 8))
        wrap(cell, "h,x", input_size=3, state=8)  # cell(h, x) -> h
        wrap(cell, input_size=3, state=8, returns="output,state")  # cell(x, h) -> (y, h)
        wrap(cell, "x,v,w", input_size=3, state={"v": 8, "w": 2})  # cell(x, v, w) -> (v, w)
        wrap(cell, input_size=3, state={"v": 8, "w": 2}, container=dict)  # cell(x, {"v": v, "w": w})
        wrap(cell, input_size=3, state={"h": 8, "M": (8, 3)})  # cell(x, (h, M)), M [N, 8, 3]
        wrap(cell, constants={"ts": 1.0})  # cell(x, h, ts=1.0), the sizes read from the cell
        wrap(cell, initial_state=lambda cell, batch: cell.h_init.expand(batch, -1))  # h_0 learns in the cell
        wrap(cell, lambda cell, x, h: cell.core(cell.encode(x), h), input_size=3, state=8)  # all else

    A few calls with made-up numbers, on a copy, show at once whether that is so: a call that fails, another
    form or width of state, random numbers, writing to a buffer and rows that mix are refused here.

    Args:
        module: the cell. Dropout and batch normalization in it must be in evaluation mode, now and
            whenever the model runs.
        call: its arguments in order: ``x``; the state as ``h`` (or ``state``), or each component by its name;
            ``t``, the step indices ``[N]`` from 0; names of ``constants``. Or a function of the module, the
            input and the state that returns what a cell returns; it must use the module that it is given.
        input_size: width I of the input; read from ``module.input_size`` or ``input_dim`` when left out.
        state: width of the state, or component -> width, or shape of its tensor behind the rows; read from
            ``module.hidden_size``, ``state_size`` or ``hidden_dim`` when left out.
        returns: what it returns, in order: ``state`` (or ``h``), or each component by its name; any other
            name stands for a value that is not part of the state: ``"output,state"``.
        container: what holds the components where the state is one argument, and where it is returned:
            ``dict``, ``tuple``, ``list``, or a class built from their names, such as a ``NamedTuple``. When
            left out: a tuple of several, a single one bare.
        constants: further arguments, the same at each step; those that ``call`` does not name go by keyword.
            Tensors become buffers of the model, not saved with it.
        trainable_initial_state: adds a parameter ``h0`` ``[H]``.
        initial_state: function of the module and the number of trials that returns ``h_0``, as the cell takes
            its state or flat ``[batch, H]``; it must use the module that it is given. Zeros when left out.
        check: False leaves the trial calls out, for a cell that made-up numbers cannot go through.

    Raises:
        ArgumentError: (of which ShapeError) naming the argument that is missing or unusable.
        DtypeError: when the cell returns a state of another dtype than it was given.
        UnsupportedError: for parameters that are spread over processes.

    Examples:
        >>> import kpframe, torch
        >>> model = kpframe.wrap(torch.nn.LSTMCell(3, 4))
        >>> model.components
        {'h': 4, 'c': 4}
        >>> model.rollout(torch.zeros(2, 5, 3))
        Trajectory(batch=2, time=5, hidden=8)
        >>> class Cell(torch.nn.Module):
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.weight = torch.nn.Parameter(torch.eye(4, 3))
        ...     def forward(self, h, x):
        ...         return torch.tanh(0.9 * h + x @ self.weight.T)
        >>> kpframe.wrap(Cell(), call="h,x", input_size=3, state=4).components
        {'h': 4}
    """
    if isinstance(module, torch.nn.Module):
        check_whole(module, "module")
    if (kind := layers_of(module)) is not None and not callable(call):
        given: dict[str, object] = {
            "call": None if call == "x,h" else call,
            "input_size": input_size,
            "state": state,
            "returns": None if returns == "state" else returns,
            "container": container,
            "constants": constants,
            "initial_state": initial_state,
        }
        if named := next((name for name, value in given.items() if value is not None), ""):
            expected = f"none beside a torch.nn.{kind.__name__}, which says it itself"
            raise ArgumentError(mismatch(named, expected, repr(given[named])))
        assert isinstance(module, kind)
        return wrap_layers(module, kind, trainable_initial_state=trainable_initial_state, check=check)
    _check_module(module, call)
    owner, constants = type(module).__name__, dict(constants or {})
    _check_arguments(call, returns, container, constants)
    if input_size is None:
        input_size = _read_size(module, _INPUT, "input_size")
    if state is None:
        width = _read_size(module, _STATE, "state")
        state = {"h": width, "c": width} if isinstance(module, torch.nn.LSTMCell) else width
    signature = read_signature(owner, _shapes(state), container, call, returns, constants)
    if isinstance(module, torch.nn.RNNCellBase) and signature.call == (signature.taken, "x"):
        raise ArgumentError(mismatch("call", f"'x,h', the order of torch.nn.{owner}", repr(call)))
    if trainable_initial_state and "h0" in dict(module.named_parameters()):
        got = f"True for {owner}, which has a parameter 'h0' of its own"
        raise ArgumentError(mismatch("trainable_initial_state", "False", got))
    if initial_state is not None and (trainable_initial_state or not callable(initial_state)):
        expected = "a function (module, batch) -> state, and no trainable_initial_state beside it"
        got = "both" if trainable_initial_state else repr(initial_state)
        raise ArgumentError(mismatch("initial_state", expected, got))
    model = WrappedCell(module, input_size, signature, constants, trainable_initial_state, initial_state)
    check_parameters(model)
    if check:
        check_trial(model, owner, f"call={call!r}, input_size={input_size}, state={state}")
    return model


def _check_module(module: torch.nn.Module, call: object) -> None:
    expected, got = "", type(module).__name__
    if not isinstance(module, torch.nn.Module):
        raise ArgumentError(mismatch("module", "a torch.nn.Module", got))
    if isinstance(module, Model):
        expected, got = "a cell", f"{got}, which is a kpframe.Model already"
    elif isinstance(module, torch.nn.RNNBase) and not callable(call):
        expected = "a cell that computes one step (torch.nn.GRUCell ...), or a function as call"
        got += ", which runs whole sequences"
    elif any(map(is_lazy, (*module.parameters(), *module.buffers()))):
        expected, got = "a module whose parameters have a shape", f"{got} with lazy ones; call it once first"
    if expected:
        raise ArgumentError(mismatch("module", expected, got))
    check_modes(modal_parts(module))


def _check_arguments(
    call: object, returns: object, container: object, constants: Mapping[str, object]
) -> None:
    if not isinstance(call, str) and not callable(call):
        raise ArgumentError(mismatch("call", "names separated by commas, or a function", repr(call)))
    if not isinstance(returns, str):
        raise ArgumentError(mismatch("returns", "names separated by commas", repr(returns)))
    if container is not None and not isinstance(container, type):
        raise ArgumentError(mismatch("container", "a class, such as dict or tuple", repr(container)))
    if constants and not isinstance(call, str):
        expected = "none beside a function, which can hold its own"
        raise ArgumentError(mismatch("constants", expected, ", ".join(map(str, constants))))
    for name, value in constants.items():
        if not isinstance(name, str) or not name.isidentifier() or name == "x":
            raise ArgumentError(mismatch("constants", "names of arguments other than 'x'", repr(name)))
        if isinstance(value, torch.Tensor) and value.requires_grad:
            expected = "a tensor that does not learn (parameters belong to the module)"
            raise ArgumentError(mismatch(f"constants[{name!r}]", expected, "one that requires a gradient"))


def _shapes(state: object) -> dict[str, tuple[int, ...]]:
    named = {"h": state} if isinstance(state, int) or as_whole(state) is not None else state
    if not isinstance(named, Mapping) or not named or not all(isinstance(name, str) for name in named):
        expected = "a width, or a mapping of components to widths or shapes"
        raise ArgumentError(mismatch("state", expected, repr(state)))
    shapes = {}
    for name, value in named.items():
        shape = tuple(value) if isinstance(value, tuple | list) else (value,)
        sizes = [as_whole(n) for n in shape]
        if any(n is None or n < 1 for n in sizes):
            expected = "a whole number >= 1, or a shape of such"
            raise ArgumentError(mismatch(f"state[{name!r}]", expected, repr(value)))
        shapes[name] = tuple(n for n in sizes if n is not None)
    return shapes


def _read_size(module: torch.nn.Module, attributes: tuple[str, ...], argument: str) -> int:
    found = {name: getattr(module, name, None) for name in attributes}
    sizes = {name: n for name, value in found.items() if (n := as_whole(value)) is not None}
    if len(set(sizes.values())) == 1:
        return next(iter(sizes.values()))
    owner = type(module).__name__
    if sizes:
        told = " and ".join(f"{name}={value}" for name, value in sizes.items())
        raise ArgumentError(mismatch(argument, f"a size, as {owner} has {told}", "none"))
    listed = " or ".join(map(repr, attributes))
    raise ArgumentError(mismatch(argument, f"a size, as {owner} has no integer attribute {listed}", "none"))
