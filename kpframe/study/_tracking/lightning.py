"""``TrackerCallback``: a tracker as a callback of Lightning's trainer.

Lightning is imported when a callback is made, not before; its two packages, ``lightning`` and
``pytorch_lightning``, have a base class each, and a callback has that of whichever the process uses.
"""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from kpframe.errors import ArgumentError, MissingDependencyError, closest, mismatch
from kpframe.study._tracking.tracked import Inputs
from kpframe.study._tracking.tracker import Tracker
from kpframe.tasks._task import Trials

#: Modules that have Lightning's base class of callbacks.
_HOMES = ("lightning.pytorch", "pytorch_lightning")
_made: dict[tuple[type, ...], type] = {}


class TrackerCallback:
    """Records the training of a part of a LightningModule, as ``kpframe.study.Tracker`` does::

        callback = kpframe.lightning.TrackerCallback(model="encoder.rnn", inputs=x, readout="head")
        Trainer(callbacks=[callback]).fit(module)

    Steps are those of ``trainer.global_step``, before the first batch the untrained network; the loss of a
    step is what ``training_step`` returned. Validation is not looked at. Where several processes train, the
    first one records. With ``fast_dev_run`` nothing is recorded, as Lightning then keeps no files.

    Args:
        model: where the cell, layer or model is in the LightningModule, ``"encoder.rnn"``; ``""`` for itself.
        inputs: see ``Tracker``; brought to the module's device.
        readout: where the readout is, ``"head"``; None for none.
        output: the folder; ``kpframe-track`` in the logger's folder when left out, or in the trainer's
            ``default_root_dir`` without a logger.
        options: all else that ``Tracker`` takes. With ``resume=True``, ``trainer.fit(ckpt_path=...)`` goes on
            with what was recorded up to the checkpoint.

    Attributes:
        tracker: of the training under way, or of the last one; None before, and on other processes.

    Raises:
        MissingDependencyError: where Lightning is not installed.
        ArgumentError: for options that ``Tracker`` does not take; when the training begins, for parts that
            the module lacks, and as ``Tracker``.
    """

    tracker: Tracker | None

    def __new__(cls, *given: Any, **options: Any) -> TrackerCallback:
        """Return a callback that is one of Lightning's, too."""
        bases = (cls, *(base for base in _bases() if not issubclass(cls, base)))
        if len(bases) == 1:
            return object.__new__(cls)
        if bases not in _made:
            _made[bases] = type(cls.__name__, bases, {"__module__": cls.__module__, "__doc__": cls.__doc__})
        made: TrackerCallback = object.__new__(_made[bases])
        return made

    def __init__(
        self,
        model: str,
        inputs: Inputs,
        *,
        readout: str | None = None,
        output: str | Path | None = None,
        **options: Any,
    ) -> None:
        known = [
            name for name in Tracker.__init__.__annotations__ if name not in ("return", "model", "inputs")
        ]
        if unknown := [name for name in options if name not in known]:
            near = closest(unknown[0], known)
            raise ArgumentError(mismatch("TrackerCallback", "options of Tracker", f"{unknown[0]!r}{near}"))
        for name, path in (("model", model), ("readout", readout)):
            if not isinstance(path, str) and not (path is None and name == "readout"):
                expected = "the place of a module in the LightningModule, 'encoder.rnn'"
                raise ArgumentError(mismatch(name, expected, type(path).__name__))
        self._model, self._inputs, self._readout = model, inputs, readout
        self._output, self._options = output, options
        self.tracker = None
        self._open = False
        self._step = -1
        self._loss: torch.Tensor | None = None  # of the batches since the last update

    def __reduce__(self) -> tuple[Any, ...]:
        """Return how a process of its own makes the callback anew, before the training."""
        given = {"readout": self._readout, "output": self._output, **self._options}
        return _anew, (self._model, self._inputs, given)

    def on_train_start(self, trainer: Any, pl_module: torch.nn.Module) -> None:
        """Begin, with the untrained network; see ``on_train_batch_end``."""
        folder = self._output
        if folder is None:  # all processes ask, as they must
            folder = Path(trainer.log_dir or trainer.default_root_dir) / "kpframe-track"
        if not trainer.is_global_zero or trainer.fast_dev_run:
            return
        device = getattr(pl_module, "device", None)
        options = {name: _brought(value, device) for name, value in self._options.items()}
        self.tracker = Tracker(
            _part(pl_module, self._model, "model"),
            _brought(self._inputs, device),
            readout=None if self._readout is None else _part(pl_module, self._readout, "readout"),
            output=folder,
            **options,
        )
        self.tracker.__enter__()
        self._open = True
        self._step, self._loss = trainer.global_step, None
        self.tracker(self._step)

    def on_train_batch_end(
        self, trainer: Any, pl_module: object, outputs: Any, batch: object, batch_idx: int
    ) -> None:
        """Tell the tracker of the step that a batch has come to; batches that are accumulated share one.

        Args:
            trainer: Lightning's, which calls this.
            pl_module: the module that it trains.
            outputs: of its ``training_step``: the loss over the number of batches that Lightning accumulates.
            batch: is not looked at.
            batch_idx: is not looked at.
        """
        if not self._open or self.tracker is None:
            return
        if (loss := _loss(outputs)) is not None:
            self._loss = loss if self._loss is None else self._loss + loss
        if trainer.global_step != self._step:
            self.tracker(trainer.global_step, self._loss)
            self._step, self._loss = trainer.global_step, None

    def on_train_end(self, trainer: object, pl_module: object) -> None:
        """End, with all that there is; see ``on_train_batch_end``."""
        self._close(None)

    def on_exception(self, trainer: object, pl_module: object, exception: BaseException) -> None:
        """Leave the run as interrupted; the ``exception`` goes on. See ``on_train_batch_end``."""
        self._close(exception)

    def _close(self, error: BaseException | None) -> None:
        if self._open and self.tracker is not None:
            self._open = False
            trace: TracebackType | None = None if error is None else error.__traceback__
            self.tracker.__exit__(None if error is None else type(error), error, trace)


def _anew(model: str, inputs: Inputs, given: dict[str, Any]) -> TrackerCallback:
    return TrackerCallback(model, inputs, **given)


def _bases() -> list[type]:
    """Return the base classes of callbacks that Lightning's packages have, of those in use, or of the first.

    Raises:
        MissingDependencyError: where neither package is installed.
    """
    homes = [home for home in _HOMES if sys.modules.get(home) is not None]
    for home in () if homes else _HOMES:
        try:
            import_module(home)
        except ModuleNotFoundError as error:
            if error.name != home and not home.startswith(f"{error.name}."):
                raise
            continue
        homes = [home]
        break
    if not homes:
        raise MissingDependencyError(
            "kpframe.lightning needs lightning or pytorch_lightning: pip install 'kpframe[study,lightning]'"
        )
    return [sys.modules[home].Callback for home in homes]


def _part(module: torch.nn.Module, path: str, argument: str) -> torch.nn.Module:
    """Return the module at a place inside another."""
    try:
        return module.get_submodule(path)
    except AttributeError as error:
        names = [name for name, _ in module.named_modules() if name]
        expected = f"the place of a module in {type(module).__name__}"
        raise ArgumentError(mismatch(argument, expected, f"{path!r}{closest(path, names)}")) from error


def _brought(value: Any, device: torch.device | None) -> Any:
    """Return inputs and trials on a device; all else as it is."""
    return value.to(device) if isinstance(value, torch.Tensor | Trials) and device is not None else value


def _loss(outputs: Any) -> torch.Tensor | None:
    """Return the loss in what Lightning hands on of ``training_step``; None where there is none."""
    found = outputs.get("loss") if isinstance(outputs, dict) else outputs
    return found.detach() if isinstance(found, torch.Tensor) and found.numel() == 1 else None
