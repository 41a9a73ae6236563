"""Operators that are given, not composed: identity, zero, diagonal, matrix, outer product, functions."""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch

from kpframe.errors import ArgumentError, ShapeError, SpaceMismatchError, UnsupportedError, mismatch
from kpframe.operators._base import Operator, SelfAdjointOperator, check_operator, declare, diagonal
from kpframe.operators._declared import check_declared, declared
from kpframe.operators._formula import ATOM
from kpframe.operators._spaces import Space, check_space, check_tensor, unflatten


class IdentityOperator(SelfAdjointOperator):
    """``I`` on ``space``, for tensors of ``dtype`` on ``device``."""

    name = "I"

    @classmethod
    def like(cls, operator: Operator) -> IdentityOperator:
        """Return the identity on the domain of ``operator``, with its dtype and device."""
        check_operator(operator, "operator")
        return cls(operator.domain, dtype=operator.dtype, device=operator.device)

    def __init__(
        self,
        space: Space,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(space, space, dtype=dtype, device=device)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return q.clone()  # never an alias of the caller's tensor

    @property
    def positive(self) -> bool:
        """Always true."""
        return True

    @property
    def separate_axes(self) -> frozenset[str]:
        """All axes."""
        return frozenset(self.domain.names)

    def _inverse(self) -> IdentityOperator:
        return self


class ZeroOperator(Operator):
    """``0`` between two spaces.

    Args:
        domain: the space it maps from.
        codomain: the space it maps to; None: ``domain``.
        dtype: of the tensors it takes.
        device: where they live.
    """

    name = "0"

    @classmethod
    def like(cls, operator: Operator) -> ZeroOperator:
        """Return zero between the spaces of ``operator``, with its dtype and device."""
        check_operator(operator, "operator")
        return cls(operator.domain, operator.codomain, dtype=operator.dtype, device=operator.device)

    def __init__(
        self,
        domain: Space,
        codomain: Space | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(domain, domain if codomain is None else codomain, dtype=dtype, device=device)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return q.new_zeros((*q.shape[: q.ndim - len(self.domain.axes)], *self.codomain.shape))

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return r.new_zeros((*r.shape[: r.ndim - len(self.codomain.axes)], *self.domain.shape))

    @property
    def self_adjoint(self) -> bool:
        """Whether the operator is square."""
        return self.square

    @property
    def positive(self) -> bool:
        """Whether the operator is square: zero is positive semi-definite."""
        return self.square


class DiagonalOperator(SelfAdjointOperator):
    """Entrywise scaling by ``values`` ``[*space]``.

    Args:
        values: the factors, of the space's shape.
        space: where it acts; None: the axis ``index``, for values ``[n]``.
        name: what it prints as.

    Raises:
        ShapeError: for values that are no tensor of the space's shape.
        ArgumentError: for a ``space`` that is none.
    """

    def __init__(self, values: torch.Tensor, space: Space | None = None, *, name: str = "D") -> None:
        check_tensor(values, "values", swapped="DiagonalOperator(values, space) takes the values first")
        space = Space.of(index=values.numel()) if space is None else space
        check_space(space, "space")
        if tuple(values.shape) != space.shape:
            raise ShapeError(mismatch("values", f"shape [{space}]", f"shape {list(values.shape)}"))
        super().__init__(space, space, dtype=values.dtype, device=values.device)
        self.values = values.detach().clone()  # the tags hold for these values
        self.name = name
        if space.shards is not None:  # now, as all ranks make it
            self._nonnegative = not space.shards.any(not bool((self.values >= 0).all()))

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self.values * q

    @cached_property
    def _nonnegative(self) -> bool:
        return bool((self.values >= 0).all())

    @property
    def positive(self) -> bool:
        """Whether no entry is negative."""
        return self._nonnegative

    @property
    def separate_axes(self) -> frozenset[str]:
        """All axes."""
        return frozenset(self.domain.names)

    def _inverse(self) -> DiagonalOperator:
        zero = bool((self.values == 0).any())
        if zero if self.domain.shards is None else self.domain.shards.any(zero):
            raise ArgumentError(mismatch(f"inverse of {self!r}", "no zero on the diagonal", "a zero"))
        return DiagonalOperator(1 / self.values, self.domain, name=f"{self.name}^-1")


@diagonal.register
def _diagonal(values: torch.Tensor, space: Space) -> DiagonalOperator:
    return DiagonalOperator(values, space)


class MatrixOperator(Operator):
    """Multiplication by ``matrix`` ``[codomain.size, domain.size]``.

    Without spaces, a square matrix acts on the axis ``index``, another one maps ``column`` to ``row``.
    It is tagged self-adjoint when it equals its transpose to the last bit, and positive when besides
    its least eigenvalue is not below rounding error; both are computed when first asked for. A matrix that
    is symmetric but for rounding can be declared so.

    Args:
        matrix: ``[codomain.size, domain.size]``.
        domain: the space it maps from.
        codomain: the space it maps to.
        name: what it prints as.
        self_adjoint: whether it is known to be, tested now; see ``Operator.declare``.
        positive: whether it is known to be, tested now.

    Raises:
        ShapeError: when the matrix does not fit its spaces.
        UnsupportedError: for a space that is sharded over ranks.
        ArgumentError: when it is not what it is declared to be.
    """

    def __init__(
        self,
        matrix: torch.Tensor,
        domain: Space | None = None,
        codomain: Space | None = None,
        *,
        name: str = "M",
        self_adjoint: bool = False,
        positive: bool = False,
    ) -> None:
        check_tensor(matrix, "matrix", swapped="MatrixOperator(matrix, domain) takes the matrix first")
        for argument, space in (("domain", domain), ("codomain", codomain)):
            if space is not None:
                check_space(space, argument)
        if matrix.ndim != 2:
            raise ShapeError(mismatch("matrix", "two dimensions", f"shape {list(matrix.shape)}"))
        rows, columns = matrix.shape
        square = rows == columns
        if domain is None:
            domain = Space.of(index=columns) if square else Space.of(column=columns)
        if codomain is None:
            codomain = domain if square and domain.size == rows else Space.of(row=rows)
        shards = domain.shards or codomain.shards
        if shards is not None:
            raise UnsupportedError(
                f"matrix: expected spaces of which each rank has all, got ({domain}) and ({codomain}): the "
                "entries between trials of different ranks are no rank's; DiagonalOperator, "
                "OuterProductOperator and FunctionOperator take such spaces"
            )
        if (codomain.size, domain.size) != (rows, columns):
            raise ShapeError(
                mismatch("matrix", f"shape [{codomain.size}, {domain.size}]", f"shape [{rows}, {columns}]")
            )
        super().__init__(domain, codomain, dtype=matrix.dtype, device=matrix.device)
        self.matrix = matrix.detach().clone()  # the tags hold for these values
        self.name = name
        self._declared = self_adjoint or positive, positive
        if self._declared[0]:
            check_declared(self, positive=positive, matrix=self.matrix)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        probes = q.shape[: q.ndim - len(self.domain.axes)]
        return unflatten(q.reshape(*probes, -1) @ self.matrix.mT, probes, self.codomain)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        probes = r.shape[: r.ndim - len(self.codomain.axes)]
        return unflatten(r.reshape(*probes, -1) @ self.matrix, probes, self.domain)

    @cached_property
    def _symmetric(self) -> bool:
        return self.square and torch.equal(self.matrix, self.matrix.mT)

    @cached_property
    def _semidefinite(self) -> bool:
        if not self._symmetric or not bool(torch.isfinite(self.matrix).all()):
            return False
        try:  # in double: LAPACK gives up on float32 matrices with entries that underflow
            eigenvalues = torch.linalg.eigvalsh(self.matrix.double())
        except torch.linalg.LinAlgError:  # type: ignore[attr-defined]
            return False  # not proven
        rounding = len(eigenvalues) * torch.finfo(self.dtype).eps * eigenvalues.abs().max()
        return bool(eigenvalues.min() >= -rounding)

    @property
    def self_adjoint(self) -> bool:
        """Whether the matrix equals its transpose exactly, or is declared to."""
        return self._declared[0] or self._symmetric

    @property
    def positive(self) -> bool:
        """Whether the matrix is symmetric with no eigenvalue negative beyond rounding, or declared to be."""
        return self._declared[1] or self._semidefinite

    def _inverse(self) -> MatrixOperator:
        rows, columns = self.matrix.shape
        if rows != columns:
            expected = f"inverse of {self!r}", "a square matrix", f"shape {[rows, columns]}"
            raise SpaceMismatchError(mismatch(*expected))
        matrix, info = torch.linalg.inv_ex(self.matrix)
        if bool(info != 0):
            raise ArgumentError(mismatch(f"inverse of {self!r}", "a regular matrix", "a singular one"))
        return MatrixOperator(matrix, self.codomain, self.domain, name=f"{self.name}^-1")


@declare.register
def _declare(operator: MatrixOperator, *, self_adjoint: bool, positive: bool, tol: float | None) -> Operator:
    return declared(operator, self_adjoint, positive, tol, matrix=operator.matrix)


class OuterProductOperator(Operator):
    """``u v*``: the rank-one map ``q -> u <v, q>`` for ``u`` ``[*codomain]`` and ``v`` ``[*domain]``.

    Args:
        u: a vector ``[*codomain]``.
        v: a vector ``[*domain]``; None: ``u``, for ``u u*``, which is positive.
        codomain: where ``u`` lies; None: the axis ``index``, for ``u`` ``[n]``.
        domain: where ``v`` lies; None: the codomain where it fits, else the axis ``column``.
        name: what it prints as.

    Raises:
        ShapeError: for a vector that does not lie in its space.
        DtypeError, DeviceError: for a ``v`` unlike ``u``.
    """

    def __init__(
        self,
        u: torch.Tensor,
        v: torch.Tensor | None = None,
        *,
        codomain: Space | None = None,
        domain: Space | None = None,
        name: str = "u v*",
    ) -> None:
        check_tensor(u, "u", swapped="OuterProductOperator(u, v, codomain=space) takes the vectors first")
        same = v is None or v is u
        v = u if v is None else v
        codomain = Space.of(index=u.numel()) if codomain is None else codomain
        check_space(codomain, "codomain")
        check_tensor(v, "v", swapped="OuterProductOperator(u, v, codomain=space) takes spaces by name")
        if domain is None:
            domain = codomain if same or codomain.shape == tuple(v.shape) else Space.of(column=v.numel())
        codomain.check(u, "u")
        domain.check(v, "v", dtype=u.dtype, device=u.device)
        super().__init__(domain, codomain, dtype=u.dtype, device=u.device)
        self.u, self.v = u.detach().clone(), v.detach().clone()
        self.name = "u u*" if same and name == "u v*" else name
        self._same = same and domain == codomain

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return _outer(self.u, self.v, q, self.domain)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return _outer(self.v, self.u, r, self.codomain)

    @property
    def self_adjoint(self) -> bool:
        """Whether ``u`` and ``v`` are one tensor."""
        return self._same

    @property
    def positive(self) -> bool:
        """Whether ``u`` and ``v`` are one tensor."""
        return self._same

    def _formula(self) -> tuple[str, int]:
        return f"({self.name})", ATOM


def _outer(u: torch.Tensor, v: torch.Tensor, q: torch.Tensor, space: Space) -> torch.Tensor:
    inner = (q * v).sum(dim=tuple(range(-v.ndim, 0))) if v.ndim else q * v  # a sum over no axes is over all
    inner = space.sum(inner)
    return inner.reshape((*inner.shape, *[1] * u.ndim)) * u


class FunctionOperator(Operator):
    """An operator given by two functions, its product and its adjoint's product.

    Both take ``[..., *space]`` with leading probes. Whether they are adjoint to each other is not
    checked here; ``<A q, r> = <q, A* r>`` on random vectors tells. Where trials are sharded over ranks the
    functions are this rank's; one that ends in a space that is not sharded returns the sum over ranks.

    Args:
        domain: the space it maps from.
        codomain: the space it maps to.
        apply: ``[..., *domain] -> [..., *codomain]``.
        adjoint: ``[..., *codomain] -> [..., *domain]``; may be left out for what is declared self-adjoint.
        dtype: of the tensors.
        device: of the tensors.
        name: what it prints as.
        self_adjoint: whether it is known to be, tested now on a few products; see ``Operator.declare``.
        positive: whether it is known to be, tested in the same way.

    Raises:
        ArgumentError: when it is not what it is declared to be, or a function is missing.
    """

    def __init__(
        self,
        domain: Space,
        codomain: Space,
        apply: Callable[[torch.Tensor], torch.Tensor],
        adjoint: Callable[[torch.Tensor], torch.Tensor] | None = None,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        name: str = "F",
        self_adjoint: bool = False,
        positive: bool = False,
    ) -> None:
        self._declared = False, False
        if adjoint is None and (self_adjoint or positive):
            adjoint = apply
        for argument, function in (("apply", apply), ("adjoint", adjoint)):
            if not callable(function):
                raise ArgumentError(mismatch(argument, "a function of a tensor", repr(function)))
        super().__init__(domain, codomain, dtype=dtype, device=device)
        assert adjoint is not None  # it is callable
        self._functions = (apply, adjoint)
        self.name = name
        if self_adjoint or positive:
            check_declared(self, positive=positive)
            self._declared = True, positive

    @property
    def self_adjoint(self) -> bool:
        """Whether it is declared to be."""
        return self._declared[0]

    @property
    def positive(self) -> bool:
        """Whether it is declared to be."""
        return self._declared[1]

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        out = self._functions[0](q)
        self.codomain.check(out, f"product of {self.name}", dtype=self.dtype, device=self.device)
        return out

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        out = self._functions[1](r)
        self.domain.check(out, f"product of {self.name}*", dtype=self.dtype, device=self.device)
        return out
