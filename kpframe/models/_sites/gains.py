"""What structured operators need of a trajectory: weight sites and the gains of the pointwise parts.

Gains are kept time outermost, ``[T, B, n]``, which makes the slice of a step contiguous. Within a step
the stages follow one another, so a tangent runs through them forwards and a cotangent backwards. Over the
steps run the scans of P and P*, at the end of the file.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from functools import cached_property
from itertools import accumulate as accumulated
from itertools import pairwise
from typing import TypeVar

import torch
from attrs import evolve, frozen

from kpframe.flow._weighted_steps import WeightedPath, WeightedSteps
from kpframe.models._autograd.linearization import Linearization
from kpframe.models._sites.declaration import PRIME, Site
from kpframe.operators._spaces import Space

#: Derivatives by name; an absent one is zero.
Gain = Mapping[str, torch.Tensor]
Name = TypeVar("Name", bound=Hashable)
NOTHING: frozenset[str] = frozenset()


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

    def read(self, source: torch.Tensor) -> torch.Tensor:
        """Return the columns of a source ``[..., w]`` that the site reads."""
        return source if self.site.columns is None else source[..., self.site.columns]

    def held(self, steps: torch.Tensor) -> PlacedSite:  # bool, [T, B, 1]
        """Return the same, zero where a step is held and what it reads is not finite: 0 times it is NaN."""
        z, slope = (
            None if one is None else one.masked_fill(steps & ~one.isfinite(), 0)
            for one in (self.z, self.slope)
        )
        return evolve(self, z=z, slope=slope)

    def forward(self, t: int | slice, v: torch.Tensor) -> torch.Tensor:  # [..., B, w] -> [..., B, G n]
        """Return how the site's products move with its source."""
        v = self.read(v)
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

    def gains_of(self, targets: Sequence[str]) -> list[tuple[int, str, torch.Tensor]]:
        """Return each gain that targets have: which of them, the output that it moves, and itself."""
        return [
            (block, output.name, output.gains[target])
            for output in self.outputs
            for block, target in enumerate(targets)
            if target in output.gains
        ]

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
            if held is None:
                return shapes
            return {name: value.masked_fill(held.bool(), 0) for name, value in shapes.items()}

        if held is not None:
            sites = [site.held(held.bool()) for site in sites]
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

    @cached_property
    def recurrent(self) -> list[PlacedSite]:
        """The sites that read the state or something computed within the step."""
        return [placed for placed in self.sites if placed.site.recurrent]

    @cached_property
    def can_scan(self) -> bool:
        """Whether the cell has one stage, whose weights are the same at each step."""
        return len(self.stages) == 1 and not any(placed.site.per_step for placed in self.sites)

    @property
    def places(self) -> dict[str, int]:
        """Where each component begins on the state's axis."""
        starts = (0, *accumulated(self.components.values()))
        return dict(zip(self.components, starts, strict=False))

    def placed_gains(self, targets: Sequence[str]) -> tuple[tuple[int, int, torch.Tensor], ...]:
        """Return the gains that targets of the only stage have, and where on the state they act."""
        (stage,) = self.stages
        places = self.places
        return tuple((block, places[name], gain) for block, name, gain in stage.gains_of(targets))

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

    def by_step(
        self, gain: Callable[[torch.Tensor], torch.Tensor], slope: Callable[[torch.Tensor], torch.Tensor]
    ) -> SiteGains:
        """Return the same with functions of all gains ``[T, B, n]`` and of all slopes ``[T, B, m]``."""
        stages = [
            evolve(
                stage,
                sites=tuple(
                    placed if placed.slope is None else evolve(placed, slope=slope(placed.slope))
                    for placed in stage.sites
                ),
                outputs=tuple(
                    PlacedOutput(
                        output.name,
                        {name: gain(value) for name, value in output.gains.items()},
                        {name: gain(value) for name, value in output.direct.items()},
                    )
                    for output in stage.outputs
                ),
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


def scatter(
    targets: Sequence[str], y: torch.Tensor, du: dict[str, torch.Tensor], in_place: Collection[str] = ()
) -> None:
    """Add the blocks of ``y`` ``[..., G n]``, side by side, to their targets in ``du``."""
    if len(targets) == 1:
        add(du, targets[0], y, in_place=targets[0] in in_place)
        return
    for target, block in zip(targets, y.chunk(len(targets), dim=-1), strict=True):
        add(du, target, block, in_place=target in in_place)


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


def add(total: dict[Name, torch.Tensor], name: Name, value: torch.Tensor, *, in_place: bool = False) -> None:
    """Add a value to a named sum; no sum yet counts as zero."""
    if name not in total:
        total[name] = value
    elif in_place:
        total[name].add_(value)
    else:
        total[name] = total[name] + value


# -- the scans of P and P*, for cells of one stage -----------------------------------------------------------
#
# (P q)_t = q_t + A_t (P q)_{t-1} is the forward substitution of I - A Z, and the backward one of its adjoint
# is (P* r)_{t-1} = r_{t-1} + A_t* (P* r)_t. With A_t v = D_t W (S_t v) + E_t v, a step of the first is a
# product with each weight, whose rows the gains D_t add to the state, and the pointwise E_t; a step of the
# second takes the same factors the other way round, A_t* r = S_t W^T (D_t r) + E_t r.

Steps = Sequence[torch.Tensor]


def scan(gains: SiteGains, out: torch.Tensor, cuts: Collection[int] = ()) -> torch.Tensor:  # [T, ..., B, H]
    """Turn ``q`` into ``P q`` in place, forward in time: ``out_t += A_t out_{t-1}``, but where t is cut."""
    states = gains.split(out)
    sites = [_Forward(alike, states, gains, out) for alike in _alike(gains)]
    direct = _direct(gains, states)
    for t in range(1, len(out)):
        if t in cuts:
            continue
        for site in sites:
            site.step(t)
        for target, gain, source in direct:
            target[t].addcmul_(gain[t], source[t - 1])
    return out


def scan_adjoint(
    gains: SiteGains, out: torch.Tensor, cuts: Collection[int] = ()
) -> torch.Tensor:  # [T, ..., B, H]
    """Turn ``r`` into ``P* r`` in place, backward: ``out_{t-1} += A_t* out_t``, but where t is cut."""
    states = gains.split(out)
    sites = [_Backward(alike, states, gains, out) for alike in _alike(gains)]
    direct = _direct(gains, states)
    for t in range(len(out) - 1, 0, -1):
        if t in cuts:
            continue
        for site in sites:
            site.step(t)
        for target, gain, source in direct:
            source[t - 1].addcmul_(gain[t], target[t])
    return out


class CutScan:
    """The scans with ``A_t := 0`` where ``keep`` (``[T]`` or ``[B, T]``) is False.

    Between two cuts lies a chunk, and chunks do not know of each other: they can be scanned at once, side by
    side like trials, in as many steps as the longest has. Where that costs more (long steps, chunks of
    unequal lengths), all steps are made one after the other but those that are cut. Cuts that differ between
    trials are zeros in the gains.
    """

    def __init__(self, gains: SiteGains, keep: torch.Tensor) -> None:
        time = gains.space.shape[1]
        rows = keep.reshape(-1, time)
        self._gains = gains
        #: First step of each chunk.
        self._starts = [0]
        self._side_by_side: dict[int, SiteGains] = {}  # by the number of probe dimensions
        if bool((rows == rows[:1]).all()):
            self._starts += [t for t, kept in enumerate(rows[0].tolist()) if t and not kept]
        else:
            on = keep.mT.unsqueeze(-1).to(gains.like.dtype)  # [T, B, 1]
            self._gains = gains.by_step(lambda gain: gain * on, lambda slope: slope)
        self._cuts = frozenset(self._starts[1:])
        self._lengths = [stop - start for start, stop in pairwise([*self._starts, time])]

    def scan(self, q: torch.Tensor) -> torch.Tensor:  # [T, ..., B, H]
        """Turn ``q`` into ``(I - A Z)^{-1} q`` in place, and return it."""
        return self._run(scan, q)

    def scan_adjoint(self, r: torch.Tensor) -> torch.Tensor:  # [T, ..., B, H]
        """Turn ``r`` into ``(I - A Z)^{-*} r`` in place, and return it."""
        return self._run(scan_adjoint, r)

    def _run(self, run: Callable[..., torch.Tensor], q: torch.Tensor) -> torch.Tensor:
        if not self._at_once(q):
            return run(self._gains, q, self._cuts)
        chunks = run(self._gains_of_chunks(q.ndim - 3), self._chunks(q).contiguous())
        if self._even:
            self._chunks(q).copy_(chunks)
            return q
        for place, (start, length) in enumerate(zip(self._starts, self._lengths, strict=True)):
            q[start : start + length].copy_(chunks[:length, place])
        return q

    def _at_once(self, q: torch.Tensor) -> bool:
        """Whether the chunks are cheaper side by side, counted in bytes of states."""
        longest, count = max(self._lengths), len(self._lengths)
        each, dispatch = q[0].nbytes, DISPATCH if q.device.type == "cpu" else ACCELERATOR_DISPATCH
        aside = longest * (dispatch + count * each) + len(q) * each // 4  # the last: there and back
        return count > 1 and aside < (len(q) - count) * (dispatch + each)

    @property
    def _even(self) -> bool:
        return len(set(self._lengths)) == 1

    def _chunks(self, value: torch.Tensor) -> torch.Tensor:  # [T, ...] -> [L, m, ...]
        """Return the steps of the chunks side by side: a view, or, of unequal ones, filled up with zeros."""
        longest, count = max(self._lengths), len(self._lengths)
        if self._even:
            return value.view(count, longest, *value.shape[1:]).transpose(0, 1)
        out = value.new_empty(longest, count, *value.shape[1:])
        for place, (start, length) in enumerate(zip(self._starts, self._lengths, strict=True)):
            out[:length, place] = value[start : start + length]
            out[length:, place] = 0
        return out

    def _gains_of_chunks(self, probes: int) -> SiteGains:
        """Return the gains ``[L, m, 1 ..., B, n]`` for vectors with so many probe dimensions."""
        if probes not in self._side_by_side:
            if 0 not in self._side_by_side:
                self._side_by_side[0] = self._gains.by_step(self._chunks, self._chunks)
            places = (slice(None), slice(None), *(None,) * probes)
            known = self._side_by_side[0]
            self._side_by_side[probes] = known.by_step(lambda g: g[places], lambda s: s[places])
        return self._side_by_side[probes]


#: What a step of a scan costs beside its arithmetic, as bytes of states that are worked on meanwhile.
DISPATCH, ACCELERATOR_DISPATCH = 32 * 2**10, 2**20


def _alike(gains: SiteGains) -> list[list[PlacedSite]]:
    """Return the sites that read a state, those that read the same as it is together: one product a step."""
    found: dict[object, list[PlacedSite]] = {}
    for placed in gains.recurrent:
        site = placed.site
        key = (site.source, str(site.columns)) if placed.slope is None else id(placed)
        found.setdefault(key, []).append(placed)
    return list(found.values())


class _Products:
    """What sites that read the same share: their weights as one, and views of all steps, made at once."""

    def __init__(
        self,
        alike: Sequence[PlacedSite],
        states: Mapping[str, torch.Tensor],
        gains: SiteGains,
        out: torch.Tensor,
    ) -> None:
        weights = [placed.weight for placed in alike if placed.weight is not None]
        assert len(weights) == len(alike)  # sites that read a state have one
        self.weight = weights[0] if len(weights) == 1 else torch.cat(weights)
        self.units = gains.stages[0].units
        self.targets = [target for placed in alike for target in placed.site.targets]
        columns, slope = alike[0].site.columns, alike[0].slope
        source = states[str(alike[0].site.source)]
        self.source = source if columns is None else source[..., columns]  # [T, ..., B, m]
        rows = math.prod(out.shape[1:-1])
        self.flat = self.source.view(len(out), rows, self.source.shape[-1])
        self.slope = None if slope is None else slope.unbind(0)
        self.gains = [
            (states[name].unbind(0), gain.unbind(0), block)
            for block, name, gain in gains.stages[0].gains_of(self.targets)
        ]


class _Forward(_Products):
    """Sites going forward: their products, times the gains, added to the outputs.

    One product for each target, in one batched call: threads share them better than one wide product.
    """

    def __init__(
        self,
        alike: Sequence[PlacedSite],
        states: Mapping[str, torch.Tensor],
        gains: SiteGains,
        out: torch.Tensor,
    ) -> None:
        super().__init__(alike, states, gains, out)
        count = len(self.targets)
        # what is multiplied lies as the product reads it: 5 % of a step of 20 rows
        self.weights = self.weight.reshape(count, self.units, -1).mT.contiguous()  # [G, m, n]
        products = out.new_empty(count, *out.shape[1:-1], self.units)
        self.rows = products.flatten(1, -2)
        self.added = [(state, gain, products[block]) for state, gain, block in self.gains]
        self.read = self.source.unbind(0)
        self.batched = self.flat.unsqueeze(1).expand(-1, count, -1, -1).unbind(0)

    def step(self, t: int) -> None:
        """Add what the state before step ``t`` does through these sites."""
        z = self.batched[t - 1]
        if self.slope is not None:
            z = (self.slope[t] * self.read[t - 1]).reshape(z.shape[1:]).expand(z.shape)
        torch.bmm(z, self.weights, out=self.rows)
        for state, gain, products in self.added:
            state[t].addcmul_(gain[t], products)


class _Backward(_Products):
    """Sites going backward: the gains gather what reaches their targets, the weight sends it back."""

    def __init__(
        self,
        alike: Sequence[PlacedSite],
        states: Mapping[str, torch.Tensor],
        gains: SiteGains,
        out: torch.Tensor,
    ) -> None:
        super().__init__(alike, states, gains, out)
        columns = out.new_zeros(*out.shape[1:-1], len(self.weight))
        self.rows = columns.flatten(0, -2)
        blocks = torch.split(columns, self.units, dim=-1)
        self.written: list[tuple[Steps, Steps, torch.Tensor]] = []
        self.added: list[tuple[Steps, Steps, torch.Tensor]] = []
        begun: set[int] = set()
        for state, gain, block in self.gains:
            (self.added if block in begun else self.written).append((state, gain, blocks[block]))
            begun.add(block)
        self.back = self.source.unbind(0)
        self.back_rows = self.flat.unbind(0)

    def step(self, t: int) -> None:
        """Add what the state of step ``t`` sends back through these sites."""
        for state, gain, block in self.written:
            torch.mul(gain[t], state[t], out=block)
        for state, gain, block in self.added:
            block.addcmul_(gain[t], state[t])
        if self.slope is None:
            self.back_rows[t - 1].addmm_(self.rows, self.weight)
        else:
            back = self.back[t - 1]
            back.addcmul_(self.slope[t], (self.rows @ self.weight).reshape(back.shape))


def _direct(gains: SiteGains, states: Mapping[str, torch.Tensor]) -> list[tuple[Steps, Steps, Steps]]:
    """Return for each direct path the steps of its output, of its gain and of what it reads."""
    return [
        (states[output.name].unbind(0), gain.unbind(0), states[source].unbind(0))
        for output in gains.stages[0].outputs
        for source, gain in output.direct.items()
    ]


def weighted_steps(gains: SiteGains) -> WeightedSteps:
    """Return what a scan of one stage works with, by places on the state's axis."""
    places = gains.places
    weighted = []
    for placed in gains.recurrent:
        assert placed.weight is not None  # sites that read a state have one
        start = placed.site.columns.indices(placed.width)[0] if placed.site.columns is not None else 0
        own, source = gains.placed_gains(placed.site.targets), places[str(placed.site.source)] + start
        weighted.append(WeightedPath(placed.weight, source, placed.slope, own))
    direct = [
        (places[output.name], places[source], gain)
        for output in gains.stages[0].outputs
        for source, gain in output.direct.items()
    ]
    return WeightedSteps(gains.stages[0].units, tuple(weighted), tuple(direct))
