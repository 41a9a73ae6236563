"""Sign-symmetric feedback, through time and through the outputs."""

from __future__ import annotations

import torch

import kpframe
from kpframe.errors import UnsupportedError, mismatch
from kpframe.plugin import takes_settings
from kpframe_sign_symmetry import Settings

_INSTEAD = "feedback_alignment (of kpframe-rules), at the outputs alone, works on any model"


class SignSymmetry(kpframe.LearningRule):
    """Errors travel back through ``scale * sign(W)`` in the place of every weight W that they meet.

    Uniform sign-concordant feedback (Liao, Leibo & Poggio 2016, AAAI 30:1837, arXiv:1510.05067) in the
    network unrolled in time: ``P_rule = P[A']``, where A' has ``D_t scale sign(W)`` for the ``D_t W`` of A,
    gains and direct path as they are; and at the outputs ``scale sign(W_out)^T e`` for ``W_out^T e``. J is
    exact; in a step of several stages it passes on errors from stage to stage by the weights themselves. An
    entry that is zero sends nothing back. The signs are those of the weights along the given trajectory, so
    that they follow the weights in training. The paper's normalization of updates is left to the optimizer.

    Exact where all entries of each weight that are not zero have one size, and scale is that size or None.
    Needs a model written as a ``SiteModel``. Cost: that of backpropagation.

    The scale is one for all weights, or for each W the mean size of its entries that are not zero, for which
    ``scale sign(W)`` is nearest to W in the Frobenius norm.

    Raises:
        SettingsError: for a scale that is no finite number > 0.
        UnsupportedError: when it is applied to a model without recurrent weight sites; without a readout
            where ``readout`` is set.
    """

    @takes_settings(Settings)
    def __init__(self, settings: Settings) -> None:
        self.scale, self.readout = settings.scale, settings.readout
        self.needs_readout = settings.readout

    def change(self, update: kpframe.Update) -> kpframe.Update:
        """Return the update whose errors travel through signs."""
        signs = {name: self.signs(weight) for name, weight in recurrent_weights(update.flow.model).items()}
        update = update.through(update.A.replace(signs), name="P[sign W]")
        if not self.readout:
            return update
        if update.readout is None:
            expected = "the readout that the error comes through (readout=False goes without)"
            raise UnsupportedError(mismatch("readout", expected, None))
        return update.with_feedback(self.signs(update.readout.full_weight().detach()))

    def signs(self, weight: torch.Tensor) -> torch.Tensor:
        """Return ``scale * sign(W)``, of the shape of W."""
        signs = weight.sign()
        if self.scale is not None:
            return self.scale * signs
        return weight.abs().sum() / signs.abs().sum().clamp(min=1) * signs

    def __repr__(self) -> str:
        return f"SignSymmetry(scale={self.scale}, readout={self.readout})"


def recurrent_weights(model: object) -> dict[str, torch.Tensor]:
    """Return the matrices that errors meet on the way back in time, by name, detached.

    Raises:
        UnsupportedError: for a model that has none, or does not know them.
    """
    if not isinstance(model, kpframe.SiteModel):
        expected = "a SiteModel, which knows its weights apart from its gains"
        raise UnsupportedError(
            f"sign_symmetry: {mismatch('model', expected, type(model).__name__)}. "
            f"Declare its weights as sites; {_INSTEAD}"
        )
    names = dict.fromkeys(site.weight for site in model.sites if site.recurrent and site.weight is not None)
    if not names:
        expected = "at least one weight site that reads the state"
        raise UnsupportedError(f"sign_symmetry: {mismatch('model', expected, 'none')}; {_INSTEAD}")
    with torch.no_grad():
        return {name: model.site_weight(name) for name in names}
