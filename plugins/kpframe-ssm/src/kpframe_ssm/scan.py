"""The linear recurrence ``y_t = s_t + a_t y_{t-1}`` over elementwise decays, in three ways.

==============  ===========================================  ================================
method          work                                         operations one after the other
==============  ===========================================  ================================
``sequential``  T elementwise steps                          T
``chunked``     3 passes: within chunks of sqrt(T) steps,    2 sqrt(T)
                over their ends, and one correction
``fft``         T log T; constant decays of modulus <= 1     3
==============  ===========================================  ================================

The error of ``fft`` is relative to the largest value of a mode at any time, that of the others to the value.
Sources are ``[T, K, B, n]`` (time, probes, trials, entries), decays ``[t, 1, b, n]`` with t = T or 1
(constant) and b = B or 1; both real or both complex. The adjoint is the scan that runs backward,
``y_t = s_t + conj(a_{t+1}) y_{t+1}``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import scipy.fft
import torch

from kpframe.operators import in_transform

METHODS = ("auto", "sequential", "chunked", "fft")

#: A step of fewer bytes than this costs more to start than to compute, so that chunks pay (measured).
SMALL_STEP = 16 * 1024
#: Fewest steps worth cutting into chunks.
FEW_STEPS = 32


def choose(method: str, decay: torch.Tensor, source: torch.Tensor) -> str:
    """Return the method for a scan: the one asked for where it applies, or the cheapest by rule.

    On the CPU, chunks where a step is small and there are many; on an accelerator, where starting an
    operation is what costs, always. ``fft`` needs constant decays; without them it falls back.
    """
    if method == "fft" and len(decay) == 1:
        return method
    if method in ("sequential", "chunked"):
        return method
    small = source[0].numel() * source.element_size() < SMALL_STEP or source.device.type != "cpu"
    return "chunked" if small and len(source) >= FEW_STEPS else "sequential"


def recur(decay: torch.Tensor, source: torch.Tensor, method: str, reverse: bool = False) -> torch.Tensor:
    """Return the scan of ``source``; ``reverse`` is the adjoint. Not differentiated: see ``linear_scan``."""
    chosen = choose(method, decay, source)
    if chosen == "fft":
        return _fft(decay, source, reverse)
    if reverse:
        decay = decay.conj().resolve_conj()
        if len(decay) > 1:  # the decay that enters step t from the other side
            decay = torch.cat([decay[1:], torch.zeros_like(decay[:1])])
    if chosen == "chunked":
        return _chunked(decay, source, reverse)
    out = source + torch.zeros_like(decay[:1])  # a copy, that is a batch to torch.func.vmap where either is
    _steps(decay.expand(len(source), *decay.shape[1:]).unbind(0), out.unbind(0), reverse)
    return out


def _steps(decays: Sequence[torch.Tensor], out: Sequence[torch.Tensor], reverse: bool) -> None:
    """Turn sources into the scan, entry by entry and in place."""
    order, add = -1 if reverse else 1, _adder()
    previous, *rest = out[::order]
    for now, a in zip(rest, decays[::order][1:], strict=True):
        add(now, a, previous)
        previous = now


def _adder() -> Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]:
    """Return what adds the product of two tensors to a third, in place."""
    if in_transform():  # torch.func.vmap knows no addcmul_
        return lambda out, a, b: out.add_(a * b)
    return torch.Tensor.addcmul_


def _chunked(decay: torch.Tensor, source: torch.Tensor, reverse: bool) -> torch.Tensor:
    """Scan all chunks at once, then their ends, and add what each chunk inherits."""
    time = len(source)
    length = max(1, math.isqrt(time))
    count = -(-time // length)
    out = _cut(source, count, length) + torch.zeros_like(decay[:1])  # [count, length, K, B, n]
    if len(decay) == 1:
        decays = decay.expand(length, 1, *decay.shape[1:])
    else:
        decays = _cut(decay, count, length).transpose(0, 1)  # [length, count, 1, b, n]
    _steps(decays.unbind(0), out.unbind(1), reverse)
    product = decays.flip(0).cumprod(0).flip(0) if reverse else decays.cumprod(0)
    edge = 0 if reverse else length - 1
    _steps(product[edge].expand(count, *product.shape[2:]).unbind(0), out[:, edge].unbind(0), reverse)
    # every chunk but the first inherits what the one before it ends with; its own end has it already
    inner, before, after = slice(1, None), slice(None, -1), slice(None, length - 1)
    if reverse:
        inner, before, after = slice(None, -1), slice(1, None), slice(1, None)
    inherited = product.transpose(0, 1)  # [count or 1, length, 1, b, n]
    inherited = inherited if len(inherited) == 1 else inherited[inner]
    _adder()(out[inner, after], inherited[:, after], out[before, edge].unsqueeze(1))
    return out.reshape(count * length, *out.shape[2:])[:time]


def _cut(z: torch.Tensor, count: int, length: int) -> torch.Tensor:  # [T, ...] -> [count, length, ...]
    """Return chunks, the last one filled up with zeros."""
    missing = count * length - len(z)
    if missing:
        z = torch.cat([z, z.new_zeros(missing, *z.shape[1:])])
    return z.reshape(count, length, *z.shape[1:])


def _fft(decay: torch.Tensor, source: torch.Tensor, reverse: bool) -> torch.Tensor:
    time = len(source)
    length = scipy.fft.next_fast_len(2 * time - 1)
    powers = torch.cat([torch.ones_like(decay), decay.expand(time - 1, *decay.shape[1:])]).cumprod(0)
    kernel = torch.fft.fft(powers, length, dim=0)
    kernel = kernel.conj() if reverse else kernel
    out: torch.Tensor = torch.fft.ifft(kernel * torch.fft.fft(source, length, dim=0), dim=0)[:time]
    return out if source.is_complex() else out.real


class _LinearScan(torch.autograd.Function):
    """The scan with its derivative: the adjoint scan, and products of what the two leave behind."""

    generate_vmap_rule = True

    @staticmethod
    def forward(decay: torch.Tensor, source: torch.Tensor, method: str, reverse: bool) -> torch.Tensor:
        return recur(decay, source, method, reverse)

    @staticmethod
    def setup_context(ctx, inputs, output):  # type: ignore[no-untyped-def]
        decay, _, ctx.method, ctx.reverse = inputs
        ctx.save_for_backward(decay, output)

    @staticmethod
    def backward(ctx, gradient):  # type: ignore[no-untyped-def]
        decay, y = ctx.saved_tensors
        flow = linear_scan(decay, gradient, ctx.method, reverse=not ctx.reverse)
        by_decay = None
        if ctx.needs_input_grad[0]:
            early, late = (flow, y) if ctx.reverse else (y, flow)
            moved = (early[:-1].conj() * late[1:]).sum(1, keepdim=True)
            moved = torch.nn.functional.pad(moved, (0, 0, 0, 0, 0, 0, 1, 0))
            by_decay = moved.sum_to_size(decay.shape)
        return by_decay, flow, None, None


def linear_scan(
    decay: torch.Tensor, source: torch.Tensor, method: str = "auto", reverse: bool = False
) -> torch.Tensor:
    """Return the scan of ``source`` ``[T, K, B, n]``, differentiable by both, any number of times."""
    return _LinearScan.apply(decay, source, method, reverse)  # type: ignore[no-any-return, no-untyped-call]
