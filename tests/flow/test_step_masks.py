"""What rules cut out of A or put in its place, entry by entry against the dense blocks."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from kpframe import Site, SiteModel, Stage, StepJacobian, linearize
from kpframe.errors import (
    ArgumentError,
    DtypeError,
    MemoryBudgetError,
    ShapeError,
    SpaceMismatchError,
    UnsupportedError,
)
from kpframe.flow._propagator import ScanPropagator
from kpframe.flow._step_jacobian import DenseStepJacobian, DiagonalStepJacobian, SumStepJacobian
from kpframe.operators import SumOperator


class Stacked(SiteModel):
    """A leaky layer with a slow variable below another layer; they reach each other through weights only."""

    def __init__(self) -> None:
        low = Stage(("a", "s"), 3, (Site("w_in", "input", "u"), Site("w_a", "a", "u")), combine="low")
        high = Stage("b", 3, (Site("w_up", "a'", "v"), Site("w_b", "b", "v", transform=torch.tanh)), "high")
        super().__init__(2, components=("a", "b", "s"), stages=(low, high))
        for k, (name, width) in enumerate({"w_in": 2, "w_a": 3, "w_up": 3, "w_b": 3}.items()):
            generator = torch.Generator().manual_seed(k)
            setattr(self, name, nn.Parameter(torch.randn(3, width, generator=generator, dtype=torch.float64)))

    def low(self, u, h, t=None):
        return {"a": torch.tanh(u["u"] - h["s"]), "s": 0.9 * h["s"] + 0.1 * h["a"]}

    def high(self, u, h, t=None):
        return {"b": 0.5 * h["b"] + torch.tanh(u["v"])}


def flow_of(lab, toy: str, method: str = "auto", mask: bool = True):
    model = Stacked() if toy == "stacked" else lab.make(toy, seed=3)
    return linearize(model, **lab.trials(model, h0=True, mask=mask), method=method)


def off_units(blocks: torch.Tensor, units: list[int]) -> torch.Tensor:
    """Return blocks with zeros between units, by a loop over pairs of entries."""
    out = blocks.clone()
    for i, one in enumerate(units):
        for j, other in enumerate(units):
            if one != other:
                out[..., i, j] = 0
    return out


UNITS = {"lstm": [0, 1, 2, 0, 1, 2], "LSTMCell": [0, 1, 2, 0, 1, 2], "plain": [0, 1, 2], "gru": [0, 1, 2]}


@pytest.mark.parametrize("method", ["auto", "autograd"])
@pytest.mark.parametrize("toy", ["rnn", "leaky current", "clocked", "extra", *UNITS])
@pytest.mark.rows(4)
def test_unit_blocks(lab, toy, method) -> None:
    A = flow_of(lab, toy, method).A
    units = UNITS.get(toy, [0, 1, 2])
    kept = A.unit_blocks()
    assert A.units.tolist() == kept.units.tolist() == units
    lab.check_operator(kept)
    lab.close(kept.blocks(), off_units(A.blocks(), units))
    lab.differ(kept.blocks(), A.blocks())
    if len(set(units)) < len(units):
        lab.differ(kept.blocks(), A.diagonal().blocks())
    v = lab.randn(5, 2, *A.domain.without("time").shape)
    for t in range(A.steps):
        lab.close(kept.step(t, v), (kept.blocks()[:, t] @ v.unsqueeze(-1)).squeeze(-1))
        lab.close(kept.step_adjoint(t, v), (kept.blocks()[:, t].mT @ v.unsqueeze(-1)).squeeze(-1))
    lab.check_operator(ScanPropagator(kept))


def test_unit_blocks_of_one_stage_are_pointwise(lab) -> None:
    assert isinstance(flow_of(lab, "gru").A.unit_blocks(), DiagonalStepJacobian)
    lstm = flow_of(lab, "lstm").A.unit_blocks()
    assert lstm.method == "sites"
    assert not lstm.gains.sites
    assert repr(lstm) == "A[units]"


def test_units_are_what_pointwise_functions_connect(lab) -> None:
    A = flow_of(lab, "stacked").A
    units = [0, 1, 2, 3, 4, 5, 0, 1, 2]  # a, b, s
    assert A.units.tolist() == units
    lab.check_operator(A.unit_blocks())
    lab.close(A.unit_blocks().blocks(), off_units(A.blocks(), units))
    twin = flow_of(lab, "stacked", "dense").A
    assert twin.units.tolist() == [0, 1, 2] * 3  # all that widths say
    lab.differ(twin.unit_blocks().blocks(), A.unit_blocks().blocks())


@pytest.mark.parametrize("method", ["auto", "autograd", "dense"])
@pytest.mark.parametrize("toy", ["gru", "lstm", "stacked", "LSTMCell"])
@pytest.mark.rows(4)
def test_where_keeps_a_pattern(lab, toy, method) -> None:
    A = flow_of(lab, toy, method).A
    hidden = A.domain.shape[2]
    blocks = A.blocks()
    for seed, share in enumerate((0.0, 0.3, 0.8, 1.0)):
        pattern = torch.rand(hidden, hidden, generator=torch.Generator().manual_seed(seed)) < share
        pattern[1] = False  # an empty row
        pattern[:, 2] = False
        kept = A.where(pattern)
        lab.check_operator(kept)
        lab.close(kept.blocks(), blocks * pattern)
        assert repr(kept) == "A[pattern]"
        v = lab.randn(5, 2, 2, hidden)
        for t in range(A.steps):
            lab.close(kept.step(t, v), ((blocks * pattern)[:, t] @ v.unsqueeze(-1)).squeeze(-1))
            lab.close(kept.step_adjoint(t, v), ((blocks * pattern)[:, t].mT @ v.unsqueeze(-1)).squeeze(-1))
        if share:
            lab.differ(kept.blocks(), blocks * pattern.mT)
    lab.close(A.where(torch.ones(hidden, hidden, dtype=torch.bool)).blocks(), blocks)


def test_multiples_and_sums_are_step_jacobians(lab) -> None:
    A = flow_of(lab, "lstm").A
    dense, diagonal = A.blocks(), torch.diag_embed(A.diagonal().values)
    for made, expected, formula in (
        (A - A.diagonal(), dense - diagonal, "A - diag(A)"),
        (0.5 * A, dense / 2, "0.5 A"),
        (-A, -dense, "-A"),
        (A / 4 + A.direct() + A.unit_blocks(), None, "0.25 A + A[direct] + A[units]"),
        (2.0 * (A - A.diagonal()), 2 * (dense - diagonal), "2 (A - diag(A))"),
    ):
        assert isinstance(made, StepJacobian)
        assert repr(made) == formula
        lab.check_operator(made)
        assert made.units.tolist() == A.units.tolist()
        if expected is not None:
            lab.close(made.blocks(), expected)
            lab.differ(made.blocks(), dense)
        v = lab.randn(5, 2, *A.domain.without("time").shape)
        for t in range(A.steps):
            lab.close(made.step(t, v), (made.blocks()[:, t] @ v.unsqueeze(-1)).squeeze(-1))
            lab.close(made.step_adjoint(t, v), (made.blocks()[:, t].mT @ v.unsqueeze(-1)).squeeze(-1))
    P = ScanPropagator(0.5 * A)
    lab.close((P.inverse @ P).to_dense(), torch.eye(P.domain.size, dtype=torch.float64))
    assert (A.diagonal() + 2.0 * A.diagonal()).self_adjoint
    assert not (A + A.diagonal()).self_adjoint


def test_sums_with_other_operators_are_plain(lab) -> None:
    flow = flow_of(lab, "gru")
    mixed = flow.A + flow.P
    assert isinstance(mixed, SumOperator)
    assert not isinstance(mixed, SumStepJacobian)
    assert not isinstance(lab.randn(1, 3) * flow.A, StepJacobian)
    with pytest.raises(SpaceMismatchError, match=r"A \+ A"):
        flow.A + flow_of(lab, "lstm").A


@pytest.mark.parametrize("shape", [(4,), (2, 4)])
def test_switched_takes_another_at_some_steps(lab, shape) -> None:
    A = flow_of(lab, "lstm").A
    other = A.unit_blocks()
    at = lab.randn(8, *shape) > 0
    assert at.any()
    assert not at.all()
    made = A.switched(other, at)
    chosen = at.expand(2, 4)[..., None, None]
    expected = torch.where(chosen, other.blocks(), A.blocks())
    lab.check_operator(made)
    lab.close(made.blocks(), expected)
    lab.differ(made.blocks(), torch.where(chosen, A.blocks(), other.blocks()))
    assert repr(made) == "A|A[units]"
    v = lab.randn(5, 2, *A.domain.without("time").shape)
    for t in range(A.steps):
        lab.close(made.step(t, v), (expected[:, t] @ v.unsqueeze(-1)).squeeze(-1))
        lab.close(made.step_adjoint(t, v), (expected[:, t].mT @ v.unsqueeze(-1)).squeeze(-1))
    lab.close(made.direct().blocks(), torch.where(chosen, other.direct().blocks(), A.direct().blocks()))
    at.fill_(True)
    lab.close(made.blocks(), expected)  # the mask was copied


def test_what_is_cut_out_of_a_masked_one(lab) -> None:
    flow = flow_of(lab, "lstm")
    A, keep = flow.A, torch.tensor([True, False, True, True])
    zero = keep[None, :, None, None]
    masked = A.masked(keep)
    pattern = lab.randn(2, 6, 6) > 0
    other = {"weight_hh": lab.randn(9, 12, 3)}
    for name, arguments in {
        "unit_blocks": (),
        "diagonal": (),
        "direct": (),
        "where": (pattern,),
        "cut": (["f"],),
        "replace": (other,),
    }.items():
        own = getattr(A, name)(*arguments).blocks()
        lab.close(getattr(masked, name)(*arguments).blocks(), zero * own)
        lab.differ(getattr(masked, name)(*arguments).blocks(), own)
    assert masked.units.tolist() == A.units.tolist()


def gru_with(lab, model, x, h, stopped: set[str]) -> torch.Tensor:
    """Return ``dh'/dh`` ``[N, H, H]`` of a GRU whose gates in ``stopped`` read ``h.detach()``."""
    out = []
    for row, start in zip(x, h, strict=True):

        def step(h: torch.Tensor, row=row) -> torch.Tensor:
            source = {gate: h.detach() if gate in stopped else h for gate in ("r", "z", "nh")}
            weights = model.weight_hh.detach().chunk(3)
            bias = model.bias_hh.detach().chunk(3)
            fed = (model.weight_ih.detach() @ row + model.bias_ih.detach()).chunk(3)
            u = {g: w @ source[g] + b for g, w, b in zip(source, weights, bias, strict=True)}
            r, z = torch.sigmoid(fed[0] + u["r"]), torch.sigmoid(fed[1] + u["z"])
            n = torch.tanh(fed[2] + r * u["nh"])
            return (1 - z) * n + z * (h.detach() if "direct" in stopped else h)

        out.append(torch.autograd.functional.jacobian(step, start))
    return torch.stack(out)


@pytest.mark.parametrize(
    "paths", [["r"], ["z"], ["nh"], ["r", "z"], ["direct"], ["weight_hh"], ["?"], ["direct", "n*"], ["*"]]
)
def test_cut_is_detach_in_that_one_product(lab, paths) -> None:
    flow = flow_of(lab, "gru", mask=False)
    run = flow.trajectory
    stopped = {"weight_hh": {"r", "z", "nh"}, "?": {"r", "z"}, "n*": {"nh"}, "*": {"r", "z", "nh", "direct"}}
    chosen = set().union(*(stopped.get(path, {path}) for path in paths))
    rows = [
        gru_with(lab, flow.model, run.inputs[:, t], run.previous[:, t], chosen) for t in range(flow.A.steps)
    ]
    A = flow.A.cut(paths)
    lab.check_operator(A)
    lab.close(A.blocks(), torch.stack(rows, dim=1))
    lab.differ(A.blocks(), flow.A.blocks())
    if paths == ["weight_hh"]:
        lab.close(A.blocks(), flow.A.direct().blocks())


def test_cut_where_a_step_has_stages(lab) -> None:
    A = flow_of(lab, "stacked", mask=False).A
    assert A.paths == ("u", "v", "w_a", "w_up", "w_b", "direct")
    blocks = A.blocks()
    a, b = slice(0, 3), slice(3, 6)
    cut = A.cut(["w_up"]).blocks()
    assert not cut[..., b, a].any()
    lab.close(cut[..., b, b], blocks[..., b, b])
    lab.close(A.cut(["w_a", "w_b"]).blocks(), A.direct().blocks())
    lab.close(A.cut(["w_a", "w_up", "w_b"]).blocks(), A.pointwise().blocks())
    lab.differ(A.direct().blocks(), A.pointwise().blocks())
    lab.close(A.cut(["w_up", "direct"]).blocks(), cut - A.pointwise().blocks())
    lab.close(A.cut(["direct"]).blocks(), blocks - A.direct().blocks())
    lab.check_operator(A.cut(["direct", "v"]))
    assert A.cut([]).blocks().equal(blocks)


def test_refusals(lab) -> None:
    A = flow_of(lab, "gru").A
    on = torch.ones(3, 3, dtype=torch.bool)
    with pytest.raises(ShapeError, match=r"pattern: expected shape \[hidden=3, hidden=3\], got \[2, 3\]"):
        A.where(on[:2])
    with pytest.raises(DtypeError, match=r"pattern: expected dtype torch\.bool, got torch\.float32"):
        A.where(on.float())
    with pytest.raises(MemoryBudgetError, match=r"entries of A: expected a matrix within max_bytes=100"):
        A.where(on, max_bytes=100)
    with pytest.raises(ShapeError, match=r"at: expected shape \[time=4\] or \[batch=2, time=4\], got \[3\]"):
        A.switched(A, on[0])
    with pytest.raises(ShapeError, match="other: expected a step Jacobian on"):
        A.switched(flow_of(lab, "lstm").A, torch.ones(4, dtype=torch.bool))
    with pytest.raises(
        ArgumentError,
        match=r"paths: expected names among 'r', 'z', 'nh', 'weight_hh', 'direct', got 'weight_h'",
    ):
        A.cut(["weight_h"])
    with pytest.raises(ArgumentError, match=r"paths: expected a list such as \['z'\], got 'z'"):
        A.cut("z")
    dense = DenseStepJacobian(A.blocks(), A.domain)
    for name, arguments in {"direct": (), "cut": (["z"],), "replace": ({},)}.items():
        with pytest.raises(UnsupportedError, match=r"A \(dense form\) does not know its .*SiteModel"):
            getattr(dense, name)(*arguments)
