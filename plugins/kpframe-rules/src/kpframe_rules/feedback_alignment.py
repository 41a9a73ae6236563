"""Feedback alignment at the outputs, indirect and direct."""

from __future__ import annotations

import math
from typing import Any, Self

import torch

from kpframe import LearningRule, Readout, StepJacobian, Update
from kpframe.errors import ArgumentError, ShapeError, UnsupportedError, mismatch
from kpframe.flow import DiagonalStepJacobian
from kpframe.plugin import takes_settings
from kpframe_rules.leak import direct_path
from kpframe_rules.output_feedback import random_feedback
from kpframe_rules.specs_feedback import DirectFeedbackAlignmentSettings, FeedbackAlignmentSettings


class FeedbackAlignment(LearningRule):
    """Errors come from the outputs through a fixed matrix B (Lillicrap et al. 2016, Nat. Commun. 7:13276).

    ``Err = B^T e`` stands in the place of ``W_out^T e``, with e the loss's derivative by the outputs; on
    through time errors travel by the exact ``P*``: ``g = J* P* B^T e``. The update is linear in B, and
    ``B = W_out`` is backpropagation through time. To replace the weights that errors meet on the way back in
    time, too: ``feedback_through_time() @ feedback_alignment()``.
    Needs the readout. Cost: that of backpropagation.

    The random matrix is drawn as a readout's initial weights are, uniform in +-1/sqrt(n) for n units that are
    read, and zero for the others; it does not change while the readout learns. ``std`` scales it: unset is
    1/sqrt(3 n), that of the above. ``of_matrix`` takes B itself.

    Raises:
        SettingsError: for an unusable seed or std.
        UnsupportedError: when it is applied without a readout.
    """

    needs_readout = True
    matrix: torch.Tensor | None = None

    @takes_settings(FeedbackAlignmentSettings)
    def __init__(self, settings: FeedbackAlignmentSettings) -> None:
        self.seed, self.std = settings.seed, settings.std

    @classmethod
    def of_matrix(cls, matrix: torch.Tensor, **settings: Any) -> Self:
        """Return the rule with a given B.

        Args:
            matrix: ``[O, H]``, or ``[O, n]`` for the n units that are read.
            settings: others than those of the random matrix.

        Raises:
            ArgumentError: for a seed or std beside it.
            ShapeError: when it is applied to a readout that B does not fit.
        """
        beside = [name for name in ("seed", "std") if name in settings]
        if beside:
            raise ArgumentError(mismatch("matrix", "no seed and no std beside a matrix", ", ".join(beside)))
        rule = cls(**settings)
        rule.matrix = matrix.detach().clone()
        return rule

    def feedback(self, readout: Readout) -> torch.Tensor:  # [O, H]
        """Return B for a readout."""
        outputs, width = readout.weight.shape
        if self.matrix is None:
            scale = 1.0 if self.std is None else self.std * math.sqrt(3 * width)
            return scale * random_feedback(readout, self.seed)
        if tuple(self.matrix.shape) != (outputs, width):
            whole = (outputs, readout.hidden_size)
            if tuple(self.matrix.shape) != whole:
                expected = f"shape {list(whole)} or {[outputs, width]}"
                raise ShapeError(mismatch("matrix", expected, list(self.matrix.shape)))
            return self.matrix
        full = self.matrix.new_zeros(outputs, readout.hidden_size)
        full[:, readout.hidden] = self.matrix
        return full

    def change(self, update: Update) -> Update:
        """Return the update whose errors come through B."""
        if update.readout is None:
            expected = "the readout that the error comes through, which feedback replaces"
            raise UnsupportedError(mismatch("readout", expected, None))
        return update.with_feedback(self.feedback(update.readout))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._source()})"

    def _source(self) -> str:
        if self.matrix is not None:
            return f"matrix={list(self.matrix.shape)}"
        return f"seed={self.seed}, std={self.std}"


class DirectFeedbackAlignment(FeedbackAlignment):
    """Every step gets output errors straight through B (Nokland 2016, NeurIPS 29, equation 7).

    In a deep network ``feedback_alignment`` sends ``B^T e`` to the last hidden layer and goes on backwards
    from there; direct feedback alignment sends it to every layer and does not go backwards at all. In a
    recurrent network unrolled in time the layers are the steps, each with outputs of its own, and "not
    backwards" can be read in three ways, all without a product with a recurrent weight on the way back:

    ================  ==============================  =======================================================
    ``through``       in the place of P               the error that reaches the state at step t
    ================  ==============================  =======================================================
    ``"none"``        I                               ``B^T e_t``: a step learns from its own outputs alone
    ``"direct"``      ``P[E]``, E the direct path     what comes back along leaks and gates: e-prop through B
    ``"broadcast"``   ``P[I]``, sums over time        ``B^T Sum_{s >= t} e_s``: outputs of this and of all
                                                      later steps, each sent straight here by one B
    ================  ==============================  =======================================================

    The last one is Nokland's rule for the unrolled network, with one matrix for all distances; the errors of
    a loss at the final step alone reach the steps before in no other reading but for the direct path. A
    trainable initial state counts as the state of step 0, which has no outputs of its own: with ``"none"`` it
    does not learn. Cost: one product with ``J*``, and for ``"direct"`` a scan without recurrent weights.

    Raises:
        SettingsError: for an unknown ``through``, an unusable seed or std.
        UnsupportedError: when it is applied without a readout, and with ``"direct"`` to a model whose paths
            are not known apart.
    """

    @takes_settings(DirectFeedbackAlignmentSettings)
    def __init__(self, settings: DirectFeedbackAlignmentSettings) -> None:
        super().__init__(seed=settings.seed, std=settings.std)
        self.through = settings.through

    def change(self, update: Update) -> Update:
        """Return the update with B and without the way back through the weights."""
        update = super().change(update)
        if self.through == "none":
            return update.starting(0 * update.A).replace(P=update.propagator.truncated(1))
        if self.through == "direct":
            return update.through(direct_path(update.A, "dfa"), name="P[direct]")
        return update.through(_identity_steps(update.A), name="P[I]")

    def _source(self) -> str:
        return f"through={self.through!r}, {super()._source()}"


def _identity_steps(A: StepJacobian) -> DiagonalStepJacobian:
    ones = torch.ones(A.domain.shape, dtype=A.dtype, device=A.device)
    return DiagonalStepJacobian(ones, A.domain, name="I")
