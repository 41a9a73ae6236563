"""What ``linearize`` asks of any model's step, on a few rows of the roll-out, before it trusts it.

A model may be wrapped without a trial, be written by hand, or have changed since: then a fault would only
be seen in the figures. One step of a few rows shows whether rows and step indices stay apart, whether the
parameters that it reads are the model's own, and whether its derivatives are what the operators need.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import torch

from kpframe.errors import ArgumentError, DtypeError, UnsupportedError, mismatch
from kpframe.flow._trajectory import Trajectory
from kpframe.models._autograd.adjoint_check import cotangent
from kpframe.models._autograd.graph import leaves, nodes
from kpframe.models._autograd.linearization import Linearization, recording
from kpframe.models._few_rows import FewRows
from kpframe.models._held import describe_foreign, held_tensors
from kpframe.models._model import Model
from kpframe.operators._isolation import product_precision

PURE = "a step that depends on its arguments, parameters and buffers alone, row by row"

OWN = "a step that learns its own parameters"

_ADAPTIVE = "(an adaptive solver does so: give it a fixed step, or tighter tolerances)"

#: Relative differences that count as rounding: of states, and of derivatives, where other rows give zeros.
#: A solver that chooses its steps by all rows together stays within at its usual tolerances.
_ROUNDING = {torch.float64: (1e-7, 1e-7), torch.float32: (1e-4, 1e-5)}


def check_step(model: Model, rows: FewRows, *, twice: bool) -> None:
    """Raise where a step of a few rows of a roll-out is none that operators can be made of.

    Args:
        model: the model.
        rows: what ``few_rows`` recorded.
        twice: whether a product goes through the reverse pass of the reverse pass.

    Raises:
        ArgumentError: for rows or steps that mix, and for parameters that are not the model's own.
        UnsupportedError: for derivatives that are not linear, or cannot be taken twice.
    """
    h, out = rows.h, rows.out
    if not (same(rows.alone, rows.expected[:1]) and same(out, rows.expected)):
        got = f"{type(model).__name__}, which gave rows of the roll-out other states when a few came alone"
        raise ArgumentError(mismatch("model", PURE, f"{got} {_ADAPTIVE}"))
    check_leaves(model, (rows.alone, out), h)
    ends = {} if rows.last is None else {0: rows.alone, len(out) - 1: rows.last}
    if any(learns_otherwise(model, end, out, row) for row, end in ends.items()):
        got = f"{type(model).__name__}, whose parameters learn otherwise from a row that comes alone"
        raise ArgumentError(mismatch("model", PURE, got))
    if not out.requires_grad:
        return
    graph = Linearization(out, (h, *model.trainable().values()))
    r = torch.zeros_like(out)
    r[0] = cotangent(out[0])
    moved = (graph.check(r) if twice else graph.check_linear(r))[0]
    if mixes(moved):
        got = f"{type(model).__name__}, in which the next state of a row moves with the states of other rows"
        raise ArgumentError(mismatch("model", PURE, f"{got} {_ADAPTIVE}"))


def check_parameters(model: Model) -> None:
    """Raise where parameters are of a kind that operators do not take.

    Raises:
        ArgumentError: for complex parameters that learn.
        DtypeError: for parameters that learn in different precisions.
    """
    theta = model.trainable()
    for name, parameter in theta.items():
        if parameter.is_complex():
            expected = (
                "real numbers; hold its real and imaginary parts as parameters, torch.complex joins them"
            )
            raise ArgumentError(mismatch(f"parameter {name!r}", expected, f"dtype {parameter.dtype}"))
    sizes: Counter[torch.dtype] = Counter()
    for parameter in theta.values():
        sizes[parameter.dtype] += parameter.numel()
    for name, parameter in theta.items():
        (usual, _), *_ = sizes.most_common(1)
        if parameter.dtype != usual:
            expected = f"dtype {usual}, as most parameters; model.to({usual}) casts all"
            raise DtypeError(mismatch(f"parameter {name!r}", expected, parameter.dtype))


def check_hooks(theta: Mapping[str, torch.nn.Parameter]) -> None:
    """Raise ``UnsupportedError`` for a hook on a parameter, which a copy would not have."""
    for name, parameter in theta.items():
        if parameter._backward_hooks or getattr(parameter, "_post_accumulate_grad_hooks", None):
            expected = (
                "one without hooks, which operators do not see; say what they do in the model (a mask: "
                "torch.nn.utils.parametrize), or change the gradient once it is computed"
            )
            raise UnsupportedError(
                mismatch(f"parameter {name!r}", expected, "one with a hook on its gradient")
            )


def check_start(model: Model, trajectory: Trajectory) -> None:
    """Raise ``ArgumentError`` for an initial state of a model's own that is not a function of its parameters.

    It learns what is no parameter of the model, or is another one at each call.
    """
    start = trajectory.initial_state
    with recording(start.device, "initial state"):
        first, second = model.initial_state(len(start)), model.initial_state(len(start))
    if not torch.equal(first.detach().to(start), start):
        expected = "the same state at each call"
        raise ArgumentError(mismatch(f"{type(model).__name__}.initial_state", expected, "another one"))
    check_leaves(model, (first, second))


def check_kept(model: Model, trajectory: Trajectory) -> None:
    """Raise ``ArgumentError`` for a step that reads what an earlier call computed from the parameters.

    Args:
        model: a copy that has made no call yet.
        trajectory: a roll-out.
    """
    x, h = trajectory.inputs[:1, 0], trajectory.initial_state[:1].detach()
    t = torch.zeros(1, dtype=torch.int64, device=h.device) if model.time_varying else None
    with recording(h.device, "step"):
        outputs = [model._rows(x, h.clone().requires_grad_(), t, None) for _ in range(2)]
    check_apart(model, *outputs)


def check_apart(
    model: torch.nn.Module, first: torch.Tensor, second: torch.Tensor, *, argument: str = "model"
) -> None:
    """Raise ``ArgumentError`` where two calls have a part of their graph in common."""
    shared = {node for node in nodes(first) if not hasattr(node, "variable")} & set(nodes(second))
    if shared:
        names = [name for name, held in held_tensors(model) if held.grad_fn in shared]
        got = f"one that reads what an earlier call left in {repr(names[0]) if names else 'a closure'}"
        raise ArgumentError(mismatch(argument, PURE, f"{got}; compute it in each call"))


def check_leaves(
    model: torch.nn.Module,
    outputs: tuple[torch.Tensor, torch.Tensor],
    h: torch.Tensor | None = None,
    *,
    own: torch.nn.Module | None = None,
    argument: str = "model",
) -> None:
    """Raise ``ArgumentError`` where two calls learned a tensor that is no parameter of the model.

    One that a call made for itself is found in that call alone.

    Args:
        model: the module that is called.
        outputs: what two calls gave.
        h: the state that they were given, if it is a leaf.
        own: the module that holds the parameters, if that is another one.
        argument: its name, for messages.
    """
    known = {id(parameter) for parameter in (own or model).parameters()} | {id(h)}
    first, second = ({id(leaf): leaf for leaf in leaves(out)} for out in outputs)
    foreign = [leaf for key, leaf in first.items() if key in second and key not in known]
    if foreign:
        got = f"one that learns {describe_foreign(model, foreign[0])}"
        raise ArgumentError(mismatch(argument, OWN, got))


def same(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two states agree up to what the order of sums does."""
    size = float(second.detach().nan_to_num(0, 0, 0).abs().max())
    return torch.allclose(first, second, rtol=0, atol=_rounding(second)[0] * size, equal_nan=True)


def learns_otherwise(model: torch.nn.Module, alone: torch.Tensor, together: torch.Tensor, row: int) -> bool:
    """Whether a row by itself ``[1, H]`` teaches the parameters other things than among others ``[N, H]``.

    So it is where all rows follow the step index of one; the states need not show it, as what steps read
    may be equal.
    """
    theta = [parameter for parameter in model.parameters() if parameter.requires_grad]
    if not theta or not (alone.requires_grad and together.requires_grad):
        return alone.requires_grad != together.requires_grad
    r = torch.zeros_like(together)
    r[row] = cotangent(together[row])
    options = {"retain_graph": True, "allow_unused": True, "materialize_grads": True}
    own = torch.autograd.grad(alone, theta, r[row : row + 1], **options)
    among = torch.autograd.grad(together, theta, r, **options)
    gap, size = (
        float(torch.stack(torch._foreach_norm(values)).double().norm())
        for values in (torch._foreach_sub(own, among), own)
    )
    return math.isfinite(gap) and gap > _rounding(together)[0] * size


def mixes(moved: torch.Tensor) -> bool:
    """Whether the derivative ``[N, H]`` of the first row by all states reaches other rows."""
    found = moved.abs().nan_to_num(0, 0, 0)
    return float(found[1:].sum()) > _rounding(moved)[1] * float(found.sum())


def _rounding(tensor: torch.Tensor) -> tuple[float, float]:
    values, derivatives = _ROUNDING[tensor.dtype]
    coarse = tensor.is_cuda or product_precision()
    return (2e-2 if coarse and tensor.dtype == torch.float32 else values), derivatives
