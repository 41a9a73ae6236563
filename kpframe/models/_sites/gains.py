"""What structured operators need of a trajectory: weight sites and the gains of the pointwise parts.

Gains are kept time outermost, ``[T, B, n]``, which makes the slice of a step contiguous. Within a step
the stages follow one another, so a tangent runs through them forwards and a cotangent backwards.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from attrs import evolve, frozen

from kpframe.models._autograd.linearization import Linearization
from kpframe.models._sites.declaration import PRIME, Site
from kpframe.operators._spaces import Space

#: Derivatives by name; an absent one is zero.
Gain = Mapping[str, torch.Tensor]


@frozen(eq=False)
class PlacedSite:
    """A weight site along a trajectory.

    Attributes:
        site: the declaration.
        weight: ``[len(targets) * n, m]``, with a leading ``[T]`` for a weight of each step; None for a
            site without.
        z: what it reads, ``[T, B, m]``; None without a source.
        slope: ``dz/dsource`` ``[T, B, m]``, None where z is the source itself.
        width: of the source.
        chain: the derivative of the weight by the parameters ``made_of``; None where the weight is a
            parameter itself.
        made_of: what the weight is made of, or is itself, and learns; by the names on the parameter axis,
            where a parameter that acts at several sites has one.
        bias: the bias, if it learns; likewise.
    """

    site: Site
    weight: torch.Tensor | None
    z: torch.Tensor | None
    slope: torch.Tensor | None = None
    width: int = 0
    chain: Linearization | None = None
    made_of: tuple[str, ...] = ()
    bias: str | None = None

    @property
    def learned(self) -> tuple[str, ...]:
        """Names on the parameter axis of what learns here."""
        return self.made_of if self.bias is None else (*self.made_of, self.bias)

    def forward(self, t: int | slice, v: torch.Tensor) -> torch.Tensor:  # [..., B, w] -> [..., B, G n]
        """Return how the site's products move with its source."""
        v = self.site.read(v)
        return (v if self.slope is None else self.slope[t] * v) @ self._matrix(t).mT

    def backward(self, t: int | slice, g: torch.Tensor) -> torch.Tensor:  # [..., B, G n] -> [..., B, w]
        """Return the adjoint of ``forward``."""
        back = g @ self._matrix(t)
        back = back if self.slope is None else self.slope[t] * back
        if self.site.columns is None:
            return back
        start, stop, _ = self.site.columns.indices(self.width)
        return torch.nn.functional.pad(back, (start, self.width - stop))

    def _matrix(self, t: int | slice) -> torch.Tensor:
        assert self.weight is not None  # sites that read a state have one
        return self.weight[t] if self.site.per_step else self.weight


@frozen(eq=False)
class PlacedOutput:
    """An output of a stage along a trajectory.

    Attributes:
        name: its name.
        gains: target -> ``D`` ``[T, B, n]``.
        direct: component or earlier output -> ``E`` ``[T, B, n]``.
    """

    name: str
    gains: Gain
    direct: Gain


@frozen(eq=False)
class PlacedStage:
    """A stage along a trajectory: its sites and the gains of its outputs."""

    sites: tuple[PlacedSite, ...]
    outputs: tuple[PlacedOutput, ...]
    units: int

    @property
    def targets(self) -> set[str]:
        """Names of its preactivations."""
        return {target for placed in self.sites for target in placed.site.targets}

    @classmethod
    def of(
        cls,
        sites: Sequence[PlacedSite],
        gains: Mapping[str, tuple[Gain, Gain]],
        shape: tuple[int, int, int],
        held: torch.Tensor | None,
        components: Sequence[str],
    ) -> PlacedStage:
        """Return a stage from gains ``[T * B, n]``; a state that is ``held`` (``[T, B, 1]``) passes on."""

        def shaped(gain: Gain) -> dict[str, torch.Tensor]:
            shapes = {name: value.reshape(shape) for name, value in gain.items()}
            return shapes if held is None else {name: value * (1 - held) for name, value in shapes.items()}

        outputs = []
        for name, (by_target, by_source) in gains.items():
            direct = shaped(by_source)
            if held is not None and name in components:
                direct[name] = direct[name] + held if name in direct else held.expand(shape)
            outputs.append(PlacedOutput(name, shaped(by_target), direct))
        return cls(tuple(sites), tuple(outputs), shape[2])


@frozen(eq=False)
class SiteGains:
    """Everything the structured operators need of a trajectory; see the module's description.

    Attributes:
        space: the state space.
        components: the state's components and their widths, in order.
        stages: the stages, in order.
        like: a tensor whose dtype and device the operators take.
        elsewhere: whether parameters act otherwise, too, than the sites say.
    """

    space: Space
    components: Mapping[str, int]
    stages: tuple[PlacedStage, ...]
    like: torch.Tensor
    elsewhere: bool = False

    @property
    def sites(self) -> list[PlacedSite]:
        """All sites, stage by stage."""
        return [placed for stage in self.stages for placed in stage.sites]

    @property
    def units(self) -> torch.Tensor:  # [H], int64
        """Return the unit of each entry of the state: one index of all that pointwise functions connect.

        Outputs of one stage belong together, and with what they read directly; layers that reach each other
        through weights alone are apart.
        """
        groups: list[set[str]] = []
        for stage in self.stages:
            names = {output.name for output in stage.outputs}
            names |= {name.removesuffix(PRIME) for output in stage.outputs for name in output.direct}
            joined = names.union(*(group for group in groups if group & names))
            groups = [group for group in groups if not group & names] + [joined]
        group_of = {name: place for place, group in enumerate(groups) for name in group}
        first: dict[int, int] = {}
        total, labels = 0, []
        for name, width in self.components.items():
            if group_of[name] not in first:
                first[group_of[name]], total = total, total + width
            labels.append(torch.arange(width, device="cpu") + first[group_of[name]])
        return torch.cat(labels)

    def with_weights(self, weight: Callable[[PlacedSite], torch.Tensor]) -> SiteGains:
        """Return the same gains with other weights on the sites that read the state."""
        stages = [
            evolve(
                stage,
                sites=tuple(evolve(p, weight=weight(p)) if p.site.recurrent else p for p in stage.sites),
            )
            for stage in self.stages
        ]
        return evolve(self, stages=tuple(stages))

    def split(self, v: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return the components of a state vector ``[..., H]``."""
        if len(self.components) == 1:
            return dict.fromkeys(self.components, v)
        return dict(zip(self.components, torch.split(v, list(self.components.values()), dim=-1), strict=True))

    def join(self, parts: Mapping[str, torch.Tensor], shape: Sequence[int]) -> torch.Tensor:
        """Return components side by side ``[*shape, H]``, zeros where one is absent."""
        pieces = [
            parts[name] if name in parts else self.like.new_zeros(*shape, width)
            for name, width in self.components.items()
        ]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1)

    def tangent(
        self, t: int | slice, state: Mapping[str, torch.Tensor], du: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:
        """Return how the new state's components move with the old ones and the preactivations.

        What is absent does not move.
        """
        moved = dict(state)
        for stage in self.stages:
            own = {
                target: du[target] for placed in stage.sites for target in placed.site.targets if target in du
            }
            for placed in stage.sites:
                source = placed.site.source
                if placed.site.recurrent and source in moved:
                    scatter(placed.site.targets, placed.forward(t, moved[source]), own)
            for output in stage.outputs:
                total: torch.Tensor | None = None
                for target, gain in output.gains.items():
                    if target in own:
                        total = accumulate(total, gain[t], own[target])
                for name, gain in output.direct.items():
                    if name in moved:
                        total = accumulate(total, gain[t], moved[name])
                if total is not None:
                    moved[output.name + PRIME] = total
        return {name: moved[name + PRIME] for name in self.components if name + PRIME in moved}

    def cotangent(
        self, t: int | slice, r: Mapping[str, torch.Tensor], *, state: bool
    ) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
        """Return the adjoint of ``tangent``: what reaches the old components, and the preactivations.

        Without ``state`` nothing is followed back to the old components.
        """
        back = {name + PRIME: value for name, value in r.items()}
        pulled: dict[str, torch.Tensor] = {}
        for stage in reversed(self.stages):
            for output in stage.outputs:
                value = back.pop(output.name + PRIME, None)
                if value is None:
                    continue
                for target, gain in output.gains.items():
                    pulled[target] = accumulate(pulled.get(target), gain[t], value)
                for name, gain in output.direct.items():
                    if state or name.endswith(PRIME):
                        back[name] = accumulate(back.get(name), gain[t], value)
            for placed in stage.sites:
                source = placed.site.source
                if source is None or not placed.site.recurrent or not (state or source.endswith(PRIME)):
                    continue
                columns = gather(placed.site.targets, pulled)
                if columns is not None:
                    add(back, source, placed.backward(t, columns))
        return back, pulled


def pointwise_gains(
    new: torch.Tensor, u: Mapping[str, torch.Tensor], h: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return the derivatives of one output by each preactivation and component it depends on."""
    if not new.requires_grad:
        return {}, {}
    sources = [*u.values(), *h.values()]
    gradients = torch.autograd.grad(new.sum(), sources, retain_graph=True, allow_unused=True)
    by_target = {name: g for name, g in zip(u, gradients, strict=False) if g is not None}
    by_source = {name: g for name, g in zip(h, gradients[len(u) :], strict=True) if g is not None}
    return by_target, by_source


def scatter(targets: Sequence[str], y: torch.Tensor, du: dict[str, torch.Tensor]) -> None:
    """Add the blocks of ``y`` ``[..., G n]``, side by side, to their targets in ``du``."""
    if len(targets) == 1:
        add(du, targets[0], y)
        return
    for target, block in zip(targets, y.chunk(len(targets), dim=-1), strict=True):
        add(du, target, block)


def gather(targets: Sequence[str], parts: Mapping[str, torch.Tensor]) -> torch.Tensor | None:
    """Return the targets' blocks side by side ``[..., G n]``, zeros where one is absent, None if all are."""
    present = [parts[target] for target in targets if target in parts]
    if not present:
        return None
    if len(targets) == 1:
        return present[0]
    return torch.cat(
        [parts[target] if target in parts else torch.zeros_like(present[0]) for target in targets], dim=-1
    )


def accumulate(total: torch.Tensor | None, gain: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    """Return ``total + gain * value``; no total yet counts as zero."""
    return gain * value if total is None else torch.addcmul(total, gain, value)


def add(total: dict[str, torch.Tensor], name: str, value: torch.Tensor) -> None:
    """Add a value to a named sum; no sum yet counts as zero."""
    total[name] = total[name] + value if name in total else value
