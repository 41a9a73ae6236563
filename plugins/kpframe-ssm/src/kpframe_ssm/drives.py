"""How inputs drive the modes, and the derivative of that by its matrices.

A drive holds real tensors (real parts first) that ``forward`` combines with the inputs, linearly in each.
Results are states ``[T, K, B, 2 n]`` with K the probes; inputs are ``[T, B, I]``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import torch
from attrs import frozen

from kpframe_ssm.modes import unflatten


class Drive(ABC):
    """What the inputs add to the state at each step."""

    @property
    @abstractmethod
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """What it is made of."""

    @abstractmethod
    def forward(self, x: torch.Tensor) -> torch.Tensor:  # [..., I] -> [..., 2 n]
        """Return what inputs add."""

    @abstractmethod
    def push(self, moved: Sequence[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """Return the change ``[T, K, B, 2 n]`` when each tensor moves by ``moved`` ``[K, *tensor]``."""

    @abstractmethod
    def pull(self, r: torch.Tensor, x: torch.Tensor) -> list[torch.Tensor]:
        """Return the adjoint of ``push``: of ``r`` ``[T, K, B, 2 n]``, a tensor ``[K, *tensor]`` for each."""

    @abstractmethod
    def matrix(self) -> torch.Tensor:  # [2 n, I]
        """Return the matrix from inputs to the state."""


@frozen(eq=False)
class MatrixDrive(Drive):
    """``B x``: all inputs drive each mode.

    Attributes:
        B: ``[2 n, I]``, real parts first.
    """

    B: torch.Tensor

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """``B``."""
        return (self.B,)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``B x``."""
        return torch.nn.functional.linear(x, self.B)

    def push(self, moved: Sequence[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """Return ``dB x``, a product with all trials and steps at once."""
        return product(x, moved[0])

    def pull(self, r: torch.Tensor, x: torch.Tensor) -> list[torch.Tensor]:
        """Return ``Sum r x*``."""
        return [outer(r, x)]

    def matrix(self) -> torch.Tensor:
        """Return ``B``."""
        return self.B


@frozen(eq=False)
class ChannelDrive(Drive):
    """``b_cn v_c``: channel c drives its own N modes; ``v = E x``, or the inputs themselves.

    Attributes:
        gain: ``b`` ``[2, C, N]``, real parts first.
        encoder: ``E`` ``[C, I]``, or None where the inputs are the channels.
    """

    gain: torch.Tensor
    encoder: torch.Tensor | None = None

    @property
    def tensors(self) -> tuple[torch.Tensor, ...]:
        """The gain, and the encoder if there is one."""
        return (self.gain,) if self.encoder is None else (self.gain, self.encoder)

    def channels(self, x: torch.Tensor) -> torch.Tensor:  # [..., I] -> [..., C]
        """Return the channels' inputs ``v``."""
        return x if self.encoder is None else torch.nn.functional.linear(x, self.encoder)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Return ``b_cn v_c``, channel by channel."""
        return (self.gain * self.channels(x)[..., None, :, None]).flatten(-3)

    def push(self, moved: Sequence[torch.Tensor], x: torch.Tensor) -> torch.Tensor:
        """Return ``db_cn v_c + b_cn (dE x)_c``."""
        out = moved[0][:, None] * self._spread(x)
        if self.encoder is not None:
            out.addcmul_(self.gain, product(x, moved[1])[..., None, :, None])
        return out.flatten(-3)

    def pull(self, r: torch.Tensor, x: torch.Tensor) -> list[torch.Tensor]:
        """Return ``Sum r_cn v_c`` and ``Sum Re(conj(b_cn) r_cn) x*``."""
        r = unflatten(r, *self.gain.shape)
        out = [(r * self._spread(x)).sum((0, 2))]
        if self.encoder is not None:
            out.append(outer((self.gain * r).sum((-3, -1)), x))
        return out

    def matrix(self) -> torch.Tensor:
        """Return the matrix ``[2 C N, I]``, written out."""
        encoder = self.encoder
        if encoder is None:
            encoder = torch.eye(self.gain.shape[1], dtype=self.gain.dtype, device=self.gain.device)
        return (self.gain.unsqueeze(-1) * encoder.unsqueeze(1)).flatten(0, 2)

    def _spread(self, x: torch.Tensor) -> torch.Tensor:  # [T, B, I] -> [T, 1, B, 1, C, 1]
        return self.channels(x)[:, None, :, None, :, None]


def product(z: torch.Tensor, dW: torch.Tensor) -> torch.Tensor:
    """Return ``dW z`` ``[T, K, B, m]`` of ``[T, (1,) B, l]`` and ``[K, m, l]``, all steps at once."""
    time, batch = z.shape[0], z.shape[-2]
    y = z.reshape(time * batch, -1) @ dW.mT
    return y.view(len(dW), time, batch, -1).transpose(0, 1)


def outer(r: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    """Return ``Sum r z*`` ``[K, m, l]`` of ``[T, K, B, m]`` and ``[T, (1,) B, l]``."""
    time, probes, batch, _ = r.shape
    rows = r.transpose(0, 1).reshape(probes, time * batch, -1)
    return rows.mT @ z.reshape(time * batch, -1)
