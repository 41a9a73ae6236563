"""A model that is named from outside, a registered one or ``module:factory``, and the weights for it."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

import torch
from attrs import field, frozen

from kpframe.errors import (
    ArgumentError,
    CheckpointError,
    KpframeError,
    SettingsError,
    UnknownNameError,
    closest,
    mismatch,
    say,
)
from kpframe.models._model import Model, create_model
from kpframe.models._wrap.cell import wrap
from kpframe.plugin import get_manager
from kpframe.study._networks.checkpoint import by_own_names, load_tensors
from kpframe.study._networks.foreign_names import remedy, renamed
from kpframe.tasks._readout import Readout

#: A function that makes a model, or the text that names one.
Factory = str | Callable[..., torch.nn.Module]


@frozen(eq=False)
class GivenModel:
    """How files are read as networks, where they do not say it themselves.

    Attributes:
        model: a registered name, ``"module:factory"``, or a function that returns a ``kpframe.Model`` or any
            module that ``kpframe.wrap`` takes; None where the files say it.
        settings: keywords of the model or function.
        renames: ``(old, new)``: a name in a file that is ``old`` becomes ``new``; where no name is it, the
            front ``old`` of names becomes ``new``. The longest that fits a name is the one.
        ignore: fronts of names in a file that are no part of the network.
        readout: front of the names of a linear readout, ``"head"`` for ``head.weight`` and ``head.bias``.
        reads: component of the state that the readout reads.
        dtype: ``"float32"`` or ``"float64"``; that of the weights, at least ``"float32"``, when left out.
    """

    model: Factory | None = None
    settings: Mapping[str, Any] = field(factory=dict)
    renames: Sequence[tuple[str, str]] = ()
    ignore: Sequence[str] = ()
    readout: str | None = None
    reads: str | None = None
    dtype: str | None = None

    @property
    def name(self) -> str | None:
        """What names the model; None where the files say it."""
        if self.model is None or isinstance(self.model, str):
            return self.model
        return f"{getattr(self.model, '__module__', '')}:{_name_of(self.model)}"

    def check(self) -> None:
        """Raise ``ArgumentError`` where it says how weights are read, and no model to read them into."""
        if self.model is not None:
            return
        said = {
            "set": self.settings,
            "map": self.renames,
            "ignore": self.ignore,
            "readout": self.readout,
        }
        if given := [name for name, value in said.items() if value]:
            raise ArgumentError(
                mismatch("model", f"a registered model or module:factory beside {given[0]}", "none")
            )

    def read(
        self, tensors: Mapping[str, torch.Tensor], source: str, input_size: int | None = None
    ) -> tuple[Model, Readout | None]:
        """Return the network with the weights of a file.

        Args:
            tensors: what the file holds.
            source: its name, for messages.
            input_size: of a registered model, unless the settings say it.

        Raises:
            CheckpointError: listing all names that miss, are too many or are of another shape.
            ArgumentError, SettingsError, UnknownNameError: for a model that cannot be made.
        """
        dtype = _dtype(tensors, self.dtype)
        found = {
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor
            for name, tensor in tensors.items()
            if not any(name.startswith(front) for front in self.ignore)
        }
        for front in self.ignore:
            if not any(name.startswith(front) for name in tensors):
                got = f"{front!r}, with which none of {source} begins"
                raise CheckpointError(mismatch("ignore", "the front of names", got) + closest(front, tensors))
        head = _head(found, self.readout, source)
        module = self._module(input_size).to(dtype)
        named = by_own_names(renamed(found, self.renames, source), module)
        load_tensors(module, named, None, source, remedy(named, module))
        if isinstance(module, Model):
            model = module
        else:
            try:
                model = wrap(module.eval())
            except KpframeError as error:
                raise ArgumentError(
                    mismatch(
                        "model",
                        "a kpframe.Model or a module that kpframe.wrap takes as it is",
                        f"{type(module).__name__} from {self.name!r} ({error})",
                    )
                ) from error
        return model, None if head is None else _readout(model, *head, reads=self.reads)

    def _module(self, input_size: int | None) -> torch.nn.Module:
        """Return a new module, its weights a function of nothing."""
        with torch.random.fork_rng():  # what a file does not hold is the same each time
            torch.manual_seed(0)
            if isinstance(self.model, str) and is_registered(self.model):
                sizes = {} if input_size is None else {"input_size": input_size}
                return create_model(self.model, **{**sizes, **self.settings})
            assert self.model is not None
            factory = self.model if callable(self.model) else load_factory(self.model)
            return _made(factory, str(self.name), self.settings)


def is_registered(text: str) -> bool:
    """Return whether a text names a registered model, ``"gru"`` or ``"distribution:gru"``.

    Raises:
        UnknownNameError: for a bare name that no plugin offers, and one that several do.
    """
    try:
        get_manager().find("model", text)
    except UnknownNameError as error:
        if ":" not in text:
            raise UnknownNameError(f"{error}; or give your own as module:factory") from error
        return False
    return True


@contextmanager
def importable(folder: Path) -> Iterator[None]:
    """Let modules in a folder be imported meanwhile, as ``python -m`` does in the current one."""
    place = str(folder)
    sys.path.insert(0, place)
    try:
        yield
    finally:
        sys.path.remove(place)


def load_factory(text: str) -> Callable[..., object]:
    """Return what ``"package.module:attribute"`` names; raises ``ArgumentError``."""
    module, _, attribute = text.partition(":")
    parts = (*module.split("."), *attribute.split("."))
    if not all(part.isidentifier() for part in parts):
        expected = "a registered name, or module:factory such as 'mynets:build'"
        raise ArgumentError(mismatch("model", expected, repr(text)))
    try:
        imported = import_module(module)
    except (Exception, SystemExit) as error:
        if isinstance(error, ModuleNotFoundError) and module.startswith(str(error.name)):
            got = f"{text!r}: there is no module {error.name!r} in {str(Path.cwd())!r} or installed"
        else:
            got = f"{text!r}, whose import raised {say(error)}{_where(error)}"
        raise ArgumentError(mismatch("model", "module:factory that can be imported", got)) from error
    try:
        found = attrgetter(attribute)(imported)
    except AttributeError as error:
        got = f"{text!r}: {module!r} has no {attribute!r}{closest(attribute, dir(imported))}"
        raise ArgumentError(mismatch("model", "module:factory", got)) from error
    if not callable(found):
        got = f"{text!r}, which is {_kind(found)}"
        raise ArgumentError(mismatch("model", "a function or class that makes a model", got))
    made: Callable[..., object] = found
    return made


def _made(factory: Callable[..., object], name: str, settings: Mapping[str, Any]) -> torch.nn.Module:
    try:
        found = factory(**settings)
    except (Exception, SystemExit) as error:
        given = ", ".join(f"{key}={value!r}" for key, value in settings.items())
        got = f"{name}({given}), which raised {say(error)}{_where(error)}"
        raise SettingsError(mismatch("model", "a function that makes a model", got)) from error
    if not isinstance(found, torch.nn.Module):
        got = f"{name}, which returned {_kind(found)}"
        raise ArgumentError(mismatch("model", "a function that returns a torch.nn.Module", got))
    return found


def _kind(value: object) -> str:
    return f"the class {value.__name__}" if isinstance(value, type) else f"a {type(value).__name__}"


def _name_of(value: object) -> str:
    return str(getattr(value, "__qualname__", type(value).__name__))


def _where(error: BaseException) -> str:
    """Return the file and line that raised an error, where that is no file of Python's own imports."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "<frozen" not in frame.filename]
    if isinstance(error, SyntaxError) or len(frames) < 2:
        return ""  # it says where it is; or it is ours: a call with other arguments
    return f", in {Path(frames[-1].filename).name}, line {frames[-1].lineno}"


def _dtype(tensors: Mapping[str, torch.Tensor], wanted: str | None) -> torch.dtype:
    """Return the dtype that holds all weights exactly, or the one that is wanted."""
    if wanted is not None:
        found: torch.dtype = getattr(torch, wanted)
        return found
    dtype = torch.float32  # half precision is too coarse for products of many steps; it fits in exactly
    for tensor in tensors.values():
        if tensor.is_floating_point():
            dtype = torch.promote_types(dtype, tensor.dtype)
    return dtype


Head = tuple[torch.Tensor, torch.Tensor | None]


def _head(found: dict[str, torch.Tensor], front: str | None, source: str) -> Head | None:
    """Take the weights ``[O, n]`` and ``[O]`` of a linear readout out of a file's tensors."""
    if front is None:
        return None
    stem = front.removesuffix(".")
    weight, bias = found.pop(f"{stem}.weight", None), found.pop(f"{stem}.bias", None)
    if weight is None or weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        got = "none" if weight is None else f"weight {list(weight.shape)}"
        if weight is not None and bias is not None:
            got += f", bias {list(bias.shape)}"
        linear = [
            name.removesuffix(".weight")
            for name, t in found.items()
            if name.endswith(".weight") and t.ndim == 2
        ]
        known = closest(stem, linear) or (f"; there is {', '.join(linear)}" if linear else "")
        expected = f"{stem}.weight [outputs, units], and {stem}.bias [outputs] in {source}"
        raise CheckpointError(mismatch("readout", expected, got) + known)
    return weight, bias


def _readout(model: Model, weight: torch.Tensor, bias: torch.Tensor | None, *, reads: str | None) -> Readout:
    """Return the readout, a linear one without a bias being one whose bias is 0."""
    width = weight.shape[1]
    readout = Readout(
        model.width, weight.shape[0], hidden=part_of(model, width, reads), generator=0, dtype=weight.dtype
    )
    with torch.no_grad():
        readout.weight.copy_(weight)
        readout.bias.copy_(torch.zeros_like(readout.bias) if bias is None else bias)
    return readout


def part_of(model: Model, width: int, reads: str | None) -> slice:
    """Return the part of the state that a readout of ``width`` units reads; raises ``CheckpointError``."""
    parts = {name: model.component_slice(name) for name in model.components}
    sizes = ", ".join(f"{name} {size}" for name, size in model.components.items())
    if reads is not None:
        part = model.component_slice(reads)
        if part.stop - part.start != width:
            got = f"{reads!r} of {part.stop - part.start}"
            raise CheckpointError(mismatch("reads", f"a component of the {width} units that are read", got))
        return part
    if width == model.width:
        return slice(0, width)
    fitting = [name for name, part in parts.items() if part.stop - part.start == width]
    if len(fitting) == 1:
        return parts[fitting[0]]
    if fitting:
        expected = f"one of {', '.join(fitting)}, which are all of the {width} units that are read"
        raise CheckpointError(mismatch("reads", expected, "none"))
    expected = f"a readout of all {model.width} units of the state, or of a component ({sizes})"
    raise CheckpointError(mismatch("readout", expected, f"one of {width} units"))
