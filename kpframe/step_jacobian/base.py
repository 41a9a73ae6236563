"""The abstract step Jacobian, and what can be cut out of one or put in its place."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self

import torch

from kpframe.errors import DeviceError, DtypeError, ShapeError, UnsupportedError, mismatch
from kpframe.isolation import in_isolation
from kpframe.operators.algebra import ScaledOperator, SumOperator
from kpframe.operators.base import ATOM, MEMORY_BUDGET, Operator
from kpframe.operators.dense import check_budget
from kpframe.spaces import BATCH, HIDDEN, TIME, Space
from kpframe.step_jacobian.entries import same_label, units_by_width

if TYPE_CHECKING:
    from kpframe.step_jacobian.forms import DiagonalStepJacobian

#: What is made of a step Jacobian. The forms are step Jacobians themselves and build on this module, so the
#: room's ``__init__`` enters them here and imports run one way.
FORMS: dict[str, Callable[..., Any]] = {}


class StepJacobian(Operator):
    """The operator ``(A q)_t = A_t q_t`` on the state space ``(batch, time, hidden)``.

    A subclass supplies the two products of one step. Time indices count the entries of the time axis
    from 0, so ``A_0`` is the derivative of the first state with respect to the initial one; the
    propagator never uses it, a trainable initial state does.
    """

    #: How the products are computed: ``"sites"``, ``"dense"``, ``"diagonal"``, ``"autograd"`` ...
    method = "custom"

    #: bool ``[B, T]``; False at the padded steps, which hold the state. None: every step is a step of the
    #: dynamics. ``Flow`` sets it, and what is made of a step Jacobian keeps it (``keeping``).
    valid: torch.Tensor | None = None

    def __init__(
        self, space: Space, *, dtype: torch.dtype, device: torch.device | str, name: str = "A"
    ) -> None:
        if space.names != (BATCH, TIME, HIDDEN):
            raise ShapeError(mismatch("space", f"axes ({BATCH}, {TIME}, {HIDDEN})", f"({space})"))
        super().__init__(space, space, dtype=dtype, device=device)
        self.name = name

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("step", "step_adjoint"):  # called by hand too; surroundings change nothing
            if name in vars(cls):
                setattr(cls, name, in_isolation(vars(cls)[name]))

    @abstractmethod
    def step(self, t: int, v: torch.Tensor) -> torch.Tensor:  # [..., B, H] -> [..., B, H]
        """Return ``A_t v``."""

    @abstractmethod
    def step_adjoint(self, t: int, v: torch.Tensor) -> torch.Tensor:  # [..., B, H] -> [..., B, H]
        """Return ``A_t* v``."""

    def scan(self, q: torch.Tensor) -> torch.Tensor:  # [T, ..., B, H]
        """Turn ``q``, time outermost, into ``(I - A Z)^{-1} q`` in place, and return it."""
        for t in range(1, self.steps):
            q[t] += self.step(t, q[t - 1])
        return q

    def scan_adjoint(self, r: torch.Tensor) -> torch.Tensor:  # [T, ..., B, H]
        """Turn ``r``, time outermost, into ``(I - A Z)^{-*} r`` in place, and return it."""
        for t in range(self.steps - 1, 0, -1):
            r[t - 1] += self.step_adjoint(t, r[t])
        return r

    @property
    def steps(self) -> int:
        """Number of time steps T."""
        return self.domain.shape[1]

    def keeping(self, valid: torch.Tensor | None) -> Self:
        """Return the operator itself after it has been told its valid steps (None: leaves it as it is)."""
        if valid is not None:
            self.valid = valid
        return self

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.step(t, q[..., t, :]) for t in range(self.steps)], dim=-2)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.step_adjoint(t, r[..., t, :]) for t in range(self.steps)], dim=-2)

    def blocks(self, max_bytes: int = MEMORY_BUDGET) -> torch.Tensor:
        """Return the dense ``A_t`` as ``[B, T, H, H]``; raises ``MemoryBudgetError`` over budget."""
        batch, time, hidden = self.domain.shape
        check_budget(f"blocks of {self!r}", batch * time * hidden, hidden, self.dtype, max_bytes)
        return self._columns(0, hidden).permute(1, 2, 3, 0).contiguous()

    def _columns(self, start: int, stop: int) -> torch.Tensor:  # [stop - start, B, T, H]
        """Return ``A_t e_j`` for j in ``start:stop``."""
        unit = torch.eye(self.domain.shape[2], dtype=self.dtype, device=self.device)[start:stop]
        return self(unit[:, None, None, :].expand(-1, *self.domain.shape).contiguous())

    # -- what rules cut out of A, or put in its place --------------------------------------------------------

    @property
    def units(self) -> torch.Tensor:  # [H], int64
        """Which unit each entry of the state belongs to: a neuron with its gates or its memory.

        Where nothing else is known, entry i of all components of one width makes up one unit.
        """
        return units_by_width(self.domain[HIDDEN]).to(self.device)

    def diagonal(self) -> DiagonalStepJacobian:
        """Return the operator that keeps the diagonal of each ``A_t`` only (H products, here)."""
        columns = [self._columns(unit, unit + 1)[0, ..., unit] for unit in range(self.domain.shape[2])]
        made: DiagonalStepJacobian = FORMS["diagonal"](
            torch.stack(columns, dim=-1), self.domain, name=f"diag({self.name})"
        )
        return made.keeping(self.valid)

    def unit_blocks(self) -> StepJacobian:
        """Return the operator that keeps the entries within each unit only (H products, here)."""
        return _form("entries", self, same_label(self.units), name=f"{self.name}[units]").keeping(self.valid)

    def where(self, pattern: torch.Tensor, *, max_bytes: int = MEMORY_BUDGET) -> StepJacobian:
        """Return the operator that keeps the entries where ``pattern`` (bool, ``[H, H]``) is True.

        H products, all steps at once; the entries are kept.

        Raises:
            ShapeError, DtypeError, DeviceError: for a pattern that does not fit.
            MemoryBudgetError: when the entries need more than ``max_bytes``.
        """
        made = _form("entries", self, pattern, name=f"{self.name}[pattern]", max_bytes=max_bytes)
        return made.keeping(self.valid)

    def masked(self, keep: torch.Tensor, name: str | None = None) -> StepJacobian:
        """Return ``A`` with ``A_t := 0`` where ``keep`` (bool, ``[T]`` or ``[B, T]``) is False."""
        return _form("masked", self, keep, name=name)

    def switched(self, other: StepJacobian, at: torch.Tensor) -> StepJacobian:
        """Return ``A`` with the ``A_t`` of another where ``at`` (bool, ``[T]`` or ``[B, T]``) is True."""
        return _form("switched", self, other, at)

    def direct(self) -> StepJacobian:
        """Return ``A`` by its direct path only, around all recurrent weights.

        What a step of several stages hands on from stage to stage it still hands on by its weights.

        Raises:
            UnsupportedError: for a form that does not know its paths apart.
        """
        raise UnsupportedError(self._pathless("direct"))

    def pointwise(self) -> StepJacobian:
        """Return ``A`` by what goes around all weights, those between stages, too; raises like ``direct``."""
        return self.direct()

    def cut(self, paths: Sequence[str]) -> StepJacobian:
        """Return ``A`` without some of its paths; raises like ``direct``."""
        raise UnsupportedError(self._pathless("cut"))

    def replace(self, weights: Mapping[str, torch.Tensor]) -> StepJacobian:
        """Return ``A`` with other weights on its paths; raises like ``direct``."""
        raise UnsupportedError(
            f"{self!r} ({self.method} form) does not know its weights apart from its gains; "
            "replace works on models written as a SiteModel"
        )

    def _pathless(self, method: str) -> str:
        return (
            f"{self!r} ({self.method} form) does not know its paths apart; {method} works on models written "
            "as a SiteModel, and diagonal, unit_blocks, where and masked on any"
        )

    # -- sums and multiples are step Jacobians again ---------------------------------------------------------

    def __add__(self, other: object) -> Operator:
        total = super().__add__(other)
        if isinstance(total, SumOperator):
            steps = [term for term in total.terms if isinstance(term, StepJacobian)]
            return _form("sum", steps) if len(steps) == len(total.terms) else total
        return total

    def __mul__(self, other: object) -> Operator:
        made = super().__mul__(other)
        if isinstance(made, ScaledOperator) and isinstance(made.inner, StepJacobian):
            return _form("scaled", made.scalar, made.inner)
        return made

    def _formula(self) -> tuple[str, int]:
        return self.name, ATOM


def _form(kind: str, /, *arguments: Any, **options: Any) -> StepJacobian:
    made: StepJacobian = FORMS[kind](*arguments, **options)
    return made


def check_steps(argument: str, mask: torch.Tensor, A: StepJacobian) -> None:
    """Raise unless a mask is a bool tensor ``[T]`` or ``[B, T]`` that fits ``A``."""
    batch, time, _ = A.domain.shape
    shapes = {f"[time={time}]": (time,), f"[batch={batch}, time={time}]": (batch, time)}
    check_mask(argument, mask, A, shapes)


def check_mask(
    argument: str, mask: torch.Tensor, A: StepJacobian, shapes: Mapping[str, tuple[int, ...]]
) -> None:
    """Raise unless a mask is a bool tensor of one of the named shapes, on the device of ``A``."""
    if tuple(mask.shape) not in shapes.values():
        raise ShapeError(mismatch(argument, f"shape {' or '.join(shapes)}", list(mask.shape)))
    if mask.dtype != torch.bool:
        raise DtypeError(mismatch(argument, "dtype torch.bool", mask.dtype))
    if mask.device != A.device:
        raise DeviceError(mismatch(argument, f"device {A.device}", mask.device))
