"""Weight sites that act on the same targets, taken together: one matrix product serves them all."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator, Mapping, Sequence

import torch
from attrs import frozen

from kpframe.site_gains import PlacedSite, SiteGains


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
    """

    targets: tuple[str, ...]
    per_step: bool
    z: torch.Tensor
    sites: tuple[tuple[PlacedSite, slice], ...]
    biases: tuple[str, ...]
    names: frozenset[str]

    def products(self, steps: slice, weight: torch.Tensor) -> torch.Tensor:  # [..., T, B, G n]
        """Return the products of a weight ``[..., G n, m]`` with what is read in a stretch of steps."""
        z = self.z[steps]
        if self.per_step:
            return z @ weight[..., steps, :, :].mT
        y = z.flatten(0, 1) @ weight.mT
        return y.reshape(*y.shape[:-2], *z.shape[:2], -1)

    def accumulate(self, steps: slice, columns: torch.Tensor, totals: list[torch.Tensor]) -> None:
        """Add the adjoint of ``products`` for ``columns`` ``[..., T, B, G n]`` of a stretch of steps."""
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
            SiteGroup(*key, torch.cat(read, dim=-1).contiguous(), tuple(columns), own, frozenset(names))
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
    return placed.chain.jvp(tangents).reshape(*probes, *placed.chain.output.shape)
