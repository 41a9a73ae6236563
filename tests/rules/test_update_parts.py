"""Other parts in an update: what is replaced, what stays, and what is refused."""

from __future__ import annotations

import pytest
import torch

from kpframe import IdentityOperator, Site, SiteModel, Update, linearize
from kpframe.errors import ArgumentError, SpaceMismatchError


class Rnn(SiteModel):
    """A tanh network."""

    def __init__(self) -> None:
        sites = [Site("w_in", "input", "u"), Site("w", "h", "u", "b")]
        super().__init__(2, 3, ("h",), sites)
        draw = torch.Generator().manual_seed(0)
        for name, shape in {"w_in": (3, 2), "w": (3, 3), "b": (3,)}.items():
            values = torch.randn(shape, generator=draw, dtype=torch.float64)
            setattr(self, name, torch.nn.Parameter(values))

    def combine(self, u, h, t=None):
        return {"h": torch.tanh(u["u"])}


def update(time: int = 4) -> Update:
    x = torch.randn(2, time, 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    return Update.exact(linearize(Rnn(), x))


def test_parts_that_are_given_are_replaced_and_others_stay() -> None:
    own = update()
    P, K, J = own.P.truncated(2), own.K.freeze(["b"]), 2.0 * own.J
    assert own.replace(P=P).P is P
    assert (own.replace(P=P).K, own.replace(P=P).J) == (own.K, own.J)
    made = own.replace(K=K, J=J)
    assert (made.P, made.K, made.J) == (own.P, K, J)
    r = torch.randn(own.P.domain.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    expected = 2 * K.metric(own.J.T(own.P.T(r)))
    assert float((made.back(r) - expected).norm()) <= 1e-12 * float(expected.norm())
    assert float((made.back(r) - own.back(r)).norm()) > 0.1 * float(expected.norm())
    assert own.replace() is own


@pytest.mark.parametrize(
    ("part", "value", "error", "message"),
    [
        ("P", 0.9, ArgumentError, "P: expected an operator, got"),
        ("K", lambda own: IdentityOperator.like(own.P), ArgumentError, "K: expected a parameter operator"),
        ("J", lambda own: own.J.T, SpaceMismatchError, r"J: expected an operator from .parameter=18"),
        ("P", lambda own: update(5).P, SpaceMismatchError, "P: expected an operator from .batch=2, time=4"),
    ],
)
def test_what_does_not_fit_is_refused(part, value, error, message) -> None:
    own = update()
    with pytest.raises(error, match=message):
        own.replace(**{part: value(own) if callable(value) else value})
    with pytest.raises(TypeError, match="unexpected keyword"):
        own.replace(readout=None)
