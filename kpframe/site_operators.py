"""The structured operators of weight sites: products with the weights between pointwise gains.

With ``D[c, a] = dh'_c / du_a`` and ``E[c, c'] = dh'_c / dh_c'`` (both diagonal over units) and
``S = dz / dh`` the slope of a site's source::

    A_t v = D_t (W S_t v) + E_t v            J dtheta = D (dW z + db)

so nothing of size ``[B, T, H, H]`` is ever formed. A step of several stages is a chain of these.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import cast

import torch
from attrs import evolve

from kpframe.errors import ArgumentError, ShapeError, closest, mismatch
from kpframe.operators.atoms import IdentityOperator
from kpframe.operators.base import Operator
from kpframe.operators.dense import CHUNK_BYTES
from kpframe.parameter import GroupProjector, ParameterJacobian, ParameterOperator
from kpframe.site_gains import PlacedOutput, PlacedSite, PlacedStage, SiteGains, add, gather, scatter
from kpframe.site_groups import SiteGroup, group_sites
from kpframe.site_layout import PRIME
from kpframe.site_scan import can_scan, pull_columns, push_columns, scan, scan_adjoint
from kpframe.spaces import Space
from kpframe.step_jacobian import DiagonalStepJacobian, StepJacobian

#: The path that goes around all weights.
DIRECT = "direct"


class SiteStepJacobian(StepJacobian):
    """``A_t v = Sum_k D (W_k S_k v) + E v``; one product with each recurrent weight a step."""

    method = "sites"

    def __init__(self, gains: SiteGains, *, name: str = "A") -> None:
        super().__init__(gains.space, dtype=gains.like.dtype, device=gains.like.device, name=name)
        self.gains = gains

    def step(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t v``."""
        return self._product(t, v)

    def step_adjoint(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t* v``."""
        return self._product_adjoint(t, v)

    def scan(self, q: torch.Tensor) -> torch.Tensor:
        """Turn ``q`` ``[T, ..., B, H]`` into ``(I - A Z)^{-1} q`` in place, and return it."""
        return scan(self.gains, q) if can_scan(self.gains) else super().scan(q)

    def scan_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        """Turn ``r`` ``[T, ..., B, H]`` into ``(I - A Z)^{-*} r`` in place, and return it."""
        return scan_adjoint(self.gains, r) if can_scan(self.gains) else super().scan_adjoint(r)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self._product(slice(None), q.transpose(-3, -2)).transpose(-3, -2)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self._product_adjoint(slice(None), r.transpose(-3, -2)).transpose(-3, -2)

    def _product(self, t: int | slice, v: torch.Tensor) -> torch.Tensor:
        return self.gains.join(self.gains.tangent(t, self.gains.split(v), {}), v.shape[:-1])

    def _product_adjoint(self, t: int | slice, r: torch.Tensor) -> torch.Tensor:
        back, _ = self.gains.cotangent(t, self.gains.split(r), state=True)
        return self.gains.join(back, r.shape[:-1])

    @property
    def units(self) -> torch.Tensor:  # [H], int64
        """Which unit each entry of the state belongs to: entries that pointwise functions connect."""
        return _neurons(self.gains).to(self.device)

    def diagonal(self) -> DiagonalStepJacobian:
        """Return the operator that keeps the diagonal of each ``A_t``, in closed form for one stage."""
        gains = self.gains
        if len(gains.stages) > 1:
            return super().diagonal()
        batch, time, _ = self.domain.shape
        own = {name: paths[name] for name, paths in _own_gains(gains.stages[0]).items() if name in paths}
        values = gains.join(own, (time, batch)).transpose(0, 1).contiguous()
        return DiagonalStepJacobian(values, self.domain, name=f"diag({self.name})")

    def unit_blocks(self) -> StepJacobian:
        """Return the operator that keeps the entries within each unit, in closed form for one stage.

        A product is then pointwise: no weight matrix is left.
        """
        if len(self.gains.stages) > 1:
            return super().unit_blocks()
        name = f"{self.name}[units]"
        if len(self.gains.components) == 1:  # a unit is one entry
            return DiagonalStepJacobian(self.diagonal().values, self.domain, name=name)
        (stage,) = self.gains.stages
        outputs = tuple(PlacedOutput(output, {}, paths) for output, paths in _own_gains(stage).items())
        return SiteStepJacobian(
            evolve(self.gains, stages=(evolve(stage, sites=(), outputs=outputs),)), name=name
        )

    def replace(self, weights: Mapping[str, torch.Tensor]) -> SiteStepJacobian:
        """Return ``A`` with other weights on its paths, the gains unchanged.

        Args:
            weights: name of a site's weight -> matrix of the same shape.
        """
        known = {
            placed.site.weight: placed.weight
            for placed in self.gains.sites
            if placed.site.recurrent and placed.weight is not None
        }
        for name, weight in weights.items():
            if name not in known:
                names = [str(name) for name in known]
                raise ArgumentError(
                    mismatch("weights", f"names among {names}", f"{name!r}{closest(name, names)}")
                )
            own = known[name]
            if weight.shape != own.shape:
                raise ShapeError(
                    mismatch(f"weights[{name!r}]", f"shape {list(own.shape)}", list(weight.shape))
                )
            if (weight.dtype, weight.device) != (own.dtype, own.device):
                raise ArgumentError(
                    mismatch(
                        f"weights[{name!r}]",
                        f"{own.dtype} on {own.device}",
                        f"{weight.dtype} on {weight.device}",
                    )
                )
        replaced = {name: weight.detach().clone() for name, weight in weights.items()}
        gains = self.gains.with_weights(lambda p: replaced.get(str(p.site.weight), _matrix(p)))
        return SiteStepJacobian(gains, name=f"{self.name}[{', '.join(weights)}]")

    def direct(self) -> SiteStepJacobian:
        """Return ``A`` by its direct path ``E`` only: no weight site passes anything on."""
        stages = tuple(
            evolve(stage, sites=tuple(placed for placed in stage.sites if not placed.site.recurrent))
            for stage in self.gains.stages
        )
        return SiteStepJacobian(evolve(self.gains, stages=stages), name=f"{self.name}[direct]")

    @property
    def paths(self) -> tuple[str, ...]:
        """What ``cut`` knows: the preactivations that the state reaches, its weights there, ``"direct"``."""
        sites = [placed.site for placed in self.gains.sites if placed.site.recurrent]
        targets = [target for site in sites for target in site.targets]
        return tuple(dict.fromkeys((*targets, *(str(site.weight) for site in sites), DIRECT)))

    def cut(self, paths: Sequence[str]) -> StepJacobian:
        """Return ``A`` without some of its paths.

        Args:
            paths: names among ``paths``; ``*`` and ``?`` match as in file names. A preactivation
                (``"z"``: the state reaches it no more, as if detached), a weight (no site of it passes
                anything on), or ``"direct"`` (what goes around all weights, where a padded step that holds
                the state is direct, too).

        Raises:
            ArgumentError: for a name that is no path; lists those there are.
        """
        chosen = self._match(paths)

        def cut(placed: PlacedSite) -> torch.Tensor:
            matrix, targets = _matrix(placed), placed.site.targets
            keep = [target not in chosen and placed.site.weight not in chosen for target in targets]
            if all(keep):
                return matrix
            on = torch.tensor(keep, device=matrix.device).repeat_interleave(matrix.shape[-2] // len(targets))
            return matrix * on.unsqueeze(-1)

        name = f"{self.name}[cut {', '.join(paths)}]" if paths else self.name
        kept = SiteStepJacobian(self.gains.with_weights(cut), name=name)
        if DIRECT not in chosen:
            return kept
        if len(self.gains.stages) > 1:  # there, what is pointwise leads to weights, too
            return cast(StepJacobian, kept - self.direct())
        (stage,) = kept.gains.stages
        outputs = tuple(evolve(output, direct={}) for output in stage.outputs)
        return SiteStepJacobian(evolve(kept.gains, stages=(evolve(stage, outputs=outputs),)), name=name)

    def _match(self, paths: Sequence[str]) -> set[str]:
        if isinstance(paths, str):
            raise ArgumentError(mismatch("paths", f"a list such as [{paths!r}]", repr(paths)))
        chosen: set[str] = set()
        for pattern in paths:
            matched = [name for name in self.paths if pattern == name or fnmatchcase(name, pattern)]
            if not matched:
                known = ", ".join(map(repr, self.paths))
                raise ArgumentError(
                    mismatch("paths", f"names among {known}", f"{pattern!r}{closest(pattern, self.paths)}")
                )
            chosen.update(matched)
        return chosen


class SiteParameterJacobian(ParameterJacobian):
    """``J dtheta = D (dW z + db)``, one matrix product for each set of targets.

    The products run over stretches of steps whose temporaries stay in the processor's cache.
    """

    method = "sites"

    def __init__(self, gains: SiteGains, domain: Space, trains_start: bool) -> None:
        super().__init__(domain, gains.space, dtype=gains.like.dtype, device=gains.like.device)
        self.gains = gains
        self._parts = {part.name: part for part in domain.axes[0].parts}
        self.first_step = SiteStepJacobian(gains) if trains_start else None
        names = [name for placed in gains.sites for name in placed.site.learned if name in self._parts]
        #: Whether one parameter acts at several sites, so that what the sites do not just adds up.
        self.ties = len(set(names)) < len(names)
        self._groups: dict[frozenset[str], list[SiteGroup]] = {}

    def groups(self, names: Collection[str]) -> list[SiteGroup]:
        """Return the sites of the named parameters, those of the same targets together."""
        key = frozenset(names)
        if key not in self._groups:
            self._groups[key] = group_sites(self.gains, key)
        return self._groups[key]

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        probes = q.shape[:-1]
        moved = {name: q[..., part.slice].reshape(*probes, *part.shape) for name, part in self._parts.items()}
        groups = self.groups(self._parts)
        return self.push(groups, [group.weight(moved, probes) for group in groups], moved.get("h0"), probes)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        probes = r.shape[:-3]
        gradients = self.backward(r, self._parts)
        flat = [
            gradients[name].reshape(*probes, -1) if name in gradients else r.new_zeros(*probes, part.size)
            for name, part in self._parts.items()
        ]
        return torch.cat(flat, dim=-1) if flat else r.new_zeros(*probes, 0)

    def forward(self, moved: Mapping[str, torch.Tensor], probes: torch.Size) -> torch.Tensor:
        """Return how the state ``[..., B, T, H]`` moves within each step when named parameters move."""
        groups = self.groups(moved)
        return self.push(groups, [group.weight(moved, probes) for group in groups], moved.get("h0"), probes)

    def backward(self, r: torch.Tensor, names: Collection[str]) -> dict[str, torch.Tensor]:
        """Return the gradients ``[..., *parameter]`` of the named parameters for a state vector."""
        groups = self.groups(names)
        out: dict[str, torch.Tensor] = {}
        for group, total in zip(groups, self.pull(groups, r), strict=True):
            if total is not None:
                for name, value in group.gradients(total):
                    add(out, name, value)
        if self.first_step is not None and "h0" in names:
            add(out, "h0", self.pull_start(r))
        return out

    def push(
        self,
        groups: Sequence[SiteGroup],
        weights: Sequence[torch.Tensor | None],
        start: torch.Tensor | None,
        probes: torch.Size,
    ) -> torch.Tensor:  # [..., B, T, H]
        """Return how the state moves within each step with the groups' weights and ``h_0`` ``[..., H]``."""
        batch, time, hidden = self.codomain.shape
        out = self.gains.like.new_empty(*probes, time, batch, hidden)
        live = [(group, w) for group, w in zip(groups, weights, strict=True) if w is not None]
        for steps in self._stretches(probes):
            part = out[..., steps, :, :]
            moved = [(group.targets, group.products(steps, weight)) for group, weight in live]
            if len(self.gains.stages) == 1:
                push_columns(self.gains, steps, moved, part)
            else:
                du: dict[str, torch.Tensor] = {}
                for targets, y in moved:
                    scatter(targets, y, du)
                part.copy_(self.gains.join(self.gains.tangent(steps, {}, du), part.shape[:-1]))
        if self.first_step is not None and start is not None:
            out[..., 0, :, :] += self.first_step.step(0, start.unsqueeze(-2).expand(*probes, batch, -1))
        return out.transpose(-3, -2)

    def pull(self, groups: Sequence[SiteGroup], r: torch.Tensor) -> list[torch.Tensor | None]:
        """Return what reaches the groups' weights for a state vector ``[..., B, T, H]``; None: nothing."""
        found: list[list[torch.Tensor]] = [[] for _ in groups]
        turned = r.transpose(-3, -2)
        for steps in self._stretches(r.shape[:-3]):
            part = turned[..., steps, :, :]
            if len(self.gains.stages) > 1:
                _, pulled = self.gains.cotangent(steps, self.gains.split(part.contiguous()), state=False)
            for group, totals in zip(groups, found, strict=True):
                if len(self.gains.stages) > 1:
                    columns = gather(group.targets, pulled)
                else:
                    columns = pull_columns(self.gains, steps, group.targets, part)
                if columns is not None:
                    group.accumulate(steps, columns, totals)
        return [group.total(totals) if totals else None for group, totals in zip(groups, found, strict=True)]

    def pull_start(self, r: torch.Tensor) -> torch.Tensor:  # [..., B, T, H] -> [..., H]
        """Return what reaches a trainable initial state through the first step."""
        assert self.first_step is not None
        return self.first_step.step_adjoint(0, r[..., 0, :]).sum(dim=-2)

    def _stretches(self, probes: torch.Size) -> list[slice]:
        """Return slices of steps whose states and preactivations fit in a cache, all probes together."""
        batch, time, hidden = self.codomain.shape
        targets = sum(stage.units * len(stage.targets) for stage in self.gains.stages)
        each = max(1, math.prod(probes)) * batch * (hidden + targets) * self.dtype.itemsize
        length = max(1, min(time, CHUNK_BYTES // each))
        return [slice(start, min(start + length, time)) for start in range(0, time, length)]


class SiteParameterOperator(ParameterOperator):
    """``K = J M J*`` of weight sites: Gram matrices of what the sites read, between the gains.

    Sites that act on the same targets share one Gram matrix, and each bias that learns adds a one to it:
    ``K = Sum D (Z Z^T + c 1 1^T) D*``, two matrix products for each set of targets. Groups that a
    restriction froze cost nothing.
    """

    def _sandwich(self, metric: Operator, q: torch.Tensor) -> torch.Tensor:
        jacobian = self.jacobian
        if not isinstance(jacobian, SiteParameterJacobian) or not isinstance(
            metric, IdentityOperator | GroupProjector
        ):
            return super()._sandwich(metric, q)
        names, probes = self.parameters, q.shape[:-3]
        if jacobian.ties:
            return jacobian.forward(jacobian.backward(q, names), probes)
        groups = jacobian.groups(names)
        totals = jacobian.pull(groups, q)
        weights = [
            None if total is None else group.returned(total)
            for group, total in zip(groups, totals, strict=True)
        ]
        learns_start = jacobian.first_step is not None and "h0" in names
        return jacobian.push(groups, weights, jacobian.pull_start(q) if learns_start else None, probes)

    def with_metric(self, metric: Operator, *, name: str = "K_M") -> ParameterOperator:
        """Return ``J M J*`` with another metric on the parameter space."""
        return SiteParameterOperator(self.jacobian, metric, name=name)


def _matrix(placed: PlacedSite) -> torch.Tensor:
    assert placed.weight is not None  # sites that read a state have one
    return placed.weight


def _own_weights(placed: PlacedSite, units: int) -> list[torch.Tensor]:
    """Return how each unit's preactivations move with its own source, by target: ``[n]`` or ``[T, B, n]``."""
    site, matrix = placed.site, _matrix(placed)
    if site.columns is not None:
        start, stop, _ = site.columns.indices(placed.width)
        matrix = torch.nn.functional.pad(matrix, (start, placed.width - stop))
    slope = placed.slope
    if slope is not None and site.columns is not None:
        slope = torch.nn.functional.pad(slope, (start, placed.width - stop))
    blocks = [block.diagonal(dim1=-2, dim2=-1) for block in torch.split(matrix, units, dim=-2)]
    if site.per_step:
        blocks = [block.unsqueeze(1) for block in blocks]  # [T, 1, n]
    return blocks if slope is None else [block * slope for block in blocks]


def _own_gains(stage: PlacedStage) -> dict[str, dict[str, torch.Tensor]]:
    """Return how a unit's outputs move with its own old components: output -> component -> ``[T, B, n]``.

    For the only stage of a model, in which a unit's own weights are the diagonals of the row blocks.
    """
    total = {output.name: dict(output.direct) for output in stage.outputs}
    for placed in stage.sites:
        if placed.site.recurrent:
            own = zip(placed.site.targets, _own_weights(placed, stage.units), strict=True)
            for target, weight in own:
                for output in stage.outputs:
                    if target in output.gains:
                        add(total[output.name], str(placed.site.source), weight * output.gains[target])
    return total


def _neurons(gains: SiteGains) -> torch.Tensor:  # [H], int64
    """Return the unit of each entry of the state: one index of all that pointwise functions connect.

    Outputs of one stage belong together, and with what they read directly; layers that reach each other
    through weights alone are apart.
    """
    groups: list[set[str]] = []
    for stage in gains.stages:
        names = {output.name for output in stage.outputs}
        names |= {name.removesuffix(PRIME) for output in stage.outputs for name in output.direct}
        joined = names.union(*(group for group in groups if group & names))
        groups = [group for group in groups if not group & names] + [joined]
    group_of = {name: place for place, group in enumerate(groups) for name in group}
    first: dict[int, int] = {}
    total, labels = 0, []
    for name, width in gains.components.items():
        if group_of[name] not in first:
            first[group_of[name]], total = total, total + width
        labels.append(torch.arange(width) + first[group_of[name]])
    return torch.cat(labels)
