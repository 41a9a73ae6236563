"""The losses that a training tells of, step by step: kept in few bytes, written with the other results."""

from __future__ import annotations

from array import array

import numpy as np
import torch
import xarray as xr

from kpframe.errors import ArgumentError, mismatch, shown

#: How many losses on another device wait there before they are fetched together.
_WAITING = 1000


class Losses:
    """Losses by step, ascending; sixteen bytes each."""

    def __init__(self) -> None:
        self._steps, self._values = array("q"), array("d")
        self._waiting: list[tuple[int, torch.Tensor]] = []

    def add(self, step: int, loss: object) -> None:
        """Take the loss of a step that comes after all others.

        Args:
            step: updates made.
            loss: a number, or a tensor of one; a graph that it carries is not held.

        Raises:
            ArgumentError: for anything else.
        """
        value = loss if type(loss) is float else self._number(loss)
        self._steps.append(step)
        self._values.append(value)
        if len(self._waiting) == _WAITING:
            self._fetch()

    def _number(self, loss: object) -> float:
        """Return a loss that is to be added, NaN for one that waits to be fetched."""
        if isinstance(loss, torch.Tensor) and loss.numel() == 1 and not loss.is_complex():
            if not _is_elsewhere(loss):
                return float(loss.item())
            place = len(self._values)
            self._waiting.append((place, loss.detach().reshape(()).clone()))  # the device is not waited for
            return float("nan")
        try:
            if not isinstance(loss, str | bytes | torch.Tensor):
                return float(loss)  # type: ignore[arg-type]
        except (TypeError, ValueError):
            pass
        got = f"a tensor {list(loss.shape)}" if isinstance(loss, torch.Tensor) else shown(loss)
        raise ArgumentError(mismatch("loss", "one number", got))

    def _fetch(self) -> None:
        waiting, self._waiting = self._waiting, []
        for place, value in waiting:
            self._values[place] = float(value)

    def __len__(self) -> int:
        return len(self._steps)

    @property
    def last_step(self) -> int:
        """The step of the last loss, -1 where there is none."""
        return self._steps[-1] if self._steps else -1

    def at(self, step: int) -> float:
        """Return the loss of a step if it is the last that came, else NaN."""
        self._fetch()
        return self._values[-1] if self.last_step == step else float("nan")

    def restore(self, data: xr.Dataset, last: int) -> None:
        """Take up the losses of an earlier part of the training, up to a step."""
        kept = data.training_loss.sel(update=slice(None, last))
        self._steps = array("q", kept["update"].values.astype(np.int64).tolist())
        self._values = array("d", kept.values.astype(np.float64).tolist())

    def dataset(self, outcome: str, stopped_at: float, reason: str, units: str) -> xr.Dataset:
        """Return ``training_loss`` along ``update``, and what became of the training.

        Args:
            outcome: ``"under way"``, ``"trained"`` or ``"interrupted"``.
            stopped_at: the update that was under way when it was interrupted, else NaN.
            reason: the error that ended it.
            units: of the loss.
        """
        self._fetch()
        text = "training loss, as the training told it, by the updates made"
        data = xr.Dataset(
            {
                "training_loss": (
                    "update",
                    np.array(self._values, dtype=np.float64),
                    {"long_name": text, "units": units},
                )
            },
            coords={
                "update": (
                    "update",
                    np.array(self._steps, dtype=np.int64),
                    {"long_name": "updates made", "units": "1"},
                )
            },
        )
        for name, value, what in (
            ("outcome", outcome, "what became of the training"),
            ("reason", reason, "the error that ended the training"),
        ):
            data[name] = ((), np.array(value, dtype=object), {"long_name": what, "units": "1"})
        about = {"long_name": "update under way when it was interrupted", "units": "1"}
        data["stopped_at"] = ((), float(stopped_at), about)
        return data


def _is_elsewhere(tensor: torch.Tensor) -> bool:
    return tensor.device.type != "cpu"
