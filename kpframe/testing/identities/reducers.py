"""What any reducer satisfies: it is linear in the operator, keeps adjoints, positivity and dtype."""

from __future__ import annotations

import torch

from kpframe.errors import KpframeError, say
from kpframe.operators import Operator
from kpframe.operators._spaces import Space
from kpframe.testing._cases import MaskCase, ReducerCase, TensorCase
from kpframe.testing._identity import identity
from kpframe.testing._residual import CheckFailure, NotApplicable, Residual, compare, contrast, require, worst
from kpframe.testing._sources import show
from kpframe.testing._values import values
from kpframe.testing.identities import operators

_SOURCE = "docs/mathematics.md: identities, reductions"


def _vector(case: ReducerCase) -> operators.Vectors:
    def vector(space: Space, salt: int = 0, probes: tuple[int, ...] = ()) -> torch.Tensor:
        return values((*probes, *space.shape), case.seed + 1000 + salt)

    return vector


@identity(
    "reducer",
    source="docs/plugins.md: rules, reducers and tasks",
    look="the spec's factory, its settings, and reduce(), which returns an Operator",
    gate=True,
)
def reducer_builds(case: ReducerCase) -> Residual:
    """The factory exists, takes its settings and returns a Reducer that makes operators of operators."""
    try:
        reduced = case.build()(case.operator())
    except KpframeError as error:
        raise (
            error if isinstance(error, CheckFailure) else CheckFailure(f"{show(case.reducer)}: {say(error)}")
        ) from error
    require(
        isinstance(reduced, Operator),
        f"{show(case.reducer)}: expected an Operator, got {type(reduced).__name__}",
    )
    q = _vector(case)(reduced.domain)
    require(
        tuple(reduced(q).shape) == reduced.codomain.shape,
        f"{show(case.reducer)}: a product must lie in ({reduced.codomain}), got {list(reduced(q).shape)}",
    )
    return Residual(0.0)


@identity(
    "reducer",
    source=_SOURCE,
    look="reduce(): what it multiplies together or looks at beyond the operator's products",
)
def linear_in_operator(case: ReducerCase) -> Residual:
    """Reducing ``2 A - B`` is twice the reduced A minus the reduced B."""
    reduce, A, B = case.build(), case.operator(), case.operator(1)
    expected = 2 * reduce(A).to_dense() - reduce(B).to_dense()
    scale = 2 * float(reduce(A).to_dense().norm()) + float(reduce(B).to_dense().norm())
    return compare(reduce(2 * A - B).to_dense(), expected, "reduction of 2 A - B", scale=scale)


@linear_in_operator.differs
def _affine(case: ReducerCase) -> Residual | None:
    dense = case.build()(case.operator()).to_dense()
    return contrast(2 * dense, dense)


@identity(
    "reducer",
    source=_SOURCE,
    look="the reduced operator's _apply_adjoint, and a reduction that treats its two sides differently",
)
def reduction_commutes_with_adjoint(case: ReducerCase) -> Residual:
    """The reduction of ``A*`` is the adjoint of the reduction of A, which passes the adjoint test."""
    reduce, A = case.build(), case.operator()
    return worst(
        compare(reduce(A.T).to_dense(), reduce(A).to_dense().mT, "reduction of A*"),
        operators.adjoint(reduce(A), _vector(case), "reduced operator"),
    )


@reduction_commutes_with_adjoint.differs
def _negated(case: ReducerCase) -> Residual | None:
    dense = case.build()(case.operator()).to_dense()
    return contrast(dense, -dense)


@identity(
    "reducer",
    source=_SOURCE,
    look="a reduction whose two sides differ: R op S* is not positive where R op R* is",
)
def reduction_keeps_positivity(case: ReducerCase) -> Residual:
    """A positive operator stays positive, and the tags of what comes out are true."""
    A = case.operator()
    reduced = case.build()(A @ A.T)
    return worst(
        operators.positive(reduced.to_dense(), "reduction of A A*"),
        operators.tags(reduced, "reduction of A A*"),
    )


@reduction_keeps_positivity.differs
def _negative(case: ReducerCase) -> Residual | None:
    A = case.operator()
    dense = case.build()(A @ A.T).to_dense()
    return None if float(dense.norm()) < 1e-3 else operators.positive(-dense, "-A A*")


@identity(
    "reducer",
    source="docs/mathematics.md: identities, operators",
    look="the reduced operator's _apply: constants, indices counted from the front, aliases",
)
def reduced_is_an_operator(case: ReducerCase) -> Residual:
    """What comes out is linear, carries probes, equals its dense form and is pure."""
    reduced, vector = case.build()(case.operator()), _vector(case)
    statements = (operators.linear, operators.probes, operators.dense, operators.pure)
    return worst(*(statement(reduced, vector, "reduced operator") for statement in statements))


@reduced_is_an_operator.differs
def _doubled(case: ReducerCase) -> Residual | None:
    reduced = case.build()(case.operator())
    q = _vector(case)(reduced.domain, 1)
    return contrast(reduced(2 * q), reduced(q))


@identity(
    "reducer",
    source="docs/mathematics.md: identities, dtype preserved",
    look="tensors the reducer makes: give them operator.dtype",
)
def reducer_dtype_kept(case: ReducerCase) -> Residual:
    """A float32 operator reduces to a float32 one."""
    if any(isinstance(value, TensorCase) for value in case.settings.values()):
        raise NotApplicable("the reducer holds a float64 tensor of its own")
    reduced = case.build()(case.operator(dtype=torch.float32))
    require(
        reduced.dtype == torch.float32,
        f"reduction of a float32 operator: expected torch.float32, got {reduced.dtype}",
    )
    out = reduced(_vector(case)(reduced.domain).float())
    require(out.dtype == torch.float32, f"product of it: expected torch.float32, got {out.dtype}")
    return Residual(0.0)


@identity(
    "reducer",
    source="docs/mathematics.md: conventions, averages",
    look="an average goes over both copies of the axis, a trace over equal indices of both",
)
def reduction_equals_its_formula(case: ReducerCase) -> Residual:
    """The core's reducers equal their formulas, written out on the dense matrix."""
    expected = _written_out(case)
    reduced = case.build()(case.operator()).to_dense()
    scale = float(case.operator().to_dense().norm())
    return compare(reduced, expected.reshape(reduced.shape), f"{show(case.reducer)} of A", scale=scale)


@reduction_equals_its_formula.differs
def _one_copy(case: ReducerCase) -> Residual | None:
    dense = _written_out(case)
    return contrast(2 * dense, dense)


def _written_out(case: ReducerCase) -> torch.Tensor:
    """Return the reduced matrix by tensor contractions, for the core's names."""
    n = case.batch, case.time, case.hidden
    names, A = ("batch", "time", "hidden"), case.operator().to_dense().reshape(*n, *n)
    name, settings = case.reducer, case.settings
    places = [names.index(axis) for axis in settings.get("axes", ())]
    if name in ("mean", "sum"):
        both = [*places, *(p + 3 for p in places)]
        return A.mean(both) if name == "mean" else A.sum(both)
    if name in ("partial_trace", "block_diagonal"):
        equal = torch.ones(*n, *n, dtype=A.dtype)
        for p in places:
            shape = [1] * 6
            shape[p] = shape[p + 3] = n[p]
            equal = equal * torch.eye(n[p], dtype=A.dtype).reshape(shape)
        kept = A * equal
        return kept if name == "block_diagonal" else kept.sum([*places, *(p + 3 for p in places)])
    R = _left_map(case)
    if R is None:
        raise NotApplicable("no formula is written down for this reducer")
    size = case.space.size
    return R @ A.reshape(size, size) @ R.mT


def _left_map(case: ReducerCase) -> torch.Tensor | None:
    """Return the matrix R of a congruence ``R A R*`` of the core, None for another reducer."""
    eyes = [torch.eye(n, dtype=torch.float64) for n in (case.batch, case.time, case.hidden)]
    settings = case.settings
    if case.reducer == "bin":
        window = torch.arange(case.time) // settings["time"]
        rows = (window == torch.arange(int(window.max()) + 1).unsqueeze(1)).double()
        eyes[1] = rows / rows.sum(1, keepdim=True)
    elif case.reducer == "select":
        eyes[1] = eyes[1][settings["time"]].reshape(-1, case.time)
    elif case.reducer == "project" and isinstance(settings["directions"], TensorCase):
        eyes[2] = settings["directions"].build()
    elif case.reducer == "last_valid" and isinstance(settings["mask"], MaskCase):
        whole = torch.kron(torch.kron(eyes[0], eyes[1]), eyes[2])
        whole = whole.reshape(case.batch, case.time, case.hidden, -1)
        last = torch.tensor(list(settings["mask"].lengths)) - 1
        return whole[torch.arange(case.batch), last].reshape(case.batch * case.hidden, -1)
    else:
        return None
    return torch.kron(torch.kron(eyes[0], eyes[1]), eyes[2])
