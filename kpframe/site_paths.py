"""The direct path of a step: what is left where its recurrent weights read the old state detached."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from attrs import evolve

from kpframe.site_gains import PlacedOutput, PlacedSite, PlacedStage, SiteGains
from kpframe.site_layout import PRIME

#: Marks an output as it is where the old state enters no pointwise function that it is made of.
DETACHED = "~"


def detached(gains: SiteGains) -> SiteGains:
    """Return gains in which no weight passes the old state on to its own next value.

    Sites that read the old state pass nothing on. A site that reads what an earlier stage has computed in the
    same step is recurrent where it leads back to what that was made of, as the product with ``r h`` in a GRU
    that resets before it: there the old state in ``r h`` is detached, and a lower layer's part in r is not.
    Weights between layers, and the projection of an LSTM's output, lead away, and stay.
    """
    back = _sites_that_lead_back(gains)
    wanted: set[str] = set()
    ahead = [str(placed.site.source) for placed in gains.sites if id(placed) in back]
    made = {output.name + PRIME: output for stage in gains.stages for output in stage.outputs}
    while ahead:
        name = ahead.pop()
        if name not in wanted:
            wanted.add(name)
            ahead.extend(source for source in made[name].direct if source in made)
    return evolve(gains, stages=tuple(_stage(stage, back, wanted) for stage in gains.stages))


def _stage(stage: PlacedStage, back: Iterable[int], wanted: set[str]) -> PlacedStage:
    sites = []
    for placed in stage.sites:
        if id(placed) in back:
            sites.append(evolve(placed, site=evolve(placed.site, source=_copy(str(placed.site.source)))))
        elif not _reads_old(placed):
            sites.append(placed)
    copies = [
        PlacedOutput(
            output.name + DETACHED,
            output.gains,
            {_copy(name): gain for name, gain in output.direct.items() if name.endswith(PRIME)},
        )
        for output in stage.outputs
        if output.name + PRIME in wanted
    ]
    return evolve(stage, sites=tuple(sites), outputs=(*stage.outputs, *copies))


def _sites_that_lead_back(gains: SiteGains) -> set[int]:
    """Return the sites that read an output of the same step and lead to it again, around other weights."""
    links: defaultdict[str, set[str]] = defaultdict(set)
    within = []
    for stage in gains.stages:
        for output in stage.outputs:
            for name in output.direct:
                links[name].add(output.name + PRIME)
            if output.name in gains.components:
                links[output.name + PRIME].add(output.name)  # the old state of the next step
            for placed in stage.sites:
                reads = placed.site.recurrent and not _reads_old(placed)
                if reads and any(target in output.gains for target in placed.site.targets):
                    links[str(placed.site.source)].add(output.name + PRIME)
                    within.append((placed, output.name + PRIME))
    return {id(placed) for placed, end in within if str(placed.site.source) in _reached(links, end)}


def _reads_old(placed: PlacedSite) -> bool:
    return placed.site.recurrent and not str(placed.site.source).endswith(PRIME)


def _copy(name: str) -> str:
    return name.removesuffix(PRIME) + DETACHED + PRIME


def _reached(links: Mapping[str, set[str]], start: str) -> set[str]:
    """Return what links lead to."""
    found: set[str] = set()
    ahead = [start]
    while ahead:
        name = ahead.pop()
        if name not in found:
            found.add(name)
            ahead.extend(links.get(name, ()))
    return found
