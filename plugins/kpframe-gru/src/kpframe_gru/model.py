"""``h' = (1-z) n + z h`` with torch's gate order r, z, n, in both published forms."""

from __future__ import annotations

import math

import torch

from kpframe import SiteModel
from kpframe.errors import ShapeError, check_seed, mismatch
from kpframe.models import uniform_
from kpframe.plugin import takes_settings
from kpframe_gru import GRUSettings
from kpframe_gru.layers import stack


class GRU(SiteModel):
    """The gated recurrent unit; with ``reset="after"`` exactly ``torch.nn.GRU``::

        r  = sigmoid(W_ir x + b_ir + W_hr h + b_hr)
        z  = sigmoid(W_iz x + b_iz + W_hz h + b_hz)
        n  = tanh(W_in x + b_in + r (W_hn h + b_hn))        reset="after": as cuDNN and torch define it
        n  = tanh(W_in x + b_in + W_hn (r h) + b_hn)        reset="before": Cho et al. 2014
        h' = (1 - z) n + z h

    Both forms have torch's parameter names and shapes, for layer k: ``weight_ih_lk [3H, I]`` (``[3H, H]``
    above the first layer), ``weight_hh_lk [3H, H]``, ``bias_ih_lk [3H]``, ``bias_hh_lk [3H]``. A layer reads
    the new state of the one below in the same step.

    The state is ``h`` ``[H]``; with several layers its components are ``h_l0, h_l1 ...``, and ``pack_state``
    and ``unpack_state`` go to and from torch's ``h_0``. In one layer that resets after the product, K is
    diagonal over units between the gates' gains; resetting before it couples the units, for the reset gate
    of one then acts on all, and so do further layers. ``A.replace`` knows the recurrent weights as
    ``weight_hh_lk``, and where the reset is before the product as ``weight_hh_lk[r,z]`` and
    ``weight_hh_lk[n]``.

    Initial weights are uniform in +-1/sqrt(H) as in torch. A trainable ``h_0`` is the parameter ``h0``, all
    layers side by side.

    Raises:
        SettingsError: listing the settings that are unusable.
    """

    @takes_settings(GRUSettings)
    def __init__(self, settings: GRUSettings) -> None:
        c = settings
        layers = stack(c.input_size, c.hidden_size, c.num_layers, c.bias, c.reset)
        super().__init__(
            c.input_size,
            components=[layer.component for layer in layers],
            stages=[stage for layer in layers for stage in layer.stages],
            trainable_initial_state=c.trainable_initial_state,
        )
        self.hidden_size, self.num_layers, self.reset = c.hidden_size, c.num_layers, c.reset
        for layer in layers:
            for name, shape in layer.shapes.items():
                self.register_parameter(name, torch.nn.Parameter(torch.empty(shape)))
        self.reset_parameters(c.seed)

    def reset_parameters(self, seed: int | None = None) -> None:
        """Draw the weights anew; the initial state is set to zero."""
        generator = None if seed is None else torch.Generator().manual_seed(check_seed(seed))
        bound = 1 / math.sqrt(self.hidden_size)
        with torch.no_grad():
            for name, parameter in self.named_parameters():
                if name == "h0":
                    parameter.zero_()
                else:
                    uniform_(parameter, -bound, bound, generator)

    def site_weight(self, name: str) -> torch.Tensor:
        """Return the matrix of a site: a parameter, or the row blocks ``[r,z]`` or ``[n]`` of one."""
        parameter, _, rows = name.partition("[")
        weight = super().site_weight(parameter)
        new = 2 * self.hidden_size
        return {"": weight, "r,z]": weight[:new], "n]": weight[new:]}[rows]

    def pack_state(self, h: torch.Tensor) -> torch.Tensor:
        """Return a state ``[..., width]`` from torch's ``[num_layers, ..., H]``.

        ``rollout(x, model.pack_state(h_0))`` is ``torch.nn.GRU``'s ``(x, h_0)``.

        Raises:
            ShapeError: when the first or last dimension does not fit.
        """
        if h.ndim < 2 or h.shape[0] != self.num_layers or h.shape[-1] != self.hidden_size:
            expected = f"shape [{self.num_layers}, ..., {self.hidden_size}]"
            raise ShapeError(mismatch("h", expected, list(h.shape)))
        return torch.cat(h.unbind(), dim=-1)

    def unpack_state(self, state: torch.Tensor) -> torch.Tensor:
        """Return torch's ``[num_layers, ..., H]`` of states ``[..., width]``.

        ``model.unpack_state(trajectory.final)`` is the second value that ``torch.nn.GRU`` returns.

        Raises:
            ShapeError: when the last dimension is not the width of the state.
        """
        if state.ndim == 0 or state.shape[-1] != self.width:
            raise ShapeError(mismatch("state", f"shape [..., {self.width}]", list(state.shape)))
        return torch.stack(state.chunk(self.num_layers, dim=-1))

    def extra_repr(self) -> str:
        """Return the sizes and the form for ``repr``."""
        return f"{self.input_size}, {self.hidden_size}, num_layers={self.num_layers}, reset={self.reset!r}"
