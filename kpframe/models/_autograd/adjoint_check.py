"""Whether the two products of a recorded graph are what they should be: linear, and adjoint to each other.

Autograd takes a backward pass at its word. One that is written by hand may not be differentiable itself
(``once_differentiable``, ``torch.no_grad`` or NumPy in it), and a hook may do to a gradient what is not
linear (clip it); then ``J* r`` alone, or neither product, is right.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Protocol

import torch

from kpframe.errors import KpframeError, UnsupportedError, mismatch, say
from kpframe.models._autograd.graph import nodes

#: By how much cotangents are scaled, a power of two: most of what is linear then scales without rounding. Not
#: all does: the derivative of a matrix exponential loses as many digits as the scale has.
_SCALES = {torch.float64: 2.0**20, torch.float32: 2.0**12}

#: Relative error that is called rounding, and the least size of an input's gradient that counts.
_TOLERANCE = {torch.float64: (1e-9, 1e-6), torch.float32: (2e-5, 1e-2)}

_TWICE = "a step whose backward pass autograd can differentiate once more (J d is taken through it)"
_LINEAR = "a step whose backward pass is linear (c times the cotangent gives c times the gradient)"

#: Part of torch's message -> what to do instead.
_REMEDIES = {
    "aot_autograd": "give the module itself instead of what torch.compile made of it (its _orig_mod)",
    "cdist": "write the distances with other operations: (x[:, :, None] - y[:, None]).norm(dim=-1)",
    "attention": "compute it under torch.nn.attention.sdpa_kernel(SDPBackend.MATH)",
}


class Products(Protocol):
    """A graph and both of its products; see ``Linearization``."""

    output: torch.Tensor
    inputs: tuple[torch.Tensor, ...]

    def raw_vjp(self, cotangents: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return ``J* r``, not checked."""

    def jvp(self, tangents: Sequence[torch.Tensor | None]) -> torch.Tensor:
        """Return ``J d``."""


def check_products(graph: Products, r: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
    """Return ``J* r``, after checking that ``J*`` is linear and ``J`` its adjoint, for one cotangent.

    The tangent is the gradient itself, each input's brought to the same size: so none of the terms of
    ``<J d, r> = <d, J* r>`` cancel, and what is lost of a single input shows.

    Raises:
        UnsupportedError: saying what part of the step it is and what to do.
    """
    r = cotangent(graph.output) if r is None else r
    gradients, sizes = check_linear(graph, r)
    tolerance, least = _tolerance(r)
    sizes = [0.0 if size <= floor else size for size, floor in zip(sizes, _rounding(graph, r), strict=True)]
    largest = max(sizes)
    if largest <= _vanished(r) or not math.isfinite(largest):
        return gradients
    scales = [max(size, least * largest) if size else math.inf for size in sizes]
    tangents = torch._foreach_div(torch._foreach_div(gradients, scales), scales)
    # Twice: what happens to cancel in one of the sums does not in the other.
    for d in (tangents, [t * (1.5 + cotangent(t)) for t in tangents]):
        moved = graph.jvp([t.unsqueeze(0) for t in d])[0]
        terms = [(t * g).sum() for t, g in zip(d, gradients, strict=True)]
        found, size, by, *parts = torch.stack([(moved * r).sum(), moved.norm(), r.norm(), *terms]).tolist()
        expected = math.fsum(parts)
        if abs(found - expected) > tolerance * expected + 64 * torch.finfo(r.dtype).eps * size * by:
            got = f"one that loses {'all' if abs(found) < 0.01 * expected else 'a part'} of J d there"
            raise UnsupportedError(f"{mismatch('model', _TWICE, got)}; {_culprit(graph)}")
    return gradients


def check_linear(graph: Products, r: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], list[float]]:
    """Return ``J* r`` and its norms, after checking that it scales with ``r``: orders of magnitude, and sign.

    Raises:
        UnsupportedError: naming the remedy.
    """
    scale = _SCALES.get(r.dtype, 2.0**4)
    large, small = _gradient(graph, r * scale, 1 / scale), _gradient(graph, -r, -1.0)
    apart = torch._foreach_sub(large, small)
    norms = torch.stack(torch._foreach_norm([*apart, *small])).tolist()
    gaps, sizes = norms[: len(apart)], norms[len(apart) :]
    if not all(map(math.isfinite, gaps)):  # too large to be multiplied
        return small, sizes
    tolerance = 64 * scale * torch.finfo(r.dtype).eps
    floor = _vanished(r)
    for gap, size, g in zip(gaps, sizes, small, strict=True):
        if gap > tolerance * size + floor * math.sqrt(g.numel()):
            raise UnsupportedError(
                mismatch("model", _LINEAR, f"one that is not: {_culprit(graph, hooks=True)}")
            )
    return small, sizes


def cotangent(output: torch.Tensor) -> torch.Tensor:
    """Return fixed numbers in [-1, 1] of the form of a tensor that repeat nowhere."""
    index = torch.arange(1, output.numel() + 1, dtype=output.dtype, device=output.device)
    return torch.cos(index * (1 + math.sqrt(5)) / 2 * math.pi).reshape(output.shape)


def refusal(error: Exception, graph: Products) -> Exception:
    """Return the error that says what torch's own means for the step, and what to do."""
    if isinstance(error, KpframeError | MemoryError | torch.OutOfMemoryError):
        return error
    text = say(error)
    if "allocate memory" in text:
        return error
    remedy = next((remedy for part, remedy in _REMEDIES.items() if part in text), _culprit(graph))
    return UnsupportedError(f"{mismatch('model', _TWICE, text)}; {remedy}")


def _gradient(graph: Products, r: torch.Tensor, scale: float) -> tuple[torch.Tensor, ...]:
    return tuple(torch._foreach_mul([g[0] for g in graph.raw_vjp(r.unsqueeze(0))], scale))


def _vanished(r: torch.Tensor) -> float:
    """Return the size below which products of what saturated units pass on underflow on the way."""
    return float(torch.finfo(r.dtype).tiny ** 0.4)


def _rounding(graph: Products, r: torch.Tensor) -> list[float]:
    """Return the size below which a gradient by each input is what rounding leaves of terms that cancel.

    So it is by what the output does not depend on though every operation on the way does, as on the length of
    a weight that is normalized. The terms are as large as those of an output that grows with the input.
    """
    names = torch._foreach_norm([graph.output.detach(), r, *(i.detach() for i in graph.inputs)])
    output, by, *inputs = torch.stack(list(names)).tolist()
    terms = 16 * torch.finfo(r.dtype).eps * output * by
    return [terms / (size or 1.0) for size in inputs]


def _tolerance(r: torch.Tensor) -> tuple[float, float]:
    return _TOLERANCE.get(r.dtype, (1e-2, 1e-1))


def _culprit(graph: Products, hooks: bool = False) -> str:
    """Return the parts of a graph that torch did not write, and what to do about them."""
    found: Sequence[str] = sorted(
        {kind.__name__ for node in nodes(graph.output) if (kind := getattr(node, "_forward_cls", None))}
    )
    names = ", ".join(found)
    solver = " (torchdiffeq: odeint instead of odeint_adjoint)" if "Adjoint" in names else ""
    if hooks:
        what = f"a hook on a tensor, or the backward of {names}," if found else "a hook on one of its tensors"
        return f"{what} clips, rounds or normalizes; do that to the gradient once it is computed{solver}"
    if not found:
        return "take the hooks off its tensors, or write them in operations that torch can differentiate"
    return (
        f"write the backward of {names} in differentiable torch operations, without once_differentiable, "
        f"torch.no_grad, detach or NumPy{solver}"
    )
