"""Settings with which the modulations are known to grow without bound."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING

import torch

from kpframe.errors import StabilityWarning

if TYPE_CHECKING:
    from kpframe_mpn.model import MPN

#: By rule and phi: between which bounds the loop through a neuron stays bounded; others have no such loop.
LOOPS = {
    ("hebbian", "identity"): (-1.0, 1.0),
    ("hebbian", "relu"): (-float("inf"), 1.0),
    ("oja", "identity"): (-1.0, 3.0),
}
REMEDY = "lower |eta|, or take a bounded nonlinearity or a normalization"


def warn_if_unstable(model: MPN) -> None:
    """Issue a ``StabilityWarning`` where M grows without bound at the initial rates and weights.

    A normalised M cannot grow. Otherwise:

    - lambda >= 1, or trained in a range that reaches beyond 1: M is not forgotten. Oja's second term forgets
      in its place, so there only lambda > 1 counts.
    - Activity and modulation feed each other where phi is not bounded. Under a constant input x, M of a
      neuron runs along x, ``M = a x``, and its length obeys ``a' = r a + const`` with
      ``r = lambda + Sum_j eta_j x_j^2`` (multiplicative: ``eta_j W_j`` for ``eta_j``), which grows for
      |r| > 1; with Oja's rule ``a' = r a - c a^3``, which overshoots for r > 3 and grows for r < -1. The
      size of the input is not known here: ``x_j^2`` is taken as 1.

    No warning is no promise: larger inputs, the constant, or training may pass the bounds. A roll-out that
    leaves the finite numbers is refused by ``linearize``, with step, trial and component.
    """
    unknown = model.normalization != "none" or model.weight_ih_l0.is_meta  # on meta there are no values
    reason = "" if unknown else _forgets_nothing(model) or _feeds_itself(model)
    if reason:
        warnings.warn(f"MPN: {reason}", StabilityWarning, stacklevel=4)


def _forgets_nothing(model: MPN) -> str:
    top = float(torch.as_tensor(model.lam()).detach().max())
    if top > 1 or (top == 1 and model.rule != "oja"):
        return f"lam = {top:g}: the modulations M do not decay, and grow without bound; take lam < 1"
    if model.lam.trained and model.lam.range.high > 1:
        return f"lam_max = {model.lam.range.high:g}: lambda may train to where M does not decay; take 1"
    return ""


def _feeds_itself(model: MPN) -> str:
    weight = model.weight_ih_l0.detach()
    lam, eta = (torch.as_tensor(rate()).detach().expand_as(weight) for rate in (model.lam, model.eta))
    low, high = LOOPS.get((model.rule, model.nonlinearity), (-float("inf"), float("inf")))
    loop = lam.amin(dim=1) + (eta * weight if model.form == "multiplicative" else eta).sum(dim=1)
    beyond = torch.maximum(loop - high, low - loop)
    if float(beyond.max()) > 0:
        neuron = int(beyond.argmax())
        return (
            f"with constant inputs of unit size, M of neuron {neuron} is multiplied by "
            f"{float(loop[neuron]):.3g} a step, and {model.nonlinearity} does not bound it; {REMEDY}"
        )
    return ""
