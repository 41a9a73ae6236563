"""What must not change a figure: contexts around a call, copies, shared parameters, the scale of a vector."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from itertools import combinations

import torch

from kpframe.errors import ArgumentError, NonFiniteError, UnsupportedError
from kpframe.flow._flow import Flow
from kpframe.models._linearize import linearize
from kpframe.models._model import Model
from kpframe.operators._base import Operator
from kpframe.spectra import effective_rank
from kpframe.testing._cases import FlowCase
from kpframe.testing._identity import identity
from kpframe.testing._problem import Problem
from kpframe.testing._residual import NotApplicable, Residual, compare, contrast, worst
from kpframe.testing._surroundings import SURROUNDINGS
from kpframe.testing.identities.products import flow_operators, needs_parameters

_SOURCE = "docs/trust.md"

#: Powers of two by which vectors are scaled: products that only multiply and add scale by them exactly.
_SCALES = {torch.float64: (2.0**-400, 2.0**300), torch.float32: (2.0**-80, 2.0**60)}

Figures = dict[str, torch.Tensor]


def _reader(problem: Problem) -> Callable[[Flow], Figures]:
    """Return a function that takes off a flow what people read: ``Phi q`` and the gradient ``J* P* r``.

    They go through all of A, J, P and K; where there is nothing to learn it is ``P q`` and ``P* r``.
    """
    q, r = (problem.vector(problem.space, salt) for salt in (11, 12))
    if not problem.model.trainable():
        return lambda flow: {"P q": flow.P(q), "P* r": flow.P.T(r)}
    return lambda flow: {"Phi q": flow.Phi(q), "J* P* r": flow.J.T(flow.P.T(r))}


def _linearize(problem: Problem) -> Flow:
    return linearize(problem.model, problem.x, problem.h0, problem.mask)


def _same(found: Figures, wanted: Figures, when: str) -> Residual:
    return worst(*(compare(found[name].clone(), wanted[name], f"{name} {when}") for name in wanted))


def _lost_graph(case: FlowCase) -> Residual | None:
    """Return how far the figures are from zero, which is what a lost graph gives."""
    figures = _reader(case.problem)(case.problem.flow)
    found = [contrast(value, torch.zeros_like(value)) for value in figures.values()]
    return next((residual for residual in found if residual is not None), None)


# -- contexts ------------------------------------------------------------------------------------------------


@identity(
    "model",
    source=_SOURCE,
    look="what propagator() and parameter_operator() return: tensors that they make without dtype= and "
    "device=, and what they keep from the first product on",
)
def surroundings_change_nothing(case: FlowCase) -> Residual:
    """A flow made or used inside ``torch.inference_mode``, autocast and the like gives the usual figures."""
    problem = case.problem
    read = _reader(problem)
    wanted = read(problem.flow)
    outside, found = _linearize(problem), []
    for name, context in SURROUNDINGS.items():
        with context():
            made = _linearize(problem)
            inside = read(made)
            used = read(outside)
        found.append(_same(inside, wanted, f"of a flow made and used inside {name}"))
        found.append(_same(used, wanted, f"of a flow used inside {name}"))
        found.append(_same(read(made), wanted, f"of a flow made inside {name}, used outside"))
    found.append(_same(read(outside), wanted, f"of a flow that was used inside {', '.join(SURROUNDINGS)}"))
    return worst(*found)


surroundings_change_nothing.differs(_lost_graph)


# -- copies --------------------------------------------------------------------------------------------------


@identity(
    "model",
    source=_SOURCE,
    look="attributes of the model's own operators that cannot be pickled, or that __getstate__ leaves out "
    "and nothing makes again: graphs, hooks, weak references, functions defined inside others",
)
def copies_give_the_same(case: FlowCase) -> Residual:
    """A flow that was used gives the same figures after ``copy.deepcopy`` and a round trip by pickle."""
    problem = case.problem
    read = _reader(problem)
    wanted = read(problem.flow)
    found = [_same(read(copy.deepcopy(problem.flow)), wanted, "of a deep copy")]
    if _importable(problem.model):
        unpickled = pickle.loads(pickle.dumps(problem.flow))
        found.append(_same(read(unpickled), wanted, "of a flow that was pickled"))
    return worst(*found)


copies_give_the_same.differs(_lost_graph)


def _importable(model: Model) -> bool:
    """Whether pickle finds the classes of a model by name: those defined inside a function it does not."""
    try:
        pickle.dumps(model)
    except (pickle.PicklingError, AttributeError, TypeError):
        return False
    return True


# -- shared parameters ---------------------------------------------------------------------------------------


def _tied(case: FlowCase) -> Problem:
    """Return the case's problem with one parameter of its model in the place of another of the same shape."""
    model = case.build_model()
    named = list(model.named_parameters())
    pairs = [
        (first, second)
        for (first, p), (second, q) in combinations(named, 2)
        if p.requires_grad and q.requires_grad and p.shape == q.shape
    ]
    if not pairs:
        raise NotApplicable("no two parameters of the model have the same shape")
    first, second = pairs[case.seed % len(pairs)]
    owner, _, attribute = second.rpartition(".")
    setattr(model.get_submodule(owner), attribute, dict(named)[first])
    problem = case.problem
    return Problem(model, problem.x, problem.h0, problem.mask, problem.seed)


@identity(
    "model",
    source=_SOURCE,
    look="parameter_operator(): one parameter at two places moves both; parameters are known by identity, "
    "not by name (named_parameters() names a shared one once)",
)
def shared_parameters_are_one(case: FlowCase) -> Residual:
    """With two parameters of one shape made one, Phi equals ``G G*`` of the roll-out by autograd."""
    problem = _tied(case)
    try:
        flow = problem.flow
    except NonFiniteError:
        raise  # drawn again
    except (UnsupportedError, ArgumentError) as refusal:
        raise NotApplicable(f"shared parameters are refused: {refusal}") from refusal
    expected = problem.G @ problem.G.mT
    return compare(flow.Phi.to_dense(), expected, "Phi with a shared parameter", spaces=(problem.space,) * 2)


@shared_parameters_are_one.differs
def _counted_as_two(case: FlowCase) -> Residual | None:
    problem = _tied(case)
    G = problem.G
    return contrast(G @ G.mT, 2 * G @ G.mT)


# -- scale ---------------------------------------------------------------------------------------------------


def _scaled(op: Operator, problem: Problem, what: str, tolerance: float) -> list[Residual]:
    q = problem.vector(op.domain, 13).to(op.dtype)
    wanted = op(q)
    found = []
    for scale in _SCALES[op.dtype]:
        left = op(q * scale) / scale
        found.append(compare(left, wanted, f"{what}(c q) / c with c = {scale:.0e}", tolerance=tolerance))
    return found


@identity(
    "model",
    source=_SOURCE,
    look="constants that are compared with entries of the argument (eps, clamp, isclose), and squares or "
    "norms of it inside products of A, P, J or K",
)
def products_know_no_scale(case: FlowCase) -> Residual:
    """``op(c q) = c op(q)`` for c from 1e-120 to 1e90 in float64 and 1e-24 to 1e18 in float32."""
    found = []
    for problem, tolerance in ((case.problem, 1e-9), (case.single(), 1e-4)):
        if problem.x.dtype == torch.float64 or case.kind == "normal":
            for name, op in flow_operators(problem).items():
                found += _scaled(op, problem, name, tolerance)
    return worst(*found)


@products_know_no_scale.differs
def _unscaled(case: FlowCase) -> Residual | None:
    P, q = case.problem.flow.P, case.problem.vector(case.problem.space)
    return contrast(P(2 * q), P(q))


@identity(
    "model",
    source=_SOURCE,
    look="products of the model's own K and P; the estimators themselves are tested apart",
)
def ranks_know_no_scale(case: FlowCase) -> Residual:
    """The effective rank of ``c Phi`` is that of ``Phi`` for c from 1e-180 to 1e180.

    Where Phi itself is small or large, as of saturated units, c goes as far as ``c Phi`` can be held.
    """
    needs_parameters(case.problem)
    Phi = case.problem.flow.Phi
    dense = Phi.to_dense()
    largest = float(dense.abs().max()) or 1.0
    dense = dense / largest
    size = float(dense.square().sum())
    wanted = float(dense.trace()) ** 2 / size if size else 0.0
    scales = (2.0**-600 / min(largest, 1.0), 1.0, 2.0**600 / max(largest, 1.0))
    ranks = [effective_rank(c * Phi, budget=Phi.domain.size).value for c in scales]
    return compare(torch.tensor(ranks).double(), torch.full((3,), wanted).double(), "rank of c Phi")


@ranks_know_no_scale.differs
def _rank_of_nothing(case: FlowCase) -> Residual | None:
    Phi = case.problem.flow.Phi
    rank = effective_rank(Phi, budget=Phi.domain.size).value
    return contrast(torch.tensor([rank]).double(), torch.zeros(1).double())
