"""Polynomials of latent variables: inputs and targets that fill as many dimensions as one sets."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import combinations_with_replacement, count, islice

import numpy as np
import torch

from kpframe.plugin import takes_settings
from kpframe.tasks import SPLITS, Split, Task, Trials, seeded_generator
from kpframe_tasks import PolynomialMapSettings


class PolynomialMap(Task):
    """Answer with q polynomials of the p latent variables that the inputs show. Ours.

    Latent variables s_1 ... s_p are independent and uniform on [-sqrt(3), sqrt(3)], of variance 1.
    Inputs, in the ``stimulus``, are ``C s`` (and noise); targets, in the ``response``, ``D f(s)``. The q
    entries of f are products of normalised Legendre polynomials ``sqrt(2k + 1) P_k(s_i / sqrt(3))``, in the
    order of their degree: the p variables themselves come first, then all products of two, and so on. They
    are orthonormal, so that targets have variance in q directions, alike in all; up to q = p they are linear
    in the inputs.
    Columns of C and D are orthogonal and random, from ``seed``, and of such a length that inputs and targets
    have unit variance per channel on average, whatever p and q are. The ``delay`` shows nothing.

    Attributes:
        read_in, read_out: C ``[I, p]`` and D ``[O, q]``, float64.
        degrees: ``[q, p]``, the degree of each polynomial in each variable.

    Coordinate ``norm``, the Euclidean norm of s. Epochs ``"stimulus"``, ``"delay"`` and ``"response"``.

    Raises:
        SettingsError, ArgumentError: for a setting out of bounds, and fewer channels than dimensions.
    """

    @takes_settings(PolynomialMapSettings)
    def __init__(self, settings: PolynomialMapSettings) -> None:
        c = settings
        super().__init__(input_size=c.input_size, output_size=c.output_size, loss="mse", seed=c.seed)
        self.stimulus, self.delay, self.response, self.noise = c.stimulus, c.delay, c.response, c.noise
        self.steps = c.stimulus + c.delay + c.response
        generator = seeded_generator(self.seed, len(SPLITS))  # apart from the splits' own streams

        def columns(size: int, dimension: int) -> torch.Tensor:
            drawn = torch.randn(size, dimension, generator=generator, dtype=torch.float64, device="cpu")
            orthogonal: torch.Tensor = torch.linalg.qr(drawn)[0]
            return orthogonal * math.sqrt(size / dimension)

        self.read_in = columns(c.input_size, c.input_dimension)
        self.read_out = columns(c.output_size, c.target_dimension)
        chosen = islice(_products(c.input_dimension), c.target_dimension)
        degrees = [[one.count(i) for i in range(c.input_dimension)] for one in chosen]
        self.degrees = torch.tensor(degrees, device="cpu")

    def features(self, latent: torch.Tensor) -> torch.Tensor:  # [..., p] -> [..., q], float64
        """Return the polynomials of latent variables."""
        u = latent / 3**0.5
        legendre = [torch.ones_like(u), u]
        for k in range(1, int(self.degrees.max())):  # Bonnet's recursion
            legendre.append(((2 * k + 1) * u * legendre[k] - k * legendre[k - 1]) / (k + 1))
        table = torch.stack([(2 * k + 1) ** 0.5 * one for k, one in enumerate(legendre)])
        places = torch.arange(self.degrees.shape[1], device="cpu")
        return torch.stack([table[row, ..., places].prod(dim=0) for row in self.degrees], dim=-1)

    def draw(self, batch_size: int, generator: torch.Generator, split: Split) -> Trials:
        """Return random trials; the splits differ in their random stream only."""
        drawn = torch.rand(
            batch_size, self.read_in.shape[1], generator=generator, dtype=torch.float64, device="cpu"
        )
        latent = (2 * drawn - 1) * 3**0.5
        shape = (batch_size, self.steps, self.input_size)
        eta = torch.randn(shape, generator=generator, dtype=torch.float64)
        step = torch.arange(self.steps)
        shown = (step < self.stimulus)[None, :, None]
        asked = step >= self.stimulus + self.delay
        names = np.array(["stimulus"] * self.stimulus + ["delay"] * self.delay + ["response"] * self.response)
        mask = torch.ones(batch_size, self.steps, dtype=torch.bool)
        return Trials(
            inputs=shown * (latent @ self.read_in.T)[:, None] + self.noise * eta,
            targets=asked[None, :, None] * (self.features(latent) @ self.read_out.T)[:, None],
            mask=mask,
            scored=mask & asked,
            epoch=np.broadcast_to(names, (batch_size, self.steps)).copy(),
            trial={"norm": latent.norm(dim=1).numpy()},
        )


def _products(variables: int) -> Iterator[tuple[int, ...]]:
    """Yield products of variables, as places that may repeat, in the order of their degree."""
    for degree in count(1):
        yield from combinations_with_replacement(range(variables), degree)
