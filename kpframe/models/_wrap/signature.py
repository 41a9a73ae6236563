"""How a cell is called and where its next state is: order of arguments, containers, shapes."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, cast

import torch
from attrs import frozen

from kpframe.errors import ArgumentError, DtypeError, ShapeError, mismatch

#: One step of a module that no list of arguments describes: ``(module, x, state) -> what it returns``.
Step = Callable[[torch.nn.Module, torch.Tensor, Any], Any]
#: An initial state of a module's own: ``(module, batch) -> state``.
Start = Callable[[torch.nn.Module, int], Any]


@frozen(eq=False)
class Signature:
    """The call of a cell, and the way from its tensors to a flat state ``[N, H]`` and back.

    Attributes:
        owner: name of the cell's class, for messages.
        shapes: component -> shape of its tensor behind the rows, in the state's order.
        container: what holds the components; None for one bare tensor.
        call: argument names in order, or a function ``(module, x, state) -> what a cell returns``.
        returns: names of the returned values in order.
        taken, given: name of the argument, and of the returned value, that is the whole state; None where
            the components are passed, or returned, one by one.
    """

    owner: str
    shapes: Mapping[str, tuple[int, ...]]
    container: type | None
    call: tuple[str, ...] | Step
    returns: tuple[str, ...]
    taken: str | None
    given: str | None

    @cached_property
    def widths(self) -> dict[str, int]:
        """Component -> number of its entries."""
        return {name: math.prod(shape) for name, shape in self.shapes.items()}

    def invoke(
        self,
        module: torch.nn.Module,
        x: torch.Tensor,
        h: torch.Tensor,
        t: torch.Tensor | None,
        constants: Mapping[str, object],
    ) -> torch.Tensor:  # [N, I], [N, H] -> [N, H]
        """Call the cell on a flat state and return the next one, flat.

        Raises:
            ShapeError, DtypeError: when the state that it returns is not of the form it was given in.
        """
        parts = self._split(h)
        if callable(self.call):
            return self._join(self.call(module, x, self._pack(parts)), h)
        known = {**parts, "x": x, "t": t, **constants}
        if self.taken is not None:
            known[self.taken] = self._pack(parts)
        named = {name: value for name, value in constants.items() if name not in self.call}
        return self._join(module(*(known[name] for name in self.call), **named), h)

    def flatten(self, state: Any, batch: int, like: torch.Tensor) -> torch.Tensor:  # [batch, H]
        """Return an initial state, in the form in which the cell takes its state or flat, as ``[batch, H]``.

        Raises:
            ShapeError, DtypeError: for another form, and another dtype than ``like``'s.
        """
        told = f"what initial_state returned for {self.owner}"
        width = sum(self.widths.values())
        if not isinstance(state, torch.Tensor) or state.shape != (batch, width):
            state = self._side_by_side(self._unpack(state, told), batch, like.dtype, told)
        if state.dtype != like.dtype:
            raise DtypeError(mismatch(told, f"dtype {like.dtype}", state.dtype))
        return cast(torch.Tensor, state)

    def _split(self, h: torch.Tensor) -> dict[str, torch.Tensor]:
        flat = torch.split(h, list(self.widths.values()), dim=-1) if len(self.shapes) > 1 else (h,)
        return {
            name: part if len(shape) == 1 else part.reshape(len(h), *shape)
            for (name, shape), part in zip(self.shapes.items(), flat, strict=True)
        }

    def _pack(self, parts: dict[str, torch.Tensor]) -> Any:
        build: Any = self.container
        if build is None:
            return next(iter(parts.values()))
        if issubclass(build, Mapping):
            return build(parts)
        return build(parts.values()) if _is_plain(build) else build(**parts)

    def _join(self, result: Any, h: torch.Tensor) -> torch.Tensor:
        count = len(self.returns)
        if count > 1 and not (isinstance(result, tuple | list) and len(result) == count):
            raise ShapeError(mismatch(self._told, f"{count} values", describe(result)))
        values = dict(zip(self.returns, result if count > 1 else (result,), strict=True))
        parts = values if self.given is None else self._unpack(values[self.given], self._told)
        return self._side_by_side(parts, len(h), h.dtype, self._told)

    def _side_by_side(
        self, parts: Mapping[str, Any], rows: int, dtype: torch.dtype, told: str
    ) -> torch.Tensor:  # [rows, H]
        flat = []
        for name, shape in self.shapes.items():
            value, expected = parts[name], (rows, *shape)
            if not isinstance(value, torch.Tensor) or value.shape != expected:
                raise ShapeError(mismatch(told, f"{name!r} a tensor {list(expected)}", describe(value)))
            if value.dtype != dtype:
                raise DtypeError(mismatch(told, f"{name!r} of dtype {dtype}", value.dtype))
            flat.append(value if len(shape) == 1 else value.reshape(rows, -1))
        return flat[0] if len(flat) == 1 else torch.cat(flat, dim=-1)

    def _unpack(self, state: Any, told: str) -> Mapping[str, Any]:
        names = tuple(self.shapes)
        if self.container is None:
            return {names[0]: state}
        if issubclass(self.container, Mapping):
            if not isinstance(state, Mapping) or set(state) != set(names):
                raise ShapeError(mismatch(told, f"a mapping with the keys {list(names)}", describe(state)))
            return state
        if _is_plain(self.container):
            if not isinstance(state, tuple | list) or len(state) != len(names):
                raise ShapeError(mismatch(told, f"a tuple ({', '.join(names)})", describe(state)))
            return dict(zip(names, state, strict=True))
        if not isinstance(state, self.container):
            raise ShapeError(mismatch(told, f"a {self.container.__name__}", describe(state)))
        return {name: getattr(state, name) for name in names}

    @property
    def _told(self) -> str:
        return f"state returned by {self.owner} (returns={','.join(self.returns)!r})"


def read_signature(
    owner: str,
    shapes: Mapping[str, tuple[int, ...]],
    container: type | None,
    call: str | Step,
    returns: str,
    constants: Mapping[str, object],
) -> Signature:
    """Return the signature that the arguments of ``wrap`` describe.

    Raises:
        ArgumentError: unless ``call`` and ``returns`` name the state once, whole or by its components.
    """
    if container is None and len(shapes) > 1:
        container = tuple
    parts = ", ".join(map(repr, shapes))
    taken: str | None = None
    called = _names(call) if isinstance(call, str) else call
    if isinstance(called, tuple):
        state = [name for name in called if name not in ("x", "t", *constants)]
        taken = state[0] if len(state) == 1 and state[0] in ("state", "h") else None
        if len(set(called)) < len(called) or (taken is None and sorted(state) != sorted(shapes)):
            whole = "'h'" if set(shapes) == {"h"} else f"'h', or each of {parts}"
            expected = (
                f"the module's arguments in order: 'x', the state ({whole}), and if it takes them 't' and "
                "names of constants, each once"
            )
            raise ArgumentError(mismatch("call", expected, repr(call)))
    values = _names(returns)
    state = [name for name in values if name in shapes]
    given = None
    if "state" in values and ("state" not in shapes or len(shapes) == 1):
        given = "state"
    elif "h" in values and set(state) <= {"h"}:  # not one component among others
        given = "h"
    if "" in values or (values.count(given) > 1 if given else sorted(state) != sorted(shapes)):
        expected = f"'state' or all of {parts} once, and any name for each value that is not the state"
        raise ArgumentError(mismatch("returns", expected, repr(returns)))
    return Signature(owner, shapes, container, called, values, taken, given)


def describe(value: object, depth: int = 2) -> str:
    """Return in a few words what a value is: ``tuple (tensor [2, 3], NoneType)``."""
    if isinstance(value, torch.Tensor):
        return f"tensor {list(value.shape)}"
    kind = type(value).__name__
    if depth and isinstance(value, Mapping):
        return f"{kind} ({', '.join(f'{k}: {describe(v, depth - 1)}' for k, v in value.items())})"
    if depth and isinstance(value, tuple | list):
        return f"{kind} ({', '.join(describe(v, depth - 1) for v in value)})"
    return kind


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(","))


def _is_plain(container: type) -> bool:
    """Whether a container is built from its values in order; a named tuple is built by names."""
    return issubclass(container, tuple | list) and not hasattr(container, "_fields")
