"""The paths around the recurrent weights: what eligibility traces decay by."""

from __future__ import annotations

import torch

from kpframe import StepJacobian
from kpframe.errors import UnsupportedError
from kpframe.flow import DiagonalStepJacobian, MaskedStepJacobian

#: How far a leak may be from constant, in units of rounding.
ROUNDING = 8
#: How a model gets to know its weights and paths, for messages.
DECLARE = (
    "A cell knows them once its weights are declared: a class of kpframe.SiteModel with sites=(Site('W', "
    "'input', 'u'), Site('U', 'h', 'u')) and combine(u, h) -> {'h': (1 - a) * h['h'] + a * tanh(u['u'])} is "
    "a leaky network, and so is create_model('rnn', form='rate', alpha=a)"
)


def direct_path(A: StepJacobian, rule: str) -> StepJacobian:
    """Return ``A`` by its direct path only.

    Raises:
        UnsupportedError: for a model whose paths are not known apart; says which rule would do.
    """
    try:
        return A.direct()
    except UnsupportedError as error:
        raise UnsupportedError(
            f"{rule} needs the direct path of the step Jacobian, around the weights, which a model written "
            f"as a SiteModel knows; got {A!r} ({A.method} form). {DECLARE}. snap1 and truncated_bptt work on "
            "any model"
        ) from error


def decaying(values: torch.Tensor, A: StepJacobian, mask: torch.Tensor | None, name: str) -> StepJacobian:
    """Return decay by a factor for each state entry ``[H]``, cut where ``A`` is cut; padded steps hold."""
    if isinstance(A, MaskedStepJacobian):
        return decaying(values, A.inner, mask, name).masked(A.keep)
    factors = values.expand(A.domain.shape)
    if mask is not None:
        factors = factors.masked_fill(~mask.unsqueeze(-1), 1)
    return DiagonalStepJacobian(factors, A.domain, name=name)


def leaky_path(A: StepJacobian, mask: torch.Tensor | None, rule: str) -> StepJacobian:
    """Return the direct path of a leaky model: its leak, and what a step hands on between its stages.

    See ``constant_leak`` for arguments and errors.
    """
    leak = constant_leak(A, mask, rule)
    inner = _uncut(A)
    direct, around = direct_path(inner, rule), inner.pointwise()
    probe = _probe(leak)
    differ = A.domain.any(not torch.equal(direct(probe), around(probe)))
    return direct_path(A, rule) if differ else leak


def constant_leak(A: StepJacobian, mask: torch.Tensor | None, rule: str) -> StepJacobian:
    """Return the leak of a model, ``(1 - alpha) I`` or one constant for each state entry.

    Args:
        A: the model's step Jacobian, perhaps with cut steps.
        mask: bool ``[B, T]``, the trajectory's; a padded step holds the state.
        rule: who asks.

    Raises:
        UnsupportedError: where what goes around all weights varies along the trajectory or mixes state
            entries, and as ``direct_path``; says which rule would do.
    """
    inner = _uncut(A)
    direct_path(inner, rule)  # for its refusal
    around = inner.pointwise()
    leak = around.diagonal().values  # [B, T, H]
    valid = leak if mask is None or not bool(mask.any()) else leak[mask]
    valid = valid.reshape(-1, leak.shape[-1])
    low, high = -A.domain.max(-valid.amin(dim=0)), A.domain.max(valid.amax(dim=0))
    bound = ROUNDING * torch.finfo(leak.dtype).eps
    if bool((high - low > bound * high.abs().clamp(min=1)).any()):
        worst = int((high - low).argmax())
        raise UnsupportedError(
            f"{rule} needs a constant leak; here the direct path of state entry {worst} goes from "
            f"{float(low[worst]):.3g} to {float(high[worst]):.3g} along the trajectory. eprop takes the "
            "direct path as it is, snap1 the whole path from a unit to itself"
        )
    probe = _probe(A)
    if A.domain.any(bool((around(probe) - leak * probe).abs().max() > bound * probe.abs().max())):
        raise UnsupportedError(
            f"{rule} needs a constant leak; here the direct path leads from one component of the state to "
            "another. eprop takes the direct path as it is, snap1 the whole path from a unit to itself"
        )
    return decaying(high, A, mask, "leak")


def _uncut(A: StepJacobian) -> StepJacobian:
    while isinstance(A, MaskedStepJacobian):
        A = A.inner
    return A


def _probe(A: StepJacobian) -> torch.Tensor:  # [B, T, H]
    """Return a vector that is the same at every trial and step, with a number of its own for each entry."""
    hidden = A.domain.shape[-1]
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(hidden, generator=generator, dtype=torch.float64, device="cpu")
    return drawn.to(A.device, A.dtype).expand(A.domain.shape)
