"""Whether a module can be a step: what its submodules say, and what trial calls show."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import cast

import torch
from torch.nn.modules.batchnorm import _BatchNorm, _NormBase
from torch.nn.modules.dropout import _DropoutNd

from kpframe.errors import ArgumentError, KpframeError, mismatch, say
from kpframe.models._autograd.adjoint_check import cotangent
from kpframe.models._autograd.linearization import recording
from kpframe.models._model import Model
from kpframe.models._step_check import PURE, check_apart, check_leaves, learns_otherwise, mixes, same

#: Rows of a trial call.
ROWS = 3

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
            raise ArgumentError(mismatch("module", PURE, got))


def _draws(part: torch.nn.Module) -> bool:
    if isinstance(part, _DropoutNd):
        return part.p > 0
    if isinstance(part, torch.nn.RNNBase):
        return part.dropout > 0 and part.num_layers > 1
    if isinstance(part, torch.nn.MultiheadAttention):
        return bool(part.dropout > 0)
    return isinstance(part, torch.nn.RReLU)


def check_trial(model: Model, owner: str, call: str) -> None:
    """Call ``step`` of a copy a few times, on small made-up numbers, and raise where it cannot be one.

    Neither the model nor torch's random state changes.

    Args:
        model: a wrapped module.
        owner: name of the module's class, for messages.
        call: the arguments that say how it is called, for messages.

    Raises:
        ArgumentError: (of which ShapeError) for a call that fails, a state of a wrong form, random draws,
            writing to arguments, parameters or buffers, memory from call to call, rows or step indices that
            mix, and parameters that are not the module's own.
        DtypeError: for a state of another dtype.
    """
    like = model._like()
    device = torch.device("cpu") if like is None else like.device
    if device.type == "meta":
        return  # there are no numbers to look at
    cuda = [device] if device.type == "cuda" else []
    with recording(device, "wrap"), torch.random.fork_rng(cuda):
        try:
            tried = copy.deepcopy(model)
        except Exception as error:
            expected = "one that copy.deepcopy copies, since linearize works on a copy"
            raise ArgumentError(mismatch("module", expected, say(error))) from error
        what = _Trial(tried, owner, call).fault()
        if what:
            hint = ""
            if model.training and not _Trial(copy.deepcopy(model).eval(), owner, call).fault():
                hint = " (in training mode; call .eval() first)"
            raise ArgumentError(mismatch("module", PURE, f"{owner}, which {what}{hint}"))
        _check_precisely(model, owner, call)
        if type(model).initial_state is not Model.initial_state:
            _check_start(tried)


def _check_start(model: Model) -> None:
    """Raise where an initial state draws at random, or learns what is not the module's own."""
    drawn = torch.get_rng_state()
    first, second = model.initial_state(ROWS), model.initial_state(ROWS)
    if not torch.equal(drawn, torch.get_rng_state()) or not torch.equal(first, second):
        raise ArgumentError(mismatch("initial_state", "the same state at each call", "random numbers"))
    module = cast(torch.nn.Module, model.cell)
    check_leaves(module, (first, second), own=model, argument="initial_state")


def _check_precisely(model: Model, owner: str, call: str) -> None:
    """Look for rows that mix in double precision, too, where a small mixture is not lost in rounding."""
    like = model._like()
    if like is None or like.dtype != torch.float32:
        return
    try:
        what = _Trial(copy.deepcopy(model).double(), owner, call).mixture()
    except Exception:  # a module that computes in float32 whatever it is given
        return
    if what:
        raise ArgumentError(mismatch("module", PURE, f"{owner}, which {what}"))


class _Trial:
    """Calls of a copy of a model on a few rows, the steps of which are not the same."""

    def __init__(self, model: Model, owner: str, call: str) -> None:
        self.model, self.owner, self.told = model, owner, call
        like = model._like()
        dtype, device = (torch.get_default_dtype(), None) if like is None else (like.dtype, like.device)
        self.x, self.start = (
            torch.linspace(low, high, ROWS * width, dtype=dtype, device=device).reshape(ROWS, -1)
            for low, high, width in ((-1, 1, model.input_size), (-0.8, 0.9, model.width))
        )
        self.start.requires_grad_()
        self.t: torch.Tensor | None = None
        if model.time_varying:
            self.t = torch.arange(ROWS, device=device).flip(0)
            try:
                model.step(self.x.clone(), self.start.clone(), self.t)
            except Exception:  # a cell of two steps
                self.t = self.t.clamp(max=1)

    def fault(self) -> str:
        """Return what keeps the module from being a step, or an empty string.

        Raises:
            ArgumentError: for a call that fails, and for what the step must not learn.
        """
        cuda = [self.x.device] if self.x.is_cuda else []
        x, h = self.x.clone(), self.start.clone()
        tensors, drawn = _tensors(self.model, x, h), _random_states(cuda)
        out = self._call(x, h, self.t)
        written = [name for name, found in _tensors(self.model, x, h).items() if tensors.get(name) != found]
        if not all(map(torch.equal, drawn, _random_states(cuda))):
            return "draws random numbers"
        if written:
            return f"writes to {', '.join(written)}"
        again = self._call(self.x.clone(), self.start.clone(), self.t)
        if not same(again, out):
            return "gave another state when it was called again"
        module = cast(torch.nn.Module, self.model.cell)
        check_leaves(module, (out, again), self.start, own=self.model, argument="module")
        check_apart(module, out, again, argument="module")
        return self.mixture()

    def mixture(self) -> str:
        """Return how rows mix, or an empty string."""
        out = self._call(self.x.clone(), self.start.clone(), self.t)
        for row in range(ROWS):
            one = slice(row, row + 1)
            t = None if self.t is None else self.t[one]
            alone = self._call(self.x[one].clone(), self.start[one].clone(), t)
            hint = "" if t is None else ", at other steps (t holds a step for each row: self.weights[t])"
            if not same(alone, out[one]):
                return f"gave a row another state when it was called without the other rows{hint}"
            if self.t is not None and learns_otherwise(self.model, alone, out, row):
                return f"learned otherwise from a row when it was called without the other rows{hint}"
        if out.requires_grad:
            r = torch.zeros_like(out)
            r[0] = cotangent(out[0])
            (moved,) = torch.autograd.grad(out, self.start, r, allow_unused=True, materialize_grads=True)
            if mixes(moved):
                return "gave a row a state that moves with the states of other rows"
        return ""

    def _call(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None) -> torch.Tensor:
        try:
            return self.model.step(x, h, t)
        except KpframeError:
            raise
        except Exception as error:
            expected = f"what {self.owner} takes, with x {list(x.shape)}"
            hint = "container and constants say the rest; check=False leaves this trial out"
            raise ArgumentError(f"{mismatch(self.told, expected, say(error))} ({hint})") from error


def _tensors(model: Model, x: torch.Tensor, h: torch.Tensor) -> dict[str, tuple[int, int]]:
    """Return what a call must not write to: its name -> identity and version, which counts the writes."""
    named = {"its input": x, "the state it is given": h}
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        named[repr(name.removeprefix("cell."))] = tensor
    return {name: (id(tensor), tensor._version) for name, tensor in named.items()}


def _random_states(cuda: list[torch.device]) -> list[torch.Tensor]:
    return [torch.get_rng_state(), *map(torch.cuda.get_rng_state, cuda)]
