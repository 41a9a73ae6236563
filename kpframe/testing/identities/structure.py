"""Structured operators equal their autograd twins, and have the structure that they claim."""

from __future__ import annotations

import torch

from kpframe.models._model import Model
from kpframe.models._sites.model import SiteModel
from kpframe.operators._base import Operator
from kpframe.testing._cases import FlowCase
from kpframe.testing._identity import Identity, identity
from kpframe.testing._residual import NotApplicable, Residual, compare, contrast

_SOURCE = "docs/mathematics.md: weight sites"
_SITES = (
    "combine() must act unit by unit (no sum over units), and every parameter that step() reads is at a site"
)


def _dense(case: FlowCase, name: str) -> tuple[Operator, Operator]:
    model = type(case.problem.model)
    override = "propagator" if name in "AP" else "parameter_operator"
    if getattr(model, override) is getattr(Model, override):
        raise NotApplicable(f"the model has no {override}() of its own")
    return getattr(case.problem.flow, name), getattr(case.problem.twin, name)


def _make(name: str, look: str) -> Identity:
    def structured(case: FlowCase) -> Residual:
        own, twin = _dense(case, name)
        if name == "J" and not own.domain.size:
            raise NotApplicable("the model has no trainable parameter")
        hint = f" ({_SITES})" if isinstance(case.problem.model, SiteModel) else ""
        return compare(
            own.to_dense(), twin.to_dense(), f"structured {name}{hint}", spaces=(own.codomain, own.domain)
        )

    structured.__name__ = f"structured_equals_autograd_{name}"
    structured.__doc__ = f"The model's own {name} equals the one that automatic differentiation derives."
    made = identity("model", source=_SOURCE, look=look)(structured)

    @made.differs
    def _scaled(case: FlowCase) -> Residual | None:
        dense = _dense(case, name)[0].to_dense()
        return contrast(1.1 * dense, dense)

    return made


structured_equals_autograd_A = _make("A", f"propagator(); in a SiteModel: {_SITES}")
structured_equals_autograd_J = _make("J", f"parameter_operator(); in a SiteModel: {_SITES}")
structured_equals_autograd_P = _make("P", "propagator(), where it returns its own scan")
structured_equals_autograd_K = _make(
    "K", "parameter_operator(): the Gram form of K, with one term for each bias vector that trains"
)


def _blocks(case: FlowCase) -> tuple[torch.Tensor, torch.Tensor]:
    """Return K by automatic differentiation, and the label of the block that each of its rows lies in."""
    flow = case.problem.flow
    labels = flow.K.block_labels()
    if labels is None:
        raise NotApplicable("K names no blocks")
    return case.problem.twin.K.to_dense(), labels.cpu().repeat(flow.K.domain.size // len(labels))


@identity(
    "model",
    source=_SOURCE,
    look="K.block_labels: no parameter may act on entries of two labels; None is always right",
)
def K_keeps_its_blocks(case: FlowCase) -> Residual:
    """K has no entry between the blocks that ``K.block_labels()`` names."""
    dense, labels = _blocks(case)
    within = dense * (labels[:, None] == labels).to(dense)
    space = case.problem.space
    return compare(within, dense, "K within its blocks against K", spaces=(space, space))


@K_keeps_its_blocks.differs
def _without_the_heaviest_block(case: FlowCase) -> Residual | None:
    dense, labels = _blocks(case)
    heaviest = labels[dense.norm(dim=1).argmax()]
    return contrast(dense * (labels != heaviest).to(dense), dense)
