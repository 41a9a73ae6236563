"""What any form of propagator satisfies, on the step Jacobians that it fits: P as a matrix, written out."""

from __future__ import annotations

import copy
import pickle

import torch
from hypothesis.strategies import integers, sampled_from

from kpframe.errors import KpframeError, UnsupportedError, say
from kpframe.flow._neural_tangent import neural_tangent
from kpframe.flow._propagator import Propagator
from kpframe.flow._step_jacobian import StepJacobian
from kpframe.operators import Operator
from kpframe.testing._forms import (
    STEPS,
    PropagatorCase,
    blocks_of,
    inverse_of,
    matrix,
    metric_of,
    shifted,
    step_jacobian,
    transition_of,
)
from kpframe.testing._identity import identity
from kpframe.testing._residual import CheckFailure, Residual, compare, contrast, require, worst
from kpframe.testing._sources import class_of, show
from kpframe.testing.identities import operators

_SOURCE = "docs/mathematics.md: identities, dynamics"
_OPERATORS = "docs/mathematics.md: identities, operators"
_CONTRACT = "docs/plugins.md: propagators"

#: Numbers of steps where one step would show nothing.
SEVERAL = integers(2, 4)

#: Powers of two, by which a product is scaled without rounding.
SCALES = (2.0**-100, 2.0**100)


def _both_sides(op: Operator, expected: torch.Tensor, what: str) -> Residual:
    """Return how far an operator and its adjoint are from a matrix."""
    return worst(
        compare(matrix(op), expected, what, spaces=(op.codomain, op.domain)),
        compare(matrix(op.T), expected.mT, f"{what}*", spaces=(op.domain, op.codomain)),
    )


def _larger(case: PropagatorCase) -> Residual | None:
    """Return how P differs from one a tenth larger."""
    P = matrix(case.P)
    return contrast(P, 1.1 * P)


@identity(
    "propagator", source=_CONTRACT, look="the spec's factory, called as factory(A, **settings)", gate=True
)
def propagator_builds(case: PropagatorCase) -> Residual:
    """The factory makes a Propagator of A, on the space of A, that says how it computes."""
    try:
        P = case.build()
        q = case.vector(P.domain)
        out = P(q)
    except KpframeError as error:
        if isinstance(error, CheckFailure):
            raise
        raise CheckFailure(f"{show(case.propagator)}: {say(error)}") from error
    require(isinstance(P.A, StepJacobian), f"P.A: expected the step Jacobian, got {type(P.A).__name__}")
    require(P.domain == P.codomain == P.A.domain, f"P: expected an operator on ({P.A.domain})")
    require(bool(P.method) and isinstance(P.method, str), f"P.method: expected a word, got {P.method!r}")
    require(isinstance(P.settings, dict), f"P.settings: expected a dictionary, got {P.settings!r}")
    require(out.shape == q.shape, f"P q: expected shape {list(q.shape)}, got {list(out.shape)}")
    return Residual(0.0)


@identity(
    "propagator",
    source=_SOURCE,
    look="_apply: (P q)_t = q_t + A_t (P q)_{t-1}, and A_0 is not used",
)
def products_equal_inverse(case: PropagatorCase) -> Residual:
    """``P`` is ``(I - A Z)^{-1}``, written out from single steps of A."""
    P = case.P
    return compare(matrix(P), inverse_of(case.blocks), "P", spaces=(P.domain, P.domain))


products_equal_inverse.differs(_larger)


@identity(
    "propagator",
    source=_SOURCE,
    look="_apply_adjoint: from the last step on, (P* r)_{t-1} = r_{t-1} + A_t* (P* r)_t",
)
def adjoint_products_equal_inverse(case: PropagatorCase) -> Residual:
    """``P*`` is the transpose of ``(I - A Z)^{-1}``."""
    P = case.P
    return compare(matrix(P.T), inverse_of(case.blocks).mT, "P*", spaces=(P.domain, P.domain))


@adjoint_products_equal_inverse.differs
def _negated(case: PropagatorCase) -> Residual | None:
    P = matrix(case.P.T)
    return contrast(P, -P)


@identity("propagator", source=_SOURCE, look="inverse: I - A Z with the A of this P, in one pass")
def inverse_is_exact(case: PropagatorCase) -> Residual:
    """``P.inverse`` is ``I - A Z``, and undoes P on both sides."""
    P = case.P
    AZ = shifted(case.blocks)
    written = torch.eye(len(AZ), dtype=AZ.dtype) - AZ
    p, eye = matrix(P), torch.eye(len(AZ), dtype=AZ.dtype)
    scale = float(p.norm() * written.norm())
    return worst(
        _both_sides(P.inverse, written, "P.inverse"),
        compare(matrix(P.inverse @ P), eye, "P.inverse P", scale=scale),
        compare(matrix(P @ P.inverse), eye, "P P.inverse", scale=scale),
    )


inverse_is_exact.differs(_larger)


@identity("propagator", source=_SOURCE, look="transition(t, s): A_t ... A_{s+1}, the latest step on the left")
def transitions_equal_products(case: PropagatorCase) -> Residual:
    """``P.transition(t, s)`` is the product of the steps after s up to t; from h0 on, A_0 comes in."""
    P, found = case.P, []
    for t in range(P.A.steps):
        for s in (None, *range(t + 1)):
            expected = transition_of(case.blocks, t, s)
            found.append(_both_sides(P.transition(t, s), expected, f"P.transition({t}, {s})"))
    return worst(*found)


@transitions_equal_products.differs
def _one_factor_too_few(case: PropagatorCase) -> Residual | None:
    nothing = matrix(case.P.transition(0, 0))
    return contrast(nothing, 0.9 * nothing)


@identity(
    "propagator",
    source="docs/mathematics.md: learning rules, truncation",
    look="truncated(window): the first terms of the Neumann series, window of them; all of P from T on",
)
def truncated_equals_series(case: PropagatorCase) -> Residual:
    """``P.truncated(k)`` is the sum of the first k powers of ``A Z``; from ``k = T`` on it is P."""
    P, AZ, found = case.P, shifted(case.blocks), []
    total = term = torch.eye(len(AZ), dtype=AZ.dtype)
    for window in range(1, P.A.steps + 2):
        found.append(_both_sides(P.truncated(window), total, f"P.truncated({window})"))
        term = AZ @ term
        total = total + term
    return worst(*found)


truncated_equals_series.differs(_larger)


@identity(
    "propagator",
    source="docs/mathematics.md: learning rules, truncation",
    look="chunked(length, offset): P.with_step(A.masked(...)), cut at the starts of chunks and not at step 0",
)
def chunked_equals_cut_steps(case: PropagatorCase) -> Residual:
    """``P.chunked(length, offset)`` is P with ``A_t = 0`` at the starts of chunks, in the same form."""
    P, found = case.P, []
    steps = P.A.steps
    for length in range(1, steps + 1):
        for offset in {0, length - 1}:
            blocks = case.blocks.clone()
            starts = [t for t in range(1, steps) if t % length == offset]
            blocks[:, starts] = 0
            cut = P.chunked(length, offset)
            found.append(_both_sides(cut, inverse_of(blocks), f"P.chunked({length}, {offset})"))
            _same_form(P, cut, f"P.chunked({length}, {offset})")
    return worst(*found)


chunked_equals_cut_steps.differs(_larger)


def _same_form(P: Propagator, other: object, what: str) -> None:
    """Require that a propagator with another A is of the form of P, where that fits its A."""
    require(isinstance(other, Propagator), f"{what}: expected a Propagator, got {type(other).__name__}")
    assert isinstance(other, Propagator)
    if type(P).fits(other.A) is None:
        require(
            type(other) is type(P),
            f"{what}: expected a {type(P).__name__}, which fits its A, got a {type(other).__name__}",
        )
        require(
            other.settings == P.settings, f"{what}: expected the settings {P.settings}, got {other.settings}"
        )


@identity(
    "propagator",
    source=_CONTRACT,
    look="settings, which with_step hands to the constructor, and what is kept of A beside P.A",
)
def with_step_keeps_the_form(case: PropagatorCase) -> Residual:
    """``P.with_step(B)`` is P of B, in the same form where that fits, else by the scan of B."""
    P, before = case.P, matrix(case.P)
    others = [case.A(1), case.A(2).masked(torch.arange(P.A.steps) % 2 == 0)]
    others += [step_jacobian(step, case.flow.problem) for step in ("dense", "diagonal")]
    found = []
    for i, B in enumerate(others):
        if B.domain != P.domain:  # drawn anew, a model may run for another number of steps
            continue
        made, what = P.with_step(B), f"P.with_step({B!r})"
        _same_form(P, made, what)
        require(made.A is B, f"{what}: its A is another")
        require(made.name == P.name, f"{what}: expected the name {P.name!r}, got {made.name!r}")
        found.append(_both_sides(made, inverse_of(blocks_of(B)), what))
        renamed = P.with_step(B, name=f"P_{i}")
        require(repr(renamed) == f"P_{i}", f"{what}: expected to print as 'P_{i}', got {renamed!r}")
    return worst(*found, compare(matrix(P), before, "P after with_step"))


with_step_keeps_the_form.differs(_larger)


@identity(
    "propagator",
    source="docs/mathematics.md: Phi = P K P* = G G*, G = dh/dtheta",
    look="neural_tangent.register, where the form has its own: it is P K P* of any K, also with a metric",
)
def neural_tangent_equals_three_products(case: PropagatorCase) -> Residual:
    """``neural_tangent(P, K)`` is ``P K P*``, for any form of K, and with a metric."""
    P, dense = case.P, inverse_of(case.blocks)
    problem, found = case.flow.problem, []
    kernels = [problem.flow.K, problem.twin.K]
    J = kernels[1].jacobian
    if J.domain.size:
        kernels.append(kernels[1].with_metric(metric_of("diagonal", J, case.flow.seed)))
    for K in kernels:
        written = matrix(K)
        scale = float(dense.norm()) ** 2 * float(written.norm())
        what = f"neural_tangent(P, {K!r}) ({K.method} form)"
        found.append(compare(matrix(neural_tangent(P, K)), dense @ written @ dense.mT, what, scale=scale))
    return worst(*found)


@neural_tangent_equals_three_products.differs
def _without_P(case: PropagatorCase) -> Residual | None:
    Phi = matrix(neural_tangent(case.P, case.flow.problem.flow.K))
    return contrast(Phi, 1.1 * Phi)


@identity(
    "propagator", source=_OPERATORS, look="indices counted from the front (q[0], dim=1): probes come first"
)
def probes_batched(case: PropagatorCase) -> Residual:
    """Probes carried through P and P* in one call equal the probes one by one."""
    return operators.probes(case.P, case.vector, "P")


@probes_batched.differs
def _probes_swapped(case: PropagatorCase) -> Residual | None:
    out = case.P(case.vector(case.P.domain, 3, (2,)))
    return contrast(out, out.flip(0))


@identity(
    "propagator",
    source=_OPERATORS,
    look="constants and thresholds in _apply: what is added, clamped or dropped",
)
def linear_at_every_scale(case: PropagatorCase) -> Residual:
    """P is linear, and as exact on tiny and huge vectors as on ordinary ones."""
    return worst(operators.linear(case.P, case.vector, "P"), *scaled(case.P, case.vector, "P"))


def scaled(op: Operator, vector: operators.Vectors, name: str) -> list[Residual]:
    """Return how far products of scaled vectors are from scaled products, on both sides."""
    found = []
    for side, label in ((op, name), (op.T, f"{name}*")):
        q = vector(side.domain, 7)
        for c in SCALES:
            found.append(compare(side(c * q) / c, side(q), f"{label}({c:.0e} q) / {c:.0e}"))
    return found


@linear_at_every_scale.differs
def _affine(case: PropagatorCase) -> Residual | None:
    q = case.vector(case.P.domain, 1)
    return contrast(case.P(2 * q), case.P(q))


@identity(
    "propagator", source=_OPERATORS, look="in-place operations in _apply, and products kept between calls"
)
def products_are_pure(case: PropagatorCase) -> Residual:
    """Products change no argument, return no view of one, and repeat."""
    return operators.pure(case.P, case.vector, "P")


@identity(
    "propagator",
    source="docs/mathematics.md: identities, dtype preserved",
    look="tensors made in the form: A.dtype",
)
def single_precision_kept(case: PropagatorCase) -> Residual:
    """P of a float32 A takes and gives float32, and agrees with float64."""
    P, single = case.P, case.build(torch.float32)
    require(single.dtype == torch.float32, f"P of a float32 A: expected torch.float32, got {single.dtype}")
    found = []
    for one, other, label in ((P, single, "P"), (P.T, single.T, "P*")):
        q = case.vector(P.domain, 6)
        out = other(q.float())
        require(out.dtype == torch.float32, f"{label} of a float32 vector: expected float32, got {out.dtype}")
        scale = float(matrix(P).norm() * q.norm())
        found.append(compare(out.double(), one(q), f"{label} in float32", tolerance=1e-3, scale=scale))
    return worst(*found)


@single_precision_kept.differs
def _doubled(case: PropagatorCase) -> Residual | None:
    out = case.P(case.vector(case.P.domain, 6))
    return contrast(2 * out, out)


@identity(
    "propagator",
    source=_CONTRACT,
    look="attributes that cannot be pickled: lambdas, local functions, graphs, open files",
)
def copies_are_alike(case: PropagatorCase) -> Residual:
    """A pickled and a deep copy of P, before and after a product, give its products."""
    P, q, found = case.build(), case.vector(case.P.domain, 5), []
    for when in ("before a product", "after one"):
        for how, other in (("pickled", pickle.loads(pickle.dumps(P))), ("deep", copy.deepcopy(P))):
            for side, own in ((other, P), (other.T, P.T)):
                found.append(compare(side(q), own(q), f"product of a {how} copy, {when}"))
    return worst(*found)


copies_are_alike.differs(_affine)


@identity(
    "propagator",
    source=_CONTRACT,
    look="fits(A): a classmethod; returns why the form cannot take A, or None where its products are right",
    step=sampled_from(STEPS),
)
def fits_is_honest(case: PropagatorCase) -> Residual:
    """Where ``fits`` gives a reason, building raises UnsupportedError; where it gives None, P is right."""
    A, cls = case.A(), class_of("propagator", case.propagator)
    try:
        P = case.make(A)
    except UnsupportedError as error:
        require(bool(str(error)), f"of {A!r}: it was refused without a reason")
        reason = cls.fits(A) if cls is not None and issubclass(cls, Propagator) else str(error)
        require(
            isinstance(reason, str) and bool(reason),
            f"of {A!r} ({A.method} form): it cannot be built, and fits() gives no reason: {error}",
        )
        return Residual(0.0)
    reason = type(P).fits(A)
    require(reason is None, f"of {A!r} ({A.method} form): it was built, and fits() says: {reason}")
    what = f"P of {A!r} ({A.method} form), which fits() takes"
    return _both_sides(P, inverse_of(blocks_of(A)), what)
