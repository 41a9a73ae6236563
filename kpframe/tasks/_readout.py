"""The linear readout, ``y = W h + b``."""

from __future__ import annotations

import math

import torch

from kpframe.errors import ArgumentError, DeviceError, DtypeError, ShapeError, mismatch, whole
from kpframe.tasks._task import seeded_generator


class Readout(torch.nn.Module):
    """A linear map from states ``[..., H]`` to outputs ``[..., O]``.

    Args:
        hidden_size: width of the state, all components together, ``H``.
        output_size: number of outputs, ``O``.
        hidden: the slice of the state that is read, such as ``axis.part("h").slice``; None for all.
        generator: a seed or a CPU generator for the initial values; None for torch's global one.
        dtype: of the parameters; None for torch's default. The draw does not depend on it.
        device: of the parameters; None for the CPU.

    Attributes:
        weight: ``[O, n]`` where ``n`` is the width that is read (``H`` unless ``hidden`` is given).
        bias: ``[O]``. Both start uniform in ``+-1/sqrt(n)``, as in ``torch.nn.Linear``.

    Raises:
        ArgumentError: for a size below 1 or a slice that does not lie inside the state.
    """

    def __init__(
        self,
        hidden_size: int,
        output_size: int,
        *,
        hidden: slice | None = None,
        generator: torch.Generator | int | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        super().__init__()
        hidden_size, output_size = whole(hidden_size, "hidden_size"), whole(output_size, "output_size")
        self.hidden_size = hidden_size
        self.output_size = output_size
        self.hidden = _slice_of(hidden, hidden_size)
        if generator is not None and not isinstance(generator, torch.Generator):
            generator = seeded_generator(generator)
        width = self.hidden.stop - self.hidden.start
        drawn = torch.rand(output_size, width + 1, generator=generator, dtype=torch.float64, device="cpu")
        drawn = (2 * drawn - 1) / math.sqrt(width)
        drawn = drawn.to(device or torch.get_default_device(), dtype or torch.get_default_dtype())
        self.weight = torch.nn.Parameter(drawn[:, :width].clone())
        self.bias = torch.nn.Parameter(drawn[:, width].clone())

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Return the outputs ``[..., O]`` of ``states`` ``[..., H]``.

        Raises:
            ShapeError, DtypeError, DeviceError: nothing is reshaped, cast or moved silently.
        """
        if states.ndim == 0 or states.shape[-1] != self.hidden_size:
            raise ShapeError(
                mismatch("states", f"shape [..., {self.hidden_size}]", f"shape {list(states.shape)}")
            )
        _check_like("states", states, "the readout's", self.weight)
        return torch.nn.functional.linear(states[..., self.hidden], self.weight, self.bias)

    def full_weight(self) -> torch.Tensor:
        """Return W on the whole state, ``[O, H]``: zero where the readout does not look."""
        if self.weight.shape[1] == self.hidden_size:
            return self.weight
        return torch.nn.functional.pad(self.weight, (self.hidden.start, self.hidden_size - self.hidden.stop))

    def extra_repr(self) -> str:
        """Return the sizes for ``repr``."""
        part = f", hidden={self.hidden.start}:{self.hidden.stop}"
        whole = self.weight.shape[1] == self.hidden_size
        return f"{self.hidden_size}, {self.output_size}{'' if whole else part}"


def _check_like(name: str, tensor: torch.Tensor, whose: str, reference: torch.Tensor) -> None:
    if tensor.dtype != reference.dtype:
        raise DtypeError(
            mismatch(name, f"{whose} dtype {reference.dtype}", f"{tensor.dtype} (nothing is cast)")
        )
    if tensor.device != reference.device:
        raise DeviceError(
            mismatch(name, f"{whose} device {reference.device}", f"{tensor.device} (nothing is moved)")
        )


def _slice_of(hidden: slice | None, size: int) -> slice:
    """Return ``hidden`` with explicit ends; nothing is clipped silently."""
    if hidden is None:
        return slice(0, size)
    start = 0 if hidden.start is None else hidden.start
    stop = size if hidden.stop is None else hidden.stop
    if hidden.step not in (None, 1) or not 0 <= start < stop <= size:
        raise ArgumentError(mismatch("hidden", f"a slice inside 0:{size} with step 1", hidden))
    return slice(start, stop)
