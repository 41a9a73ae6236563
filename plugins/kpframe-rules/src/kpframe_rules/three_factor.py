"""Three-factor Hebbian plasticity."""

from __future__ import annotations

import torch

from kpframe import LearningRule, Readout, Update
from kpframe.errors import UnsupportedError, mismatch
from kpframe.flow import ParameterJacobian
from kpframe.plugin import takes_settings
from kpframe_rules.leak import decaying, direct_path
from kpframe_rules.output_feedback import random_feedback
from kpframe_rules.specs_feedback import ThreeFactorSettings


class ThreeFactor(LearningRule):
    """A modulating error times an eligibility trace of local activity (Fremaux & Gerstner 2016)::

        e_ij(t) = lambda_i(t) e_ij(t-1) + f_i(t) z_j(t)          g_ij = Sum_t m_i(t) e_ij(t)

    Front. Neural Circuits 9:85, in discrete time; with errors as the third factor, Kusmierz, Isomura &
    Toyoizumi 2017, Curr. Opin. Neurobiol. 46:170. The three factors of the weight from j to i are what the
    synapse reads, ``z_j``, something of the neuron itself, ``f_i``, and a modulator ``m_i``.

    - ``z`` is what the weight site reads in the step (the input, the state before it, or its rate). A bias
      reads 1. **The gain** ``D = dh/du`` **is dropped**: J has ``z (x) I`` in the place of ``D (z (x) I)``,
      so neither the slope of a nonlinearity nor the gates enter, and the sign of a gain does not either. Each
      preactivation of a unit (the gates of a GRU) moves alike, unless the state has no gain to it at all.
    - ``post="none"``: ``f = 1``. ``post="state"``: f is the unit's new state, which makes it Hebbian.
    - ``trace=None``: lambda is the model's own direct path (a leak, a gate), ``P[direct]``. A number: that
      decay per step, ``P[lambda I]``; 0 keeps no trace.
    - ``modulator="error"``: ``m = W_out^T e``, the error as it is; ``"neuron"``: ``m = B^T e`` for a random B
      of ``feedback_alignment``; ``"global"``: one signal for all units that are read, ``m_i = b^T e``, with b
      the first column of that B.

    The update is linear in the error, whatever the activity. Where D is the identity (rectified units that
    are all active), ``trace=0`` is truncation to one step. A trainable initial state has a trace that
    begins with 1 at step 0 and decays in the same way.
    Needs a model written as a ``SiteModel`` of one stage. Cost: one scan without weight matrices, and one
    product with ``J*``.

    Raises:
        SettingsError: for unusable settings.
        UnsupportedError: when it is applied to a model without weight sites or of several stages, or without
            the readout that a random modulator needs.
    """

    @takes_settings(ThreeFactorSettings)
    def __init__(self, settings: ThreeFactorSettings) -> None:
        self.post, self.trace = settings.post, settings.trace
        self.modulator, self.seed = settings.modulator, settings.seed
        self.needs_readout = settings.modulator != "error"

    def change(self, update: Update) -> Update:
        """Return the update with the eligibility trace, without gains, and modulated."""
        mask = update.flow.trajectory.mask
        direct = direct_path(update.A, "three_factor")
        J = self._without_gains(update)
        if self.trace is None:
            A = direct
        else:
            rate = torch.full((J.codomain.shape[-1],), self.trace, dtype=J.dtype, device=J.device)
            A = decaying(rate, update.A, mask, f"{self.trace:g} I")
        update = update.replace(J=J).through(A, name="P[trace]")
        if self.modulator == "error":
            return update
        if update.readout is None:
            expected = (
                f"the readout that the error comes through, which modulator={self.modulator!r} replaces"
            )
            raise UnsupportedError(mismatch("readout", expected, None))
        return update.with_feedback(self._feedback(update.readout))

    def _without_gains(self, update: Update) -> ParameterJacobian:
        """Return ``J`` with 1, or the new state, in the place of its gains; padded steps have none."""
        flow = update.flow
        states, mask = flow.trajectory.states, flow.trajectory.mask
        post = states if self.post == "state" else torch.ones_like(states)
        if mask is not None:
            post = post * mask.unsqueeze(-1)
        try:
            return flow.J.with_gains(post, name="J[z]" if self.post == "none" else "J[z h]")
        except UnsupportedError as error:
            raise UnsupportedError(
                "three_factor needs the gains of a model written as a SiteModel of one stage, to drop them "
                f"({error}). eprop keeps the gains and takes any SiteModel, snap1 works on any model"
            ) from error

    def _feedback(self, readout: Readout) -> torch.Tensor:  # [O, H]
        B = random_feedback(readout, self.seed)
        if self.modulator == "neuron":
            return B
        same = torch.zeros_like(B)
        same[:, readout.hidden] = B[:, readout.hidden.start].unsqueeze(-1)
        return same

    def __repr__(self) -> str:
        own = f"post={self.post!r}, trace={self.trace}, modulator={self.modulator!r}"
        return f"ThreeFactor({own}, seed={self.seed})"
