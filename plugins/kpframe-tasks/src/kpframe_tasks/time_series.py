"""Multivariate time series of the UEA archive, as sktime ships them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from kpframe.errors import ArgumentError, MissingDependencyError, mismatch
from kpframe.plugin import takes_settings
from kpframe.tasks import SPLITS, Split, Task, Trials, check_split
from kpframe_tasks import TimeSeriesSettings


class TimeSeries(Task):
    """Read a recorded series to its end and name its class.

    ==================== ======== ======== ======= ======= =====================================
    ``dataset``          channels steps    classes trials  of what
    ==================== ======== ======== ======= ======= =====================================
    ``japanese_vowels``  12       7 to 29  9       270/370 LPC cepstrum of /ae/, who speaks
    ``basic_motions``    6        100      4       40/40   acceleration and turn, 0.1 s a step
    ==================== ======== ======== ======= ======= =====================================

    Inputs ``[B, T, I]``: the recorded values; ``standardize`` takes off each channel's mean and divides by
    its standard deviation, both over all steps of the training series. T is that of the longest series of
    both splits; shorter ones are padded with zeros. Targets ``[B, T]`` int64: the class at every step,
    by its place in the file's list; scored at each series' last step, when all of it has been read.
    Epochs ``"reading"``, ``"response"`` (that step) and ``"padding"``. Coordinates ``label``, the class's
    name in the file, and ``index``, the series' place in its file. The splits are the archive's own,
    trials train/test in the table. ``sample`` draws without replacement.

    Source: Bagnall, Dau, Lines et al. (2018), The UEA multivariate time series classification archive,
    arXiv:1811.00075; the vowels are by Kudo, Toyama & Shimbo (1999), Pattern Recognition Letters 20:1103. The
    files are those of the sktime that is installed; nothing is downloaded.

    Raises:
        MissingDependencyError: without sktime; ``pip install 'kpframe-tasks[sktime]'``.
        SettingsError: for a setting out of bounds.
    """

    @takes_settings(TimeSeriesSettings)
    def __init__(self, settings: TimeSeriesSettings) -> None:
        name = settings.dataset.title().replace("_", "")
        folder = _folder() / name
        read = {split: _read(folder / f"{name}_{split.upper()}.ts") for split in SPLITS}
        self.classes, (first, *_), _ = read["train"]
        super().__init__(
            input_size=first.shape[1], output_size=len(self.classes), loss="cross_entropy", seed=settings.seed
        )
        self.steps = max(len(one) for _, series, _ in read.values() for one in series)
        every = np.concatenate(read["train"][1])
        shift, scale = (every.mean(axis=0), every.std(axis=0)) if settings.standardize else (0.0, 1.0)
        self._series = {split: [(one - shift) / scale for one in found[1]] for split, found in read.items()}
        self._labels = {split: np.array(found[2]) for split, found in read.items()}

    def num_trials(self, split: Split = "train") -> int:
        """Return the number of series in a split."""
        return len(self._series[check_split(split)])

    def dataset(
        self,
        split: Split = "train",
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Trials:
        """Return every series of a split, in the file's order."""
        trials = self._trials(np.arange(self.num_trials(split)), split)
        return trials.to(device=device, dtype=dtype or torch.get_default_dtype())

    def draw(self, batch_size: int, generator: torch.Generator, split: Split) -> Trials:
        """Return ``batch_size`` different series of a split, in random order."""
        number = self.num_trials(split)
        if batch_size > number:
            expected = f"at most {number}, the series of the {split} split"
            raise ArgumentError(mismatch("batch_size", expected, batch_size))
        return self._trials(torch.randperm(number, generator=generator)[:batch_size].numpy(), split)

    def _trials(self, rows: np.ndarray, split: Split) -> Trials:
        inputs = np.zeros((len(rows), self.steps, self.input_size))
        for b, row in enumerate(rows):
            series = self._series[split][row]
            inputs[b, : len(series)] = series
        lengths = np.array([len(self._series[split][row]) for row in rows])[:, None]
        labels, step = self._labels[split][rows], np.arange(self.steps)
        places = np.array([self.classes.index(label) for label in labels])
        last = step == lengths - 1
        epoch = np.where(last, "response", np.where(step < lengths, "reading", "padding"))
        return Trials(
            inputs=torch.from_numpy(inputs),
            targets=torch.from_numpy(places)[:, None].repeat(1, self.steps),
            mask=torch.from_numpy(step < lengths),
            scored=torch.from_numpy(last),
            epoch=epoch,
            trial={"label": labels, "index": rows},
        )


def _folder() -> Path:
    """Return where sktime keeps its data sets."""
    try:
        import sktime
    except ImportError as error:
        raise MissingDependencyError(
            f"the task 'time_series' needs sktime ({error}): pip install 'kpframe-tasks[sktime]'"
        ) from error
    return Path(str(sktime.__file__)).parent / "datasets" / "data"


def _read(path: Path) -> tuple[list[str], list[np.ndarray], list[str]]:
    """Return the classes of a ``.ts`` file, its series ``[T, I]``, and the class of each."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise MissingDependencyError(
            f"the installed sktime lacks {path.name}: pip install -U 'kpframe-tasks[sktime]'"
        ) from error
    classes: list[str] = []
    series, labels = [], []
    for line in lines:
        if line.lower().startswith("@classlabel"):
            classes = line.split()[2:]
        elif line.strip() and line[0] not in "@#":
            *channels, label = line.split(":")
            series.append(np.array([[float(x) for x in channel.split(",")] for channel in channels]).T)
            labels.append(label.strip())
    return classes, series, labels
