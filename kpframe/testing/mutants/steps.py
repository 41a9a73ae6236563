"""Models whose ``step``, roll-out or factory breaks the contract."""

from __future__ import annotations

from typing import Any

import torch
from attrs import evolve

from kpframe.flow._trajectory import Trajectory
from kpframe.models._model import Model
from kpframe.testing._toys import Elman, Plain
from kpframe.testing.mutants.mutant import Mutant

Tensor = torch.Tensor


def not_a_model(input_size: int, hidden_size: int) -> torch.nn.Module:
    """A factory that returns a cell of torch's, not a Model."""
    return torch.nn.RNNCell(input_size, hidden_size)


class NeedsMore(Elman):
    """A constructor that needs an argument nobody declared."""

    def __init__(self, input_size: int, hidden_size: int, wiring: Tensor) -> None:
        super().__init__(input_size, hidden_size)


class TooWide(Plain):
    """``step`` returns one column too many."""

    def step(self, x: Tensor, h: Tensor, t: Tensor | None = None) -> Tensor:
        """Return a state that is too wide."""
        new = super().step(x, h)
        return torch.cat([new, new[:, :1]], dim=1)


class Single(Plain):
    """``step`` computes in float32 whatever it is given."""

    def step(self, x: Tensor, h: Tensor, t: Tensor | None = None) -> Tensor:
        """Return a float32 state."""
        return super().step(x, h).float()


class InPlace(Plain):
    """``step`` writes to the state it is given."""

    def step(self, x: Tensor, h: Tensor, t: Tensor | None = None) -> Tensor:
        """Return the next state, the old one spoiled."""
        with torch.no_grad():
            h *= 0.9
        return super().step(x, h)


class Remembers(Plain):
    """``step`` depends on the call before."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, hidden_size)
        self.calls = 0

    def step(self, x: Tensor, h: Tensor, t: Tensor | None = None) -> Tensor:
        """Return the next state, a little more each time."""
        self.calls += 1
        return super().step(x, h) + 0.01 * self.calls


class Dropout(Plain):
    """``step`` draws random numbers."""

    def step(self, x: Tensor, h: Tensor, t: Tensor | None = None) -> Tensor:
        """Return the next state with entries dropped at random."""
        return torch.nn.functional.dropout(super().step(x, h), 0.5)


class NoisyRollout(Elman):
    """A roll-out that adds noise of its own."""

    def rollout(self, x: Tensor, h0: Tensor | None = None, mask: Tensor | None = None) -> Trajectory:
        """Run the model with noise on its inputs."""
        return super().rollout(x + 1e-3 * torch.randn_like(x), h0, mask)


class BatchNorm(Plain):
    """``step`` centres the state over the batch."""

    def step(self, x: Tensor, h: Tensor, t: Tensor | None = None) -> Tensor:
        """Return the next state, its mean over the batch taken away."""
        new = super().step(x, h)
        return new - 0.5 * new.mean(0, keepdim=True)


class Late(Elman):
    """A roll-out that reads its inputs one step late."""

    def rollout(self, x: Tensor, h0: Tensor | None = None, mask: Tensor | None = None) -> Trajectory:
        """Run the model over shifted inputs."""
        return super().rollout(x.roll(1, dims=1) + 0.1, h0, mask)


class Unmasked(Elman):
    """A roll-out that takes no notice of the mask."""

    def rollout(self, x: Tensor, h0: Tensor | None = None, mask: Tensor | None = None) -> Trajectory:
        """Run the model as if every step were valid."""
        free = super().rollout(torch.nan_to_num(x), h0)
        return evolve(free, mask=mask)


class ByPlace(Elman):
    """A roll-out that treats a trial by its place in the batch."""

    def rollout(self, x: Tensor, h0: Tensor | None = None, mask: Tensor | None = None) -> Trajectory:
        """Run the model with an input that depends on the place."""
        place = torch.arange(len(x), dtype=x.dtype).reshape(-1, 1, 1)
        return super().rollout(x + place, h0, mask)


class Centred(Elman):
    """A roll-out that takes away the mean of the input over all steps, later ones too."""

    def rollout(self, x: Tensor, h0: Tensor | None = None, mask: Tensor | None = None) -> Trajectory:
        """Run the model over inputs centred in time."""
        return super().rollout(x - x.mean(1, keepdim=True), h0, mask)


class BySpan(Elman):
    """A roll-out whose step size depends on how many steps there are."""

    def rollout(self, x: Tensor, h0: Tensor | None = None, mask: Tensor | None = None) -> Trajectory:
        """Run the model over inputs scaled by the span."""
        return super().rollout(x / x.shape[1], h0, mask)


class Kinked(Model):
    """``where`` picks a safe value, and the gradient of the branch not taken is NaN."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(input_size, {"h": hidden_size})
        self.weight = torch.nn.Parameter(torch.randn(hidden_size, input_size))

    def step(self, x: Tensor, h: Tensor, t: Tensor | None = None) -> Tensor:
        """Return the next state by a square root that is only taken where it exists."""
        return torch.where(h > 0, torch.sqrt(h), 0.5 * h) + torch.tanh(x @ self.weight.T)


class Detached(Plain):
    """``step`` cuts the path through the state, so that autograd does not see it."""

    def step(self, x: Tensor, h: Tensor, t: Tensor | None = None) -> Tensor:
        """Return the right next state, with the wrong derivative."""
        return super().step(x, h.detach())


def _mutants(*rows: tuple[Any, str, str]) -> tuple[Mutant, ...]:
    return tuple(Mutant(*row) for row in rows)


MUTANTS = _mutants(
    (not_a_model, "factory_builds", "expected a kpframe.Model, got RNNCell"),
    (NeedsMore, "factory_builds", "needs the argument 'wiring'"),
    ("kpframe.testing._toys:Elmna", "factory_builds", "cannot be imported"),
    (TooWide, "state_shape", "TooWide.step(x [1, 1], h [1, 2]): expected shape [1, 2], got shape [1, 3]"),
    (Single, "dtype_kept", "Single.step: expected dtype torch.float64 of its arguments, got torch.float32"),
    (InPlace, "step_is_pure", "InPlace.step changed its argument h"),
    (Remembers, "step_is_pure", "it depends on hidden state or chance"),
    (Dropout, "step_is_pure", "it depends on hidden state or chance"),
    (NoisyRollout, "deterministic", "uses torch's random generator"),
    (BatchNorm, "rows_are_independent", "3 rows together against one by one"),
    (Late, "rollout_equals_loop_of_step", "rollout() where the model overrides it"),
    (Unmasked, "masked_steps_hold", "state after a padded step"),
    (ByPlace, "batch_permutation_equivariance", "states of permuted trials"),
    (Centred, "causality", "where inputs from step"),
    (BySpan, "select_commutes", "Phi of the first"),
    (Kinked, "derivatives_are_finite", "A holds NaN or infinity"),
    (Detached, "taylor_slope", "detach()"),
)
