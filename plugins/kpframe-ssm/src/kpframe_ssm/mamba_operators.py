"""A, P and J of the Mamba block.

Its state is ``(conv, h)``. The convolution's memory shifts, ``conv' = S conv``, and acts on ``h`` through
the selection, ``h' = E_t o h + F_t conv``; nothing acts back. So P is a few shifts, one product with the
selection's gains for all steps at once, and one elementwise scan::

    P = (conv: shifts) then (h: scan of q_h + F (Z P q)_conv)
"""

from __future__ import annotations

import math

import torch
from attrs import evolve, frozen

from kpframe import Space
from kpframe.flow import ParameterJacobian
from kpframe_ssm.drives import outer, product
from kpframe_ssm.modes import probes_first, time_outermost, unflatten
from kpframe_ssm.scan import recur
from kpframe_ssm.selection import SelectionGains
from kpframe_ssm.step import ScannedStepJacobian


@frozen(eq=False)
class MambaGains:
    """Everything the operators need of a trajectory; tensors are ``[T, 1, B, ...]``.

    Attributes:
        selection: the derivative of the selection.
        decay: ``exp(Delta A)`` ``[T, 1, B, E N]``; 1 where the step is masked, 0 where A is cut.
        move: 1 where a step is made, else 0; None: 1 everywhere.
        hold: 1 where a state is held, else 0; None: 0 everywhere.
    """

    selection: SelectionGains
    decay: torch.Tensor
    move: torch.Tensor | None = None
    hold: torch.Tensor | None = None

    @property
    def inner(self) -> tuple[int, int]:
        """Channels E and what each remembers, K - 1."""
        channels, seen = self.selection.conv.shape
        return channels, seen - 1

    @property
    def modes(self) -> int:
        """Modes N of a channel."""
        return self.selection.by_Delta.shape[-1]

    def split(self, v: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``conv`` ``[..., E, K-1]`` and ``h`` ``[..., E N]`` of state vectors."""
        channels, kept = self.inner
        return unflatten(v[..., : channels * kept], channels, kept), v[..., channels * kept :]

    def at(self, t: slice) -> MambaGains:
        """Return the gains of some steps."""
        move = None if self.move is None else self.move[t]
        hold = None if self.hold is None else self.hold[t]
        return MambaGains(self.selection.at(t), self.decay[t], move, hold)

    def moving(self, v: torch.Tensor) -> torch.Tensor:  # [T, K, B, w]
        """Return ``v``, zero at steps that are not made."""
        return v if self.move is None else self.move * v

    def select(self, conv: torch.Tensor) -> torch.Tensor:  # [T, K, B, E, K-1] -> [T, K, B, E N]
        """Return ``F conv``."""
        dc = (conv * self.selection.conv[:, :-1]).sum(-1)
        return self.moving(self.selection.push(dc).flatten(-2))

    def select_adjoint(self, g: torch.Tensor) -> torch.Tensor:  # [T, K, B, E N] -> [T, K, B, E, K-1]
        """Return ``F* g``."""
        dc, _, _ = self.selection.pull(unflatten(self.moving(g), self.inner[0], self.modes))
        return dc.unsqueeze(-1) * self.selection.conv[:, :-1]

    def product(self, v: torch.Tensor) -> torch.Tensor:  # [T, K, B, H]
        """Return ``A v`` at each step."""
        conv, h = self.split(v)
        out = self.decay * h
        if not self.inner[1]:
            return out
        shifted = self.moving(torch.nn.functional.pad(conv[..., 1:], (0, 1)).flatten(-2))
        if self.hold is not None:
            shifted = shifted + self.hold * conv.flatten(-2)
        return torch.cat([shifted, out + self.select(conv)], dim=-1)

    def product_adjoint(self, r: torch.Tensor) -> torch.Tensor:  # [T, K, B, H]
        """Return ``A* r`` at each step."""
        conv, h = self.split(r)
        out = self.decay * h
        if not self.inner[1]:
            return out
        shifted = self.moving(torch.nn.functional.pad(conv[..., :-1], (1, 0)).flatten(-2))
        if self.hold is not None:
            shifted = shifted + self.hold * conv.flatten(-2)
        return torch.cat([shifted + self.select_adjoint(h).flatten(-2), out], dim=-1)


class MambaStepJacobian(ScannedStepJacobian):
    """``A_t (conv, h) = (S conv, E_t o h + F_t conv)``."""

    def __init__(self, gains: MambaGains, space: Space, *, name: str = "A") -> None:
        super().__init__(space, dtype=gains.decay.dtype, device=gains.decay.device, name=name)
        self.gains = gains

    @property
    def decay(self) -> torch.Tensor:
        """``exp(Delta A)``, channel by channel."""
        return self.gains.decay

    def step(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t v``."""
        return self._at(t).product(v.reshape(1, -1, *v.shape[-2:])).reshape(v.shape)

    def step_adjoint(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t* v``."""
        return self._at(t).product_adjoint(v.reshape(1, -1, *v.shape[-2:])).reshape(v.shape)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return probes_first(self.gains.product(time_outermost(q)), q.shape[:-3])

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return probes_first(self.gains.product_adjoint(time_outermost(r)), r.shape[:-3])

    def propagate(self, q: torch.Tensor, scan: str) -> torch.Tensor:
        """Return ``(I - A Z)^{-1} q``: shifts of the convolution's memory, then a scan over modes."""
        gains = self.gains
        conv, h = gains.split(time_outermost(q))
        if not gains.inner[1]:
            return probes_first(recur(gains.decay, h, scan), q.shape[:-3])
        conv = self._shifts(conv, scan)
        h = torch.cat([h[:1], h[1:] + gains.at(slice(1, None)).select(conv[:-1])])
        out = torch.cat([conv.flatten(-2), recur(gains.decay, h, scan)], dim=-1)
        return probes_first(out, q.shape[:-3])

    def propagate_adjoint(self, r: torch.Tensor, scan: str) -> torch.Tensor:
        """Return ``(I - A Z)^{-*} r``: the adjoint scan over modes, then the shifts backward."""
        gains = self.gains
        conv, h = gains.split(time_outermost(r))
        h = recur(gains.decay, h, scan, reverse=True)
        if not gains.inner[1]:
            return probes_first(h, r.shape[:-3])
        conv = conv.clone()
        conv[:-1] += gains.at(slice(1, None)).select_adjoint(h[1:])
        out = torch.cat([self._shifts_adjoint(conv, scan).flatten(-2), h], dim=-1)
        return probes_first(out, r.shape[:-3])

    def masked(self, keep: torch.Tensor, name: str | None = None) -> MambaStepJacobian:
        """Return ``A`` with ``A_t := 0`` where ``keep`` (bool, ``[T]`` or ``[B, T]``) is False."""
        label = super().masked(keep, name).name  # checks keep
        kept = keep.mT if keep.ndim == 2 else keep.unsqueeze(1)
        kept = kept[:, None, :, None].to(self.dtype)  # [T, 1, b, 1]
        gains = self.gains
        hold = None if gains.hold is None else gains.hold * kept
        cut = evolve(gains, decay=gains.decay * kept, move=gains.moving(kept), hold=hold)
        return MambaStepJacobian(cut, self.domain, name=label).keeping(self.valid)

    def _at(self, t: int) -> MambaGains:
        t = t % self.steps
        return self.gains.at(slice(t, t + 1))

    def _shifts(self, conv: torch.Tensor, scan: str) -> torch.Tensor:  # [T, K, B, E, K-1]
        """Return P on the convolution's memory: place j takes what place j + 1 was a step before."""
        out = torch.empty_like(conv)
        for j in range(conv.shape[-1] - 1, -1, -1):
            source = conv[..., j].clone()
            if j + 1 < conv.shape[-1]:
                arriving = out[:-1, ..., j + 1]
                source[1:] += arriving if self.gains.move is None else self.gains.move[1:] * arriving
            out[..., j] = self._held(source, scan, reverse=False)
        return out

    def _shifts_adjoint(self, conv: torch.Tensor, scan: str) -> torch.Tensor:
        out = torch.empty_like(conv)
        for j in range(conv.shape[-1]):
            source = conv[..., j].clone()
            if j:
                leaving = out[1:, ..., j - 1]
                source[:-1] += leaving if self.gains.move is None else self.gains.move[1:] * leaving
            out[..., j] = self._held(source, scan, reverse=True)
        return out

    def _held(self, source: torch.Tensor, scan: str, reverse: bool) -> torch.Tensor:
        hold = self.gains.hold
        return source if hold is None else recur(hold, source, scan, reverse)


class MambaParameterJacobian(ParameterJacobian):
    """``J`` of the Mamba block: matrix products with what each weight reads, between the selection's gains.

    Args:
        A: the step Jacobian, whose gains are used.
        domain: the parameter space; parameters that only the output reads have zero columns.
        x: inputs ``[T, B, I]``.
        start: whether the initial state is the parameter ``h0``.
    """

    method = "modes"

    def __init__(self, A: MambaStepJacobian, domain: Space, x: torch.Tensor, start: bool) -> None:
        super().__init__(domain, A.domain, dtype=A.dtype, device=A.device)
        self.A, self._x, self._start = A, x.contiguous(), start
        self._parts = {part.name: part for part in domain.axes[0].parts}

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        probes = q.shape[:-1]
        rows = q.reshape(math.prod(probes), q.shape[-1])
        moved = {name: rows[:, p.slice].reshape(-1, *p.shape) for name, p in self._parts.items()}
        out = probes_first(self._push(moved, len(rows)), probes)
        if self._start:
            batch = self.codomain.shape[0]
            start = q[..., self._parts["h0"].slice].unsqueeze(-2).expand(*probes, batch, -1)
            out[..., 0, :] += self.A.step(0, start)
        return out

    def _push(self, moved: dict[str, torch.Tensor], probes: int) -> torch.Tensor:  # [T, K, B, H]
        gains, now = self.A.gains, self.A.gains.selection
        channels, kept = gains.inner
        batch, time, _ = self.codomain.shape
        zero = self._x.new_zeros(time, probes, batch, channels)
        du = zero
        if "in_proj.weight" in moved:
            du = du + product(self._x, moved["in_proj.weight"][:, :channels])
        if "in_proj.bias" in moved:
            du = du + moved["in_proj.bias"][:, None, :channels]
        dc = du * now.conv[:, -1]
        if "conv1d.weight" in moved:
            dc = dc + (moved["conv1d.weight"][:, None, :, 0] * now.window).sum(-1)
        if "conv1d.bias" in moved:
            dc = dc + moved["conv1d.bias"][:, None]
        dp = dv = None
        if "x_proj.weight" in moved:
            dp = product(now.a, moved["x_proj.weight"][:, : len(now.x_proj)])
        if "dt_proj.weight" in moved:
            dv = product(now.delta, moved["dt_proj.weight"])
        if "dt_proj.bias" in moved:
            dv = moved["dt_proj.bias"][:, None] + (zero if dv is None else dv)
        h = now.push(dc, dp, dv)
        if "A_log" in moved:
            h = torch.addcmul(h, now.by_A_log, moved["A_log"][:, None])
        parts = [h.flatten(-2)]
        if kept:
            parts.insert(0, torch.nn.functional.pad(du.unsqueeze(-1), (kept - 1, 0)).flatten(-2))
        return gains.moving(torch.cat(parts, dim=-1))

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        probes = r.shape[:-3]
        gradients = self._pull(self.A.gains.moving(time_outermost(r)))
        if self._start:
            gradients["h0"] = self.A.step_adjoint(0, r[..., 0, :]).sum(-2).reshape(-1, self.codomain.shape[2])
        count = len(next(iter(gradients.values())))
        out = r.new_zeros(count, self.domain.size)
        for name, part in self._parts.items():
            if name in gradients:  # the first rows of what the output reads as well
                gradient = gradients[name].reshape(count, -1)
                out[:, part.start : part.start + gradient.shape[1]] = gradient
        return out.reshape(*probes, -1)

    def _pull(self, r: torch.Tensor) -> dict[str, torch.Tensor]:  # [T, K, B, H]
        gains, now = self.A.gains, self.A.gains.selection
        conv, h = gains.split(r)
        h = unflatten(h, gains.inner[0], gains.modes)
        dc, dp, dv = now.pull(h)
        du = dc * now.conv[:, -1]
        if gains.inner[1]:
            du = du + conv[..., -1]
        return {
            "in_proj.weight": outer(du, self._x),
            "in_proj.bias": du.sum((0, 2)),
            "conv1d.weight": (dc.unsqueeze(-1) * now.window).sum((0, 2)),
            "conv1d.bias": dc.sum((0, 2)),
            "x_proj.weight": outer(dp, now.a),
            "dt_proj.weight": outer(dv, now.delta),
            "dt_proj.bias": dv.sum((0, 2)),
            "A_log": (now.by_A_log * h).sum((0, 2)),
        }
