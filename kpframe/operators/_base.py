"""The abstract linear operator on tensors with named axes."""

from __future__ import annotations

import weakref
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial, singledispatch
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import numpy as np
import torch

from kpframe.errors import (
    ArgumentError,
    DeviceError,
    DtypeError,
    NonFiniteProductError,
    NotLinearError,
    ShapeError,
    UnsupportedError,
    as_whole,
    mismatch,
    shown,
)
from kpframe.operators._cards import operator_card
from kpframe.operators._deferred import pending_checks
from kpframe.operators._finite import check_finite, is_finite
from kpframe.operators._formula import ATOM, latex
from kpframe.operators._isolation import constant, isolated
from kpframe.operators._memory import product_in_chunks
from kpframe.operators._scale import as_scalar
from kpframe.operators._spaces import Space, check_space

if TYPE_CHECKING:
    from scipy.sparse.linalg import LinearOperator

    from kpframe.operators._shards import Shards

#: Default memory budget of dense requests, in bytes.
MEMORY_BUDGET = 2 * 2**30

_HINT = (
    " though the argument is finite: a derivative of the model is not (a root or a norm at 0), or numbers "
    "overflow; check=False returns the product as it is"
)

Index = int | slice | str | Sequence[int] | torch.Tensor | np.ndarray[Any, Any]


class Operator(ABC):
    """A linear, matrix-free map from ``domain`` to ``codomain`` on real tensors.

    A subclass supplies ``_apply`` and ``_apply_adjoint``, which carry leading probe dimensions through, and
    ``_inverse`` where it has an inverse in closed form.

    Products are never differentiated by autograd: what they return is detached, also for an argument that
    requires a gradient, and inside a transform of ``torch.func`` they are refused. Nothing is reshaped, cast
    or moved: a tensor of the wrong shape, dtype or device is an error that says what was expected and what
    came. What surrounds a call (inference mode, autocast, a default device ...) changes nothing.

    ``A @ B`` composes, ``A + B``, ``2.0 * A``, ``-A``, ``A / 2.0`` and ``A**3`` do what they say, ``A.T``
    is the adjoint; a tensor scales entrywise, ``w * A`` after the operator and ``A * w`` before it.
    ``repr`` prints the composition as a formula, such as ``P K P*``.

    An operator prints as its attribute ``name``, or as its class without "Operator" where it has none. One
    that is made of others overrides ``_formula``, which returns the text and how tightly it binds: ``SUM``
    for ``A + B``, ``PRODUCT`` for ``A B``, ``ATOM`` for what needs no brackets anywhere. Its parts print
    through ``bracket``: ``f"{bracket(self.left, PRODUCT)} {bracket(self.right, PRODUCT)}", PRODUCT``.

    Args:
        domain: the space it maps from.
        codomain: the space it maps to.
        dtype: of the tensors it takes, float32 or float64; raises ``DtypeError`` for another.
        device: where they live.

    Examples:
        >>> import kpframe, torch
        >>> space = kpframe.Space.of(time=3, hidden=2)
        >>> A = kpframe.MatrixOperator(torch.arange(36.0).reshape(6, 6), space, space, name="A")
        >>> A @ A.T + 2 * A
        A A* + 2 A
        >>> (A @ A.T).mean("time")
        <A A*>_time
    """

    _adjoint: weakref.ReferenceType[Operator] | None = None

    __array_ufunc__ = None  # numpy scalars and arrays leave the arithmetic to this class

    def __init__(
        self, domain: Space, codomain: Space, *, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        if dtype not in (torch.float32, torch.float64):
            raise DtypeError(mismatch("dtype", "torch.float32 or torch.float64", dtype))
        check_space(domain, "domain")
        check_space(codomain, "codomain")
        self.domain = domain
        self.codomain = codomain
        self.dtype = dtype
        self.device = torch.device(device)

    def __getstate__(self) -> dict[str, Any]:
        """Return what is pickled and copied: all but the adjoint, which is made when it is asked for."""
        return {name: value for name, value in self.__dict__.items() if name != "_adjoint"}

    @abstractmethod
    def _apply(self, q: torch.Tensor) -> torch.Tensor:  # [..., *domain] -> [..., *codomain]
        """Return the operator's product with ``q``, probes carried through."""

    @abstractmethod
    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:  # [..., *codomain] -> [..., *domain]
        """Return the adjoint's product with ``r``, probes carried through."""

    @property
    def _widest(self) -> int:
        """Numbers of a vector of the domain and one of the codomain, on the rank with most of them.

        What is made of other operators gives theirs where these are more: its products make such vectors.
        """
        return self.domain.largest + self.codomain.largest

    @property
    def _splits(self) -> bool:
        """Whether a product has a part before a sum over ranks, which ``_begin`` makes."""
        return False

    def _begin(self, q: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Make what comes before the product's sum over ranks, start that, and return what makes the rest.

        With many probes, ranks then add up those of one chunk while they make the next one's first part.
        """
        return partial(self._apply, q)

    def _formula(self) -> tuple[str, int]:
        """Return the printed form and how tightly it binds; see ``Operator`` for what to override."""
        name = getattr(self, "name", None)
        if not isinstance(name, str):
            name = type(self).__name__.removeprefix("_").removesuffix("Operator")
        return name, ATOM

    def _inverse(self) -> Operator:
        """Return the exact inverse; an operator that has one in closed form overrides this."""
        raise UnsupportedError(
            f"inverse of {self!r}: no exact form is known; solve with the operator's products instead "
            "(op.to_scipy() and scipy.sparse.linalg.gmres or cg)"
        )

    # -- products ---------------------------------------------------------------------------------------

    def __call__(
        self, q: torch.Tensor, *, chunk: int | Literal["auto"] = "auto", check: bool = True
    ) -> torch.Tensor:
        """Return the product with ``q`` ``[..., *domain]``; leading dimensions are probes.

        Args:
            q: the vectors.
            chunk: how many probes go together; by default shares of about 192 MiB, larger for short steps.
            check: False returns a product that is not finite as it is. To look at it, the host waits for an
                accelerator once a product; ``kpframe.operators.deferred_checks`` looks at many at once.

        Raises:
            ShapeError, DtypeError, DeviceError: when ``q`` does not lie in the domain.
            NonFiniteError: for NaN or infinity in the product, of which NonFiniteProductError where ``q`` is
                finite: a derivative of the model that is not, or overflow.
            ArgumentError: for a ``chunk`` below 1.
            MemoryBudgetError: before the product, when the result would not fit into the free memory.
            UnsupportedError: inside a transform of ``torch.func``, and for a dual tensor.
        """
        with isolated(self.device, self):
            shape = getattr(q, "shape", None)
            if shape != self.domain.shape or q.dtype != self.dtype or q.device != self.device:
                self.domain.check(q, f"argument of {self!r}", dtype=self.dtype, device=self.device)
            q = constant(q, self)
            with torch.no_grad():
                out = product_in_chunks(self, q, chunk)
                if check:
                    self._check_product(q, out)
                return out

    def _check_product(self, q: torch.Tensor, out: torch.Tensor) -> None:
        """Raise for a product that is not finite: on all ranks alike, as they go on together."""
        pending = pending_checks()
        if pending is not None and (self.domain.shards or self.codomain.shards) is None:
            pending.add(self, q, out, self._look)
            return
        self._look(q, out)

    def _look(self, q: torch.Tensor, out: torch.Tensor) -> None:
        bad = not is_finite(out)
        own = self.codomain.shards  # a product in a space that is not sharded is the same on all ranks
        if not (bad if own is None else own.any(bad, self.device)):
            return
        shards = own or self.domain.shards
        for argument in (True, False):
            check = partial(self._check_one, q if argument else out, argument)
            check() if shards is None else shards.together(check)

    def _check_one(self, tensor: torch.Tensor, argument: bool) -> None:
        if argument:
            check_finite(tensor, f"argument of {self!r}", self.domain)
        else:
            what, error = f"product of {self!r}", NonFiniteProductError
            check_finite(tensor, what, self.codomain, hint=_HINT, error=error)

    @property
    def T(self) -> Operator:
        """The adjoint: ``<A q, r> = <q, A.T r>``; ``A.T.T is A``."""
        if self.self_adjoint:
            return self
        known = None if self._adjoint is None else self._adjoint()
        if known is not None and known.T is self:
            return known
        made = adjoint(self)
        self._adjoint = weakref.ref(made)  # weak: the adjoint already holds this operator
        return made

    @property
    def inverse(self) -> Operator:
        """The exact inverse, for operators that have one in closed form; ``A.inverse @ A`` is the identity.

        Identities, diagonal and square matrix operators, the propagator, and adjoints, multiples,
        Kronecker products and products of these. Raises ``UnsupportedError``.
        """
        with isolated(self.device, "inverse"):
            return self._inverse()

    @property
    def symmetric_part(self) -> Operator:
        """``(A + A*) / 2`` of a square operator; raises ``SpaceMismatchError``."""
        return self if self.self_adjoint else (self + self.T) / 2

    def declare(
        self, *, self_adjoint: bool = False, positive: bool = False, tol: float | None = None
    ) -> Operator:
        """Return the operator with tags that you know and nothing can prove; positive ones are self-adjoint.

        The claim, ``self_adjoint`` or ``positive``, is tested on the matrix, where it is at hand or the
        dimension is at most 64, else on the Krylov space of random vectors (3 products, 15 for ``positive``),
        which finds gross errors.
        ``tol`` is how far the operator may be from it, relatively; None: what rounding leaves, eps^(2/3).

        Raises:
            ArgumentError: when nothing is claimed, the operator is not square, or the claim is false.
        """
        with isolated(self.device, "declare"):
            return declare(self, self_adjoint=self_adjoint, positive=positive, tol=tol)

    def cached(self, max_bytes: int = MEMORY_BUDGET) -> Operator:
        """Return the operator with its matrix kept: formed once, now; each product is then a matrix product.

        It prints as before and keeps its tags. Raises ``MemoryBudgetError`` over ``max_bytes`` bytes.
        """
        check_unsharded(self, "cached")
        with isolated(self.device, "cached"):
            return cached(self, max_bytes)

    # -- tags: true only where provable or declared -------------------------------------------------------

    @property
    def self_adjoint(self) -> bool:
        """Whether the operator is provably its own adjoint."""
        return False

    @property
    def positive(self) -> bool:
        """Whether the operator is provably self-adjoint and positive semi-definite."""
        return False

    def block_labels(self) -> torch.Tensor | None:  # [n], int64
        """Return labels ``[n]`` of the last axis's entries; the operator has no entry between two labels.

        None where there is no such structure, or none that is known. Eigenpairs then come from each block
        alone. It may be found by products, as that of K from about 2 log2 H of J*, the first time.
        """
        return None

    @property
    def separate_axes(self) -> frozenset[str]:
        """Axes of both sides along which the operator has no entry between two places, as P over batch.

        Empty where no such structure is known. Partial traces and dense forms then take fewer products.
        """
        return frozenset()

    @property
    def tags(self) -> frozenset[str]:
        """What is provable of the operator: a subset of ``{"self_adjoint", "positive"}``."""
        return frozenset(name for name in ("self_adjoint", "positive") if getattr(self, name))

    @property
    def square(self) -> bool:
        """Whether domain and codomain are the same space."""
        return self.domain == self.codomain

    # -- the algebra ------------------------------------------------------------------------------------

    def __matmul__(self, other: object) -> Operator:
        if isinstance(other, Operator):
            return compose(self, other)
        return self._refuse("@", other, "compose operators with @, and apply one to a tensor with op(q)")

    def __rmatmul__(self, other: object) -> Operator:
        return self._refuse("@", other, "compose operators with @, and apply one to a tensor with op(q)")

    def __add__(self, other: object) -> Operator:
        if isinstance(other, Operator):
            return add(self, other)
        return self._refuse("+", other, f"a constant is not linear; write op + {other!r} * IdentityOperator")

    def __radd__(self, other: object) -> Operator:
        return self._refuse("+", other, f"a constant is not linear; write op + {other!r} * IdentityOperator")

    def __sub__(self, other: object) -> Operator:
        if isinstance(other, Operator):
            return self + (-other)
        return self._refuse("-", other, f"a constant is not linear; write op - {other!r} * IdentityOperator")

    def __rsub__(self, other: object) -> Operator:
        return self._refuse("-", other, f"a constant is not linear; write {other!r} * IdentityOperator - op")

    def __neg__(self) -> Operator:
        return self * -1.0

    def __mul__(self, other: object) -> Operator:
        scalar = as_scalar(other)
        if scalar is not None:
            return scale(self, scalar)
        if isinstance(other, torch.Tensor) and other.is_floating_point():
            return self @ _diagonal(other, self.domain)
        if isinstance(other, Operator):
            return self._refuse("*", other, "an elementwise product is no composition; write A @ B")
        return self._refuse("*", other, "only a real number or a real tensor scales an operator")

    def __rmul__(self, other: object) -> Operator:
        if isinstance(other, torch.Tensor) and other.is_floating_point() and other.ndim:
            return _diagonal(other, self.codomain) @ self
        return self * other

    def __truediv__(self, other: object) -> Operator:
        scalar = as_scalar(other)
        if scalar is None:
            return self._refuse("/", other, "only a real number divides an operator")
        if scalar == 0:
            raise ZeroDivisionError(f"{self!r} / 0")
        return self * (1.0 / scalar)

    def __pow__(self, exponent: object) -> Operator:
        number = as_whole(exponent)
        if number is None:
            return self._refuse("**", exponent, "the exponent is a whole number >= 0")
        return power(self, number)

    def _refuse(self, sign: str, other: object, why: str) -> NoReturn:
        kind = (
            f"{type(other).__name__} {list(other.shape)}" if isinstance(other, torch.Tensor) else repr(other)
        )
        raise NotLinearError(f"{self!r} {sign} {kind}: {why}")

    # -- reductions over named axes ---------------------------------------------------------------------

    def mean(self, *axes: str) -> Operator:
        """Return the average over the named ``axes``: the congruence ``R op R*``, ``R`` the mean over them.

        Both copies of an axis are averaged; a side that lacks an axis is left as it is. An average is
        not a trace: see ``partial_trace``. Raises ``AxisError``.
        """
        return mean_over(self, axes)

    def sum(self, *axes: str) -> Operator:
        """Return the sum over both copies of ``axes``: ``R op R*``, ``R`` the sum; raises ``AxisError``."""
        return sum_over(self, axes)

    def select(self, **indices: Index) -> Operator:
        """Return the operator between chosen entries of named axes, ``indices``, on every side that has them.

        ``select(time=-1)`` keeps one entry and drops the axis; a slice, a list of indices or a boolean
        mask keeps the axis; a string keeps a named part: ``select(hidden="c")``. Raises ``AxisError``.
        """
        with isolated(self.device, "select"):
            return select(self, indices)

    def project(self, directions: torch.Tensor, axis: str = "hidden", name: str = "output") -> Operator:
        """Return ``W op W*``: the rows of ``directions`` ``[k, n]`` in place of ``axis``, called ``name``."""
        with isolated(self.device, "project"):
            return project(self, directions, axis, name)

    def bin(self, **lengths: int) -> Operator:
        """Return the average over windows of axes, ``lengths``: ``bin(time=5)`` has one entry for 5 steps.

        The last window is shorter where the length does not divide the axis. Both copies are averaged.
        """
        with isolated(self.device, "bin"):
            return bin_over(self, lengths)

    def last_valid(self, mask: torch.Tensor) -> Operator:
        """Return the operator at each trial's last step where ``mask`` ``[B, T]`` is True; ``time`` goes."""
        with isolated(self.device, "last_valid"):
            return last_valid(self, mask)

    def block_diagonal(self, *axes: str) -> Operator:
        """Return the part at which both copies of the named ``axes`` are equal; the axes stay.

        One product of the operator for each entry of the axes. Summed over the axes, the blocks are the
        ``partial_trace``.
        """
        return block_diagonal(self, axes)

    def partial_trace(self, *axes: str) -> Operator:
        """Return the trace over the named ``axes``: ``Sum_a op[a, .; a, .]``, exactly, one product an entry.

        Entries that never meet, by ``separate_axes`` and ``block_labels``, share one.
        """
        return partial_trace(self, axes)

    # -- dense forms ------------------------------------------------------------------------------------

    def to_dense(self, max_bytes: int = MEMORY_BUDGET, *, check: bool = True) -> torch.Tensor:
        """Return the matrix ``[codomain.size, domain.size]``, entries in row-major order of the axes.

        ``check=False`` returns entries that are not finite as they are.

        Raises:
            NonFiniteError: for an entry that is not finite, as products do.
            MemoryBudgetError: when the matrix needs more than ``max_bytes`` bytes; says how many it needs.
        """
        check_unsharded(self, "to_dense")
        with isolated(self.device, self):
            return to_dense(self, max_bytes, check=check)

    def to_scipy(self) -> LinearOperator:
        """Return a ``scipy.sparse.linalg.LinearOperator`` on flattened vectors, of the same dtype."""
        check_unsharded(self, "to_scipy")
        return to_scipy(self)

    def __repr__(self) -> str:
        return self._formula()[0]

    def _repr_latex_(self) -> str:
        return f"${latex(repr(self))}$"

    def _repr_html_(self) -> str:
        return operator_card(self)


class SelfAdjointOperator(Operator):
    """An operator that is its own adjoint by construction."""

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self._apply(r)

    @property
    def self_adjoint(self) -> bool:
        """Always true."""
        return True


def _diagonal(values: torch.Tensor, space: Space) -> Operator:
    """Return entrywise scaling by a tensor that broadcasts to a space."""
    try:
        with isolated(values.device, "diagonal"):
            return diagonal(values.expand(space.shape), space)
    except RuntimeError as error:
        raise ShapeError(
            mismatch("scaling tensor", f"a shape that broadcasts to [{space}]", f"shape {list(values.shape)}")
        ) from error


def check_operator(value: object, argument: str) -> None:
    """Raise ``ArgumentError`` unless ``value`` is an operator, with a remedy."""
    if not isinstance(value, Operator):
        remedy = "; MatrixOperator(matrix) makes one" if isinstance(value, torch.Tensor) else ""
        raise ArgumentError(mismatch(argument, "an operator", shown(value)) + remedy)


def shards_within(operator: Operator) -> Shards | None:
    """Return the shards over whose ranks an operator's products add up, None where it needs no other rank.

    One that is reduced over its trials, ``Phi.mean("batch")``, is on a space that every rank has, and sums
    over ranks within.
    """
    left, met = [operator], {id(operator)}
    while left:
        part = left.pop()
        shards = part.domain.shards or part.codomain.shards
        if shards is not None:
            return shards
        for value in vars(part).values():
            for inner in value if isinstance(value, tuple | list) else (value,):
                if isinstance(inner, Operator) and id(inner) not in met:
                    left.append(inner)
                    met.add(id(inner))
    return None


def check_unsharded(operator: Operator, what: str) -> None:
    """Raise ``UnsupportedError`` for an operator on a space that is sharded over ranks, with the remedy."""
    shards = operator.domain.shards or operator.codomain.shards
    if shards is not None:
        raise UnsupportedError(
            f"{what} of {operator!r}: its trials are on several ranks ({shards}, {len(shards.own)} of them "
            "here), so no rank has all of it; reduce over batch first (mean, sum, partial_trace, project, "
            "select(batch=0)), which gives an operator that every rank has"
        )


def check_together(first: Operator, second: Operator, sign: str) -> None:
    """Raise unless two operators have the same dtype and live on the same device."""
    if first.dtype != second.dtype:
        raise DtypeError(
            f"{first!r} {sign} {second!r}: dtypes {first.dtype} and {second.dtype}; nothing is cast"
        )
    if first.device != second.device:
        raise DeviceError(
            f"{first!r} {sign} {second!r}: devices {first.device} and {second.device}; nothing is moved"
        )


# -- what the methods call ------------------------------------------------------------------------------
#
# Their results are operators of other classes, whose modules import this one. So each is declared here as an
# open function, and the module that defines the result registers how it is made, for every operator or for
# one class: ``@adjoint.register``. Within a method, ``declare(self, ...)`` is the function below.


@singledispatch
def adjoint(operator: Operator) -> Operator:
    """Return ``operator*``; see ``Operator.T``."""
    raise _unregistered(adjoint, operator)


@singledispatch
def compose(first: Operator, *others: Operator) -> Operator:
    """Return the product ``first @ others[0] @ ...``, numbers in front, identities and zeros resolved.

    Raises:
        SpaceMismatchError, DtypeError, DeviceError: when two neighbours do not fit.
    """
    raise _unregistered(compose, first)


@singledispatch
def add(first: Operator, second: Operator) -> Operator:
    """Return the sum of two operators between the same spaces; raises ``SpaceMismatchError``."""
    raise _unregistered(add, first)


@singledispatch
def scale(operator: Operator, scalar: float) -> Operator:
    """Return ``scalar * operator``, numbers gathered into one."""
    raise _unregistered(scale, operator)


@singledispatch
def power(operator: Operator, exponent: int) -> Operator:
    """Return ``operator`` composed with itself ``exponent`` times (0: the identity)."""
    raise _unregistered(power, operator)


@singledispatch
def diagonal(values: torch.Tensor, space: Space) -> Operator:
    """Return entrywise scaling by ``values`` ``[*space]``."""
    raise _unregistered(diagonal, values)


@singledispatch
def declare(operator: Operator, *, self_adjoint: bool, positive: bool, tol: float | None) -> Operator:
    """Return the operator with the declared tags; see ``Operator.declare``."""
    raise _unregistered(declare, operator)


@singledispatch
def mean_over(operator: Operator, axes: Sequence[str]) -> Operator:
    """Return ``<operator>``, averaged over both copies of the axes."""
    raise _unregistered(mean_over, operator)


@singledispatch
def sum_over(operator: Operator, axes: Sequence[str]) -> Operator:
    """Return the operator summed over both copies of the axes."""
    raise _unregistered(sum_over, operator)


@singledispatch
def bin_over(operator: Operator, lengths: Mapping[str, int]) -> Operator:
    """Return the operator averaged over windows of named axes."""
    raise _unregistered(bin_over, operator)


@singledispatch
def select(operator: Operator, indices: Mapping[str, Index]) -> Operator:
    """Return the operator restricted to chosen entries of named axes."""
    raise _unregistered(select, operator)


@singledispatch
def last_valid(operator: Operator, mask: torch.Tensor) -> Operator:
    """Return the operator between each trial's last valid steps, on every side that has the axis time."""
    raise _unregistered(last_valid, operator)


@singledispatch
def project(operator: Operator, directions: torch.Tensor, axis: str, name: str) -> Operator:
    """Return ``W operator W*`` with the rows of ``directions`` in place of ``axis``."""
    raise _unregistered(project, operator)


@singledispatch
def partial_trace(operator: Operator, axes: Sequence[str]) -> Operator:
    """Return ``Sum_a operator[a, .; a, .]`` over the entries of the axes."""
    raise _unregistered(partial_trace, operator)


@singledispatch
def block_diagonal(operator: Operator, axes: Sequence[str]) -> Operator:
    """Return the operator with the entries at which both copies of the axes are equal."""
    raise _unregistered(block_diagonal, operator)


@singledispatch
def cached(operator: Operator, max_bytes: int) -> Operator:
    """Return the operator with its matrix kept."""
    raise _unregistered(cached, operator)


@singledispatch
def to_dense(operator: Operator, max_bytes: int, *, check: bool = True) -> torch.Tensor:
    """Return the matrix ``[codomain.size, domain.size]``."""
    raise _unregistered(to_dense, operator)


@singledispatch
def to_scipy(operator: Operator) -> LinearOperator:
    """Return the operator on flattened numpy vectors."""
    raise _unregistered(to_scipy, operator)


def _unregistered(function: Callable[..., object], argument: object) -> ArgumentError:
    """Return the error of an open function that has no implementation for its first argument's type."""
    registry: Mapping[type, object] = function.registry  # type: ignore[attr-defined]
    types = " or ".join(kind.__name__ for kind in registry if kind is not object)
    expected = types or "a type for which an implementation is registered"
    return ArgumentError(mismatch(f"first argument of {function.__name__}", expected, shown(argument)))
