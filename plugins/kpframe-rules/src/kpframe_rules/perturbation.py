"""Node and weight perturbation, in the limit of small perturbations.

A perturbation of finite size sigma changes the loss by more than its slope: what the rule makes of a
trajectory is then no function of Err, which is the slope, and cannot be written as an operator on it. In the
limit of small sigma it is linear, and that is the rule here.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator

import torch

from kpframe import Space, StochasticRule, Update
from kpframe.operators import SelfAdjointOperator
from kpframe.plugin import takes_settings
from kpframe_rules.random_draws import by_trial, normals, sign_patterns, signs
from kpframe_rules.specs_stochastic import PerturbationSettings

DISTRIBUTIONS = {"signs": signs, "normal": normals}


class Perturbation(StochasticRule):
    """What node and weight perturbation share: independent directions of covariance I, averaged.

    Each direction costs a roll-out of its own.

    Raises:
        SettingsError: for a number of directions below 1, an unknown distribution or an unusable seed.
    """

    @takes_settings(PerturbationSettings)
    def __init__(self, settings: PerturbationSettings) -> None:
        super().__init__(settings.seed)
        self.directions, self.distribution = settings.directions, settings.distribution

    @abstractmethod
    def _shape(self, update: Update) -> tuple[int, ...]:
        """Return the shape ``[G, ...]`` of a direction; the G groups are perturbed independently."""

    @abstractmethod
    def _with(self, update: Update, xi: torch.Tensor) -> Update:
        """Return the update with directions ``[n, *shape]``."""

    def _draw(self, update: Update, generator: torch.Generator) -> torch.Tensor:
        """Return a direction of that shape."""
        return DISTRIBUTIONS[self.distribution](self._shape(update), generator, update.P)

    def change(self, update: Update) -> Update:
        """Return the update with this seed's directions."""
        generator = self.generator()
        return self._with(
            update, torch.stack([self._draw(update, generator) for _ in range(self.directions)])
        )

    def outcomes(self, update: Update) -> Iterator[tuple[float, Update]]:
        """Yield each choice of signs, the same for all trials and directions, and its update.

        Trials and directions add up, so that the mean does not depend on whether they share their signs.

        Raises:
            ArgumentError: for more than ``max_outcomes`` choices.
            UnsupportedError: for normal directions, of which there is a continuum.
        """
        if self.distribution != "signs":
            yield from super().outcomes(update)
        groups, *shape = self._shape(update)
        for probability, pattern in sign_patterns(self, torch.Size(shape).numel(), update.P):
            yield probability, self._with(update, pattern.reshape(shape).expand(1, groups, *shape))

    def __repr__(self) -> str:
        return (
            f"{type(self).__name__}(directions={self.directions}, distribution={self.distribution!r}, "
            f"seed={self.seed})"
        )


class WeightPerturbation(Perturbation):
    """All weights move along a random direction, and learn along it by how the loss changed::

        g = xi <xi, G* Err>,     K = J xi xi* J*,     G = P J = dh/dtheta

    for xi of covariance I over the parameters, the same for all trials (Jabri & Flower 1992, IEEE Trans.
    Neural Networks 3:154; Cauwenberghs 1993, NIPS 5; the SPSA of Spall 1992 in the limit of small
    perturbations): the metric is M = xi xi*, of rank one, which is I in the mean. The flow is positive: each
    draw descends.

    For M parameters, ``E|g - G* Err|^2 / |G* Err|^2`` is ``M - 1`` with signs and ``M + 1`` with normal
    numbers, over the number of directions; the cosine with the gradient is about ``M^(-1/2)``. Frozen
    parameters are not perturbed.
    Cost: that of one roll-out a direction; as an operator, that of backpropagation through time.
    """

    def _shape(self, update: Update) -> tuple[int, ...]:
        return 1, update.J.domain.size

    def _with(self, update: Update, xi: torch.Tensor) -> Update:
        own = update.K
        kept = torch.zeros_like(xi[0, 0])
        for part in own.jacobian.domain.axes[0].parts:
            if part.name in own.parameters:
                kept[part.slice] = 1
        S = DirectionsOperator(kept * xi, own.jacobian.domain)
        return update.replace(K=own.with_metric(own.metric @ S, name="K_xi"))


class NodePerturbation(Perturbation):
    """Each unit of the state is perturbed at each step, and learns by how the loss of its trial changed::

        g = Sum_b J_b* xi_b <xi_b, P_b* Err_b>

    for xi ``[T, H]`` of covariance I, drawn for each trial: the state is moved by ``sigma xi_t`` at step t,
    which the dynamics carry on, the loss of the trial changes by ``sigma <xi, P* Err>``, and ``J* xi`` is the
    eligibility of the parameters (Williams 1992, Machine Learning 8:229, for noise of small variance; Fiete &
    Seung 2006, Phys. Rev. Lett. 97:048104). ``xi xi*`` follows ``P*`` in the place of the identity, which it
    is in the mean. Padded steps are not perturbed.

    The variance grows with the number of perturbed states, T H, where that of weight perturbation grows with
    the number of parameters (Werfel, Xie & Seung 2005, Neural Computation 17:2699). On a tanh rnn of 32
    units (gain 1.2, 3 inputs, one trial of 50 steps, normal errors at all of them) the cosine of a draw of
    one direction with the gradient has the median 0.03, and the root of the mean squared deviation is 30
    times the gradient.
    Cost: that of one roll-out a direction; as an operator, that of backpropagation through time.
    """

    draws_by_trial = True

    def _shape(self, update: Update) -> tuple[int, ...]:
        return update.P.domain.shape

    def _draw(self, update: Update, generator: torch.Generator) -> torch.Tensor:
        return by_trial(DISTRIBUTIONS[self.distribution], update.P.domain, generator, update.P)

    def _with(self, update: Update, xi: torch.Tensor) -> Update:
        mask = update.flow.trajectory.mask
        if mask is not None:
            xi = xi * mask.unsqueeze(-1)
        return update.replace(P=update.P @ DirectionsOperator(xi, update.P.domain))


class DirectionsOperator(SelfAdjointOperator):
    """``S = (1/n) Sum_i xi_i xi_i*`` within each of the groups that the directions ``[n, G, ...]`` have."""

    name = "xi xi*"

    def __init__(self, directions: torch.Tensor, space: Space) -> None:
        super().__init__(space, space, dtype=directions.dtype, device=directions.device)
        self.directions = directions.flatten(2)  # [n, G, D]

    @property
    def positive(self) -> bool:
        """Always true."""
        return True

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        count, groups, _ = self.directions.shape
        probes = q.shape[: q.ndim - len(self.domain.axes)]
        along = torch.einsum("ngd,...gd->...ng", self.directions, q.reshape(*probes, groups, -1))
        out = torch.einsum("...ng,ngd->...gd", along / count, self.directions)
        return out.reshape(q.shape)
