"""What structured operators need of a trajectory: weight sites and the gains of the pointwise part.

Gains are kept time outermost, ``[T, B, n]``, which makes the slice of a step contiguous.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from attrs import frozen

from kpframe.spaces import Space

Gain = Mapping[str, torch.Tensor]


@frozen(eq=False)
class PlacedSite:
    """A weight site along a trajectory.

    Attributes:
        name, bias: the parameters' names (no bias: None).
        targets: the preactivations its row blocks add to.
        source: the state component it reads, None for the input.
        weight: ``[len(targets) * n, m]``.
        z: what it reads, ``[T, B, m]``.
        slope: ``dz/dh`` ``[T, B, m]``, None where z is the component itself.
    """

    name: str
    bias: str | None
    targets: tuple[str, ...]
    source: str | None
    weight: torch.Tensor
    z: torch.Tensor
    slope: torch.Tensor | None


@frozen(eq=False)
class SiteGains:
    """Everything the structured operators need of a trajectory; see the module's description.

    Attributes:
        space: the state space.
        components: names of the components, in order.
        targets: ``component -> target -> D`` ``[T, B, n]``; an absent pair is zero.
        direct: ``component -> component -> E`` ``[T, B, n]``; an absent pair is zero.
        sites: the weight sites.
        units: number n of units.
    """

    space: Space
    components: tuple[str, ...]
    targets: Mapping[str, Gain]
    direct: Mapping[str, Gain]
    sites: tuple[PlacedSite, ...]
    units: int

    @classmethod
    def of(
        cls,
        space: Space,
        units: int,
        gains: Mapping[str, tuple[Gain, Gain]],
        sites: Sequence[PlacedSite],
        mask: torch.Tensor | None,
    ) -> SiteGains:
        """Return the gains of ``combine``, ``[T * B, n]``, as ``[T, B, n]``; ``mask`` is ``[T, B, 1]``."""
        batch, time, _ = space.shape

        def shaped(gain: Gain) -> dict[str, torch.Tensor]:
            shapes = {name: value.reshape(time, batch, units) for name, value in gain.items()}
            return shapes if mask is None else {name: value * mask for name, value in shapes.items()}

        targets = {name: shaped(pair[0]) for name, pair in gains.items()}
        direct = {name: shaped(pair[1]) for name, pair in gains.items()}
        if mask is not None:  # a held state passes on unchanged
            for name, gain in direct.items():
                held = (~mask).to(sites[0].weight.dtype).expand(time, batch, units)
                gain[name] = gain[name] + held if name in gain else held
        return cls(space, tuple(gains), targets, direct, tuple(sites), units)

    @property
    def like(self) -> torch.Tensor:
        """A tensor whose dtype and device the operators take."""
        return self.sites[0].weight

    def split(self, v: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the components of a state vector ``[..., H]``."""
        return dict(zip(self.components, torch.split(v, self.units, dim=-1), strict=True))

    def push(
        self, t: int | slice, du: Mapping[str, torch.Tensor], like: torch.Tensor
    ) -> dict[str, torch.Tensor]:
        """Return how changes of the preactivations change the next state's components."""
        out: dict[str, torch.Tensor] = {}
        for component in self.components:
            total: torch.Tensor | None = None
            for target, gain in self.targets[component].items():
                if target in du:
                    total = accumulate(total, gain[t], du[target])
            out[component] = torch.zeros_like(like) if total is None else total
        return out

    def pull(self, t: int | slice, r: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the adjoint of ``push``: a preactivation that nothing depends on is absent."""
        out: dict[str, torch.Tensor] = {}
        for component in self.components:
            for target, gain in self.targets[component].items():
                out[target] = accumulate(out.get(target), gain[t], r[component])
        return out

    @staticmethod
    def scatter(targets: Sequence[str], y: torch.Tensor, du: dict[str, torch.Tensor]) -> None:
        """Add the blocks of ``y`` ``[..., G n]``, side by side, to their targets in ``du``."""
        for target, block in zip(targets, y.chunk(len(targets), dim=-1), strict=True):
            du[target] = du[target] + block if target in du else block

    @staticmethod
    def blocks(targets: Sequence[str], parts: Mapping[str, torch.Tensor], like: torch.Tensor) -> torch.Tensor:
        """Return the targets' blocks side by side ``[..., G n]``, zeros where a target is absent."""
        pieces = [parts[target] if target in parts else torch.zeros_like(like) for target in targets]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1)


def accumulate(total: torch.Tensor | None, gain: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return ``total + gain * value``; no total yet counts as zero."""
    return gain * value if total is None else torch.addcmul(total, gain, value)
