"""Feedback alignment through time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Self

import torch

from kpframe import LearningRule, Update
from kpframe.errors import ArgumentError, UnsupportedError, closest, mismatch
from kpframe.plugin import takes_settings
from kpframe_rules.leak import DECLARE
from kpframe_rules.specs_feedback import FeedbackThroughTimeSettings


class FeedbackThroughTime(LearningRule):
    """Errors travel back in time through fixed matrices instead of the recurrent weights.

    Feedback alignment (Lillicrap et al. 2016, Nat. Commun. 7:13276) in the network unrolled in time: where A
    has ``D_t W``, the rule has ``D_t B``, with the gains and the direct path as they are, ``P_rule = P[A']``.
    ``B = W`` is backpropagation through time. Outputs send errors through the readout's own weights; compose
    with ``feedback_alignment`` to replace these, too. J is exact; in a step of several stages it passes on
    errors from stage to stage by the weights themselves.
    Needs a model written as a ``SiteModel``. Cost: that of backpropagation.

    Replaced are all weights that read the state, or what a stage before has computed in the same step, unless
    ``weights`` names some. The random matrices are normal; each weight has its own draw whichever others are
    replaced. ``std`` unset is the root mean square of the weight's entries, so that in training the matrix
    keeps its direction and follows the weight's size. ``of_matrices`` takes B itself.

    Raises:
        SettingsError: for unusable settings.
        ArgumentError: when it is applied, for a name that no weight has.
        UnsupportedError: when it is applied to a model without weight sites.
    """

    matrices: Mapping[str, torch.Tensor] | None = None

    @takes_settings(FeedbackThroughTimeSettings)
    def __init__(self, settings: FeedbackThroughTimeSettings) -> None:
        self.weights, self.seed, self.std = settings.weights, settings.seed, settings.std

    @classmethod
    def of_matrices(cls, matrices: Mapping[str, torch.Tensor]) -> Self:
        """Return the rule with given matrices: name of a weight -> B of the same shape.

        Raises:
            ArgumentError, ShapeError: when it is applied, for a name that no weight has, or another shape.
        """
        rule = cls()
        rule.matrices = {name: matrix.detach().clone() for name, matrix in matrices.items()}
        return rule

    def change(self, update: Update) -> Update:
        """Return the update through the replaced weights."""
        if self.matrices is not None:
            made = self.matrices
        else:
            own = recurrent_weights(update)
            chosen = tuple(own) if self.weights is None else _matching("weights", self.weights, own)
            drawn = self._draw(own)
            made = {name: drawn[name] for name in chosen}
        return update.through(update.A.replace(made), name="P[B]")

    def _draw(self, own: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(self.seed)
        drawn = {}
        for name, weight in own.items():
            scale = float(weight.square().mean().sqrt()) if self.std is None else self.std
            entries = torch.randn(
                weight.shape, generator=generator, dtype=torch.float64, device=generator.device
            )
            drawn[name] = (scale * entries).to(weight)
        return drawn

    def __repr__(self) -> str:
        if self.matrices is not None:
            return f"FeedbackThroughTime(matrices={list(self.matrices)})"
        weights = None if self.weights is None else list(self.weights)
        return f"FeedbackThroughTime(weights={weights}, seed={self.seed}, std={self.std})"


def recurrent_weights(update: Update) -> dict[str, torch.Tensor]:
    """Return the weights that errors meet on the way back in time, by name.

    Raises:
        UnsupportedError: for a model without weight sites.
    """
    A = update.flow.A
    try:
        found = A.weights
    except UnsupportedError as error:
        raise UnsupportedError(
            "feedback_through_time needs the weights of the step Jacobian apart from its gains, which a "
            f"model written as a SiteModel knows; got {A!r} ({A.method} form). {DECLARE}. feedback_alignment"
            ", at the outputs alone, works on any model"
        ) from error
    if not found:
        raise UnsupportedError("feedback_through_time: expected a model with recurrent weights, got none")
    return found


def _matching(argument: str, patterns: Sequence[str], known: Iterable[str]) -> tuple[str, ...]:
    """Return the known names that patterns match (``*`` and ``?`` as in file names), in their own order.

    Raises:
        ArgumentError: for a pattern that matches none; lists those there are.
    """
    names = tuple(known)
    chosen: set[str] = set()
    for pattern in patterns:
        found = [name for name in names if name == pattern or fnmatchcase(name, pattern)]
        if not found:
            expected = f"names among {', '.join(names)}"
            raise ArgumentError(mismatch(argument, expected, f"{pattern!r}{closest(pattern, names)}"))
        chosen.update(found)
    return tuple(name for name in names if name in chosen)
