"""What any linear operator satisfies: stated once, for the algebra and for the operators of a flow."""

from __future__ import annotations

from collections.abc import Callable

import torch

from kpframe.operators._base import Operator
from kpframe.operators._spaces import Space
from kpframe.testing._identity import identity
from kpframe.testing._residual import Residual, below, compare, contrast, require, worst
from kpframe.testing._trees import OperatorCase

_SOURCE = "docs/mathematics.md: identities, operators"
_LOOK = "_apply and _apply_adjoint of the outermost node that the case prints"

#: Draws a vector of a space: (space, salt, probes).
Vectors = Callable[..., torch.Tensor]


# -- the statements, for one operator -----------------------------------------------------------------------


def linear(op: Operator, vector: Vectors, name: str) -> Residual:
    """``op(2 q - p) = 2 op(q) - op(p)``, and ``op(0) = 0``."""
    q, p = vector(op.domain, 1), vector(op.domain, 2)
    first, second = op(q), op(p)
    scale = 2 * float(first.norm()) + float(second.norm())
    nothing = op(torch.zeros_like(q))
    require(not bool(nothing.any()), f"{name}(0): expected zero, got norm {float(nothing.norm()):.3g}")
    return compare(op(2 * q - p), 2 * first - second, f"{name}(2 q - p)", scale=scale, spaces=(op.codomain,))


def adjoint(op: Operator, vector: Vectors, name: str) -> Residual:
    """``<op q, r> = <q, op.T r>`` for every q and r, as one dense comparison."""
    forward, backward = op.to_dense(), op.T.to_dense()
    return compare(
        _products(op.T, backward),
        _products(op, forward).mT,
        f"{name}* as a matrix",
        spaces=(op.domain, op.codomain),
    )


def _products(op: Operator, dense: torch.Tensor) -> torch.Tensor:
    """Return the matrix of products with the basis, whichever side ``to_dense`` went by."""
    basis = torch.eye(op.domain.size, dtype=op.dtype).reshape(-1, *op.domain.shape)
    return op(basis).reshape(op.domain.size, -1).mT if op.domain.size else dense


def probes(op: Operator, vector: Vectors, name: str) -> Residual:
    """Probes carried in one batched call equal the probes one by one, for the operator and its adjoint."""
    found = []
    for side, label in ((op, name), (op.T, f"{name}*")):
        q = vector(side.domain, 3, (2, 2))
        out = side(q)
        one = torch.stack([torch.stack([side(v) for v in row]) for row in q])
        found.append(compare(out, one, f"{label} of probes [2, 2]", spaces=(side.codomain,)))
    return worst(*found)


def dense(op: Operator, vector: Vectors, name: str) -> Residual:
    """``to_dense`` times a vector is the product with the vector."""
    q = vector(op.domain, 4)
    expected = (op.to_dense() @ q.reshape(-1)).reshape(op.codomain.shape)
    return compare(op(q), expected, f"{name} against its to_dense", spaces=(op.codomain,))


def pure(op: Operator, vector: Vectors, name: str) -> Residual:
    """Products change no argument, hand back no alias, and come out the same twice."""
    for side, label in ((op, name), (op.T, f"{name}*")):
        q = vector(side.domain, 5)
        kept, out = q.clone(), side(q)
        require(torch.equal(q, kept), f"{label}: it changed its argument; work on a clone")
        first = out.clone()
        q.fill_(7.0)
        require(torch.equal(out, first), f"{label}: the product is a view of its argument; return a clone")
        out.fill_(9.0)
        again = side(kept)
        require(torch.equal(again, first), f"{label}: the same product came out differently the second time")
        require(not again.requires_grad, f"{label}: the product carries an autograd graph; detach")
    return Residual(0.0)


def tags(op: Operator, name: str) -> Residual:
    """An operator tagged self-adjoint or positive is."""
    if not (op.self_adjoint or op.positive):
        return Residual(0.0)
    matrix = op.to_dense()
    require(op.square, f"{name} is tagged {sorted(op.tags)} and maps ({op.domain}) to ({op.codomain})")
    found = compare(matrix, matrix.mT, f"{name}, tagged self-adjoint,", spaces=(op.codomain, op.domain))
    return worst(found, positive(matrix, f"{name}, tagged positive,")) if op.positive else found


def positive(matrix: torch.Tensor, what: str) -> Residual:
    """Return how negative the least eigenvalue of a matrix is, relative to its norm."""
    if not matrix.numel():
        return Residual(0.0)
    least = float(torch.linalg.eigvalsh((matrix + matrix.mT) / 2).min())
    value = below(least, 0.0) / max(float(matrix.norm()), 1e-12)
    return Residual(value, detail=f"{what} has the eigenvalue {least:.3g}: expected none below zero")


def _spaces_kept(op: Operator, name: str, q: torch.Tensor) -> None:
    out = op(q)
    require(
        tuple(out.shape) == op.codomain.shape and out.dtype == op.dtype,
        f"{name}: expected {op.dtype} [{op.codomain}], got {out.dtype} {list(out.shape)}",
    )


# -- the same, for the trees of the algebra -----------------------------------------------------------------


def _space_vector(case: OperatorCase) -> Vectors:
    def vector(space: Space, salt: int, probes: tuple[int, ...] = ()) -> torch.Tensor:
        return case.vector(space, salt, probes)

    return vector


@identity("operator", source=_SOURCE, look=_LOOK)
def linearity(case: OperatorCase) -> Residual:
    """An operator is linear, not affine."""
    op = case.build()
    return linear(op, _space_vector(case), repr(op))


@linearity.differs
def _affine(case: OperatorCase) -> Residual | None:
    op = case.build()
    q = case.vector(op.domain, 1)
    return contrast(op(2 * q), op(q))


@identity("operator", source=_SOURCE, look=_LOOK)
def adjoint_under_inner_product(case: OperatorCase) -> Residual:
    """``<A q, r> = <q, A* r>``."""
    op = case.build()
    return adjoint(op, _space_vector(case), repr(op))


@adjoint_under_inner_product.differs
def _negated(case: OperatorCase) -> Residual | None:
    matrix = case.build().to_dense()
    return contrast(matrix, -matrix)


@identity("operator", source=_SOURCE, look=_LOOK)
def probes_batched_equals_looped(case: OperatorCase) -> Residual:
    """Leading dimensions are carried through."""
    op = case.build()
    return probes(op, _space_vector(case), repr(op))


@probes_batched_equals_looped.differs
def _probes_swapped(case: OperatorCase) -> Residual | None:
    op = case.build()
    out = op(case.vector(op.domain, 3, (2,)))
    return contrast(out, out.flip(0))


@identity("operator", source=_SOURCE, look=_LOOK)
def to_dense_on_basis(case: OperatorCase) -> Residual:
    """``to_dense`` is the operator on a basis."""
    op = case.build()
    return dense(op, _space_vector(case), repr(op))


@to_dense_on_basis.differs
def _scaled(case: OperatorCase) -> Residual | None:
    op = case.build()
    out = op(case.vector(op.domain, 4))
    return contrast(1.5 * out, out)


@identity("operator", source=_SOURCE, look=_LOOK)
def adjoint_twice_is_the_operator(case: OperatorCase) -> Residual:
    """``A.T.T is A``, with the spaces exchanged in between."""
    op = case.build()
    require(op.T.T is op, f"{op!r}.T.T is another object")
    require((op.T.domain, op.T.codomain) == (op.codomain, op.domain), f"{op!r}.T maps between other spaces")
    require((op.T is op) == op.self_adjoint, f"{op!r}.T is the operator itself, and it is not self-adjoint")
    return Residual(0.0)


@identity("operator", source=_SOURCE, look="self_adjoint and positive of the outermost node")
def tags_are_true(case: OperatorCase) -> Residual:
    """What is tagged self-adjoint or positive is."""
    op = case.build()
    return tags(op, repr(op))


@identity("operator", source=_SOURCE, look=_LOOK)
def products_are_pure(case: OperatorCase) -> Residual:
    """No argument is changed or handed back; products repeat."""
    op = case.build()
    return pure(op, _space_vector(case), repr(op))


@identity("operator", source=_SOURCE, look=_LOOK)
def operator_dtype_kept(case: OperatorCase) -> Residual:
    """float32 stays float32 and agrees with float64."""
    op, single = case.build(), case.build(torch.float32)
    q = case.vector(op.domain, 6)
    for one, v in ((op, q), (single, q.float()), (op.T, op(q)), (single.T, op(q).float())):
        _spaces_kept(one, repr(one), v)
    scale = float(op.to_dense().norm() * q.norm())
    return compare(single(q.float()).double(), op(q), f"{op!r} in float32", tolerance=1e-3, scale=scale)
