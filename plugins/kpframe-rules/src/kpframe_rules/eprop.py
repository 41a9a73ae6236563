"""Eligibility propagation."""

from __future__ import annotations

from kpframe import LearningRule, Update
from kpframe.plugin import takes_settings
from kpframe_rules.leak import direct_path
from kpframe_rules.output_feedback import feed_back
from kpframe_rules.specs_structural import EPropSettings


class EProp(LearningRule):
    """Eligibility propagation (Bellec et al. 2020, Nature Communications 11:3625, eq. 1 and Methods)::

        eps_ij(t) = D_i(t) eps_ij(t-1) + ds_i(t)/dW_ij         g_ij = Sum_t L_i(t) (dz_i/ds_i) eps_ij(t)

    Of the step Jacobian only the direct path is kept, the one from a unit's state to itself around all
    recurrent weights (the leak; the forget gate of an LSTM), so ``W_ii`` is left out too: the update is that
    of backpropagation in the model in which recurrent products read ``detach(h)``. That holds for a trainable
    initial state, and for several layers and projections: what a step reads of a lower layer's new state is
    not detached, so that errors go down at each step. ``feedback="readout"`` is symmetric e-prop. It differs
    from ``snap1``, which keeps ``W_ii``, and from ``rflo``, whose traces decay at a constant rate.
    Cost: one scan without any product with a recurrent weight, and one product with ``J*``.

    Raises:
        SettingsError: for an unknown feedback or an unusable seed.
        UnsupportedError: when it is applied, for a model whose paths are not known apart; ``snap1`` works
            on any model.
    """

    @takes_settings(EPropSettings)
    def __init__(self, settings: EPropSettings) -> None:
        self.feedback, self.seed = settings.feedback, settings.seed
        self.needs_readout = settings.feedback == "random"

    def change(self, update: Update) -> Update:
        """Return the update through the direct path alone, and the feedback."""
        direct = direct_path(update.A, "eprop")
        return feed_back(update.through(direct, name="P[direct]"), self.feedback, self.seed)

    def __repr__(self) -> str:
        return f"EProp(feedback={self.feedback!r}, seed={self.seed})"
