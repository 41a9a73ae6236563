"""``A``, the step Jacobian: block diagonal over trials and steps, ``A_t = df/dh_{t-1}``.

The abstract class first, with what a rule cuts out of A or puts in its place; then A from what is kept of it
(blocks, diagonals, entries); then A made of another (masked, switched, sums, multiples).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property, partial
from typing import Any, Self, TypeVar, overload

import torch

from kpframe.errors import (
    ShapeError,
    UnsupportedError,
    mismatch,
)
from kpframe.flow._entries import (
    check_mask,
    check_steps,
    entry_tables,
    same_label,
    table_widths,
    units_by_width,
)
from kpframe.flow._named_parameters import all_names, check_weights, match_paths, shared_out
from kpframe.flow._scans import KeptSteps, Scans
from kpframe.flow._weighted_steps import WeightedSteps
from kpframe.operators._algebra import ScaledOperator, SumOperator
from kpframe.operators._base import MEMORY_BUDGET, Operator
from kpframe.operators._isolation import in_isolation
from kpframe.operators._memory import CHUNK_BYTES, check_dense_memory
from kpframe.operators._scale import scaled_product
from kpframe.operators._spaces import BATCH, HIDDEN, TIME, Space

Made = TypeVar("Made")


class StepJacobian(Operator):
    """The operator ``(A q)_t = A_t q_t`` on the state space ``(batch, time, hidden)``.

    A subclass supplies the two products of one step. Time indices count the entries of the time axis
    from 0, so ``A_0`` is the derivative of the first state with respect to the initial one; the
    propagator never uses it, a trainable initial state does.

    It acts on ``space``, on tensors of ``dtype`` on ``device``, and prints as ``name``. Raises ``ShapeError``
    for a space of other axes.
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
        """Return ``A_t v`` for ``v`` ``[..., B, H]`` and the step with index ``t``."""

    @abstractmethod
    def step_adjoint(self, t: int, v: torch.Tensor) -> torch.Tensor:  # [..., B, H] -> [..., B, H]
        """Return ``A_t* v`` for ``v`` ``[..., B, H]`` and the step with index ``t``."""

    def scan(self, q: torch.Tensor) -> torch.Tensor:  # [T, ..., B, H]
        """Turn ``q`` ``[T, ..., B, H]`` into ``(I - A Z)^{-1} q`` in place, and return it."""
        for t in range(1, self.steps):
            q[t] += self.step(t, q[t - 1])
        return q

    def scan_adjoint(self, r: torch.Tensor) -> torch.Tensor:  # [T, ..., B, H]
        """Turn ``r`` ``[T, ..., B, H]`` into ``(I - A Z)^{-*} r`` in place, and return it."""
        for t in range(self.steps - 1, 0, -1):
            r[t - 1] += self.step_adjoint(t, r[t])
        return r

    def scans(self, keep: torch.Tensor) -> Scans:
        """Return the scans of ``masked(keep)``, ``keep`` ``[T]`` or ``[B, T]``.

        A form overrides it where it knows cheaper ones.
        """
        return KeptSteps(self, keep)

    def weighted_steps(self) -> WeightedSteps | None:
        """Return A as weights between pointwise gains, None where it is not known to be of that kind.

        A form of P that is compiled takes it from here.
        """
        return None

    @property
    def separate_axes(self) -> frozenset[str]:
        """``batch`` and ``time``: no trial reaches another, and no step another."""
        return frozenset({BATCH, TIME})

    @property
    def steps(self) -> int:
        """Number of time steps T."""
        return self.domain.shape[1]

    def keeping(self, valid: torch.Tensor | None) -> Self:
        """Return the operator itself, told its ``valid`` steps, bool ``[B, T]`` (None: left as it is)."""
        if valid is not None:
            self.valid = valid
        return self

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.step(t, q[..., t, :]) for t in range(self.steps)], dim=-2)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.step_adjoint(t, r[..., t, :]) for t in range(self.steps)], dim=-2)

    def blocks(self, max_bytes: int = MEMORY_BUDGET) -> torch.Tensor:
        """Return the dense ``A_t``, ``[B, T, H, H]``, of at most ``max_bytes`` bytes.

        Raises ``MemoryBudgetError``.
        """
        batch, time, hidden = self.domain.shape
        check_dense_memory(f"blocks of {self!r}", batch * time * hidden, hidden, self.dtype, max_bytes)
        return self._columns(0, hidden).permute(1, 2, 3, 0).contiguous()

    def _columns(self, start: int, stop: int) -> torch.Tensor:  # [stop - start, B, T, H]
        """Return ``A_t e_j`` for j in ``start:stop``."""
        unit = torch.eye(self.domain.shape[2], dtype=self.dtype, device=self.device)[start:stop]
        return self(unit[:, None, None, :].expand(-1, *self.domain.shape).contiguous())

    # -- what rules cut out of A, or put in its place --------------------------------------------------------

    @property
    def units(self) -> torch.Tensor:  # [H], int64
        """Which unit each entry of the state belongs to, ``[H]``: a neuron with its gates or its memory.

        Where nothing else is known, entry i of all components of one width makes up one unit.
        """
        return units_by_width(self.domain[HIDDEN]).to(self.device)

    def diagonal(self) -> DiagonalStepJacobian:
        """Return the operator that keeps the diagonal of each ``A_t`` only (H products, here)."""
        columns = [self._columns(unit, unit + 1)[0, ..., unit] for unit in range(self.domain.shape[2])]
        values = torch.stack(columns, dim=-1)
        return DiagonalStepJacobian(values, self.domain, name=f"diag({self.name})").keeping(self.valid)

    def unit_blocks(self) -> StepJacobian:
        """Return the operator that keeps the entries within each unit only (H products, here)."""
        pattern = same_label(self.units)
        return EntryStepJacobian(self, pattern, name=f"{self.name}[units]").keeping(self.valid)

    def where(self, pattern: torch.Tensor, *, max_bytes: int = MEMORY_BUDGET) -> StepJacobian:
        """Return the operator that keeps the entries where ``pattern`` (bool, ``[H, H]``) is True.

        H products, all steps at once; the entries are kept.

        Raises:
            ShapeError, DtypeError, DeviceError: for a pattern that does not fit.
            MemoryBudgetError: when the entries need more than ``max_bytes`` bytes.
        """
        made = EntryStepJacobian(self, pattern, name=f"{self.name}[pattern]", max_bytes=max_bytes)
        return made.keeping(self.valid)

    def masked(self, keep: torch.Tensor, name: str | None = None) -> StepJacobian:
        """Return ``A``, as ``name``, with ``A_t := 0`` where ``keep``, bool ``[T]`` or ``[B, T]``, is not."""
        return MaskedStepJacobian(self, keep, name=name)

    def switched(self, other: StepJacobian, at: torch.Tensor) -> StepJacobian:
        """Return ``A`` with the ``A_t`` of ``other`` where ``at`` (bool, ``[T]`` or ``[B, T]``) is True."""
        return SwitchedStepJacobian(self, other, at)

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

    @property
    def paths(self) -> tuple[str, ...]:
        """The names that ``cut`` takes; raises like ``direct``."""
        raise UnsupportedError(self._pathless("cut"))

    def cut(self, paths: Sequence[str]) -> StepJacobian:
        """Return ``A`` without some of its ``paths``, by name or pattern; raises like ``direct``."""
        raise UnsupportedError(self._pathless("cut"))

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The recurrent weights ``[rows, columns]`` on the paths, by name; raises like ``direct``."""
        raise UnsupportedError(self._weightless("weights"))

    def replace(self, weights: Mapping[str, torch.Tensor]) -> StepJacobian:
        """Return ``A`` with other ``weights``, by name and of their shapes; raises like ``direct``."""
        raise UnsupportedError(self._weightless("replace"))

    def _weightless(self, method: str) -> str:
        return (
            f"{self!r} ({self.method} form) does not know its weights apart from its gains; "
            f"{method} works on models written as a SiteModel"
        )

    def _pathless(self, method: str) -> str:
        remedy = f"{method} works on models written as a SiteModel, "
        if isinstance(self, DiagonalStepJacobian | EntryStepJacobian):
            remedy += "before diagonal, unit_blocks or where take entries of their step Jacobian"
        else:
            remedy += "and diagonal, unit_blocks, where and masked on any"
        return f"{self!r} ({self.method} form) does not know its paths apart; {remedy}"

    # -- sums and multiples are step Jacobians again ---------------------------------------------------------

    @overload
    def __add__(self, other: StepJacobian) -> StepJacobian: ...
    @overload
    def __add__(self, other: object) -> Operator: ...
    def __add__(self, other: object) -> Operator:
        total = super().__add__(other)
        if isinstance(total, SumOperator):
            steps = [term for term in total.terms if isinstance(term, StepJacobian)]
            return SumStepJacobian(steps) if len(steps) == len(total.terms) else total
        return total

    @overload
    def __sub__(self, other: StepJacobian) -> StepJacobian: ...
    @overload
    def __sub__(self, other: object) -> Operator: ...
    def __sub__(self, other: object) -> Operator:
        return super().__sub__(other)

    @overload
    def __mul__(self, other: float) -> StepJacobian: ...
    @overload
    def __mul__(self, other: object) -> Operator: ...
    def __mul__(self, other: object) -> Operator:
        made = super().__mul__(other)
        if isinstance(made, ScaledOperator) and isinstance(made.inner, StepJacobian):
            return ScaledStepJacobian(made.scalar, made.inner)
        return made

    @overload
    def __rmul__(self, other: float) -> StepJacobian: ...
    @overload
    def __rmul__(self, other: object) -> Operator: ...
    def __rmul__(self, other: object) -> Operator:
        return super().__rmul__(other)


class DenseStepJacobian(StepJacobian):
    """``A`` from its ``blocks`` ``[B, T, H, H]``, which are kept, not copied.

    ``space`` is the state space, None for one of their sizes; ``name`` how it prints. Raises ``ShapeError``.
    """

    method = "dense"

    def __init__(self, blocks: torch.Tensor, space: Space | None = None, *, name: str = "A") -> None:
        if blocks.ndim != 4 or blocks.shape[2] != blocks.shape[3]:
            raise ShapeError(mismatch("blocks", "shape [B, T, H, H]", list(blocks.shape)))
        batch, time, hidden, _ = blocks.shape
        space = Space.of(batch=batch, time=time, hidden=hidden) if space is None else space
        if space.shape != (batch, time, hidden):
            raise ShapeError(mismatch("space", f"sizes {[batch, time, hidden]}", f"({space})"))
        super().__init__(space, dtype=blocks.dtype, device=blocks.device, name=name)
        self._blocks = blocks.detach()

    def step(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t v``."""
        return (self._blocks[:, t] @ v.unsqueeze(-1)).squeeze(-1)

    def step_adjoint(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t* v``."""
        return (self._blocks[:, t].mT @ v.unsqueeze(-1)).squeeze(-1)

    def _columns(self, start: int, stop: int) -> torch.Tensor:
        return self._blocks[..., start:stop].movedim(-1, 0)

    def diagonal(self) -> DiagonalStepJacobian:
        """Return the operator that keeps the diagonal of each ``A_t`` only."""
        values = self._blocks.diagonal(dim1=-2, dim2=-1).contiguous()
        return DiagonalStepJacobian(values, self.domain, name=f"diag({self.name})").keeping(self.valid)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return (self._blocks @ q.unsqueeze(-1)).squeeze(-1)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return (self._blocks.mT @ r.unsqueeze(-1)).squeeze(-1)


class DiagonalStepJacobian(StepJacobian):
    """``A`` from the diagonals of its blocks, ``values`` ``[B, T, H]``, which are kept, not copied.

    ``space`` is the state space, None for one of their sizes; ``name`` how it prints. Raises ``ShapeError``.
    """

    method = "diagonal"

    def __init__(self, values: torch.Tensor, space: Space | None = None, *, name: str = "A") -> None:
        if values.ndim != 3:
            raise ShapeError(mismatch("values", "shape [B, T, H]", list(values.shape)))
        if space is None:
            batch, time, hidden = values.shape
            space = Space.of(batch=batch, time=time, hidden=hidden)
        space.check(values, "values")
        super().__init__(space, dtype=values.dtype, device=values.device, name=name)
        self.values = values.detach()

    @property
    def self_adjoint(self) -> bool:
        """Always true."""
        return True

    def step(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t v``."""
        return self.values[:, t] * v

    def step_adjoint(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t* v``, the same."""
        return self.values[:, t] * v

    def scan(self, q: torch.Tensor) -> torch.Tensor:
        """Turn ``q`` ``[T, ..., B, H]`` into ``(I - A Z)^{-1} q`` in place, and return it."""
        for t in range(1, self.steps):
            q[t].addcmul_(self.values[:, t], q[t - 1])
        return q

    def scan_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        """Turn ``r`` ``[T, ..., B, H]`` into ``(I - A Z)^{-*} r`` in place, and return it."""
        for t in range(self.steps - 1, 0, -1):
            r[t - 1].addcmul_(self.values[:, t], r[t])
        return r

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self.values * q

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self.values * r

    def masked(self, keep: torch.Tensor, name: str | None = None) -> DiagonalStepJacobian:
        """Return ``A`` with ``A_t := 0`` where ``keep`` is False: diagonal as before."""
        check_steps("keep", keep, self)
        kept = torch.where(keep.expand(self.domain.shape[:2]).unsqueeze(-1), self.values, 0.0)
        made = DiagonalStepJacobian(kept, self.domain, name=name or f"{self.name}[masked]")
        return made.keeping(self.valid)

    def diagonal(self) -> DiagonalStepJacobian:
        """Return the operator itself."""
        return self


class EntryStepJacobian(StepJacobian):
    """Some entries of each ``A_t``, the same ones at every step; they are kept, the others are zero.

    They are those of ``inner`` where ``pattern`` (bool, ``[H, H]``) is True, of at most ``max_bytes`` bytes;
    it prints as ``name``.
    """

    method = "entries"

    def __init__(
        self, inner: StepJacobian, pattern: torch.Tensor, *, name: str, max_bytes: int = MEMORY_BUDGET
    ) -> None:
        batch, time, hidden = inner.domain.shape
        check_mask("pattern", pattern, inner, {f"[hidden={hidden}, hidden={hidden}]": (hidden, hidden)})
        super().__init__(inner.domain, dtype=inner.dtype, device=inner.device, name=name)
        widths = table_widths(pattern)
        check_dense_memory(f"entries of {inner!r}", batch * time * hidden, widths, self.dtype, max_bytes)
        self.pattern, self._units = pattern.clone(), inner.units
        count = max(1, CHUNK_BYTES // (self.domain.largest * self.dtype.itemsize))  # on all ranks alike
        self._rows, self._columns_table = entry_tables(pattern, inner._columns, count)

    @property
    def units(self) -> torch.Tensor:
        """Which unit each entry of the state belongs to, ``[H]``."""
        return self._units

    def step(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t v``."""
        return self._rows.product(t, v)

    def step_adjoint(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t* v``."""
        return self._columns_table.product(t, v)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self._rows.product(slice(None), q.transpose(-3, -2)).transpose(-3, -2)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self._columns_table.product(slice(None), r.transpose(-3, -2)).transpose(-3, -2)


class CombinedStepJacobian(StepJacobian):
    """A step Jacobian that is linear in others, its terms: cut, switched, a sum or a multiple.

    What a rule makes of it is combined of what it makes of the terms.
    """

    #: What it is made of.
    parts: tuple[StepJacobian, ...]

    @abstractmethod
    def combine(self, parts: Sequence[StepJacobian]) -> StepJacobian:
        """Return the same of other step Jacobians, ``parts``."""

    @property
    def units(self) -> torch.Tensor:
        """Which unit each entry of the state belongs to, as the first part has it."""
        return self.parts[0].units

    def diagonal(self) -> DiagonalStepJacobian:
        """Return the operator that keeps the diagonal of each ``A_t`` only."""
        diagonal = self.combine([part.diagonal() for part in self.parts])
        values = diagonal._apply(torch.ones(self.domain.shape, dtype=self.dtype, device=self.device))
        return DiagonalStepJacobian(values, self.domain, name=f"diag({self.name})").keeping(self.valid)

    def unit_blocks(self) -> StepJacobian:
        """Return the entries within each unit, where all parts have the same units; else by H products."""
        first, *others = [part.units for part in self.parts]
        if not all(torch.equal(first, other) for other in others):
            return super().unit_blocks()
        return self._combined([part.unit_blocks() for part in self.parts])

    def direct(self) -> StepJacobian:
        """Return it of the parts' direct paths.

        Raises:
            UnsupportedError: where a part does not know its paths; says which.
        """
        return self._combined(self._each(lambda part: part.direct()))

    def pointwise(self) -> StepJacobian:
        """Return it of what goes around all weights of the parts; raises like ``direct``."""
        return self._combined(self._each(lambda part: part.pointwise()))

    @property
    def paths(self) -> tuple[str, ...]:
        """The names that ``cut`` takes: those of all parts; raises like ``direct``."""
        return all_names(self._each(lambda part: part.paths))

    def cut(self, paths: Sequence[str]) -> StepJacobian:
        """Return it of the parts without those of the paths that they have; raises like ``direct``."""
        known = self._each(lambda part: part.paths)
        pairs = zip(self.parts, shared_out(match_paths(all_names(known), paths), known), strict=True)
        return self._combined([part.cut(own) for part, own in pairs])

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The recurrent weights of the parts, of the first one that has it; raises like ``direct``."""
        return {name: w for own in reversed(self._each(lambda part: part.weights)) for name, w in own.items()}

    def replace(self, weights: Mapping[str, torch.Tensor]) -> StepJacobian:
        """Return it with other weights in all parts that have them; raises like ``direct``."""
        known = self._each(lambda part: tuple(part.weights))
        check_weights(weights, all_names(known))
        pairs = zip(self.parts, shared_out(weights, known), strict=True)
        return self._combined([part.replace({name: weights[name] for name in own}) for part, own in pairs])

    def _combined(self, parts: Sequence[StepJacobian]) -> StepJacobian:
        return self.combine(parts).keeping(self.valid)

    def _each(self, make: Callable[[StepJacobian], Made]) -> list[Made]:
        """Return what is made of each part; one that refuses is named beside the whole."""
        try:
            return [make(part) for part in self.parts]
        except UnsupportedError as error:
            if len(self.parts) == 1:
                raise
            raise UnsupportedError(f"{self!r}: of its terms, {error}") from error


class MaskedStepJacobian(CombinedStepJacobian):
    """``A``, the ``inner`` one, with ``A_t := 0`` where ``keep`` (bool, ``[T]`` or ``[B, T]``) is False.

    It prints as ``name``.
    """

    def __init__(self, inner: StepJacobian, keep: torch.Tensor, *, name: str | None = None) -> None:
        check_steps("keep", keep, inner)
        super().__init__(
            inner.domain, dtype=inner.dtype, device=inner.device, name=name or f"{inner.name}[masked]"
        )
        self.inner, self.parts = inner, (inner,)
        self.method, self.valid = inner.method, inner.valid
        self.keep = keep.clone()
        self._keep = keep.expand(self.domain.shape[:2]).to(inner.dtype).unsqueeze(-1)  # [B, T, 1]

    @cached_property
    def _scans(self) -> Scans:
        return self.inner.scans(self.keep)

    def scan(self, q: torch.Tensor) -> torch.Tensor:
        """Turn ``q`` ``[T, ..., B, H]`` into ``(I - A Z)^{-1} q`` in place, and return it."""
        return self._scans.scan(q)

    def scan_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        """Turn ``r`` ``[T, ..., B, H]`` into ``(I - A Z)^{-*} r`` in place, and return it."""
        return self._scans.scan_adjoint(r)

    def scans(self, keep: torch.Tensor) -> Scans:
        """Return the scans of the inner one, cut here and there."""
        return self.inner.scans(self.keep & keep)

    def weighted_steps(self) -> WeightedSteps | None:
        """Return those of the inner one with gains that are zero where a step is cut."""
        inner = self.inner.weighted_steps()
        return None if inner is None else inner.cut(self._keep.transpose(0, 1))

    def step(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t v``, zero where the step is cut."""
        return self._keep[:, t] * self.inner.step(t, v)

    def step_adjoint(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t* v``, zero where the step is cut."""
        return self._keep[:, t] * self.inner.step_adjoint(t, v)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self._keep * self.inner._apply(q)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self.inner._apply_adjoint(self._keep * r)

    def combine(self, parts: Sequence[StepJacobian]) -> StepJacobian:
        """Return another one cut at the same steps."""
        return parts[0].masked(self.keep)

    def where(self, pattern: torch.Tensor, *, max_bytes: int = MEMORY_BUDGET) -> StepJacobian:
        """Return the operator that keeps the entries where a pattern is True."""
        return self.inner.where(pattern, max_bytes=max_bytes).masked(self.keep)


class SwitchedStepJacobian(CombinedStepJacobian):
    """``A``, the ``inner`` one, with ``other`` in its place where ``at`` (bool, ``[T]`` or ``[B, T]``) holds.

    Raises ``ShapeError`` for one on another space.
    """

    def __init__(self, inner: StepJacobian, other: StepJacobian, at: torch.Tensor) -> None:
        check_steps("at", at, inner)
        if other.domain != inner.domain:
            raise ShapeError(mismatch("other", f"a step Jacobian on ({inner.domain})", f"({other.domain})"))
        name = f"{inner.name}|{other.name}"
        super().__init__(inner.domain, dtype=inner.dtype, device=inner.device, name=name)
        self.inner, self.other, self.at = inner, other, at.clone()
        self.parts = (inner, other)
        self.method, self.valid = inner.method, inner.valid
        self._at = self.at.expand(self.domain.shape[:2]).unsqueeze(-1)  # [B, T, 1]
        self._all, self._any = self._at.all(dim=0).flatten().tolist(), self._at.any(dim=0).flatten().tolist()

    def combine(self, parts: Sequence[StepJacobian]) -> StepJacobian:
        """Return two others, switched at the same steps."""
        return parts[0].switched(parts[1], self.at)

    def step(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t v``."""
        if self._all[t]:
            return self.other.step(t, v)
        out = self.inner.step(t, v)
        return torch.where(self._at[:, t], self.other.step(t, v), out) if self._any[t] else out

    def step_adjoint(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t* v``."""
        if self._all[t]:
            return self.other.step_adjoint(t, v)
        out = self.inner.step_adjoint(t, v)
        return torch.where(self._at[:, t], self.other.step_adjoint(t, v), out) if self._any[t] else out

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return torch.where(self._at, self.other._apply(q), self.inner._apply(q))

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return torch.where(self._at, self.other._apply_adjoint(r), self.inner._apply_adjoint(r))


class SumStepJacobian(SumOperator, CombinedStepJacobian):
    """A sum of step Jacobians, ``terms``; made by ``A + B`` and ``A - B``."""

    def __init__(self, terms: Sequence[StepJacobian]) -> None:
        first = terms[0]
        StepJacobian.__init__(self, first.domain, dtype=first.dtype, device=first.device)
        self.terms: tuple[StepJacobian, ...] = tuple(terms)
        self.parts = self.terms
        self.name = f"({self!r})"
        self.valid = next((term.valid for term in terms if term.valid is not None), None)

    @property
    def method(self) -> str:  # type: ignore[override]
        """How the products are computed: the forms of the terms."""
        return " + ".join(dict.fromkeys(term.method for term in self.terms))

    def combine(self, parts: Sequence[StepJacobian]) -> StepJacobian:
        """Return the sum of others."""
        return SumStepJacobian(parts)

    def step(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t v``."""
        return sum((term.step(t, v) for term in self.terms[1:]), self.terms[0].step(t, v))

    def step_adjoint(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t* v``."""
        return sum((term.step_adjoint(t, v) for term in self.terms[1:]), self.terms[0].step_adjoint(t, v))


class ScaledStepJacobian(ScaledOperator, CombinedStepJacobian):
    """``c A``, a number ``scalar`` times ``inner``; made by ``c * A``."""

    def __init__(self, scalar: float, inner: StepJacobian) -> None:
        StepJacobian.__init__(self, inner.domain, dtype=inner.dtype, device=inner.device)
        self.scalar = scalar
        self.inner: StepJacobian = inner
        self.parts = (inner,)
        self.name = f"({self!r})"
        self.method, self.valid = inner.method, inner.valid

    def combine(self, parts: Sequence[StepJacobian]) -> StepJacobian:
        """Return ``c`` times another."""
        return self.scalar * parts[0]

    def step(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``c A_t v``."""
        return scaled_product(self.scalar, partial(self.inner.step, t), v)

    def step_adjoint(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``c A_t* v``."""
        return scaled_product(self.scalar, partial(self.inner.step_adjoint, t), v)
