"""What any form of parameter operator satisfies, on the J that it fits: K = J M J*, written out."""

from __future__ import annotations

import copy
import pickle

import torch
from hypothesis.strategies import just, sampled_from

from kpframe.errors import KpframeError, UnsupportedError, say
from kpframe.flow._parameter_jacobian import ParameterJacobian
from kpframe.flow._parameter_operator import ParameterOperator
from kpframe.testing._forms import JACOBIANS, METRICS, ParameterOperatorCase, matrix, metric_of
from kpframe.testing._identity import identity
from kpframe.testing._residual import CheckFailure, Residual, compare, contrast, require, worst
from kpframe.testing._sources import class_of, show
from kpframe.testing.identities import operators
from kpframe.testing.identities.propagators import scaled

_SOURCE = "docs/mathematics.md: identities, flow"
_OPERATORS = "docs/mathematics.md: identities, operators"
_CONTRACT = "docs/plugins.md: parameter operators"


def _written(case: ParameterOperatorCase) -> tuple[torch.Tensor, float]:
    """Return ``J M J*`` as a matrix, and the norm of what is added up in it."""
    J, M = case.matrix, matrix(case.M)
    return J @ M @ J.mT, float(J.norm()) ** 2 * float(torch.linalg.matrix_norm(M, 2))


def _larger(case: ParameterOperatorCase) -> Residual | None:
    """Return how K differs from one a tenth larger."""
    K = matrix(case.K_M)
    return contrast(K, 1.1 * K)


@identity(
    "parameter_operator",
    source=_CONTRACT,
    look="the spec's factory, called as factory(J, **settings)",
    gate=True,
)
def parameter_operator_builds(case: ParameterOperatorCase) -> Residual:
    """The factory makes a ParameterOperator of J, on the space of the states, that says how it computes."""
    try:
        K = case.build()
        q = case.vector(K.domain)
        out = K(q)
    except KpframeError as error:
        if isinstance(error, CheckFailure):
            raise
        raise CheckFailure(f"{show(case.parameter_operator)}: {say(error)}") from error
    J = K.jacobian
    require(isinstance(J, ParameterJacobian), f"K.jacobian: expected J, got {type(J).__name__}")
    require(K.domain == K.codomain == J.codomain, f"K: expected an operator on ({J.codomain})")
    require(bool(K.method) and isinstance(K.method, str), f"K.method: expected a word, got {K.method!r}")
    require(isinstance(K.settings, dict), f"K.settings: expected a dictionary, got {K.settings!r}")
    require(out.shape == q.shape, f"K q: expected shape {list(q.shape)}, got {list(out.shape)}")
    return Residual(0.0)


@identity(
    "parameter_operator",
    source=_SOURCE,
    look="_sandwich: J metric J*, for the metric it is given, and what is left out for zeros or added twice",
)
def products_equal_JMJ(case: ParameterOperatorCase) -> Residual:
    """``K`` is ``J M J*`` of any metric M, written out."""
    expected, scale = _written(case)
    K = case.K_M
    what = f"K with the metric {case.M!r} ({case.metric})"
    return compare(matrix(K), expected, what, scale=scale, spaces=(K.domain, K.domain))


products_equal_JMJ.differs(_larger)


@identity(
    "parameter_operator",
    source=_SOURCE,
    look="_sandwich of the adjoint, which is given the metric's adjoint",
    metric=sampled_from(("general", "identity", "diagonal")),
)
def adjoint_products_equal_JMJ(case: ParameterOperatorCase) -> Residual:
    """``K*`` is ``J M* J*``, also of a metric that is not self-adjoint."""
    expected, scale = _written(case)
    what = f"K* with the metric {case.M!r} ({case.metric})"
    return compare(matrix(case.K_M.T), expected.mT, what, scale=scale)


@adjoint_products_equal_JMJ.differs
def _negated(case: ParameterOperatorCase) -> Residual | None:
    K = matrix(case.K_M.T)
    return contrast(K, -K)


@identity(
    "parameter_operator",
    source=_SOURCE,
    look="self_adjoint and positive, which are those of the metric",
)
def tags_of_K_are_true(case: ParameterOperatorCase) -> Residual:
    """K is self-adjoint and positive where it is tagged, and tagged where its metric is."""
    K, M = case.K_M, case.M
    for tag in ("self_adjoint", "positive"):
        of_K, of_M = getattr(K, tag), getattr(M, tag)
        require(of_K or not of_M, f"K.{tag}: expected True, as its metric {M!r} is, got {of_K}")
    return operators.tags(K, f"K with the metric {M!r}")


@tags_of_K_are_true.differs
def _negative(case: ParameterOperatorCase) -> Residual | None:
    K = matrix(case.K)
    return None if float(K.norm()) < 1e-3 else operators.positive(-K, "-K")


@identity(
    "parameter_operator",
    source=_SOURCE,
    look="restrict(), freeze() and groups(): what a product leaves out for the parameters that are frozen",
    metric=just("identity"),
)
def groups_add_up(case: ParameterOperatorCase) -> Residual:
    """K of each parameter is ``J_g J_g*``; they add up to K, and freezing some leaves the others."""
    K, J = case.K, case.matrix
    parts = K.jacobian.domain.axes[0].parts
    groups = K.groups()
    names = [part.name for part in parts]
    require(list(groups) == names, f"K.groups(): expected {names}, got {list(groups)}")
    whole, found = float(J.norm()) ** 2, []
    for part in parts:
        own = J[:, part.slice]
        expected = own @ own.mT
        only, rest = K.restrict([part.name]), K.freeze([part.name])
        found.append(compare(matrix(groups[part.name]), expected, f"K.groups()[{part.name!r}]", scale=whole))
        found.append(compare(matrix(only), expected, f"K.restrict([{part.name!r}])", scale=whole))
        found.append(compare(matrix(rest), J @ J.mT - expected, f"K.freeze([{part.name!r}])", scale=whole))
        require(only.parameters == (part.name,), f"K.restrict([{part.name!r}]).parameters: {only.parameters}")
        again = rest.freeze(["*"])
        found.append(compare(matrix(again), torch.zeros_like(expected), "K, all frozen", scale=whole))
    total = torch.stack([matrix(group) for group in groups.values()]).sum(0)
    found.append(compare(total, J @ J.mT, "sum of K.groups()", scale=whole))
    return worst(*found)


@groups_add_up.differs
def _without_the_largest(case: ParameterOperatorCase) -> Residual | None:
    whole = matrix(case.K)
    largest = max((matrix(group) for group in case.K.groups().values()), key=lambda g: float(g.norm()))
    return contrast(whole - largest, whole)


@identity(
    "parameter_operator",
    source=_CONTRACT,
    look="settings, which with_metric hands to the constructor, and what is kept of M beside K.metric",
)
def with_metric_keeps_the_form(case: ParameterOperatorCase) -> Residual:
    """``K.with_metric(M)`` is of the form of K; with parameters S that learn it is ``J S M S J*``."""
    K, J, before = case.K, case.matrix, matrix(case.K)
    made = K.with_metric(case.M, name="K_2")
    part = K.jacobian.domain.axes[0].parts[0]
    kept = made.restrict([part.name])
    for other, what in ((made, "K.with_metric(M)"), (kept, "K.with_metric(M).restrict(...)")):
        require(
            isinstance(other, ParameterOperator) and type(other) is type(K),
            f"{what}: expected a {type(K).__name__}, got a {type(other).__name__}",
        )
        require(other.settings == K.settings, f"{what}: expected the settings {K.settings}")
        require(other.jacobian is K.jacobian, f"{what}: its J is another")
    require(made.metric is case.M, "K.with_metric(M): its metric is another")
    require(repr(made) == "K_2", f"K.with_metric(M, name='K_2'): it prints as {made!r}")
    own, M = J[:, part.slice], matrix(case.M)
    inner = M if case.metric != "projector" else torch.eye(len(M), dtype=M.dtype)
    if case.metric == "projector" and part.name not in made.parameters:
        inner = torch.zeros_like(M)
    expected = own @ inner[part.slice, part.slice] @ own.mT
    whole = float(J.norm()) ** 2 * max(1.0, float(M.norm()))
    other = K.with_metric(metric_of("diagonal", K.jacobian, case.flow.seed + 1))
    back = other.with_metric(case.M)
    return worst(
        compare(matrix(kept), expected, "K.with_metric(M).restrict(...)", scale=whole),
        compare(matrix(back), _written(case)[0], "K.with_metric(M_2).with_metric(M)", scale=whole),
        compare(matrix(K), before, "K after with_metric", scale=whole),
    )


with_metric_keeps_the_form.differs(_larger)


@identity(
    "parameter_operator",
    source=_OPERATORS,
    look="indices counted from the front (q[0], dim=1): probes come first",
)
def probes_batched(case: ParameterOperatorCase) -> Residual:
    """Probes carried through K and K* in one call equal the probes one by one."""
    return operators.probes(case.K_M, case.vector, "K")


@probes_batched.differs
def _probes_swapped(case: ParameterOperatorCase) -> Residual | None:
    out = case.K_M(case.vector(case.K.domain, 3, (2,)))
    return contrast(out, out.flip(0))


@identity(
    "parameter_operator",
    source=_OPERATORS,
    look="constants and thresholds in _sandwich: what is added, clamped or dropped",
)
def linear_at_every_scale(case: ParameterOperatorCase) -> Residual:
    """K is linear, and as exact on tiny and huge vectors as on ordinary ones."""
    K = case.K_M
    return worst(operators.linear(K, case.vector, "K"), *scaled(K, case.vector, "K"))


@linear_at_every_scale.differs
def _affine(case: ParameterOperatorCase) -> Residual | None:
    K, q = case.K_M, case.vector(case.K.domain, 1)
    return contrast(K(2 * q), K(q))


@identity(
    "parameter_operator",
    source=_OPERATORS,
    look="in-place operations in _sandwich, and products kept between calls",
)
def products_are_pure(case: ParameterOperatorCase) -> Residual:
    """Products change no argument, return no view of one, and repeat."""
    return operators.pure(case.K_M, case.vector, "K")


@identity(
    "parameter_operator",
    source="docs/mathematics.md: identities, dtype preserved",
    look="tensors made in the form: J.dtype",
)
def single_precision_kept(case: ParameterOperatorCase) -> Residual:
    """K of a float32 J takes and gives float32, and agrees with float64."""
    K, single = case.K, case.build(torch.float32)
    require(single.dtype == torch.float32, f"K of a float32 J: expected torch.float32, got {single.dtype}")
    q = case.vector(K.domain, 6)
    out = single(q.float())
    require(out.dtype == torch.float32, f"K of a float32 vector: expected torch.float32, got {out.dtype}")
    scale = float(case.matrix.norm()) ** 2 * float(q.norm())
    return compare(out.double(), K(q), "K in float32", tolerance=1e-3, scale=scale, floor=1.0)


@single_precision_kept.differs
def _doubled(case: ParameterOperatorCase) -> Residual | None:
    out = case.K(case.vector(case.K.domain, 6))
    return contrast(2 * out, out)


@identity(
    "parameter_operator",
    source=_CONTRACT,
    look="attributes that cannot be pickled: lambdas, local functions, graphs, open files",
)
def copies_are_alike(case: ParameterOperatorCase) -> Residual:
    """A pickled and a deep copy of K, before and after a product, give its products."""
    K, found = case.build().with_metric(case.M), []
    q = case.vector(K.domain, 5)
    for when in ("before a product", "after one"):
        for how, other in (("pickled", pickle.loads(pickle.dumps(K))), ("deep", copy.deepcopy(K))):
            found.append(compare(other(q), K(q), f"product of a {how} copy, {when}"))
    return worst(*found)


copies_are_alike.differs(_affine)


@identity(
    "parameter_operator",
    source=_CONTRACT,
    look="fits(J): a classmethod; returns why the form cannot take J, or None where its products are right",
    jacobian=sampled_from(JACOBIANS),
    metric=sampled_from(METRICS),
)
def fits_is_honest(case: ParameterOperatorCase) -> Residual:
    """Where ``fits`` gives a reason, building raises UnsupportedError; where it gives None, K is right."""
    J, cls = case.J(), class_of("parameter_operator", case.parameter_operator)
    try:
        K = case.make(J)
    except UnsupportedError as error:
        require(bool(str(error)), f"of {J!r}: it was refused without a reason")
        reason = cls.fits(J) if cls is not None and issubclass(cls, ParameterOperator) else str(error)
        require(
            isinstance(reason, str) and bool(reason),
            f"of {J!r} ({J.method} form): it cannot be built, and fits() gives no reason: {error}",
        )
        return Residual(0.0)
    reason = type(K).fits(J)
    require(reason is None, f"of {J!r} ({J.method} form): it was built, and fits() says: {reason}")
    dense = matrix(J)
    expected = dense @ dense.mT
    return compare(matrix(K), expected, f"K of {J!r} ({J.method} form), which fits() takes")
