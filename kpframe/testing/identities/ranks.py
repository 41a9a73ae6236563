"""What flows, rules and forms satisfy whose trials several ranks share: the figures of one process.

Each function yields figures; ``kpframe.testing._ranks.figures`` computes them on ranks and in this process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import torch

from kpframe.operators._base import Operator
from kpframe.operators._spaces import BATCH, TIME
from kpframe.spectra import trace
from kpframe.testing._identity import Identity, identity
from kpframe.testing._ranks.cases import RanksCase, View
from kpframe.testing._ranks.figures import Collectives, Figure, Figures, alone, exchanged, of_ranks
from kpframe.testing._residual import NotApplicable, Residual, require
from kpframe.testing.identities.rules import _error, _readout

_SOURCE = "docs/distributed.md: a flow on several ranks"
_SENT = "docs/distributed.md: what is sent"
_OWN = "docs/distributed.md: your own operators and rules"
_LOCAL = "what depends on how many trials there are, or on their places: each rank has some of them"
_SUMS = "sums over trials, which take the other ranks' by space.sum"

#: Operator products of an estimate; small ones are exact with fewer.
BUDGET = 12


#: Single numbers that a product may send: whether it is finite on all ranks, what is decided at the first.
SINGLE = 3

#: Kind and name -> what a check computes of a view.
_FIGURES: dict[tuple[str, str], Figures] = {}


def _checked(
    kind: str, look: str, *, source: str = _SOURCE, coupled: bool = True, gate: bool = False
) -> Callable[[Figures], Identity]:
    """Return a decorator that makes an identity of figures: those on ranks are those of one process.

    Its partner: ranks that exchange nothing, or, where they have nothing to exchange, trials on other ranks.
    """

    def make(figures: Figures) -> Identity:
        name = figures.__name__
        _FIGURES[kind, name] = figures
        sent = partial(_figures, kind, name)

        def function(case: RanksCase) -> Residual:
            return of_ranks(sent, case)

        function.__name__, function.__doc__ = name, figures.__doc__
        made = identity(f"{kind}_on_ranks", source=source, look=look, gate=gate)(function)
        made.differs(lambda case: (alone if coupled else exchanged)(sent, case))
        return made

    return make


def _figures(kind: str, name: str, view: View) -> Iterator[Figure]:
    """Return the figures of a check; ranks are sent this with its name."""
    return _FIGURES[kind, name](view)


def _products(view: View, name: str, op: Operator, salt: int = 0) -> Iterator[Figure]:
    """Yield both products of an operator with two vectors."""
    for what, one in ((name, op), (f"{name}*", op.T)):
        yield Figure(f"{what} q", one(view.vector(one.domain, salt, (2,))), one.codomain)


# -- models --------------------------------------------------------------------------------------------------


@_checked("model", f"rollout() and initial_state(): {_LOCAL}", coupled=False, gate=True)
def trajectory_on_ranks(view: View) -> Iterator[Figure]:
    """``linearize`` takes trials that ranks share, and rolls each out as in one process."""
    run, space = view.flow.trajectory, view.flow.P.domain
    yield Figure("the trajectory", run.states, space)
    yield Figure("the initial state", run.initial_state, space.without(TIME))
    yield Figure("the dimension of the states", torch.tensor(float(space.dimension)))


@_checked("model", f"propagator() and parameter_operator(): {_LOCAL}", coupled=False)
def local_products_on_ranks(view: View) -> Iterator[Figure]:
    """``A``, ``P`` and its inverse, their adjoints, and ``J`` act on each trial as in one process."""
    flow = view.flow
    yield from _products(view, "A", flow.A)
    yield from _products(view, "P", flow.P, 1)
    yield from _products(view, "P^-1", flow.P.inverse, 2)
    yield Figure("J q", flow.J(view.vector(flow.J.domain, 3)), flow.J.codomain)


@_checked("model", _SUMS)
def parameter_products_on_ranks(view: View) -> Iterator[Figure]:
    """``J*``, ``K``, ``G`` and ``K`` of one group of parameters are those of all trials."""
    flow = view.flow
    yield from _products(view, "J", flow.J)
    yield from _products(view, "K", flow.K, 1)
    yield from _products(view, "G", flow.G, 2)
    yield from _products(view, "K of one parameter", flow.K.restrict(flow.K.parameters[:1]), 3)


@_checked("model", _SUMS)
def phi_on_ranks(view: View) -> Iterator[Figure]:
    """``Phi`` is that of all trials, as is the product with ``P J`` of a flow on other trials."""
    flow = view.flow
    yield from _products(view, "Phi", flow.Phi)
    yield from _products(view, "P K", flow.P @ flow.K, 1)


@_checked("model", f"{_SUMS}; inner products and norms, which are those of the space")
def inner_products_on_ranks(view: View) -> Iterator[Figure]:
    """``<Phi q, r>``, ``<q, Phi* r>``, ``<J p, r>``, ``<p, J* r>`` and lengths are those of all trials."""
    flow = view.flow
    for name, op in (("Phi", flow.Phi), ("P", flow.P), ("J", flow.J)):
        domain, codomain = op.domain, op.codomain
        q, r = view.vector(domain, 1, (2,)), view.vector(codomain, 2, (2,))
        forth, back = op(q).reshape(2, -1), op.T(r).reshape(2, -1)
        yield Figure(f"<{name} q, r>", codomain.inner(forth, r.reshape(2, -1)))
        yield Figure(f"<q, {name}* r>", domain.inner(q.reshape(2, -1), back))
        yield Figure(f"|{name} q|", codomain.norms(forth))


@_checked("model", f"mean(), sum(), select() and partial_trace() of one's own; {_SUMS}")
def reductions_on_ranks(view: View) -> Iterator[Figure]:
    """Reductions over trials count those of all ranks: means, sums, selections, traces."""
    for name, op in (("Phi", view.flow.Phi), ("P", view.flow.P)):
        reduced = {
            "mean over batch": op.mean(BATCH),
            "sum over time": op.sum(TIME),
            "the last trial": op.select(**{BATCH: -1}),
            "the last trial as a list": op.select(**{BATCH: [-1]}),  # other ranks have none
            "partial trace over batch": op.partial_trace(BATCH),
            "blocks of batch": op.block_diagonal(BATCH),
        }
        for salt, (what, one) in enumerate(reduced.items()):
            yield from _products(view, f"{what} of {name}:", one, salt)


@_checked("model", "products that differ from one call to the next, or from rank to rank")
def estimate_on_ranks(view: View) -> Iterator[Figure]:
    """A trace that is estimated with the same generator is the same, of as many products."""
    found = trace(view.flow.Phi, budget=BUDGET, generator=torch.Generator().manual_seed(view.case.flow.seed))
    yield Figure("the trace of Phi", torch.tensor([found.value], dtype=torch.float64), tolerance=1e-9)
    yield Figure("its number of products", torch.tensor([float(found.num_matvecs)]))


# -- rules ---------------------------------------------------------------------------------------------------


@_checked(
    "rule", f"change() and gradient(): {_SUMS}; draws by trial, which go by its index among all", gate=True
)
def update_on_ranks(view: View) -> Iterator[Figure]:
    """The update of a rule is that of all trials, with the draws that one process makes."""
    rule, flow = view.rule, view.flow
    readout = _readout(rule, flow)
    err = _error(rule, flow, view.vector(flow.P.domain))
    gradient = rule.gradient(flow, err, readout)
    yield Figure(f"the update of {rule!r}", torch.cat([g.reshape(-1) for g in gradient.values()]))


@_checked("rule", f"change(): {_SUMS}; draws by trial, which go by its index among all")
def update_operators_on_ranks(view: View) -> Iterator[Figure]:
    """The update and the flow operator of a rule, and their adjoints, are those of all trials."""
    rule, flow = view.rule, view.flow
    if not rule.linear:
        raise NotApplicable("the rule is not linear in the error")
    readout = _readout(rule, flow)
    yield from _products(view, f"the update of {rule!r}:", rule.update_operator(flow, readout))
    yield from _products(view, f"the flow operator of {rule!r}:", rule.flow_operator(flow, readout), 1)


# -- forms ---------------------------------------------------------------------------------------------------


@_checked("propagator", f"_apply and _apply_adjoint: {_LOCAL}", coupled=False, gate=True)
def propagator_on_ranks(view: View) -> Iterator[Figure]:
    """``P`` of a form, and ``P*``, act on each trial as in one process."""
    yield from _products(view, "P", view.propagator)


@_checked("parameter_operator", f"_sandwich: {_SUMS} or by J's own adjoint", source=_OWN, gate=True)
def parameter_operator_on_ranks(view: View) -> Iterator[Figure]:
    """``K`` of a form, with any metric, and ``K*`` are those of all trials."""
    yield from _products(view, "K", view.parameter_operator)


# -- what is sent --------------------------------------------------------------------------------------------


def _sent(view: View, op: Operator, parameters: int) -> Iterator[Figure]:
    """Count what a product gives to the other ranks; raise ``CheckFailure`` for more than is to be.

    Args:
        view: of a rank, or of all trials in one process.
        op: the operator.
        parameters: how often as many numbers as there are parameters may go.
    """
    q = view.vector(op.domain)
    with Collectives() as counted:
        out = op(q)
    if view.group is not None:
        M = parameters * view.problem.flow.J.domain.size
        others = sorted({name for name, _ in counted.found if name != "allreduce"})
        given = sum(number for _, number in counted.found)
        large = sum(number for _, number in counted.found if number > 1)
        text = f"a product with {op!r}: expected one all-reduce of {M} numbers at most"
        require(not others, f"{text}, got {' and '.join(others)}: states are not to be gathered")
        require(large <= M, f"{text}, got {large} numbers in {len(counted.found)}")
        require(given - large <= SINGLE, f"{text} and {SINGLE} of one number, got {given - large} of these")
        require(given >= bool(M), f"{text}, got none")
    yield Figure(f"{op!r} q", out, op.codomain)


@_checked("model", "what is gathered; states stay where they are", source=_SENT)
def sent_on_ranks(view: View) -> Iterator[Figure]:
    """A product with ``K`` or ``Phi`` sends one sum over the parameters, one with ``A`` or ``P`` none."""
    flow = view.flow
    for op, parameters in ((flow.A, 0), (flow.P, 0), (flow.P.T, 0), (flow.K, 1), (flow.Phi, 1)):
        yield from _sent(view, op, parameters)


@_checked("propagator", "what is gathered; states stay where they are", source=_SENT, coupled=False)
def sent_by_propagator_on_ranks(view: View) -> Iterator[Figure]:
    """Products with ``P`` and ``P*`` of a form send nothing but whether they are finite."""
    yield from _sent(view, view.propagator, 0)
    yield from _sent(view, view.propagator.T, 0)


@_checked("parameter_operator", "what is gathered; states stay where they are", source=_SENT)
def sent_by_parameter_operator_on_ranks(view: View) -> Iterator[Figure]:
    """A product with ``K`` of a form sends one sum over the parameters."""
    yield from _sent(view, view.parameter_operator, 1)
