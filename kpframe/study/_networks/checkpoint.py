"""Checkpoints: parameters and the settings that rebuild the model, in one safetensors file.

``save_checkpoint`` and ``load_checkpoint`` are kpframe's own. ``load_weights`` and ``load_into`` read what
other programs wrote: safetensors, and files of ``torch.save`` as far as they hold tensors. Nothing but
tensors and plain values is ever unpickled.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import torch
from attrs import field, frozen

from kpframe.errors import CheckpointError, mismatch, nearest, shown
from kpframe.models._model import Model, create_model
from kpframe.study._disk.files import write_bytes
from kpframe.study._networks.weight_files import (
    TORCH,
    kind_of,
    read_safetensors,
    read_torch,
    safetensors_module,
)
from kpframe.tasks._readout import Readout

#: Version of the layout.
FORMAT = 1
#: What ``torch.compile``, ``DataParallel`` and modules that hold a model or cell put in front of names.
WRAPPERS = ("_orig_mod.", "module.", "model.", "cell.")


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_names(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(name, str) for name in value)


def _is_renaming(value: object) -> bool:
    return isinstance(value, dict) and all(isinstance(name, str) for name in value.values())


#: Fields: what each is, in words and as a test, and whether every file has it.
_KINDS: dict[str, tuple[str, Callable[[Any], bool], bool]] = {
    "model": ("a name or null", lambda value: value is None or isinstance(value, str), True),
    "settings": ("an object", lambda value: isinstance(value, dict), True),
    "step": ("a whole number >= 0", _is_count, True),
    "extra": ("an object", lambda value: isinstance(value, dict), True),
    "shared": ("an object of names", _is_renaming, False),
    "fixed": ("a list of names", _is_names, False),
}
FIELDS = tuple(_KINDS)


@frozen(eq=False)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        tensors: ``model.<name>`` and ``readout.<name>`` -> tensor, of its shape.
        model: registered name of the model, None for an unregistered one.
        settings: the settings the model was created with.
        step: number of updates made.
        extra: anything JSON the writer added.
        shared: further names of the model's shared parameters -> the first.
        fixed: names of the model's parameters that do not learn.
    """

    tensors: Mapping[str, torch.Tensor]
    model: str | None
    settings: Mapping[str, Any]
    step: int
    extra: Mapping[str, Any] = field(factory=dict)
    shared: Mapping[str, str] = field(factory=dict)
    fixed: Sequence[str] = ()

    def build_model(self) -> Model:
        """Create the registered model, load its parameters and return it; raises ``CheckpointError``.

        Parameters that were shared are so again, and those that did not learn do not.
        """
        if self.model is None:
            raise CheckpointError("checkpoint: it holds no registered model's name; use load_into(model)")
        model = create_model(self.model, **self.settings)
        floats = (
            t.dtype for n, t in self.tensors.items() if n.startswith("model.") and t.is_floating_point()
        )
        dtype = next(floats, None)
        model = model if dtype is None else model.to(dtype)
        self.load_into(model)
        for name, first in self.shared.items():
            owner, _, attribute = name.rpartition(".")
            try:
                setattr(model.get_submodule(owner), attribute, model.get_parameter(first))
            except AttributeError as error:
                expected = f"shared parameters that {self.model!r} has"
                raise CheckpointError(mismatch("checkpoint", expected, f"{name!r} and {first!r}")) from error
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name not in self.fixed)
        return model

    def load_into(self, module: torch.nn.Module, prefix: str = "model") -> None:
        """Load the tensors under ``prefix`` into ``module``.

        Raises ``CheckpointError``, listing all that do not fit.
        """
        load_tensors(module, _under(self.tensors, prefix), prefix, "checkpoint")


def save_checkpoint(
    path: str | Path,
    model: Model,
    readout: Readout | None = None,
    *,
    name: str | None = None,
    settings: Mapping[str, Any] | None = None,
    step: int = 0,
    extra: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint, whole or not at all, with a checksum of all that is in it; return its path.

    Args:
        path: the file, usually ``*.safetensors``.
        model: its parameters and buffers are written.
        readout: its parameters are written, too.
        name: of the registered model.
        settings: of the registered model, which rebuild it with its name.
        step: number of updates made.
        extra: JSON to keep beside.

    Raises:
        CheckpointError: for a folder that does not exist, settings or extras that JSON cannot hold.
        OutputError: for a file that cannot be written; an older one is left as it was.

    Examples:
        >>> import kpframe.checkpoint, tempfile, torch
        >>> model = kpframe.wrap(torch.nn.GRUCell(3, 4))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = kpframe.checkpoint.save_checkpoint(f"{folder}/net.safetensors", model, step=7)
        ...     kpframe.checkpoint.load_checkpoint(path).step
        7
    """
    path = Path(path)
    if not path.parent.is_dir():
        raise CheckpointError(
            f"checkpoint: expected a folder to write {path.name!r} to, got {str(path.parent)!r}, no folder"
        )
    save = safetensors_module("torch").save
    tensors = {f"model.{k}": v for k, v in model.state_dict().items()}
    if readout is not None:
        tensors |= {f"readout.{k}": v for k, v in readout.state_dict().items()}
    # safetensors takes no tensors that share memory, as tied weights do
    tensors = {k: v.detach().clone(memory_format=torch.contiguous_format) for k, v in tensors.items()}
    header = {
        "format": FORMAT,
        "model": name,
        "settings": dict(settings or {}),
        "step": step,
        "extra": dict(extra or {}),
        "shared": _shared(model),
        "fixed": [name for name, p in model.named_parameters() if not p.requires_grad],
    }
    try:
        header = json.loads(json.dumps(header))  # as it will be read: tuples are lists
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            f"checkpoint: expected settings and extra that JSON can hold, got others ({error})"
        ) from error
    header["checksum"] = checksum(header, tensors)
    return write_bytes(path, save(tensors, metadata={"kpframe": json.dumps(header)}))


def load_checkpoint(path: str | Path) -> Checkpoint:
    """Read the checkpoint that ``save_checkpoint`` wrote to ``path``, onto the CPU.

    Raises:
        CheckpointError: for a file that is missing, corrupt, or was not written by kpframe.
    """
    if kind_of(path) == TORCH:
        raise CheckpointError(
            f"checkpoint: expected a safetensors file that kpframe wrote, got {str(path)!r}, a file of "
            "torch.save; kpframe.checkpoint.load_into(model, path) loads its weights into a model"
        )
    tensors, metadata = read_safetensors(path)
    header = read_header(path, metadata)
    if header is None:
        raise CheckpointError(
            f"checkpoint: expected kpframe's header in {str(path)!r}, got another safetensors file; "
            "kpframe.checkpoint.load_into(model, path) loads its weights into a model"
        )
    verify(path, header, tensors)
    return Checkpoint(tensors, **{key: header[key] for key in FIELDS if key in header})


def load_weights(path: str | Path) -> dict[str, torch.Tensor]:
    """Return the tensors of a file of any program, by name, in their shapes, on the CPU.

    Args:
        path: a safetensors file, or one of ``torch.save``: a ``state_dict``, or a dict with one under
            ``"state_dict"`` (as Lightning writes), ``"model_state_dict"`` or ``"model"``. What the file is,
            is read from the file; its suffix does not matter.

    Raises:
        CheckpointError: for a file that is missing or corrupt, holds no tensors by name, or holds more than
            tensors and plain values, which is not unpickled.
    """
    if kind_of(path) == TORCH:
        return read_torch(path)
    tensors, metadata = read_safetensors(path)
    if (header := read_header(path, metadata)) is not None:
        verify(path, header, tensors)
    # safetensors.torch.save_model writes a shared tensor once and its other names into the metadata
    return tensors | {n: tensors[first] for n, first in metadata.items() if first in tensors}


def load_into(module: torch.nn.Module, path: str | Path, prefix: str | None = None) -> None:
    """Load the weights of a file of any program (see ``load_weights``) into a module, all or none.

    Names may differ in front by what wrappers add: ``module.`` (DataParallel), ``_orig_mod.``
    (torch.compile), ``model.`` and ``cell.``. A parameter that the module shares needs one of its names.

    Args:
        module: a model, cell or readout, of the dtype of the weights.
        path: the file.
        prefix: takes only what lies under this name, ``"encoder.rnn"``; for kpframe's own files ``"model"``
            when left out.

    Raises:
        CheckpointError: as ``load_weights``; for tensors that are missing, not known, or of another shape or
            dtype, listing all of them.
    """
    tensors = load_weights(path)
    if prefix is None and {name.partition(".")[0] for name in tensors} == {"model", "readout"}:
        prefix = "model"
    found = tensors if prefix is None else _under(tensors, prefix)
    load_tensors(module, by_own_names(found, module), prefix, str(path))


def _under(tensors: Mapping[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    return {n.removeprefix(f"{prefix}."): t for n, t in tensors.items() if n.startswith(f"{prefix}.")}


def _shared(module: torch.nn.Module) -> dict[str, str]:
    """Return the further names of parameters that a module shares -> the first."""
    first: dict[int, str] = {}
    every = module.named_parameters(remove_duplicate=False)
    names = {name: first.setdefault(id(parameter), name) for name, parameter in every}
    return {name: own for name, own in names.items() if name != own}


def by_own_names(found: Mapping[str, torch.Tensor], module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Return tensors by the module's names, which may differ by what wrappers put in front."""
    own = list(module.state_dict())
    names = {_plain(name): name for name in own}
    if len(names) < len(own) or len({_plain(name) for name in found}) < len(found):
        return dict(found)  # what wrappers add tells names apart here
    return {names.get(_plain(name), name): tensor for name, tensor in found.items()}


def _plain(name: str) -> str:
    compiled, *others = WRAPPERS
    name = name.replace(compiled, "")
    while wrapper := next((w for w in others if name.startswith(w)), None):
        name = name.removeprefix(wrapper)
    return name


def load_tensors(
    module: torch.nn.Module,
    found: Mapping[str, torch.Tensor],
    prefix: str | None,
    source: str,
    remedy: str | None = None,
) -> None:
    """Load tensors by the module's names, all or none; raise ``CheckpointError`` listing what is wrong.

    Args:
        module: a model, cell or readout.
        found: its tensors by its own names.
        prefix: under which names they were found.
        source: where.
        remedy: the end of the message.
    """
    own, tensors, front = module.state_dict(), dict(found), f"{prefix}." if prefix else ""
    problems = []
    for name, first in _shared(module).items():
        if name in tensors and first in tensors and not _same(tensors[name], tensors[first]):
            problems.append(
                mismatch(f"{front}{name}", f"the values of {first}, with which it is one", "others")
            )
        for given, other in ((first, name), (name, first)):
            if given in tensors:
                tensors.setdefault(other, tensors[given])
    for name in [*own, *(name for name in tensors if name not in own)]:
        expected = f"{list(own[name].shape)} {own[name].dtype}" if name in own else "nothing"
        got = f"{list(tensors[name].shape)} {tensors[name].dtype}" if name in tensors else "nothing"
        if expected != got:
            problems.append(mismatch(f"{front}{name}", expected, got))
    if problems:
        if remedy is None:
            remedy = "" if prefix or set(tensors) <= set(own) else "; prefix takes what lies under one name"
        raise CheckpointError(f"{source}: {'; '.join(problems)}{_near(own, tensors)}{remedy}")
    module.load_state_dict(tensors)


def _near(own: Mapping[str, torch.Tensor], found: Mapping[str, torch.Tensor]) -> str:
    """Return which names that are too many are nearest to those that miss, of the same shape if any is."""
    extra = [name for name in found if name not in own]
    pairs = []
    for name in (name for name in own if name not in found):
        alike = [other for other in extra if found[other].shape == own[name].shape]
        if near := nearest(name, alike) or nearest(name, extra):
            pairs.append(f"{name} is near to {near}")
    return f"; {', '.join(pairs)}" if pairs else ""


def _same(a: torch.Tensor, b: torch.Tensor) -> bool:
    return a.shape == b.shape and bool(torch.all((a == b) | (a.isnan() & b.isnan())))


def read_header(path: str | Path, metadata: Mapping[str, str]) -> dict[str, Any] | None:
    """Return kpframe's header among the metadata of a file, None where there is none.

    Raises:
        CheckpointError: for a header of a newer format, or with a field of another type.
    """
    try:
        header = json.loads(metadata["kpframe"])
    except (KeyError, ValueError):
        return None
    if not isinstance(header, dict) or not _is_count(header.get("format")):
        return None
    if header["format"] > FORMAT:
        raise CheckpointError(
            f"checkpoint: expected format {FORMAT} or older in {str(path)!r}, got {header['format']}; "
            "upgrade kpframe"
        )
    if any(required and name not in header for name, (_, _, required) in _KINDS.items()):
        return None
    for name, (expected, fits, _) in _KINDS.items():
        if name in header and not fits(header[name]):
            raise CheckpointError(
                f"checkpoint: expected {expected} as {name!r} in the header of {str(path)!r}, "
                f"got {shown(header[name])}"
            )
    return header


def verify(path: str | Path, header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> None:
    """Raise ``CheckpointError`` where a file is not what was written; older files have no checksum."""
    expected = header.get("checksum")
    if expected is not None and expected != checksum(header, tensors):
        raise CheckpointError(
            f"checkpoint: expected the contents that were written to {str(path)!r}, got others, by the "
            "file's checksum: it is damaged; copy it again"
        )


def checksum(header: Mapping[str, Any], tensors: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of a header, without its checksum, and of tensors with names, types and shapes."""
    rest = {name: value for name, value in header.items() if name != "checksum"}
    digest = sha256(json.dumps(rest, sort_keys=True).encode())
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"\n{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
