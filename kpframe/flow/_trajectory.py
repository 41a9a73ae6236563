"""What a roll-out leaves behind: states, inputs, initial state and mask."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from attrs import frozen

from kpframe.errors import DeviceError, DtypeError, ShapeError, mismatch
from kpframe.operators._finite import check_finite
from kpframe.operators._spaces import HIDDEN, TIME, Space


@frozen(eq=False)
class Trajectory:
    """A roll-out ``h_t = f(h_{t-1}, x_t, theta)`` for t = 1..T.

    Attributes:
        states: ``[B, T, H]``, the states ``h_1 .. h_T``.
        inputs: ``[B, T, I]``; zero where the mask is False.
        initial_state: ``[B, H]``, ``h_0``.
        space: the state space, with the state's components laid out on ``hidden``.
        mask: bool ``[B, T]`` or None; where it is False the trial is over and the state is held.
        given: whether ``h_0`` was given by the caller; otherwise it is the model's own, which may depend
            on the model's parameters.
        first: index of the first step, which models that vary in time are told: 0 but in a segment of a
            longer trajectory.
    """

    states: torch.Tensor
    inputs: torch.Tensor
    initial_state: torch.Tensor
    space: Space
    mask: torch.Tensor | None = None
    given: bool = False
    first: int = 0

    @property
    def previous(self) -> torch.Tensor:  # [B, T, H]
        """The states ``h_0 .. h_{T-1}`` that each step starts from, ``[B, T, H]``."""
        return torch.cat([self.initial_state.unsqueeze(1), self.states[:, :-1]], dim=1)

    @property
    def final(self) -> torch.Tensor:  # [B, H]
        """The last state ``[B, H]``; a masked trial holds its own last valid one."""
        return self.states[:, -1]

    @property
    def indices(self) -> torch.Tensor:  # [T], int64
        """The indices ``[T]`` of the steps, which models that vary in time are told."""
        return torch.arange(self.first, self.first + self.space[TIME].size, device=self.inputs.device)

    def pieces(self) -> Iterator[Trajectory]:
        """Yield the trajectory in pieces whose states are held one after the other: itself, where all are."""
        yield self

    def component(self, name: str) -> torch.Tensor:  # [B, T, width]
        """Return the component ``name`` of the states, ``[B, T, width]``; raises ``AxisError``."""
        return self.states[..., self.space[HIDDEN].part(name).slice]

    def __repr__(self) -> str:
        masked = "" if self.mask is None else f", {int((~self.mask).sum())} padded steps"
        return f"Trajectory({self.space}{masked})"


def check_inputs(
    x: torch.Tensor,
    h0: torch.Tensor | None,
    mask: torch.Tensor | None,
    *,
    input_size: int,
    width: int,
    steps: int | None,
    dtype: torch.dtype | None,
    device: torch.device | None,
) -> None:
    """Raise unless inputs, initial state and mask fit a model; the messages name the argument."""
    if not isinstance(x, torch.Tensor) or x.ndim != 3 or x.shape[2] != input_size:
        got = f"shape {list(x.shape)}" if isinstance(x, torch.Tensor) else type(x).__name__
        raise ShapeError(mismatch("x", f"shape [batch, time, input={input_size}]", got))
    batch, time = x.shape[:2]
    if batch == 0 or time == 0:
        raise ShapeError(mismatch("x", "at least one trial and one step", f"shape {list(x.shape)}"))
    if steps is not None and time != steps:
        raise ShapeError(mismatch("x", f"{steps} steps, as many as the model has", f"shape {list(x.shape)}"))
    if x.dtype not in (torch.float32, torch.float64):
        raise DtypeError(mismatch("x", "dtype torch.float32 or torch.float64", x.dtype))
    _check_like("x", x, dtype, device, "the model's")
    if h0 is not None:
        if not isinstance(h0, torch.Tensor) or tuple(h0.shape) != (batch, width):
            got = f"shape {list(h0.shape)}" if isinstance(h0, torch.Tensor) else type(h0).__name__
            raise ShapeError(mismatch("h0", f"shape [batch={batch}, hidden={width}]", got))
        _check_like("h0", h0, x.dtype, x.device, "x's")
        check_finite(h0, "h0")
    if mask is not None:
        if not isinstance(mask, torch.Tensor) or tuple(mask.shape) != (batch, time):
            got = f"shape {list(mask.shape)}" if isinstance(mask, torch.Tensor) else type(mask).__name__
            raise ShapeError(mismatch("mask", f"shape [batch={batch}, time={time}]", got))
        if mask.dtype != torch.bool:
            raise DtypeError(mismatch("mask", "dtype torch.bool", mask.dtype))
        _check_like("mask", mask, None, x.device, "x's")
    check_finite(x if mask is None else x.masked_fill(~mask.unsqueeze(-1), 0), "x")


def _check_like(
    argument: str, tensor: torch.Tensor, dtype: torch.dtype | None, device: torch.device | None, whose: str
) -> None:
    if dtype is not None and tensor.dtype != dtype:
        raise DtypeError(mismatch(argument, f"{whose} dtype {dtype}", f"{tensor.dtype} (nothing is cast)"))
    if device is not None and tensor.device != device:
        raise DeviceError(
            mismatch(argument, f"{whose} device {device}", f"{tensor.device} (nothing is moved)")
        )
