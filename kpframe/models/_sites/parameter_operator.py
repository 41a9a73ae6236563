"""Weight sites that act on the same targets, taken together: one matrix product serves them all."""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence

import torch
from attrs import evolve, frozen

from kpframe.errors import UnsupportedError, mismatch
from kpframe.flow._eligibilities import eligibilities
from kpframe.flow._parameter_jacobian import ParameterJacobian, WeightGroup
from kpframe.flow._parameter_operator import GroupProjector, ProductParameterOperator
from kpframe.models._sites.gains import PlacedSite, SiteGains, add, gather, scatter
from kpframe.models._sites.step_jacobian import SiteStepJacobian
from kpframe.operators._base import Operator
from kpframe.operators._elementary import IdentityOperator
from kpframe.operators._memory import SLICE_BYTES
from kpframe.operators._spaces import Space


@frozen(eq=False)
class SiteGroup:
    """Sites of the same targets, what they read side by side.

    Attributes:
        targets: the preactivations they act on.
        per_step: whether each step has weights of its own.
        z: what they read ``[T, B, m]``; a last column of ones where biases learn.
        sites: the sites whose weights learn, and their columns of ``z``.
        biases: names of the biases that learn.
        names: the parameters that learn.
        gains: of all sites, among which these are.
    """

    targets: tuple[str, ...]
    per_step: bool
    z: torch.Tensor
    sites: tuple[tuple[PlacedSite, slice], ...]
    biases: tuple[str, ...]
    names: frozenset[str]
    gains: SiteGains

    @property
    def units(self) -> int:
        """The number n of units of each preactivation."""
        return next(stage.units for stage in self.gains.stages if stage.targets >= set(self.targets))

    def gain(self) -> torch.Tensor:
        """Return ``D_t = dh_t / du_t`` ``[G n, T, B, H]`` of the group's preactivations."""
        time, batch, _ = self.z.shape
        gains, count = self.gains, len(self.targets) * self.units
        unit = torch.eye(count, dtype=gains.like.dtype, device=gains.like.device)
        du: dict[str, torch.Tensor] = {}
        scatter(self.targets, unit[:, None, None, :].expand(count, time, batch, count), du)
        with torch.no_grad():
            return gains.join(gains.tangent(slice(None), {}, du), (count, time, batch))

    def products(self, steps: slice, weight: torch.Tensor) -> torch.Tensor:  # [..., T, B, G n]
        """Return the products of a weight ``[..., G n, m]`` with what is read in a slice of steps."""
        z = self.z[steps]
        if self.per_step:
            return z @ weight[..., steps, :, :].mT
        y = z.flatten(0, 1) @ weight.mT
        return y.reshape(*y.shape[:-2], *z.shape[:2], -1)

    def accumulate(self, steps: slice, columns: torch.Tensor, totals: list[torch.Tensor]) -> None:
        """Add the adjoint of ``products`` for ``columns`` ``[..., T, B, G n]`` of a slice of steps."""
        z = self.z[steps]
        if self.per_step:
            totals.append(columns.mT @ z)
            return
        found = z.flatten(0, 1).mT @ columns.flatten(-3, -2)  # [..., m, G n]: the faster way round
        if totals:
            totals[0] += found
        else:
            totals.append(found)

    def total(self, totals: Sequence[torch.Tensor]) -> torch.Tensor:  # [..., G n, m], or [..., T, G n, m]
        """Return what ``accumulate`` gathered."""
        return torch.cat(list(totals), dim=-3) if self.per_step else totals[0].mT

    def gradients(self, total: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the gradients ``[..., *parameter]`` for what reaches the group's weight."""
        for placed, columns in self.sites:
            own = total[..., columns]
            if placed.chain is None:
                yield placed.made_of[0], own
            else:
                probes = own.shape[:-2]
                values = placed.chain.vjp(own.reshape(-1, *own.shape[-2:]))
                for name, value in zip(placed.made_of, values, strict=True):
                    if name in self.names:
                        yield name, value.reshape(*probes, *value.shape[1:])
        for name in self.biases:
            yield name, total[..., -1]

    def weight(self, moved: Mapping[str, torch.Tensor], probes: Sequence[int]) -> torch.Tensor | None:
        """Return how the group's weight moves with its parameters; None where none of them moves."""
        pieces = [_moved_matrix(placed, moved, probes) for placed, _ in self.sites]
        biases = [moved[name].unsqueeze(-1) for name in self.biases if name in moved]
        known = [piece for piece in (*pieces, *biases) if piece is not None]
        if not known:
            return None
        shape = known[0].shape[:-1]
        out = [
            known[0].new_zeros(*shape, columns.stop - columns.start) if piece is None else piece
            for piece, (_, columns) in zip(pieces, self.sites, strict=True)
        ]
        if self.biases:
            out.append(sum(biases[1:], biases[0]) if biases else known[0].new_zeros(*shape, 1))
        return out[0] if len(out) == 1 else torch.cat(out, dim=-1)

    def returned(self, total: torch.Tensor) -> torch.Tensor:
        """Return how the group's weight moves when its own parameters move by their gradients.

        A parameter that acts as it is moves by what reaches it; c biases move their column c times.
        """
        if all(placed.chain is None for placed, _ in self.sites):
            if len(self.biases) > 1:
                total[..., -1] *= len(self.biases)
            return total
        moved = dict(self.gradients(total))
        probes = total.shape[:-2]
        out = self.weight(moved, probes)
        assert out is not None  # every parameter of the group moves
        return out


def group_sites(gains: SiteGains, names: Collection[str]) -> list[SiteGroup]:
    """Return the sites at which the named parameters act, those of the same targets together."""
    sites: dict[tuple[tuple[str, ...], bool], list[PlacedSite]] = {}
    biases: dict[tuple[tuple[str, ...], bool], list[str]] = {}
    for placed in gains.sites:
        site = placed.site
        key = (site.targets, site.per_step)
        if placed.z is not None and any(name in names for name in placed.made_of):
            sites.setdefault(key, []).append(placed)
        if placed.bias is not None and placed.bias in names:
            biases.setdefault(key, []).append(placed.bias)
    batch, time, _ = gains.space.shape
    groups = []
    for key in dict.fromkeys((*sites, *biases)):
        start, columns, read = 0, [], []
        for placed in sites.get(key, []):
            assert placed.z is not None  # it was kept for what it reads
            width = placed.z.shape[-1]
            columns.append((placed, slice(start, start + width)))
            read.append(placed.z)
            start += width
        own = tuple(biases.get(key, []))
        if own:
            read.append(gains.like.new_ones(time, batch, 1))
        groups.append(
            SiteGroup(
                *key, torch.cat(read, dim=-1).contiguous(), tuple(columns), own, frozenset(names), gains
            )
        )
    return groups


def _moved_matrix(
    placed: PlacedSite, moved: Mapping[str, torch.Tensor], probes: Sequence[int]
) -> torch.Tensor | None:  # [..., G n, m]
    if placed.chain is None:
        return moved.get(placed.made_of[0])
    if not any(name in moved for name in placed.made_of):
        return None
    count = math.prod(probes)
    tangents = [
        moved[name].reshape(count, *own.shape) if name in moved else None
        for name, own in zip(placed.made_of, placed.chain.inputs, strict=True)
    ]
    return placed.chain.jvp(tangents).reshape((*probes, *placed.chain.output.shape))


def _push_columns(
    gains: SiteGains, steps: slice, moved: Sequence[tuple[Sequence[str], torch.Tensor]], out: torch.Tensor
) -> None:
    """Write what targets' moves ``[..., t, B, G n]``, side by side, do to the state: ``[..., t, B, H]``."""
    (stage,) = gains.stages
    states, begun = gains.split(out), set()
    for targets, y in moved:
        for target, block in zip(targets, torch.split(y, stage.units, dim=-1), strict=True):
            for output in stage.outputs:
                if target not in output.gains:
                    continue
                if output.name in begun:
                    states[output.name].addcmul_(output.gains[target][steps], block)
                else:
                    torch.mul(output.gains[target][steps], block, out=states[output.name])
                    begun.add(output.name)
    for name, state in states.items():
        if name not in begun:
            state.zero_()


def _pull_columns(
    gains: SiteGains, steps: slice, targets: Sequence[str], r: torch.Tensor
) -> torch.Tensor | None:  # [..., t, B, H] -> [..., t, B, G n]
    """Return what a state vector sends to targets, side by side; None where nothing reaches them."""
    (stage,) = gains.stages
    states = gains.split(r)
    sent = {
        target: [
            (output.gains[target], states[output.name]) for output in stage.outputs if target in output.gains
        ]
        for target in targets
    }
    if not any(sent.values()):
        return None
    columns = r.new_empty(*r.shape[:-1], len(targets) * stage.units)
    for entries, block in zip(sent.values(), torch.split(columns, stage.units, dim=-1), strict=True):
        if not entries:
            block.zero_()
        for place, (gain, state) in enumerate(entries):
            if place:
                block.addcmul_(gain[steps], state)
            else:
                torch.mul(gain[steps], state, out=block)
    return columns


class SiteParameterJacobian(ParameterJacobian):
    """``J dtheta = D (dW z + db)``, one matrix product for each set of targets.

    The products run over slices of steps, whose temporaries are all that is held besides the result.

    Args:
        gains: along a trajectory, those of the model's A: ``flow.A.gains``.
        domain: the parameter space, of parameters that the sites are made of.
        trains_start: whether the initial state is a parameter, ``h0``.
    """

    method = "sites"
    #: Most memory that the temporaries of a slice take, if a step needs no more [bytes].
    slice_bytes = SLICE_BYTES

    def __init__(self, gains: SiteGains, domain: Space, trains_start: bool) -> None:
        super().__init__(domain, gains.space, dtype=gains.like.dtype, device=gains.like.device)
        self.gains = gains
        self._parts = {part.name: part for part in domain.axes[0].parts}
        self.first_step = SiteStepJacobian(gains) if trains_start else None
        names = [name for placed in gains.sites for name in placed.learned if name in self._parts]
        names += ["h0"] if trains_start else []
        #: Whether one parameter acts at several sites, so that what the sites do not just adds up.
        self.ties = len(set(names)) < len(names)
        self._groups: dict[frozenset[str], list[SiteGroup]] = {}

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
        """Return the sites of the named parameters, those of the same targets together."""
        key = frozenset(names)
        if key not in self._groups:
            self._groups[key] = group_sites(self.gains, key)
        return self._groups[key]

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
        for steps in self._slices(probes):
            part = out[..., steps, :, :]
            moved = [(group.targets, group.products(steps, weight)) for group, weight in live]
            if len(self.gains.stages) == 1:
                _push_columns(self.gains, steps, moved, part)
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
        for steps in self._slices(r.shape[:-3]):
            columns_of = self._columns(steps, turned[..., steps, :, :])
            for group, totals in zip(groups, found, strict=True):
                columns = columns_of(group.targets)
                if columns is not None:
                    group.accumulate(steps, columns, totals)
        return [group.total(totals) if totals else None for group, totals in zip(groups, found, strict=True)]

    def _columns(self, steps: slice, r: torch.Tensor) -> Callable[[Sequence[str]], torch.Tensor | None]:
        """Return what a state vector ``[..., t, B, H]`` of a slice sends to given targets, side by side."""
        if len(self.gains.stages) == 1:
            return lambda targets: _pull_columns(self.gains, steps, targets, r)
        _, pulled = self.gains.cotangent(steps, self.gains.split(r.contiguous()), state=False)
        return lambda targets: gather(targets, pulled)

    def pull_start(self, r: torch.Tensor) -> torch.Tensor:  # [..., B, T, H] -> [..., H]
        """Return what reaches a trainable initial state through the first step."""
        assert self.first_step is not None
        return self.first_step.step_adjoint(0, r[..., 0, :]).sum(dim=-2)

    def _slices(self, probes: torch.Size) -> list[slice]:
        """Return slices of steps whose states and preactivations are held at once, all probes together."""
        batch, time, hidden = self.codomain.shape
        targets = sum(stage.units * len(stage.targets) for stage in self.gains.stages)
        each = max(1, math.prod(probes)) * batch * (hidden + targets) * self.dtype.itemsize
        length = max(1, min(time, self.slice_bytes // each))
        return [slice(start, min(start + length, time)) for start in range(0, time, length)]


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
    ``K = Sum D (Z Z^T + c 1 1^T) D*``, two matrix products for each set of targets. Groups that a
    restriction froze cost nothing. With a metric that mixes parameters it is the three products.
    """

    # At a step s of a trial, J dtheta is D_s (dW z_s + db); J* r adds up D_s* r_s z_s^T for dW and D_s* r_s
    # for db. So (K r)_s = D_s Sum_s' (z_s . z_s' + c) D_s'* r_s' over all steps and trials, with c biases:
    # a Gram matrix [T B, T B] of what is read. It is of rank m + 1 and never formed: its two factors are the
    # product of ``pull``, [G n, T B] by [T B, m], and that of ``push``, [G n, m] by [m, T B].

    jacobian: SiteParameterJacobian

    @classmethod
    def fits(cls, jacobian: ParameterJacobian) -> str | None:
        """Return why this form cannot take a parameter Jacobian, or None where it can."""
        if isinstance(jacobian, SiteParameterJacobian):
            return None
        return (
            "it needs the weight sites at which parameters act, as those of a SiteModel do "
            "(parameter_operator='product' takes any)"
        )

    def _sandwich(self, metric: Operator, q: torch.Tensor) -> torch.Tensor:
        if not isinstance(metric, IdentityOperator | GroupProjector):
            return super()._sandwich(metric, q)
        jacobian = self.jacobian
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

    @property
    def block_labels(self) -> torch.Tensor | None:  # [H], int64
        """The unit of each entry, where each parameter acts on one unit: its incoming weights and its bias.

        In a cell of one stage whose weights are parameters themselves, or made of them ``unitwise``; not with
        a trainable start.
        """
        jacobian = self.jacobian
        if (
            not isinstance(self.metric, IdentityOperator | GroupProjector)
            or len(jacobian.gains.stages) > 1
            or jacobian.ties
            or "h0" in self.parameters
            or any(placed.chain and not placed.site.unitwise for placed in jacobian.gains.sites)
        ):
            return None
        return jacobian.gains.units.to(self.device)
