"""Anticipated reweighted truncated backpropagation: random truncation that stays unbiased."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product

import torch

from kpframe import StepJacobian, StochasticRule, Update
from kpframe.operators import TIME, trial_generators
from kpframe.plugin import takes_settings
from kpframe_rules.specs_stochastic import ARTBPSettings


class ARTBP(StochasticRule):
    """Truncation at random steps, with factors that make up for it (Tallec & Ollivier 2017)::

        (P* r)_t = r_t + X_t A_{t+1}* (P* r)_{t+1},      X_t = 0 with probability c_t, else 1 / (1 - c_t)

    where c_t, the probability of a cut between two steps, may depend on the cuts before. As the mean of X_t
    given these is 1, the mean of the update is that of backpropagation through time, for any model and
    any number of steps (arXiv:1705.08209). In the paper a cut saves the memory of what lies before it; here
    the rule is an operator, at the cost of backpropagation through time.

    The price is variance: an error that travels k steps back uncut is multiplied by the inverse of the
    probability of that. On a tanh rnn of 32 units (gain 1.2, 3 inputs, one trial of 50 steps, normal errors
    at all of them) the cosine of a draw with the exact gradient has the median 0.56 with ``length=10`` and
    0.94 with ``length=50``; the root of the mean squared deviation is 2.6 and 0.6 times the gradient, and 2.0
    with ``length=10, alpha=4``.

    ``alpha`` unset: ``c = 1 / length``, lengths are geometric. A number: the paper's
    ``c = (alpha - 1) / ((alpha - 2) length + k)``, k steps after the last cut, for which the probability of
    more than k steps falls as ``k^(1 - alpha)`` (of finite variance for alpha > 3), and long stretches are
    rarer by less. ``length`` may be infinite: no cut. With ``shared`` all trials are cut at the same steps,
    as when they go through one backward pass together; with a draw for each, the sum over trials varies
    less.

    Raises:
        SettingsError: for a length that is not > 1, an alpha that is not > 2, or an unusable seed.
    """

    @takes_settings(ARTBPSettings)
    def __init__(self, settings: ARTBPSettings) -> None:
        super().__init__(settings.seed)
        self.length, self.alpha, self.shared = settings.length, settings.alpha, settings.shared
        self.draws_by_trial = not self.shared

    def probability(self, k: int) -> float:
        """Return the probability of a cut k steps after the last one (or the beginning), k >= 1."""
        if self.alpha is None:
            return 1 / self.length
        return (self.alpha - 1) / ((self.alpha - 2) * self.length + k)

    def change(self, update: Update) -> Update:
        """Return the update with this seed's draw of cuts."""
        space, generator = update.P.domain, self.generator()
        sources = [generator] if self.shared else trial_generators(space, generator)
        time = space[TIME].size
        uniform = [
            torch.rand(time, generator=own, dtype=torch.float64, device="cpu").tolist() for own in sources
        ]
        return self._with(update, [self._factors(row)[0] for row in uniform])

    def outcomes(self, update: Update) -> Iterator[tuple[float, Update]]:
        """Yield each choice of cuts, the same for all trials, with its probability and its update.

        Trials add up, so that the mean does not depend on whether they have the same draw.

        Raises:
            ArgumentError: for more than ``max_outcomes`` choices.
        """
        free = update.P.domain.shape[1] - 1
        self.check_outcomes(free)
        for cuts in product((0.0, 1.0), repeat=free):  # below every probability, or above
            factors, chance = self._factors((1.0, *cuts))
            if chance > 0:
                yield chance, self._with(update, [factors])

    def _factors(self, uniform: Sequence[float]) -> tuple[list[float], float]:
        """Return the factor of each step and the probability of the choice; a number below c is a cut.

        No error crosses the first step, whose factor is one.
        """
        factors, chance, k = [1.0], 1.0, 1
        for number in uniform[1:]:
            c = self.probability(k)
            cut = number < c
            factors.append(0.0 if cut else 1 / (1 - c))
            chance *= c if cut else 1 - c
            k = 1 if cut else k + 1
        return factors, chance

    @staticmethod
    def _with(update: Update, factors: list[list[float]]) -> Update:
        A = update.A
        values = torch.tensor(factors, dtype=A.dtype, device=A.device)
        return update.through(WeightedStepJacobian(A, values), name="P_artbp")

    def __repr__(self) -> str:
        return f"ARTBP(length={self.length}, alpha={self.alpha}, shared={self.shared}, seed={self.seed})"


class WeightedStepJacobian(StepJacobian):
    """``x_t A_t``, with factors ``[1, T]`` or ``[B, T]``."""

    def __init__(self, inner: StepJacobian, factors: torch.Tensor) -> None:
        super().__init__(inner.domain, dtype=inner.dtype, device=inner.device, name=f"x {inner.name}")
        self.inner, self.method, self.valid = inner, inner.method, inner.valid
        self.factors = factors.expand(self.domain.shape[:2]).unsqueeze(-1)  # [B, T, 1]

    @property
    def units(self) -> torch.Tensor:
        """Which unit each entry of the state belongs to."""
        return self.inner.units

    def step(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``x_t A_t v``."""
        return self.factors[:, t] * self.inner.step(t, v)

    def step_adjoint(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``x_t A_t* v``."""
        return self.factors[:, t] * self.inner.step_adjoint(t, v)

    def direct(self) -> StepJacobian:
        """Return ``x_t A_t`` by the direct path of A only."""
        return WeightedStepJacobian(self.inner.direct(), self.factors[..., 0])

    def pointwise(self) -> StepJacobian:
        """Return ``x_t A_t`` by what goes around all weights of A."""
        return WeightedStepJacobian(self.inner.pointwise(), self.factors[..., 0])

    def cut(self, paths: Sequence[str]) -> StepJacobian:
        """Return ``x_t A_t`` without some paths of A."""
        return WeightedStepJacobian(self.inner.cut(paths), self.factors[..., 0])

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self.factors * self.inner._apply(q)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self.inner._apply_adjoint(self.factors * r)
