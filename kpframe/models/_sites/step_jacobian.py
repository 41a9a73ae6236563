"""The step Jacobian of weight sites: products with the weights between pointwise gains.

With ``D[c, a] = dh'_c / du_a`` and ``E[c, c'] = dh'_c / dh_c'`` (both diagonal over units) and
``S = dz / dh`` the slope of a site's source::

    A_t v = D_t (W S_t v) + E_t v

so nothing of size ``[B, T, H, H]`` is ever formed. A step of several stages is a chain of these.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import torch
from attrs import evolve

from kpframe.errors import ArgumentError, ShapeError, mismatch
from kpframe.flow._named_parameters import check_weights, match_paths
from kpframe.flow._repeatable import repeatable
from kpframe.flow._scans import Scans
from kpframe.flow._step_jacobian import DiagonalStepJacobian, StepJacobian
from kpframe.flow._weighted_steps import WeightedSteps
from kpframe.models._sites.declaration import PRIME
from kpframe.models._sites.gains import (
    CutScan,
    PlacedOutput,
    PlacedSite,
    PlacedStage,
    SiteGains,
    add,
    scan,
    scan_adjoint,
    weighted_steps,
)

#: The path that goes around the recurrent weights.
DIRECT = "direct"


class SiteStepJacobian(StepJacobian):
    """A of a ``SiteModel``: ``A_t v = Sum_k D (W_k S_k v) + E v``, a product with each recurrent weight.

    Args:
        gains: what the sites read and how their preactivations act, along a trajectory.
        name: how it prints.
    """

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
        return scan(self.gains, q) if self.gains.can_scan else super().scan(q)

    def scan_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        """Turn ``r`` ``[T, ..., B, H]`` into ``(I - A Z)^{-*} r`` in place, and return it."""
        return scan_adjoint(self.gains, r) if self.gains.can_scan else super().scan_adjoint(r)

    def scans(self, keep: torch.Tensor) -> Scans:
        """Return the scans with ``A_t := 0`` where ``keep`` is False, chunks between cuts at once."""
        return CutScan(self.gains, keep) if self.gains.can_scan else super().scans(keep)

    def weighted_steps(self) -> WeightedSteps | None:
        """Return the weights and gains of a cell of one stage whose weights are the same at each step."""
        return weighted_steps(self.gains) if self.gains.can_scan else None

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
        return self.gains.units.to(self.device)

    def diagonal(self) -> DiagonalStepJacobian:
        """Return the operator that keeps the diagonal of each ``A_t``, in closed form for one stage."""
        gains = self.gains
        if len(gains.stages) > 1:
            return super().diagonal()
        batch, time, _ = self.domain.shape
        own = {name: paths[name] for name, paths in _own_gains(gains.stages[0]).items() if name in paths}
        values = gains.join(own, (time, batch)).transpose(0, 1).contiguous()
        return DiagonalStepJacobian(values, self.domain, name=f"diag({self.name})").keeping(self.valid)

    def unit_blocks(self) -> StepJacobian:
        """Return the operator that keeps the entries within each unit, in closed form for one stage.

        A product is then pointwise: no weight matrix is left.
        """
        if len(self.gains.stages) > 1:
            return super().unit_blocks()
        name = f"{self.name}[units]"
        if len(self.gains.components) == 1:  # a unit is one entry
            return DiagonalStepJacobian(self.diagonal().values, self.domain, name=name).keeping(self.valid)
        (stage,) = self.gains.stages
        outputs = tuple(PlacedOutput(output, {}, paths) for output, paths in _own_gains(stage).items())
        gains = evolve(self.gains, stages=(evolve(stage, sites=(), outputs=outputs),))
        return UnitStepJacobian(gains, self, name=name).keeping(self.valid)

    def _with(self, gains: SiteGains, name: str) -> SiteStepJacobian:
        return SiteStepJacobian(gains, name=name).keeping(self.valid)

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The recurrent weights by name: those that read the state, or what a stage before computed of it."""
        return {
            str(placed.site.weight): placed.weight
            for placed in self.gains.sites
            if placed.site.recurrent and placed.weight is not None
        }

    def replace(self, weights: Mapping[str, torch.Tensor]) -> StepJacobian:
        """Return ``A`` with other weights on its paths, the gains unchanged.

        Args:
            weights: name of a site's weight -> matrix of the same shape.

        Raises:
            ArgumentError: for an unknown name, and for a weight of another dtype or on another device.
            ShapeError: for one of another shape.
        """
        known = self.weights
        check_weights(weights, list(known))
        for name, weight in weights.items():
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
        return self._with(gains, f"{self.name}[{', '.join(weights)}]")

    def direct(self) -> SiteStepJacobian:
        """Return ``A`` by its direct path only, as if recurrent products read the state detached.

        In one stage that is ``E``. A step of several stages hands on from stage to stage what came directly,
        by the weights in between; see ``detached``.
        """
        return self._with(detached(self.gains), f"{self.name}[direct]")

    def pointwise(self) -> SiteStepJacobian:
        """Return ``A`` by ``E`` only: no weight site passes anything on, between stages neither."""
        stages = tuple(
            evolve(stage, sites=tuple(placed for placed in stage.sites if not placed.site.recurrent))
            for stage in self.gains.stages
        )
        return self._with(evolve(self.gains, stages=stages), f"{self.name}[pointwise]")

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
                anything on), or ``"direct"`` (what goes around the recurrent weights, as ``direct`` has it,
                where a padded step that holds the state is direct, too).

        Raises:
            ArgumentError: for a name that is no path; lists those there are.
        """
        chosen = match_paths(self.paths, paths)

        def cut(placed: PlacedSite) -> torch.Tensor:
            matrix, targets = _matrix(placed), placed.site.targets
            keep = [target not in chosen and placed.site.weight not in chosen for target in targets]
            if all(keep):
                return matrix
            on = torch.tensor(keep, device=matrix.device).repeat_interleave(matrix.shape[-2] // len(targets))
            return matrix * on.unsqueeze(-1)

        name = f"{self.name}[cut {', '.join(paths)}]" if paths else self.name
        kept = self._with(self.gains.with_weights(cut), name)
        if DIRECT not in chosen:
            return kept
        if len(self.gains.stages) > 1:  # there, what is pointwise leads to weights, too
            return kept - kept.direct()
        (stage,) = kept.gains.stages
        outputs = tuple(evolve(output, direct={}) for output in stage.outputs)
        return self._with(evolve(kept.gains, stages=(evolve(stage, outputs=outputs),)), name)


@repeatable.register
def _(A: SiteStepJacobian) -> bool:
    """Each step is the same products and sums, whatever the numbers."""
    return True


class UnitStepJacobian(SiteStepJacobian):
    """The entries of ``A`` within each unit, for a cell of one stage: pointwise, no weight matrix is left.

    The paths are those of all of A: to cut one and to leave out what is between units is the same in either
    order, and what goes around all weights is within units.
    """

    def __init__(self, gains: SiteGains, whole: SiteStepJacobian, *, name: str) -> None:
        super().__init__(gains, name=name)
        self.whole = whole

    def unit_blocks(self) -> StepJacobian:
        """Return the operator itself."""
        return self

    def direct(self) -> SiteStepJacobian:
        """Return the direct path of all of A, which is within the units."""
        return self.whole.direct()

    def pointwise(self) -> SiteStepJacobian:
        """Return what goes around all weights of A."""
        return self.whole.pointwise()

    @property
    def paths(self) -> tuple[str, ...]:
        """The names that ``cut`` takes."""
        return self.whole.paths

    def cut(self, paths: Sequence[str]) -> StepJacobian:
        """Return the entries within units of ``A`` without some of its paths."""
        return self.whole.cut(paths).unit_blocks()

    @property
    def weights(self) -> dict[str, torch.Tensor]:
        """The recurrent weights whose entries within units these are of."""
        return self.whole.weights

    def replace(self, weights: Mapping[str, torch.Tensor]) -> StepJacobian:
        """Return the entries within units of ``A`` with other weights."""
        return self.whole.replace(weights).unit_blocks()


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
