"""Weight sites by the preactivations that they act on: what they read side by side, and their parameters."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from attrs import frozen

from kpframe.models._sites.gains import PlacedSite, SiteGains, scatter


@frozen(eq=False)
class Reads:
    """Preactivations and what weights multiply for them: ``u_t = W z_t``.

    Attributes:
        targets: the G preactivations.
        per_step: whether each step has weights of its own.
        z: what is read ``[T, B, m]``; a last column of ones where biases learn.
        gains: of all sites, among which these are.
    """

    targets: tuple[str, ...]
    per_step: bool
    z: torch.Tensor
    gains: SiteGains

    @property
    def units(self) -> int:
        """The number n of units of each preactivation."""
        return next(stage.units for stage in self.gains.stages if stage.targets >= set(self.targets))

    def room(self, probes: int, steps: int) -> torch.Tensor:
        """Return memory for what so many steps' preactivations hold at once, ``[p, t, B, G n]``."""
        return self.z.new_empty(probes, steps, self.z.shape[1], len(self.targets) * self.units)

    def products(self, steps: slice, weight: torch.Tensor, room: torch.Tensor) -> torch.Tensor:
        """Return the products of weights ``[p, G n, m]`` with what is read in a slice of steps.

        Args:
            steps: the slice.
            weight: with a dimension ``T`` before the last two where each step has its own.
            room: written and returned, ``[p, t, B, G n]``.
        """
        z = self.z[steps]
        if self.per_step:
            return torch.matmul(z, weight[:, steps].mT, out=room)
        rows = z.flatten(0, 1)
        flat = room.flatten(1, 2)
        if len(flat) == 1:
            torch.mm(rows, weight[0].mT, out=flat[0])
        else:
            torch.bmm(rows.expand(len(flat), -1, -1), weight.mT, out=flat)
        return room

    def accumulate(self, steps: slice, columns: torch.Tensor, total: torch.Tensor) -> None:
        """Add the adjoint of ``products`` for ``columns`` ``[p, t, B, G n]`` of a slice of steps.

        The first slice begins the sum, whatever ``total`` holds: ``[p, m, G n]``, or ``[p, T, m, G n]``.
        """
        z = self.z[steps]
        if self.per_step:
            total[:, steps] = z.mT @ columns
            return
        turned, flat = z.flatten(0, 1).mT, columns.flatten(1, 2)
        beta = 0 if steps.start == 0 else 1
        if len(flat) == 1:
            total[0].addmm_(turned, flat[0], beta=beta)
        else:
            total.baddbmm_(turned.expand(len(flat), -1, -1), flat, beta=beta)

    def sums(self, probes: int) -> torch.Tensor:
        """Return memory for the sums of ``accumulate``, ``[p, m, G n]``, or ``[p, T, m, G n]``."""
        time, _, width = self.z.shape
        steps = (time,) if self.per_step else ()
        return self.z.new_empty(probes, *steps, width, len(self.targets) * self.units)


@frozen(eq=False)
class SiteGroup(Reads):
    """Sites of the same targets.

    Attributes:
        sites: the sites whose weights learn, and their columns of ``z``.
        biases: names of the biases that learn.
        names: the parameters that learn.
    """

    sites: tuple[tuple[PlacedSite, slice], ...]
    biases: tuple[str, ...]
    names: frozenset[str]

    @property
    def plain(self) -> bool:
        """Whether all weights are parameters themselves."""
        return all(placed.chain is None for placed, _ in self.sites)

    @property
    def num_biases(self) -> int:
        """How many biases learn."""
        return len(self.biases)

    def gain(self) -> torch.Tensor:
        """Return ``D_t = dh_t / du_t`` ``[G n, T, B, H]`` of the group's preactivations."""
        time, batch, _ = self.z.shape
        gains, count = self.gains, len(self.targets) * self.units
        unit = torch.eye(count, dtype=gains.like.dtype, device=gains.like.device)
        du: dict[str, torch.Tensor] = {}
        scatter(self.targets, unit[:, None, None, :].expand(count, time, batch, count), du)
        with torch.no_grad():
            return gains.join(gains.tangent(slice(None), {}, du), (count, time, batch))

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
        if self.plain:
            return _with_biases(total, len(self.biases))
        moved = dict(self.gradients(total))
        probes = total.shape[:-2]
        out = self.weight(moved, probes)
        assert out is not None  # every parameter of the group moves
        return out


@frozen(eq=False)
class GramGroup(Reads):
    """Targets that the same groups act on, for K alone: what those read side by side.

    Attributes:
        num_biases: how many biases learn.
    """

    num_biases: int

    @property
    def plain(self) -> bool:
        """Always true: of other weights there is no Gram matrix of what is read."""
        return True

    def returned(self, total: torch.Tensor) -> torch.Tensor:
        """Return how weights move when parameters move by what reaches them, as ``SiteGroup.returned``."""
        return _with_biases(total, self.num_biases)


def gram_groups(groups: Sequence[SiteGroup]) -> list[SiteGroup | GramGroup]:
    """Return groups for K in which no target comes twice, where weights are parameters themselves.

    ``K = Sum_g D_g Z_g Z_g* D_g*`` over groups, so that groups of which the same targets read have one Gram
    matrix, of the columns of all: ``D (Z_1 Z_1* + Z_2 Z_2*) D*``. The gates of a GRU that input and state
    both reach go through the gains once then.
    """
    fused = [group for group in groups if group.plain and not group.per_step]
    acting: dict[str, list[SiteGroup]] = {}
    for group in fused:
        for target in group.targets:
            acting.setdefault(target, []).append(group)
    if all(len(known) == 1 for known in acting.values()):
        return list(groups)
    found: list[SiteGroup | GramGroup] = [group for group in groups if group not in fused]
    sets: dict[tuple[int, ...], list[str]] = {}
    for target, known in acting.items():
        sets.setdefault(tuple(map(id, known)), []).append(target)
    for targets in sets.values():
        known = acting[targets[0]]
        biases = sum(len(group.biases) for group in known)
        z = known[0].z
        if len(known) > 1:
            read = [group.z[..., : group.z.shape[-1] - bool(group.biases)] for group in known]
            ones = [z.new_ones(*z.shape[:-1], 1)] if biases else []
            z = torch.cat([*read, *ones], dim=-1)
        found.append(GramGroup(tuple(targets), False, z, known[0].gains, biases))
    return found


def _with_biases(total: torch.Tensor, count: int) -> torch.Tensor:
    """Return what reaches weights ``[..., G n, m]``, the last column as many times as there are biases."""
    if count > 1:
        total[..., -1] *= count
    return total


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
                *key, torch.cat(read, dim=-1).contiguous(), gains, tuple(columns), own, frozenset(names)
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
