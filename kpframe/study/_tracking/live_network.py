"""The network that somebody else trains: models and readouts of what its parameters are now, as copies.

Whatever is computed is computed on copies in evaluation mode, so that the training goes on as it would have
gone: its parameters and gradients, buffers, modes and hooks are looked at, and left as they are.
"""

from __future__ import annotations

import copy
import functools
import random
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from kpframe.errors import ArgumentError, UnsupportedError, mismatch, say
from kpframe.models._held import detached_copies
from kpframe.models._model import Model
from kpframe.models._spread import check_whole
from kpframe.models._step_check import check_hooks
from kpframe.models._wrap.cell import wrap
from kpframe.models._wrap.layers import standing_model
from kpframe.operators._isolation import isolated
from kpframe.tasks._readout import Readout

#: Class of torch that is put around a module to train it -> the attribute that holds the module.
_WRAPPERS = {
    "OptimizedModule": "_orig_mod",
    "DataParallel": "module",
    "DistributedDataParallel": "module",
}
#: Attributes of a module that hold its hooks.
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class LiveNetwork:
    """A module and its readout, which a training goes on changing.

    Args:
        module: a ``Model``, or what ``kpframe.wrap`` makes one of.
        readout: a ``Readout``, a ``torch.nn.Linear`` on the states, or None.

    Raises:
        ArgumentError: for modules that are no cell, layer or model; naming the argument.
        UnsupportedError: for parameters that are spread over several processes.
    """

    def __init__(self, module: torch.nn.Module, readout: torch.nn.Module | None) -> None:
        self.module, self.readout = unwrapped(module, "model"), None
        if readout is not None:
            self.readout = unwrapped(readout, "readout")
            if not isinstance(self.readout, Readout | torch.nn.Linear):
                expected = "a kpframe.Readout or a torch.nn.Linear on the states"
                raise ArgumentError(mismatch("readout", expected, type(self.readout).__name__))
        with untouched(self.device):
            self.copies(check=True)

    @property
    def device(self) -> torch.device:
        """Where the module is now."""
        tensor = next(iter((*self.module.parameters(), *self.module.buffers())), None)
        return torch.device("cpu") if tensor is None else tensor.device

    @property
    def name(self) -> str:
        """What a reader calls the network."""
        module = self.module
        cell = getattr(module, "cell", None)
        return type(cell if isinstance(cell, torch.nn.Module) else module).__name__

    @property
    def registered(self) -> dict[str, Any]:
        """The registered name and settings by which others build the model; nothing where there is none."""
        found = standing_model(self.module)
        return {} if found is None else {"name": found[0], "settings": found[1]}

    def copies(self, *, check: bool = False) -> tuple[Model, Readout | None]:
        """Return a model and a readout with the present parameters, in evaluation mode.

        To be called ``untouched``.

        Args:
            check: have ``wrap`` try the module first.

        Raises:
            ArgumentError: where no model can be made of it; says what to do.
        """
        model = _model_of(self.module, check)
        if self.readout is None:
            return model, None
        _check_forward_hooks(self.readout, "readout")
        readout = _copied(self.readout, "readout").eval()
        return model, readout if isinstance(readout, Readout) else _readout_of(readout, model)


@contextmanager
def untouched(device: torch.device) -> Iterator[None]:
    """Keep the random generators that all share, and what a caller has switched on, as they are."""
    numbers, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002 - it is to be kept
    cuda = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
    try:
        with isolated(device, "Tracker"), torch.random.fork_rng(cuda), torch.enable_grad():
            yield
    finally:
        random.setstate(numbers)
        np.random.set_state(arrays)  # noqa: NPY002


def unwrapped(module: object, argument: str) -> torch.nn.Module:
    """Return a module without what ``torch.compile`` and data parallelism put around it.

    Raises:
        ArgumentError: for what is no module.
        UnsupportedError: for parameters that are spread over several processes.
    """
    module = _innermost(module)
    if not isinstance(module, torch.nn.Module):
        raise ArgumentError(mismatch(argument, "a torch.nn.Module", type(module).__name__))
    check_whole(module, argument)
    return module


def _innermost(module: object) -> object:
    """Return what is inside of all wrappers around a module."""
    for kind in type(module).__mro__:
        if kind.__name__ in _WRAPPERS and kind.__module__.partition(".")[0] == "torch":
            return _innermost(getattr(module, _WRAPPERS[kind.__name__]))
    return module


def _model_of(module: torch.nn.Module, check: bool) -> Model:
    _check_forward_hooks(module, "model")
    check_hooks({name: p for name, p in module.named_parameters() if p.requires_grad})
    made = _copied(module, "model").eval()
    if isinstance(made, Model):
        return made
    try:
        return wrap(made, check=check)
    except ArgumentError as error:
        remedy = (
            "give the recurrent cell or layer alone (model.rnn, and readout=model.head), or "
            "kpframe.wrap(cell, ...), which is told how it is called"
        )
        raise type(error)(f"model: {error} ({remedy})") from error


def _copied(module: torch.nn.Module, argument: str) -> torch.nn.Module:
    """Return a copy with nothing of the original in it, wrappers inside it taken off."""
    try:
        memo: dict[int, object] = dict(detached_copies(module))
        made: torch.nn.Module = copy.deepcopy(module, memo)
    except Exception as error:
        expected = "a module that copy.deepcopy copies, since a copy is measured"
        raise ArgumentError(mismatch(argument, expected, say(error))) from error
    _unwrap_parts(made)
    return made


def _unwrap_parts(module: torch.nn.Module) -> None:
    for name, part in list(module._modules.items()):
        if part is not None:
            inner = _innermost(part)
            assert isinstance(inner, torch.nn.Module)
            if inner is not part:
                setattr(module, name, inner)
            _unwrap_parts(inner)


def _check_forward_hooks(module: torch.nn.Module, argument: str) -> None:
    """Raise ``UnsupportedError`` for hooks that are plain functions: a copy would call the very same ones.

    What a function keeps (activations for a penalty, say) would then hold those of the recording, too. An
    object with ``__call__``, as torch's own hooks are, is copied together with what it keeps.
    """
    for name, part in module.named_modules():
        for hook in (hook for kind in _HOOKS for hook in getattr(part, kind).values()):
            function = hook
            while isinstance(function, functools.partial):
                function = function.func
            home = str(getattr(function, "__module__", ""))
            plain = isinstance(function, types.FunctionType | types.BuiltinFunctionType)
            if plain and home.partition(".")[0] != "torch":
                where = f"{type(part).__name__} {name!r}" if name else type(part).__name__
                called = getattr(function, "__qualname__", repr(function))
                expected = (
                    "no hook that is a plain function, which a recording would call as the training does; "
                    "make it an object with __call__, which is copied"
                )
                raise UnsupportedError(mismatch(argument, expected, f"{called} on {where}"))


def _readout_of(linear: torch.nn.Module, model: Model) -> Readout:
    """Return a ``torch.nn.Linear`` as a readout of a model's state."""
    assert isinstance(linear, torch.nn.Linear)
    hidden = _read_by(linear.in_features, model)
    weight = linear.weight.detach()
    readout = Readout(
        model.width,
        linear.out_features,
        hidden=hidden,
        generator=0,
        dtype=weight.dtype,
        device=weight.device,
    )
    with torch.no_grad():
        readout.weight.copy_(weight)
        readout.bias.copy_(torch.zeros_like(readout.bias) if linear.bias is None else linear.bias)
    return readout


def _read_by(width: int, model: Model) -> slice:
    """Return the part of a state that a linear map of ``width`` inputs reads: torch's output, or all.

    Raises:
        ArgumentError: where no component, or more than one, may be meant.
    """
    if width == model.width:
        return slice(0, width)
    fitting = [name for name, size in model.components.items() if size == width]
    outputs = [name for name in fitting if name == "h" or name.startswith("h_l")]
    if len(fitting) == 1 or (outputs and set(fitting) <= {*outputs, *(f"c{n[1:]}" for n in outputs)}):
        return model.component_slice(outputs[-1] if outputs else fitting[0])  # the last layer's output
    parts = ", ".join(f"{name}: {size}" for name, size in model.components.items())
    expected = f"in_features {model.width}, or those of one component of the state ({parts})"
    remedy = "kpframe.Readout(..., hidden=model.component_slice(name)) says which is read"
    raise ArgumentError(f"{mismatch('readout', expected, width)}; {remedy}")
