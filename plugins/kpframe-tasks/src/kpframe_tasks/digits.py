"""Handwritten digits, read row by row."""

from __future__ import annotations

import gzip
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch

from kpframe.errors import ArgumentError, mismatch
from kpframe.plugin import takes_settings
from kpframe.tasks import SPLITS, Split, Task, Trials, check_split, seeded_generator
from kpframe_tasks import DigitsSettings

#: Images, and what a line of the table holds: 64 pixels and the digit.
_SHAPE = (1797, 65)


@cache
def _table() -> np.ndarray:
    """Return scikit-learn's table of digits ``[1797, 65]``, float64: pixels row by row, then the digit.

    Its file is read without the library, whose import takes longer than all else that a small study imports
    beside torch. Where the file is not as it is known, the library is asked.
    """
    for folder in getattr(find_spec("sklearn"), "submodule_search_locations", None) or ():
        path = Path(folder, "datasets", "data", "digits.csv.gz")
        if path.is_file():
            with gzip.open(path, "rt", encoding="ascii") as file:
                found = np.loadtxt(file, delimiter=",")
            if found.shape == _SHAPE:
                return found
    from sklearn.datasets import load_digits

    data = load_digits()
    return np.column_stack([data.data, data.target])


class Digits(Task):
    """The 1,797 handwritten 8x8 digits of scikit-learn, one row of pixels a step.

    Inputs ``[B, 8, 8]``: step t holds row t from the top, channel i column i from the left, scaled from
    0..16 to 0..1. Targets ``[B, 8]`` int64: the digit, 0 to 9, at every step; scored at the last step
    only, when the whole image has been read. Epochs ``"reading"`` (7 steps), then ``"response"``.
    Coordinates ``label`` and ``index``, the place in scikit-learn's arrays.

    The split is fixed by ``seed`` and stratified: of each digit's n images, ``test_fraction * n`` rounded
    to a whole number, and at least one, are for testing. ``sample`` draws without replacement.

    Source: Alpaydin & Kaynak (1998), Optical Recognition of Handwritten Digits, UCI Machine Learning
    Repository, data set 80, doi:10.24432/C50P49, license CC BY 4.0. scikit-learn carries its test part, by 13
    writers; our split is over images, so the writers of the two splits are the same.

    Raises:
        SettingsError: for a fraction outside of (0, 1), or a negative seed.
        ArgumentError: for a fraction that leaves a split empty.
    """

    @takes_settings(DigitsSettings)
    def __init__(self, settings: DigitsSettings) -> None:
        super().__init__(input_size=8, output_size=10, loss="cross_entropy", seed=settings.seed)
        table = torch.from_numpy(_table())
        self._images = table[:, :64].reshape(-1, 8, 8) / 16  # [1797, 8, 8], exact in float32 as well
        self._labels = table[:, 64].to(torch.int64)
        self._rows = self._split(settings.test_fraction)

    def _split(self, test_fraction: float) -> dict[str, torch.Tensor]:
        """Return the sorted indices of each split."""
        generator = seeded_generator(self.seed, len(SPLITS))  # apart from the splits' own streams
        train, test = [], []
        for digit in range(self.output_size):
            found = (self._labels == digit).nonzero()[:, 0]
            found = found[torch.randperm(len(found), generator=generator, device="cpu")]
            held_out = max(1, round(test_fraction * len(found)))
            if held_out == len(found):
                raise ArgumentError(
                    mismatch("test_fraction", "a share that leaves images to train on", test_fraction)
                )
            test.append(found[:held_out])
            train.append(found[held_out:])
        return {"train": torch.cat(train).sort().values, "test": torch.cat(test).sort().values}

    def num_trials(self, split: Split = "train") -> int:
        """Return the number of images in a split."""
        return len(self._rows[check_split(split)])

    def dataset(
        self,
        split: Split = "train",
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Trials:
        """Return every image of a split, in scikit-learn's order."""
        trials = self._trials(self._rows[check_split(split)])
        return trials.to(device=device, dtype=dtype or torch.get_default_dtype())

    def draw(self, batch_size: int, generator: torch.Generator, split: Split) -> Trials:
        """Return ``batch_size`` different images of a split, in random order."""
        rows = self._rows[split]
        if batch_size > len(rows):
            expected = f"at most {len(rows)}, the images of the {split} split"
            raise ArgumentError(mismatch("batch_size", expected, batch_size))
        return self._trials(rows[torch.randperm(len(rows), generator=generator)[:batch_size]])

    def _trials(self, rows: torch.Tensor) -> Trials:
        labels = self._labels[rows]
        batch, steps = len(rows), self._images.shape[1]
        scored = torch.zeros(batch, steps, dtype=torch.bool, device="cpu")
        scored[:, -1] = True
        return Trials(
            inputs=self._images[rows],
            targets=labels[:, None].repeat(1, steps),
            mask=torch.ones(batch, steps, dtype=torch.bool, device="cpu"),
            scored=scored,
            epoch=np.where(scored.numpy(), "response", "reading"),
            trial={"label": labels.numpy(), "index": rows.numpy()},
        )
