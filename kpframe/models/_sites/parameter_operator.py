"""Weight sites that act on the same targets, taken together: one matrix product serves them all."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import torch
from attrs import evolve

from kpframe.errors import UnsupportedError, mismatch
from kpframe.flow._eligibilities import eligibilities
from kpframe.flow._parameter_jacobian import ParameterJacobian, WeightGroup
from kpframe.flow._parameter_operator import GroupProjector, ProductParameterOperator
from kpframe.flow._sharded_jacobian import ShardedParameterJacobian, local_jacobian, sum_over_ranks
from kpframe.flow._weighted_steps import WeightedRead
from kpframe.models._sites.columns import pull_columns, push_columns
from kpframe.models._sites.gains import SiteGains, add, gather, scatter
from kpframe.models._sites.groups import GramGroup, Reads, SiteGroup, gram_groups, group_sites
from kpframe.models._sites.step_jacobian import SiteStepJacobian
from kpframe.models._sites.trial_totals import total_over
from kpframe.operators._base import Operator, mean_over, sum_over
from kpframe.operators._elementary import IdentityOperator
from kpframe.operators._memory import ACCELERATOR_SLICE_BYTES, SLICE_BYTES
from kpframe.operators._spaces import Space

#: How many times longer slices are where threads share a product, which then wants more rows for each.
SHARED_SLICES = 4


class SiteParameterJacobian(ParameterJacobian):
    """``J dtheta = D (dW z + db)``, one matrix product for each set of targets.

    The products run over slices of steps and probes, whose temporaries, held in the same memory one after the
    other, are all that there is besides the result.

    Args:
        gains: along a trajectory, those of the model's A: ``flow.A.gains``.
        domain: the parameter space, of parameters that the sites are made of.
        trains_start: whether the initial state is a parameter, ``h0``.
    """

    method = "sites"

    def __init__(self, gains: SiteGains, domain: Space, trains_start: bool) -> None:
        super().__init__(domain, gains.space, dtype=gains.like.dtype, device=gains.like.device)
        self.gains = gains
        #: Most memory that the temporaries of a slice take, if a step needs no more [bytes].
        self.slice_bytes = SLICE_BYTES if self.device.type == "cpu" else ACCELERATOR_SLICE_BYTES
        self._parts = {part.name: part for part in domain.axes[0].parts}
        self.first_step = SiteStepJacobian(gains) if trains_start else None
        names = [name for placed in gains.sites for name in placed.learned if name in self._parts]
        names += ["h0"] if trains_start else []
        #: Whether one parameter acts at several sites, so that what the sites do not just adds up.
        self.ties = len(set(names)) < len(names)
        self._groups: dict[frozenset[str], list[SiteGroup]] = {}
        self._gram_groups: dict[frozenset[str], list[SiteGroup | GramGroup]] = {}

    def weight_groups(self, names: Iterable[str]) -> Sequence[WeightGroup]:
        """Return the weights among named parameters, those on the same preactivations together."""
        return self.groups(names)

    def with_gains(self, values: torch.Tensor, *, name: str) -> ParameterJacobian:
        """Return J with given values ``[B, T, H]`` in the place of its gains; one stage only."""
        if len(self.gains.stages) > 1:
            expected = "a model of one stage, whose gains are all there is"
            raise UnsupportedError(mismatch("with_gains", expected, f"{len(self.gains.stages)} stages"))
        self.codomain.check(values, "values", dtype=self.dtype, device=self.device)
        (stage,) = self.gains.stages
        given = self.gains.split(values.transpose(0, 1))  # component -> [T, B, n]
        outputs = tuple(
            evolve(output, gains=dict.fromkeys(output.gains, given[output.name].contiguous()))
            if output.name in given
            else output
            for output in stage.outputs
        )
        gains = evolve(self.gains, stages=(evolve(stage, outputs=outputs),))
        made = SiteParameterJacobian(gains, self.domain, trains_start=False)
        made.name = name
        return made

    def groups(self, names: Iterable[str]) -> list[SiteGroup]:
        """Return the sites of the parameters ``names``, those of the same targets together."""
        key = frozenset(names)
        if key not in self._groups:
            self._groups[key] = group_sites(self.gains, key)
        return self._groups[key]

    def gram_groups(self, names: Iterable[str]) -> list[SiteGroup | GramGroup]:
        """Return the sites of the parameters ``names`` for K, see the function of this name."""
        key = frozenset(names)
        if key not in self._gram_groups:
            self._gram_groups[key] = gram_groups(self.groups(key))
        return self._gram_groups[key]

    def weighted_reads(self, names: Iterable[str]) -> tuple[WeightedRead, ...] | None:
        """Return where named parameters act in a cell of one stage whose weights are parameters."""
        names = frozenset(names)
        groups = self.gram_groups(names)
        starts = self.first_step is not None and "h0" in names
        plain = all(not group.per_step and group.plain for group in groups)
        if len(self.gains.stages) > 1 or self.ties or starts or not plain:
            return None
        placed = self.gains.placed_gains
        return tuple(
            WeightedRead(group.z, len(group.targets), group.num_biases, placed(group.targets))
            for group in groups
        )

    def unit_labels(self, names: Iterable[str]) -> torch.Tensor | None:  # [H], int64
        """Return the unit of each entry: its incoming weights and its bias are parameters of it alone.

        Known in a cell of one stage whose weights are parameters themselves, or made of them ``unitwise``,
        without a trainable start; found by products with J* elsewhere.
        """
        if (
            len(self.gains.stages) > 1
            or self.ties
            or "h0" in names
            or any(placed.chain and not placed.site.unitwise for placed in self.gains.sites)
        ):
            return super().unit_labels(names)
        return self.gains.units.to(self.device)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        probes = q.shape[:-1]
        moved = {
            name: q[..., part.slice].reshape((*probes, *part.shape)) for name, part in self._parts.items()
        }
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
        """Return how the state ``[*probes, B, T, H]`` moves by tangents ``moved`` ``[*probes, *shape]``."""
        groups = self.groups(moved)
        return self.push(groups, [group.weight(moved, probes) for group in groups], moved.get("h0"), probes)

    def backward(self, r: torch.Tensor, names: Collection[str]) -> dict[str, torch.Tensor]:
        """Return the gradients ``[..., *shape]`` of the parameters ``names`` for ``r`` ``[..., B, T, H]``."""
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
        groups: Sequence[Reads],
        weights: Sequence[torch.Tensor | None],
        start: torch.Tensor | None,
        probes: torch.Size,
    ) -> torch.Tensor:  # [..., B, T, H]
        """Return how the state ``[*probes, B, T, H]`` moves by tangents of weights and ``h_0``.

        They are ``weights`` ``[*probes, G n, m]`` (or None) for ``groups`` and ``start`` ``[*probes, H]``.
        """
        batch, time, hidden = self.codomain.shape
        count, dims = math.prod(probes), len(probes)
        out = self.gains.like.new_empty(time, count, batch, hidden)  # as scans want it
        pieces = self._pieces(count)
        live = [
            (group, w.reshape(count, *w.shape[dims:]), self._room(group, pieces))
            for group, w in zip(groups, weights, strict=True)
            if w is not None
        ]
        for steps, some in pieces:
            part = out[steps, some].transpose(0, 1)
            moved = [
                (group.targets, group.products(steps, weight[some], _fitting(room, part)))
                for group, weight, room in live
            ]
            if len(self.gains.stages) == 1:
                push_columns(self.gains, steps, moved, part)
            else:
                du: dict[str, torch.Tensor] = {}
                for targets, y in moved:
                    scatter(targets, y, du)
                part.copy_(self.gains.join(self.gains.tangent(steps, {}, du), part.shape[:-1]))
        if self.first_step is not None and start is not None:
            out[0] += self.first_step.step(0, start.reshape(count, 1, -1).expand(count, batch, -1))
        return out.reshape(time, *probes, batch, hidden).movedim(0, -2)

    def pull(self, groups: Sequence[Reads], r: torch.Tensor) -> list[torch.Tensor | None]:
        """Return what of ``r`` ``[..., B, T, H]`` reaches the weights ``[..., G n, m]`` of ``groups``."""
        probes = r.shape[:-3]
        turned = r.reshape(-1, *self.codomain.shape).transpose(-3, -2)  # [p, T, B, H]
        pieces = self._pieces(len(turned))
        rooms = [self._room(group, pieces) for group in groups]
        sums: list[torch.Tensor | None] = [None for _ in groups]
        for steps, some in pieces:
            columns_of = self._columns(steps, turned[some, steps])
            for place, (group, room) in enumerate(zip(groups, rooms, strict=True)):
                columns = columns_of(group, room)
                if columns is not None:
                    known = sums[place]
                    total = sums[place] = group.sums(len(turned)) if known is None else known
                    group.accumulate(steps, columns, total[some])
        return [None if total is None else total.mT.reshape(*probes, *total.mT.shape[1:]) for total in sums]

    def trial_gradients(self, r: torch.Tensor) -> torch.Tensor | None:  # [p, B, T, H] -> [p, B, M]
        """Return what each trial alone sends to the parameters; None with weights of each step."""
        groups = self.groups(self._parts)
        if any(group.per_step for group in groups):
            return None
        turned = r.transpose(-3, -2)  # [p, T, B, H]
        pieces = self._pieces(1)
        rooms = [self._room(group, pieces) for group in groups]
        sums = [group.sums(r.shape[1]).zero_() for group in groups]  # [B, m, G n]
        out = r.new_zeros(*r.shape[:2], self.domain.size)
        for own, probe in zip(out, turned, strict=True):  # one at a time: in memory that stays at hand
            for steps, _ in pieces:
                columns_of = self._columns(steps, probe[None, steps])
                for group, room, total in zip(groups, rooms, sums, strict=True):
                    columns = columns_of(group, room)
                    if columns is not None:
                        z, begun = group.z[steps].permute(1, 2, 0), int(steps.start > 0)  # [B, m, t]
                        total.baddbmm_(z, columns[0].transpose(0, 1), beta=begun)
            for group, total in zip(groups, sums, strict=True):
                for name, value in group.gradients(total.mT):
                    own[:, self._parts[name].slice] += value.flatten(1)
        if self.first_step is not None:
            out[..., self._parts["h0"].slice] += self.first_step.step_adjoint(0, r[..., 0, :])
        return out

    def _columns(self, steps: slice, r: torch.Tensor) -> Callable[[Reads, torch.Tensor], torch.Tensor | None]:
        """Return what a state vector ``[p, t, B, H]`` of a slice sends to given targets, side by side."""
        if len(self.gains.stages) == 1:
            return lambda group, room: pull_columns(self.gains, steps, group.targets, r, _fitting(room, r))
        _, pulled = self.gains.cotangent(steps, self.gains.split(r.contiguous()), state=False)
        return lambda group, room: gather(group.targets, pulled)

    def pull_start(self, r: torch.Tensor) -> torch.Tensor:  # [..., B, T, H] -> [..., H]
        """Return what of ``r`` ``[..., B, T, H]`` reaches a trainable ``h_0``, ``[..., H]``."""
        assert self.first_step is not None
        return self.first_step.step_adjoint(0, r[..., 0, :]).sum(dim=-2)

    def _pieces(self, count: int) -> list[tuple[slice, slice]]:
        """Return slices of steps and of probes whose states and preactivations are held at once.

        A few probes with all steps, or one probe with some; all probes of the same steps follow each other,
        for what belongs to the steps stays in the cache.
        """
        batch, time, hidden = self.codomain.shape
        targets = sum(stage.units * len(stage.targets) for stage in self.gains.stages)
        each = batch * (hidden + targets) * self.dtype.itemsize
        shared = self.device.type == "cpu" and torch.get_num_threads() > 1
        most = self.slice_bytes * (SHARED_SLICES if shared else 1)
        length = max(1, min(time, most // each))
        together = max(1, most // (each * length))
        return [
            (slice(step, min(step + length, time)), slice(probe, min(probe + together, count)))
            for step in range(0, time, length)
            for probe in range(0, count, together)
        ]

    def _room(self, group: Reads, pieces: Sequence[tuple[slice, slice]]) -> torch.Tensor:
        """Return memory for the group's preactivations in any of the pieces."""
        steps, probes = pieces[0] if pieces else (slice(0, 0), slice(0, 0))
        return group.room(probes.stop, steps.stop)


def _fitting(room: torch.Tensor, part: torch.Tensor) -> torch.Tensor:
    """Return the beginning of ``room`` for the probes and steps of ``part`` ``[p, t, B, H]``."""
    return room[: part.shape[0], : part.shape[1]]


@eligibilities.register
def _(J: SiteParameterJacobian, r: torch.Tensor) -> torch.Tensor:  # [B, T, H] -> [B, T, M]
    """Return ``J_t* r_t`` of each trial and step: what reaches the preactivations, times what is read."""
    parts = {part.name: part.slice for part in J.domain.axes[0].parts}
    groups = J.groups(parts)
    if any(group.per_step for group in groups):
        return eligibilities.dispatch(Operator)(J, r)
    batch, time, _ = r.shape
    out = r.new_zeros(time, batch, J.domain.size)
    turned = r.transpose(0, 1).contiguous()
    with torch.no_grad():
        _, pulled = J.gains.cotangent(slice(None), J.gains.split(turned), state=False)
        for group in groups:
            columns = gather(group.targets, pulled)
            if columns is not None:
                for name, value in group.gradients(columns.unsqueeze(-1) * group.z.unsqueeze(-2)):
                    out[..., parts[name]] += value.flatten(2)
        if J.first_step is not None:
            out[0][:, parts["h0"]] += J.first_step.step_adjoint(0, turned[0])
    return out.transpose(0, 1)


class GramParameterOperator(ProductParameterOperator):
    """``K = J M J*`` of weight sites: Gram matrices of what the sites read, between the gains.

    Sites that act on the same targets share one Gram matrix, and each bias that learns adds a one to it:
    ``K = Sum D (Z Z^T + c 1 1^T) D*``, two matrix products for each set of targets, also of those that come
    in several groups. Groups that a
    restriction froze cost nothing. With a metric that mixes parameters it is the three products.
    """

    # At a step s of a trial, J dtheta is D_s (dW z_s + db); J* r adds up D_s* r_s z_s^T for dW and D_s* r_s
    # for db. So (K r)_s = D_s Sum_s' (z_s . z_s' + c) D_s'* r_s' over all steps and trials, with c biases:
    # a Gram matrix [T B, T B] of what is read. It is of rank m + 1 and never formed: its two factors are the
    # product of ``pull``, [G n, T B] by [T B, m], and that of ``push``, [G n, m] by [m, T B].

    @classmethod
    def fits(cls, jacobian: ParameterJacobian) -> str | None:
        """Return why this form cannot take a parameter Jacobian, or None where it can."""
        if isinstance(local_jacobian(jacobian), SiteParameterJacobian):
            return None
        return (
            "it needs the weight sites at which parameters act, as those of a SiteModel do "
            "(parameter_operator='product' takes any)"
        )

    @property
    def _sites(self) -> SiteParameterJacobian:
        """J of this rank's trials."""
        local = local_jacobian(self.jacobian)
        assert isinstance(local, SiteParameterJacobian)  # it fits
        return local

    def _over_ranks(
        self, found: Sequence[torch.Tensor | None], probes: Sequence[int]
    ) -> Callable[[], list[torch.Tensor | None]]:
        """Start to add up what has reached the parameters, and return what waits for that of all ranks."""
        if isinstance(self.jacobian, ShardedParameterJacobian):
            return sum_over_ranks(self.domain, found, probes)
        return lambda: list(found)

    def _begun(self, metric: Operator, q: torch.Tensor) -> Callable[[], torch.Tensor]:
        if not isinstance(metric, IdentityOperator | GroupProjector):
            return super()._begun(metric, q)
        jacobian = self._sites
        names, probes = self.parameters, q.shape[:-3]
        groups = jacobian.gram_groups(names)
        # Over ranks parameters are added up: weights that are made of them may be more numbers.
        ranks = isinstance(self.jacobian, ShardedParameterJacobian)
        if jacobian.ties or (ranks and not all(group.plain for group in groups)):
            return self._begun_by_names(names, q)
        learns_start = jacobian.first_step is not None and "h0" in names
        own = jacobian.pull_start(q) if learns_start else None
        wait = self._over_ranks([*jacobian.pull(groups, q), own], probes)

        def finish() -> torch.Tensor:
            *totals, start = wait()
            weights = [
                None if total is None else group.returned(total)
                for group, total in zip(groups, totals, strict=True)
            ]
            return jacobian.push(groups, weights, start, probes)

        return finish

    def _begun_by_names(self, names: Sequence[str], q: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Begin the product where what reaches the parameters is added up, not what reaches weights."""
        jacobian, probes = self._sites, q.shape[:-3]
        gradients = jacobian.backward(q, names)
        wait, found = self._over_ranks(list(gradients.values()), probes), tuple(gradients)

        def finish() -> torch.Tensor:
            moved = zip(found, wait(), strict=True)
            return jacobian.forward({name: value for name, value in moved if value is not None}, probes)

        return finish


@mean_over.register
def _(operator: GramParameterOperator, axes: Sequence[str]) -> Operator:
    return total_over(operator, mean_over.dispatch(Operator)(operator, axes), GramParameterOperator)


@sum_over.register
def _(operator: GramParameterOperator, axes: Sequence[str]) -> Operator:
    return total_over(operator, sum_over.dispatch(Operator)(operator, axes), GramParameterOperator)
