"""The operators of cells of one stage, written in place.

For the scans of ``P`` and ``P*`` everything is split into views of single steps once for each product; each
step then is one matrix product for each site and one fused multiply-add for each gain. The gains of ``J`` and
``J*`` write side by side what one matrix product takes for all targets.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from kpframe.site_gains import PlacedSite, SiteGains

Steps = Sequence[torch.Tensor]


def can_scan(gains: SiteGains) -> bool:
    """Whether the cell has one stage, whose weights are the same at each step."""
    return len(gains.stages) == 1 and not any(placed.site.per_step for placed in gains.sites)


def scan(gains: SiteGains, out: torch.Tensor) -> torch.Tensor:  # [T, ..., B, H]
    """Turn ``q`` into ``P q`` in place: ``out_t += A_t out_{t-1}``, forward in time."""
    states = _components(gains, out)
    sites = [_Forward(placed, states, gains, out) for placed in _recurrent(gains)]
    direct = _direct(gains, states)
    for t in range(1, len(out)):
        for site in sites:
            site.step(t)
        for target, gain, source in direct:
            target[t].addcmul_(gain[t], source[t - 1])
    return out


def scan_adjoint(gains: SiteGains, out: torch.Tensor) -> torch.Tensor:  # [T, ..., B, H]
    """Turn ``r`` into ``P* r`` in place: ``out_{t-1} += A_t* out_t``, backward in time."""
    states = _components(gains, out)
    sites = [_Backward(placed, states, gains, out) for placed in _recurrent(gains)]
    direct = _direct(gains, states)
    for t in range(len(out) - 1, 0, -1):
        for site in sites:
            site.step(t)
        for target, gain, source in direct:
            source[t - 1].addcmul_(gain[t], target[t])
    return out


def push_columns(
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


def pull_columns(
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


class _Forward:
    """One site going forward: its products, times the gains, added to the outputs.

    One product for each target, in one batched call: threads share them better than one wide product.
    """

    def __init__(
        self, placed: PlacedSite, states: dict[str, Steps], gains: SiteGains, out: torch.Tensor
    ) -> None:
        assert placed.weight is not None  # sites that read a state have one
        self.read = [placed.site.read(state) for state in states[str(placed.site.source)]]
        self.slope = None if placed.slope is None else placed.slope.unbind(0)
        self.targets, units = len(placed.site.targets), gains.stages[0].units
        self.weights = placed.weight.reshape(self.targets, units, -1).mT  # [G, m, n]
        products = out.new_empty(self.targets, *out.shape[1:-1], units)
        self.rows = products.flatten(1, -2)
        self.added = [
            (state, gain, products[block]) for state, gain, block in _gains_of(placed, gains, states)
        ]

    def step(self, t: int) -> None:
        """Add what the state before step ``t`` does through this site."""
        z = self.read[t - 1]
        z = z if self.slope is None else self.slope[t] * z
        torch.bmm(z.flatten(0, -2).expand(self.targets, -1, -1), self.weights, out=self.rows)
        for state, gain, products in self.added:
            state[t].addcmul_(gain[t], products)


class _Backward:
    """One site going backward: the gains gather what reaches its targets, the weight sends it back."""

    def __init__(
        self, placed: PlacedSite, states: dict[str, Steps], gains: SiteGains, out: torch.Tensor
    ) -> None:
        assert placed.weight is not None  # sites that read a state have one
        self.back = [placed.site.read(state) for state in states[str(placed.site.source)]]
        self.slope = None if placed.slope is None else placed.slope.unbind(0)
        self.weight = placed.weight
        self.columns = out.new_zeros(*out.shape[1:-1], len(placed.weight))
        self.rows = self.columns.flatten(0, -2)
        blocks = torch.split(self.columns, gains.stages[0].units, dim=-1)
        self.written: list[tuple[Steps, Steps, torch.Tensor]] = []
        self.added: list[tuple[Steps, Steps, torch.Tensor]] = []
        begun: set[int] = set()
        for state, gain, block in _gains_of(placed, gains, states):
            (self.added if block in begun else self.written).append((state, gain, blocks[block]))
            begun.add(block)

    def step(self, t: int) -> None:
        """Add what the state of step ``t`` sends back through this site."""
        for state, gain, block in self.written:
            torch.mul(gain[t], state[t], out=block)
        for state, gain, block in self.added:
            block.addcmul_(gain[t], state[t])
        back = self.back[t - 1]
        if self.slope is None:
            back.view(self.rows.shape[0], -1).addmm_(self.rows, self.weight)
        else:
            back.addcmul_(self.slope[t], (self.rows @ self.weight).reshape(back.shape))


def _recurrent(gains: SiteGains) -> list[PlacedSite]:
    return [placed for placed in gains.sites if placed.site.recurrent]


def _components(gains: SiteGains, out: torch.Tensor) -> dict[str, Steps]:
    """Return each component's views of the steps, ``[..., B, n]``."""
    return {name: part.unbind(0) for name, part in gains.split(out).items()}


def _gains_of(
    placed: PlacedSite, gains: SiteGains, states: dict[str, Steps]
) -> list[tuple[Steps, Steps, int]]:
    """Return for each gain of a site the steps of its output, its own, and the block of its target."""
    return [
        (states[output.name], output.gains[target].unbind(0), block)
        for output in gains.stages[0].outputs
        for block, target in enumerate(placed.site.targets)
        if target in output.gains
    ]


def _direct(gains: SiteGains, states: dict[str, Steps]) -> list[tuple[Steps, Steps, Steps]]:
    """Return for each direct path the steps of its output, of its gain and of what it reads."""
    return [
        (states[output.name], gain.unbind(0), states[source])
        for output in gains.stages[0].outputs
        for source, gain in output.direct.items()
    ]
