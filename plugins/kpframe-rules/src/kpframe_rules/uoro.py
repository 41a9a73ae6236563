"""Unbiased online recurrent optimization: a random rank-one influence matrix."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kpframe import IdentityOperator, Operator, StochasticRule, Update
from kpframe.flow import eligibilities
from kpframe.operators import check_memory
from kpframe.plugin import takes_settings
from kpframe_rules.random_draws import by_trial, divided, sign_patterns, signs
from kpframe_rules.specs_stochastic import UOROSettings


class UORO(StochasticRule):
    """A rank-one estimate of the influence matrix without bias (Tallec & Ollivier 2017, arXiv:1702.05043)::

        s_t = rho_0 A_t s_{t-1} + rho_1 nu_t            theta_t = theta_{t-1} / rho_0 + J_t* nu_t / rho_1
        g = Sum_t theta_t <s_t, Err_t>

    for each trial, with a random sign nu for each entry of the state at each step, and
    ``rho_0^2 = |theta_{t-1}| / |A_t s_{t-1}|``, ``rho_1^2 = |J_t* nu_t| / |nu_t|``, which keep the two
    vectors of one size. They depend on the draw, but not on which way round the newest signs are, so that
    ``E[s_t theta_t*] = G_t = dh_t/dtheta`` exactly, for any model. A draw is linear in the
    error: J and P are replaced by the estimate of ``G = P J``, of rank one at each step of each trial.
    The paper adds a small constant to the norms; here a norm of zero drops what is zero with it.

    The variance is large: on a tanh rnn of 32 units (gain 1.2, 3 inputs, one trial of 50 steps, normal errors
    at all of them) the cosine of a draw with the exact gradient has the median 0.04, and the root of the mean
    squared deviation is 23 times the gradient. Averaging n draws divides the variance by n.
    Cost: one product with A and one with ``J*`` at each step, and memory for as many numbers as there are
    trials times steps times parameters.

    Raises:
        SettingsError: for a number of draws below 1, a budget below 1 MiB, or an unusable seed.
        MemoryBudgetError: when it is applied, for vectors over the budget.
    """

    draws_by_trial = True

    @takes_settings(UOROSettings)
    def __init__(self, settings: UOROSettings) -> None:
        super().__init__(settings.seed)
        self.normalise, self.draws, self.max_bytes = settings.normalise, settings.draws, settings.max_bytes

    def change(self, update: Update) -> Update:
        """Return the update with this seed's draw."""
        self._check_memory(update, self.draws)
        generator, P = self.generator(), update.P
        return self._with(update, [by_trial(signs, P.domain, generator, P) for _ in range(self.draws)])

    def outcomes(self, update: Update) -> Iterator[tuple[float, Update]]:
        """Yield each choice of signs, the same for all trials and draws, with its probability and update.

        Trials and draws add up, so that the mean does not depend on whether they share their signs.

        Raises:
            ArgumentError: for more than ``max_outcomes`` choices.
            MemoryBudgetError: as the rule.
        """
        self._check_memory(update, 1)
        shape = update.P.domain.shape
        for probability, pattern in sign_patterns(self, shape[1] * shape[2], update.P):
            yield probability, self._with(update, [pattern.reshape(shape[1:]).expand(shape)])

    def _with(self, update: Update, draws: list[torch.Tensor]) -> Update:
        made = [self._estimate(update, nu) for nu in draws]
        states = torch.stack([s for s, _ in made]) / len(made)
        G = RankOneInfluence(states, torch.stack([theta for _, theta in made]), update.J)
        return update.replace(J=G, P=IdentityOperator.like(update.P))

    def _estimate(self, update: Update, nu: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return ``s`` ``[B, T, H]`` and ``theta`` ``[B, T, M]``."""
        A = update.A
        s, theta = torch.zeros_like(nu), eligibilities(update.J, nu)
        for t in range(nu.shape[1]):
            local = theta[:, t]  # J_t* nu_t, in the place of which theta_t is written
            second = self._factor(local, nu[:, t])
            s[:, t] = second * nu[:, t]
            theta[:, t] = divided(local, second)
            if t:
                moved = A.step(t, s[:, t - 1])
                first = self._factor(theta[:, t - 1], moved)
                s[:, t] += first * moved
                theta[:, t] += divided(theta[:, t - 1], first)
        return s, theta

    def _factor(self, theta: torch.Tensor, s: torch.Tensor) -> torch.Tensor:  # [B, M], [B, H] -> [B, 1]
        """Return rho, 0 where one of the two vectors is 0 and their product is."""
        if not self.normalise:
            return theta.new_ones(len(theta), 1)
        numerator, denominator = theta.norm(dim=-1, keepdim=True), s.norm(dim=-1, keepdim=True)
        return divided(numerator, denominator).sqrt()

    def _check_memory(self, update: Update, draws: int) -> None:
        batch, time, _ = update.P.domain.shape
        needed = draws * batch * time * update.J.domain.size * update.P.dtype.itemsize
        what, remedy = "the vectors theta of all trials and steps", "take fewer of them, or raise max_bytes"
        update.P.domain.together(
            lambda: check_memory(f"{self!r}: {what}", needed, update.P.device, remedy, self.max_bytes)
        )

    def __repr__(self) -> str:
        return (
            f"UORO(normalise={self.normalise}, draws={self.draws}, seed={self.seed}, "
            f"max_bytes={self.max_bytes})"
        )


class RankOneInfluence(Operator):
    """``G_t = Sum_n s_t theta_t*`` at each step of each trial.

    Args:
        states: ``s``, ``[n, B, T, H]``.
        parameters: ``theta``, ``[n, B, T, M]``.
        J: the parameter Jacobian in the place of which, with P, it stands.
    """

    name = "G_uoro"

    def __init__(self, states: torch.Tensor, parameters: torch.Tensor, J: Operator) -> None:
        super().__init__(J.domain, J.codomain, dtype=J.dtype, device=J.device)
        self.states, self.parameters = states, parameters

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        weights = torch.einsum("nbtm,...m->...nbt", self.parameters, q)
        return torch.einsum("...nbt,nbth->...bth", weights, self.states)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        weights = torch.einsum("nbth,...bth->...nbt", self.states, r)
        return self.codomain.sum(torch.einsum("...nbt,nbtm->...m", weights, self.parameters))
