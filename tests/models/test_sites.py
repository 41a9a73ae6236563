"""Site models beyond the usual: shared weights, own initial states, several sites on one target."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from kpframe import Site, SiteModel, Stage, linearize
from kpframe.errors import ArgumentError


class Shared(SiteModel):
    """One weight at two sites and one bias at both; a second component that only listens."""

    def __init__(self, hidden: int = 3, **kwargs) -> None:
        sites = [
            Site("w", "h", ("u",), "b"),
            Site("w", "m", ("v",), "b", torch.tanh),
            Site("q", "h", ("v", "u"), None, torch.sin),
            Site("unused", "h", ("nobody",)),
        ]
        super().__init__(1, hidden, ("h", "m"), sites, **kwargs)
        self.w, self.b = nn.Parameter(torch.empty(hidden, hidden)), nn.Parameter(torch.empty(hidden))
        self.q, self.unused = (
            nn.Parameter(torch.empty(2 * hidden, hidden)),
            nn.Parameter(torch.empty(hidden, hidden)),
        )

    def combine(self, u, h, t=None):
        return {"h": torch.tanh(u["u"]) * h["m"], "m": 0.5 * h["m"] + torch.sigmoid(u["v"])}


class OwnStart(SiteModel):
    """An initial state that is a function of the trainable ``h0``."""

    def __init__(self) -> None:
        super().__init__(1, 3, ("h",), [Site("w", "h", ("u",))], trainable_initial_state=True)
        self.w = nn.Parameter(torch.empty(3, 3))

    def combine(self, u, h, t=None):
        return {"h": torch.tanh(u["u"])}

    def initial_state(self, batch):
        return torch.tanh(self.h0).expand(batch, -1)


class Constant(SiteModel):
    """A component that depends on nothing, and one that is passed on as it is."""

    def __init__(self) -> None:
        super().__init__(2, 3, ("one", "same", "h"), [Site("w", "input", ("u",))])
        self.w = nn.Parameter(torch.empty(3, 2))

    def combine(self, u, h, t=None):
        return {"one": torch.ones_like(h["h"]), "same": h["same"], "h": u["u"] * h["same"]}


def fill(lab, model):
    model.double()
    with torch.no_grad():
        for place, p in enumerate(model.parameters()):
            p.copy_(0.7 * lab.randn(place, *p.shape))
    return model


@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("make", [Shared, lambda: Shared(trainable_initial_state=True), OwnStart, Constant])
@pytest.mark.rows(4)
def test_structured_equals_autograd(lab, make, mask) -> None:
    model = fill(lab, make())
    data = lab.trials(model, h0=make is Constant, mask=mask)
    fast, twin = linearize(model, **data), linearize(model, **data, method="autograd")
    assert fast.A.method == "sites"
    for name in ("A", "J", "P", "K", "Phi"):
        lab.close(getattr(fast, name).to_dense(), getattr(twin, name).to_dense())
        lab.check_operator(getattr(fast, name))
    lab.close(fast.A.diagonal().values, twin.A.diagonal().values)
    lab.differ(fast.Phi.to_dense(), fast.K.to_dense()) if make is not Constant else None


def test_a_parameter_that_nothing_depends_on_has_no_kernel(lab) -> None:
    model = fill(lab, Shared())
    groups = linearize(model, **lab.trials(model)).K.groups()
    assert not groups["unused"].to_dense().any()
    assert groups["w"].to_dense().any()


def test_declarations_that_make_no_sense_are_refused() -> None:
    class Any(SiteModel):
        def combine(self, u, h, t=None):
            return h

    with pytest.raises(ArgumentError, match=r"site 'w': source: expected one of 'input', 'h', 'c', got 'm'"):
        Any(1, 2, ("h", "c"), [Site("w", "m", ("u",))])
    with pytest.raises(ArgumentError, match=r"site 'w': transform: expected None on the input"):
        Any(1, 2, ("h",), [Site("w", "input", ("u",), transform=torch.tanh)])
    with pytest.raises(ArgumentError, match=r"sites: expected at least one, got none"):
        Any(1, 2, ("h",), [])
    for sizes, argument in (((0, 2), "input_size"), ((1, 0), r"state\['h'\]"), ((1.5, 2), "input_size")):
        with pytest.raises(ArgumentError, match=rf"{argument}: expected a whole number >= 1, got"):
            Any(*sizes, ("h",), [Site("w", "h", ("u",))])
    with pytest.raises(ArgumentError, match="state: expected at least one component, got none"):
        Any(1, 2, (), [Site("w", "input", ("u",))])


def test_a_copy_shares_declarations_but_no_module_in_one() -> None:
    site = Site("w", "h", ("u",), transform=torch.tanh)
    stage = Stage(("h",), 3, (site,))
    assert copy.deepcopy(stage) is stage
    layer = torch.nn.Softplus()
    own = Stage(("h",), 3, (site, Site("v", "h", ("v",), transform=layer)), combine=layer.forward)
    copied = copy.deepcopy(own)
    assert copied.sites[0] is site
    assert copied.sites[1].transform is copied.combine.__self__ is not layer
