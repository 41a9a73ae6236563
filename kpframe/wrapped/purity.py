"""Whether a module can be a step: what its submodules say, and what trial calls show."""

from __future__ import annotations

import copy
from collections.abc import Mapping

import torch
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.dropout import _DropoutNd

from kpframe.errors import ArgumentError, KpframeError, mismatch
from kpframe.model import Model
from kpframe.plugin.loading import say

#: Rows of a trial call.
ROWS = 3

_PURE = "a step that depends on its arguments, parameters and buffers alone, row by row"

#: Modules that draw at random or look at other rows in one of their modes.
_MODAL = (_DropoutNd, _NormBase, torch.nn.RReLU, torch.nn.RNNBase, torch.nn.MultiheadAttention)


def modal_parts(module: torch.nn.Module) -> dict[str, torch.nn.Module]:
    """Return the parts of a module whose mode decides whether it can be a step, by what to call them."""
    return {
        f"{type(part).__name__} {name!r}" if name else type(part).__name__: part
        for name, part in module.named_modules()
        if isinstance(part, _MODAL)
    }


def check_modes(parts: Mapping[str, torch.nn.Module]) -> None:
    """Raise ``ArgumentError`` for dropout and batch statistics that are switched on."""
    for what, part in parts.items():
        got = ""
        if part.training and _draws(part):
            got = f"{what}, which draws at random in training mode; call .eval() first"
        elif isinstance(part, _BatchNorm) and part.running_mean is None:
            got = f"{what}, which averages over the rows in any mode; use LayerNorm"
        elif isinstance(part, _NormBase) and part.training and part.track_running_stats:
            got = f"{what}, which updates its averages in training mode; call .eval() first"
        if got:
            raise ArgumentError(mismatch("module", _PURE, got))


def _draws(part: torch.nn.Module) -> bool:
    if isinstance(part, _DropoutNd):
        return part.p > 0
    if isinstance(part, torch.nn.RNNBase):
        return part.dropout > 0 and part.num_layers > 1
    if isinstance(part, torch.nn.MultiheadAttention):
        return bool(part.dropout > 0)
    return isinstance(part, torch.nn.RReLU)


def check_step(model: Model, owner: str, call: str) -> None:
    """Call ``step`` of a copy a few times, on small made-up numbers, and raise where it cannot be one.

    Neither the model nor torch's random state changes.

    Args:
        model: a wrapped module.
        owner: name of the module's class, for messages.
        call: the arguments that say how it is called, for messages.

    Raises:
        ArgumentError: (of which ShapeError) for a call that fails, a state of a wrong form, random draws,
            writing to arguments, parameters or buffers, memory from call to call, rows that mix, and
            parameters that are not the module's own.
        DtypeError: for a state of another dtype.
    """
    like = model._like()
    dtype, device = (torch.get_default_dtype(), None) if like is None else (like.dtype, like.device)
    if device is not None and device.type == "meta":
        return  # there are no numbers to look at
    cuda = [device] if device is not None and device.type == "cuda" else []
    with torch.inference_mode(False), torch.enable_grad(), torch.random.fork_rng(cuda):
        try:
            model = copy.deepcopy(model)
        except Exception as error:
            expected = "one that copy.deepcopy copies, since linearize works on a copy"
            raise ArgumentError(mismatch("module", expected, say(error))) from error
        x = torch.linspace(-1, 1, ROWS * model.input_size, dtype=dtype, device=device).reshape(ROWS, -1)
        h = torch.linspace(-0.8, 0.9, ROWS * model.width, dtype=dtype, device=device).reshape(ROWS, -1)
        tensors, drawn = _tensors(model, x, h), _random_states(cuda)
        out = _call(model, x, h, owner, call)
        written = [name for name, found in _tensors(model, x, h).items() if tensors.get(name) != found]
        what = ""
        if not all(map(torch.equal, drawn, _random_states(cuda))):
            what = "draws random numbers"
        elif written:
            what = f"writes to {', '.join(written)}"
        elif not _same(_call(model, x, h, owner, call), out):
            what = "gave another state when it was called again"
        elif not _same(_call(model, x[:1], h[:1], owner, call), out[:1]):
            what = "gave a row another state when it was called without the other rows"
        if what:
            hint = " (in training mode; try .eval() first)" if model.training else ""
            raise ArgumentError(mismatch("module", _PURE, f"{owner}, which {what}{hint}"))
        own = {id(parameter) for parameter in model.parameters()}
        if any(id(leaf) not in own for leaf in _leaves(out)):
            expected = "a copy that learns its own parameters (linearize works on a copy)"
            got = f"one of {owner} that learns others; a function must use the module that it is given"
            raise ArgumentError(mismatch("module", expected, got))


def _call(model: Model, x: torch.Tensor, h: torch.Tensor, owner: str, call: str) -> torch.Tensor:
    t = x.new_zeros(len(x), dtype=torch.int64) if model.time_varying else None
    try:
        return model.step(x, h, t)
    except KpframeError:
        raise
    except Exception as error:
        expected = f"what {owner} takes, with x {list(x.shape)}"
        hint = "container and constants say the rest; check=False leaves this trial out"
        raise ArgumentError(f"{mismatch(call, expected, say(error))} ({hint})") from error


def _tensors(model: Model, x: torch.Tensor, h: torch.Tensor) -> dict[str, tuple[int, int]]:
    """Return what a call must not write to: its name -> identity and version, which counts the writes."""
    named = {"its input": x, "the state it is given": h}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        named[repr(name.removeprefix("cell."))] = tensor
    return {name: (id(tensor), tensor._version) for name, tensor in named.items()}


def _random_states(cuda: list[torch.device]) -> list[torch.Tensor]:
    return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, cuda)]


def _same(first: torch.Tensor, second: torch.Tensor) -> bool:
    """Whether two states agree up to what the order of sums does, in any precision."""
    size = float(second.detach().nan_to_num(0, 0, 0).abs().max())
    return torch.allclose(first, second, rtol=0.02, atol=1e-3 * size, equal_nan=True)


def _leaves(out: torch.Tensor) -> list[torch.Tensor]:
    """Return the tensors at the ends of a graph, which are those that it can teach."""
    seen, stack, leaves = set(), [out.grad_fn], []
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        if hasattr(node, "variable"):
            leaves.append(node.variable)
        stack.extend(parent for parent, _ in node.next_functions)
    return leaves
