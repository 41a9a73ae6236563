"""Operators with tags that their author knows and nothing can prove, and the test of what is declared."""

from __future__ import annotations

import torch

from kpframe.errors import ArgumentError, mismatch
from kpframe.operators._base import Operator, SelfAdjointOperator, declare
from kpframe.operators._draws import trial_generators
from kpframe.operators._scale import divided, unit_of
from kpframe.operators._spaces import BATCH

#: Dimensions up to which a declaration is tested on the matrix: from products, and where it is at hand.
PRODUCTS, MATRIX = 64, 1024

#: Random vectors of a test, and Lanczos steps from the first that look for a negative eigenvalue.
PROBES, STEPS = 3, 12


class DeclaredOperator(SelfAdjointOperator):
    """An operator known to be self-adjoint, or positive; made by ``Operator.declare``.

    The adjoint's products are those of the operator itself.
    """

    def __init__(self, inner: Operator, *, positive: bool) -> None:
        super().__init__(inner.domain, inner.codomain, dtype=inner.dtype, device=inner.device)
        self.inner = inner
        self._positive = positive

    @property
    def _widest(self) -> int:
        """Those of the operator inside, where they are more."""
        return max(super()._widest, self.inner._widest)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self.inner._apply(q)

    @property
    def positive(self) -> bool:
        """Whether it was declared positive."""
        return self._positive

    def block_labels(self) -> torch.Tensor | None:
        """Return those of the operator."""
        return self.inner.block_labels()

    def _inverse(self) -> Operator:
        return self.inner.inverse

    def _formula(self) -> tuple[str, int]:
        return self.inner._formula()


@declare.register
def _declare(operator: Operator, *, self_adjoint: bool, positive: bool, tol: float | None) -> Operator:
    return declared(operator, self_adjoint, positive, tol)


def declared(
    operator: Operator,
    self_adjoint: bool,
    positive: bool,
    tol: float | None,
    matrix: torch.Tensor | None = None,
) -> Operator:
    """Return an operator with the declared tags, tested on its matrix where that is at hand."""
    if not (self_adjoint or positive):
        raise ArgumentError(mismatch("declare", "self_adjoint=True or positive=True", "neither"))
    if operator.positive or (operator.self_adjoint and not positive):
        return operator
    check_declared(operator, positive=positive, tol=tol, matrix=matrix)
    return DeclaredOperator(operator, positive=positive)


def check_declared(
    operator: Operator, *, positive: bool, tol: float | None = None, matrix: torch.Tensor | None = None
) -> None:
    """Raise unless an operator may be self-adjoint, or positive, as far as a cheap test can tell.

    A matrix at hand, or one of few products, tells for certain. Else three random vectors and a Krylov space
    do: 3 products, 15 for a positive one, and at most 64.

    Self-adjoint: for random x and y, ``<x, A y> - <A x, y> = <x, (A - A*) y>`` is 0 only by an accident of
    probability 0, unless ``A = A*``. Positive: with Q an orthonormal basis of the Krylov space of a random
    vector, the eigenvalues of ``Q* A Q`` lie between those of A, so a negative one is proof; those at the
    ends come near within few steps (Golub & Van Loan 2013, Matrix Computations, 10.1).

    Raises:
        ArgumentError: when it is not; says by how much, and the remedy.
        NonFiniteError: when a product is not finite.
    """
    if not operator.square:
        got = f"one that maps ({operator.domain}) to ({operator.codomain})"
        raise ArgumentError(mismatch(f"declare {operator!r}", "a square operator", got))
    eps, size = torch.finfo(operator.dtype).eps, operator.domain.dimension
    if tol is None:
        tol = eps ** (2 / 3)
    elif not 0 <= tol < 1:
        raise ArgumentError(mismatch("tol", "None or a number in [0, 1)", repr(tol)))
    if matrix is None and size <= PRODUCTS and operator.domain.shards is None:
        basis = torch.eye(size, dtype=operator.dtype, device=operator.device)
        matrix = _products(operator, basis).mT
    with torch.no_grad():
        form, scale = (matrix, None) if matrix is not None else _random_form(operator)
        _check_symmetric(operator, form, scale, tol)
        if not positive or not size:
            return
        if matrix is None or size > MATRIX:
            form = _krylov_form(operator)
        values = torch.linalg.eigvalsh(((form + form.mT) / 2).double())
    least, largest = float(values[0]), float(values.abs().max())
    if least < -max(tol, size * eps) * largest:
        got = f"values down to {least / largest:.2g} times the largest"
        raise ArgumentError(
            mismatch(f"{operator!r}, declared positive", "no negative value", got)
            + "; self_adjoint=True claims less"
        )


def _check_symmetric(operator: Operator, form: torch.Tensor, scale: torch.Tensor | None, tol: float) -> None:
    """Compare a form with its transpose, relative to ``scale`` or its largest entry."""
    if not form.numel():
        return
    difference = (form - form.mT).abs()
    largest = form.abs().max() if scale is None else scale
    relative = float((difference / torch.where(largest > 0, largest, 1)).max())
    if not relative <= tol:  # NaN is not
        expected = f"<A q, r> = <q, A r> to {tol:.2g} of what they could be"
        raise ArgumentError(
            mismatch(f"{operator!r}, declared self-adjoint", expected, f"a difference of {relative:.2g}")
            + "; op.symmetric_part is self-adjoint, or give declare a larger tol if this is rounding"
        )


def _products(operator: Operator, rows: torch.Tensor) -> torch.Tensor:  # [m, n] -> [m, n]
    """Return products in a unit of their own."""
    out = _multiplied(operator, rows)
    return divided(out, unit_of(out, shards=operator.domain.shards))


def _multiplied(operator: Operator, rows: torch.Tensor) -> torch.Tensor:  # [m, n] -> [m, n]
    space = operator.domain
    return operator(rows.reshape(len(rows), *space.shape)).reshape(rows.shape)


def _random_rows(operator: Operator) -> torch.Tensor:  # [3, n]
    space, seeded = operator.domain, torch.Generator().manual_seed(0)
    out = torch.empty(min(PROBES, space.dimension), *space.shape, dtype=operator.dtype, device="cpu")
    if space.shards is None:
        out.normal_(generator=seeded)
    else:
        for row in out:
            for trial, own in zip(
                row.movedim(space.position(BATCH), 0), trial_generators(space, seeded), strict=True
            ):
                trial.normal_(generator=own)
    return out.reshape(len(out), space.size).to(operator.device)


def _random_form(operator: Operator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``<x_i, A x_j>`` for random vectors, and how large each could be."""
    rows, space = _random_rows(operator), operator.domain
    images = _products(operator, rows)
    bound = space.norms(rows)[:, None] * space.norms(images)
    return space.inner(rows, images), torch.maximum(bound, bound.mT)


def _krylov_form(operator: Operator) -> torch.Tensor:
    """Return the operator on an orthonormal basis of the Krylov space of a random vector."""
    space, new = operator.domain, _random_rows(operator)[:1]
    basis, images = new[:0], new[:0]
    unit: float | None = None
    for _ in range(min(STEPS, space.dimension)):
        length = space.norms(new)[0]
        if not bool(length > 0):
            break
        new = new / length
        basis = torch.cat([basis, new])
        out = _multiplied(operator, new)
        unit = unit_of(out, shards=space.shards) if unit is None else unit
        images = torch.cat([images, divided(out, unit)])
        new = images[-1:]
        for _ in range(2):  # once leaves rounding along the basis; twice is enough (Parlett 1980, 6.9)
            new = new - space.inner(new, basis) @ basis
    return space.inner(basis, images)
