"""Random feedback local online learning."""

from __future__ import annotations

from kpframe import LearningRule, Update
from kpframe.plugin import takes_settings
from kpframe_rules.leak import leaky_path
from kpframe_rules.output_feedback import feed_back
from kpframe_rules.specs_structural import RFLOSettings


class RFLO(LearningRule):
    """Random feedback local online learning (Murray 2019, eLife 8:e43299)::

        p_ij(t+1) = (1 - alpha) p_ij(t) + alpha phi'(u_i(t)) h_j(t)       g_ij = Sum_t (B e(t))_i p_ij(t)

    Of the step Jacobian only the leak is kept, ``P[(1 - alpha) I]``, and errors come through B: a learned or
    a random matrix. The leak is the model's own, a constant for each state entry; the eligibility of every
    parameter at a weight site, biases included, is traced in the same way. A trainable initial state has the
    trace ``(1 - alpha)^t``. Between layers errors of a step go through the weights, as in ``eprop``, with
    which the rule agrees where they come through the readout. A model without a leak (alpha = 1) and errors
    through the readout give truncation to one step, in which an initial state does not learn.
    Cost: one scan without any product with a recurrent weight, and one product with ``J*``.

    Raises:
        SettingsError: for an unknown feedback or an unusable seed.
        UnsupportedError: when it is applied, for a model without a constant leak; ``eprop`` takes the
            direct path as it is, and ``snap1`` works on any model.
    """

    @takes_settings(RFLOSettings)
    def __init__(self, settings: RFLOSettings) -> None:
        self.feedback, self.seed = settings.feedback, settings.seed
        self.needs_readout = settings.feedback == "random"

    def change(self, update: Update) -> Update:
        """Return the update through the leak alone, and the feedback."""
        leak = leaky_path(update.A, update.flow.trajectory.mask, "rflo")
        return feed_back(update.through(leak, name="P[leak]"), self.feedback, self.seed)

    def __repr__(self) -> str:
        return f"RFLO(feedback={self.feedback!r}, seed={self.seed})"
