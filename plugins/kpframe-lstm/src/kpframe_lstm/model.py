"""``c' = f c + i g``, ``h' = o tanh(c')`` with torch's gate order i, f, g, o."""

from __future__ import annotations

import math

import torch

from kpframe import SiteModel
from kpframe.errors import DeviceError, DtypeError, ShapeError, check_seed, mismatch
from kpframe.models import uniform_
from kpframe.plugin import takes_settings
from kpframe_lstm import LSTMSettings
from kpframe_lstm.layers import stack


class LSTM(SiteModel):
    """Long short-term memory, exactly ``torch.nn.LSTM`` (Hochreiter & Schmidhuber 1997; Gers et al. 2000)::

        i  = sigmoid(W_ii x + b_ii + W_hi h + b_hi)
        f  = sigmoid(W_if x + b_if + W_hf h + b_hf)
        g  =    tanh(W_ig x + b_ig + W_hg h + b_hg)
        o  = sigmoid(W_io x + b_io + W_ho h + b_ho)
        c' = f c + i g
        h' = o tanh(c')          or, with proj_size (Sak et al. 2014), W_hr (o tanh(c'))

    with torch's parameter names and shapes, for layer k and P = proj_size or H: ``weight_ih_lk [4H, I]``
    (``[4H, P]`` above the first layer), ``weight_hh_lk [4H, P]``, ``bias_ih_lk [4H]``, ``bias_hh_lk [4H]``,
    ``weight_hr_lk [P, H]``. A layer reads the new ``h`` of the one below in the same step.

    The state's components are ``h`` ``[P]`` and ``c`` ``[H]``, in this order; with several layers
    ``h_l0, c_l0, h_l1, c_l1 ...``. ``pack_state`` and ``unpack_state`` go to and from torch's
    ``(h_0, c_0)``. In one layer without projection K couples unit i with itself only, by a 2 x 2 block over
    its ``h`` and ``c`` for each pair of trials and steps; a projection or further layers couple the units.

    Initial weights are uniform in +-1/sqrt(H) as in torch; Jozefowicz et al. (2015) advise a
    ``forget_bias`` of 1. Trainable ``h_0`` and ``c_0`` are the parameter ``h0``, side by side.

    Raises:
        SettingsError: listing the settings that are unusable.
    """

    @takes_settings(LSTMSettings)
    def __init__(self, settings: LSTMSettings) -> None:
        c = settings
        layers = stack(c.input_size, c.hidden_size, c.num_layers, c.proj_size, c.bias)
        super().__init__(
            c.input_size,
            components=[name for layer in layers for name in layer.components],
            stages=[stage for layer in layers for stage in layer.stages],
            trainable_initial_state=c.trainable_initial_state,
        )
        self.hidden_size, self.num_layers, self.proj_size = c.hidden_size, c.num_layers, c.proj_size
        for layer in layers:
            for name, shape in layer.shapes.items():
                self.register_parameter(name, torch.nn.Parameter(torch.empty(shape)))
        self.reset_parameters(c.forget_bias, c.seed)

    def reset_parameters(self, forget_bias: float | None = None, seed: int | None = None) -> None:
        """Draw the weights anew; the initial state is set to zero."""
        generator = None if seed is None else torch.Generator().manual_seed(check_seed(seed))
        bound = 1 / math.sqrt(self.hidden_size)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name == "h0":
                    parameter.zero_()
                    continue
                uniform_(parameter, -bound, bound, generator)
                if forget_bias is not None and name.startswith("bias"):
                    _, forget, _, _ = parameter.chunk(4)
                    forget.fill_(forget_bias if name.startswith("bias_ih") else 0)

    def pack_state(self, h: torch.Tensor, c: torch.Tensor) -> torch.Tensor:
        """Return a state ``[..., width]`` from torch's pair: ``rollout(x, model.pack_state(h_0, c_0))``.

        Args:
            h: ``[num_layers, ..., P]``, with P = proj_size or hidden_size.
            c: ``[num_layers, ..., H]``.

        Raises:
            ShapeError, DtypeError, DeviceError: naming the argument that does not fit.
        """
        width = self.proj_size or self.hidden_size
        rows = list(h.shape[1:-1])
        for name, value, size in (("h", h, width), ("c", c, self.hidden_size)):
            expected = [self.num_layers, *rows, size]
            if list(value.shape) != expected:
                raise ShapeError(mismatch(name, f"shape {expected}", list(value.shape)))
        if c.dtype != h.dtype:
            raise DtypeError(mismatch("c", f"the dtype {h.dtype} of h", f"{c.dtype} (nothing is cast)"))
        if c.device != h.device:
            raise DeviceError(mismatch("c", f"the device {h.device} of h", f"{c.device} (nothing is moved)"))
        return torch.cat([part for layer in zip(h, c, strict=True) for part in layer], dim=-1)

    def unpack_state(self, state: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return torch's ``h [num_layers, ..., P]`` and ``c [num_layers, ..., H]`` of states.

        ``model.unpack_state(trajectory.final)`` is the second value that ``torch.nn.LSTM`` returns.

        Args:
            state: ``[..., width]``.

        Raises:
            ShapeError: when the last dimension is not the width of the state.
        """
        if state.ndim == 0 or state.shape[-1] != self.width:
            raise ShapeError(mismatch("state", f"shape [..., {self.width}]", list(state.shape)))
        parts = torch.split(state, list(self.components.values()), dim=-1)
        return torch.stack(parts[::2]), torch.stack(parts[1::2])

    def extra_repr(self) -> str:
        """Return the sizes for ``repr``."""
        sizes = f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}"
        return f"{sizes}, proj_size={self.proj_size}"
