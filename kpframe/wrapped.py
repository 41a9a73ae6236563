"""``wrap(cell)``: any ``torch.nn.Module`` cell as a ``Model``."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from kpframe.errors import ArgumentError, mismatch
from kpframe.model import Model

_CALLS = ("x,h", "h,x")
_RETURNS = ("state", "output,state")


class WrappedCell(Model):
    """A cell's module as a model; made by ``wrap``."""

    def __init__(
        self,
        cell: torch.nn.Module,
        input_size: int,
        state: Mapping[str, int],
        call: str,
        returns: str,
        as_tuple: bool,
        trainable_initial_state: bool,
    ) -> None:
        super().__init__(input_size, state, trainable_initial_state=trainable_initial_state)
        self.cell = cell
        self._call, self._returns, self._as_tuple = call, returns, as_tuple

    def step(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        """Return the next state ``[N, H]``, the components side by side."""
        state = torch.split(h, list(self.components.values()), dim=-1) if self._as_tuple else h
        out = self.cell(x, state) if self._call == "x,h" else self.cell(state, x)
        if self._returns == "output,state":
            out = out[1]
        if not self._as_tuple:
            return out  # type: ignore[no-any-return]
        if not isinstance(out, tuple | list) or len(out) != len(self.components):
            got = f"{len(out)} parts" if isinstance(out, tuple | list) else type(out).__name__
            raise ArgumentError(
                mismatch(f"state returned by {type(self.cell).__name__}", self.components, got)
            )
        return torch.cat(list(out), dim=-1)

    def trainable(self) -> dict[str, torch.nn.Parameter]:
        """Return theta under the cell's own parameter names."""
        return {name.removeprefix("cell."): p for name, p in super().trainable().items()}


def wrap(
    module: torch.nn.Module,
    call: str = "x,h",
    *,
    input_size: int | None = None,
    state: int | Mapping[str, int] | None = None,
    returns: str = "state",
    trainable_initial_state: bool = False,
) -> WrappedCell:
    """Return a cell as a model; ``torch.nn.RNNCell``, ``GRUCell`` and ``LSTMCell`` are recognised.

    The module itself is used, not a copy: it computes one step for a batch of rows ``[N, I]``, ``[N, H]``
    and must read nothing but its arguments, parameters and buffers (no dropout, no batch statistics).

    Args:
        module: the cell.
        call: order of its arguments, ``"x,h"`` or ``"h,x"``.
        input_size: width of its input; read from ``module.input_size`` when left out.
        state: width of its state, or the components of a tuple state and their widths in order (one
            component: a plain tensor); read from ``module.hidden_size`` when left out.
        returns: ``"state"``, or ``"output,state"`` for a cell that returns both.
        trainable_initial_state: adds a parameter ``h0`` ``[H]``.

    Raises:
        ArgumentError: naming the argument that is missing or unusable.
    """
    if not isinstance(module, torch.nn.Module):
        raise ArgumentError(mismatch("module", "a torch.nn.Module", type(module).__name__))
    if isinstance(module, torch.nn.RNNBase):
        raise ArgumentError(
            mismatch("module", "a cell that computes one step (torch.nn.GRUCell ...)", type(module).__name__)
        )
    if call not in _CALLS:
        raise ArgumentError(mismatch("call", f"one of {_CALLS}", repr(call)))
    if returns not in _RETURNS:
        raise ArgumentError(mismatch("returns", f"one of {_RETURNS}", repr(returns)))
    if input_size is None:
        input_size = _read_size(module, "input_size", "input_size")
    if state is None:
        width = _read_size(module, "hidden_size", "state")
        state = {"h": width, "c": width} if isinstance(module, torch.nn.LSTMCell) else width
    as_tuple = not isinstance(state, int) and len(state) > 1
    components = {"h": state} if isinstance(state, int) else dict(state)
    return WrappedCell(module, input_size, components, call, returns, as_tuple, trainable_initial_state)


def _read_size(module: torch.nn.Module, attribute: str, argument: str) -> int:
    value = getattr(module, attribute, None)
    if not isinstance(value, int):
        raise ArgumentError(
            mismatch(
                argument, f"a size, as {type(module).__name__} has no integer attribute {attribute!r}", "none"
            )
        )
    return value
