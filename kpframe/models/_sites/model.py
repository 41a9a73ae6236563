"""``SiteModel``: linear weight sites, then something pointwise; the structure is derived, not written.

Most cells compute preactivations ``u_a = Sum_k W_k z_k + b_k`` from the input or from a pointwise
function ``z_k`` of a state component, and then combine them unit by unit: ``h' = combine(u, h)``. For
these the step Jacobian and the parameter Jacobian are products with the weights between pointwise
gains, which one reverse pass of ``combine`` for each component gives along a whole trajectory. Cells
that do this several times within a step (stacked layers, projections) declare stages.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import torch

from kpframe.errors import ArgumentError, mismatch
from kpframe.flow._parameter_operator import ParameterOperator
from kpframe.flow._propagator import Propagator, ScanPropagator
from kpframe.flow._trajectory import Trajectory
from kpframe.models._autograd.graph import leaves
from kpframe.models._autograd.linearization import Linearization
from kpframe.models._few_rows import saved_by_a_row
from kpframe.models._model import Model
from kpframe.models._padding import starts, where_valid
from kpframe.models._sites.declaration import INPUT, PRIME, Site, Stage, check_weights, component_widths
from kpframe.models._sites.gains import NOTHING, PlacedSite, PlacedStage, SiteGains, add, scatter
from kpframe.models._sites.parameter_operator import GramParameterOperator, SiteParameterJacobian
from kpframe.models._sites.pointwise import StepRecord, Values, pointwise_derivatives, recorded, step_record
from kpframe.models._sites.step_jacobian import SiteStepJacobian
from kpframe.operators._isolation import in_isolation

#: A step's index, those of a batch of rows ``[N]``, or all steps of tensors ``[T, B, n]``.
When = int | torch.Tensor | slice


class SiteModel(Model):
    """A model of weight sites and a pointwise ``combine``; see the module's description.

    In the ordinary case, one stage, all state components have the same width n, one entry a unit. A
    parameter may act at several sites, under several names. One that acts at no site (and is not the
    trainable initial state), or elsewhere too (``combine`` reads it), makes ``J`` fall back to automatic
    differentiation, as does an ``initial_state`` of the model's own that depends on parameters; ``A``
    stays structured.

    Args:
        input_size: width of the input.
        units: number n of units.
        components: names of the state's components, in order.
        sites: the weight sites.
        stages: instead of units and sites, the stages of a step; a component has the width of the stage
            that computes it.
        trainable_initial_state: makes ``h_0`` a parameter.

    Raises:
        ArgumentError: naming the site or stage that does not fit.
    """

    #: Names of parameters that ``step`` does not read, such as those of an output; ``J`` is zero there.
    unread_parameters: tuple[str, ...] = ()

    def __init__(
        self,
        input_size: int,
        units: int | None = None,
        components: Sequence[str] = (),
        sites: Sequence[Site] = (),
        *,
        stages: Sequence[Stage] | None = None,
        trainable_initial_state: bool = False,
    ) -> None:
        if stages is None:
            if units is None:
                raise ArgumentError(mismatch("units", "a number of units, or stages", "neither"))
            stages = (Stage(tuple(components), units, tuple(sites)),)
        elif units is not None or sites:
            raise ArgumentError(mismatch("stages", "no units and no sites beside stages", "both"))
        made = {name: stage.units for stage in stages for name in stage.outputs}
        # sizes are checked here; that there is a stage for each component, by component_widths
        sizes = {name: made.get(name, 1) for name in components}
        super().__init__(input_size, sizes, trainable_initial_state=trainable_initial_state)
        self.components = component_widths(components, stages, input_size)
        if any(site.per_step for stage in stages for site in stage.sites) and not self.time_varying:
            raise ArgumentError(mismatch("per_step", "a model with time_varying = True", type(self).__name__))
        self.stages = tuple(stages)

    @property
    def units(self) -> int:
        """Number of units of the (first) stage."""
        return self.stages[0].units

    @property
    def sites(self) -> tuple[Site, ...]:
        """All weight sites, stage by stage."""
        return tuple(site for stage in self.stages for site in stage.sites)

    def combine(
        self, u: Mapping[str, torch.Tensor], h: Mapping[str, torch.Tensor], t: torch.Tensor | None = None
    ) -> Mapping[str, torch.Tensor]:
        """Return the next state's components from preactivations ``u`` and components ``h``, each ``[N, n]``.

        It acts unit by unit: entry i of the result depends on entry i of the arguments only. The
        conformance checks compare what follows from this with automatic differentiation. The step
        indices ``t`` ``[N]`` are given to models with ``time_varying = True``. A model of several stages
        names a method for each.
        """
        raise NotImplementedError(f"{type(self).__name__} must define combine")

    def site_weight(self, name: str) -> torch.Tensor:
        """Return a site's matrix ``name`` ``[rows, columns]``; override where sites declare ``parameters``.

        It is a differentiable function of those parameters and of buffers: ``self.mask * self.weight``.
        """
        value = getattr(self, name)
        assert isinstance(value, torch.Tensor)
        return value

    def step(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        """Return the next state ``[N, H]``, derived from the sites and ``combine``."""
        weights = self._weights()
        return self._next(weights, self._drive(weights, x), x, h, t)

    def rollout(
        self, x: torch.Tensor, h0: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> Trajectory:
        """Run the model over ``x``, the products with the input made for all steps at once.

        See ``Model.rollout`` for arguments and errors.
        """
        if type(self).step is not SiteModel.step:
            return super().rollout(x, h0, mask)
        trajectory = self.begin(x, h0, mask)
        weights = self._weights()
        check_weights(self.stages, {INPUT: self.input_size, **self.components}, self.steps, weights)
        inputs = trajectory.inputs
        whole = self._drive(weights, inputs.transpose(0, 1))  # [T, B, G n]
        drives = {targets: y.unbind() for targets, y in whole.items()}
        record = None if mask is not None else step_record(x, self.stages, whole)

        def step(t: int, h: torch.Tensor, x: torch.Tensor, *drive: torch.Tensor) -> torch.Tensor:
            return self._next(weights, dict(zip(drives, drive, strict=True)), x, h, t, record)

        h, states = trajectory.initial_state, []
        for t in range(x.shape[1]):
            valid = None if mask is None else mask[:, t]
            h = where_valid(valid, partial(step, t), h, inputs[:, t], *(y[t] for y in drives.values()))
            states.append(h)
        trajectory = self.finish(trajectory, torch.stack(states, dim=1))
        if record is not None:
            record.finish(trajectory.states)
        return trajectory

    def propagator(self, trajectory: Trajectory) -> Propagator:
        """Return ``P`` with the structured step Jacobian."""
        return self._scan(self._gains(trajectory))

    def parameter_operator(self, trajectory: Trajectory) -> ParameterOperator:
        """Return ``K`` between the gains of the sites, or by autograd if a parameter acts elsewhere."""
        return self._between(self._gains(trajectory), trajectory)

    def operators(self, trajectory: Trajectory) -> tuple[Propagator, ParameterOperator]:
        """Return ``P`` and ``K``, the gains recorded once for both."""
        own = type(self)
        derived = (
            own.propagator is SiteModel.propagator and own.parameter_operator is SiteModel.parameter_operator
        )
        if not derived:
            return super().operators(trajectory)
        gains = self._gains(trajectory)
        return self._scan(gains), self._between(gains, trajectory)

    @staticmethod
    def _scan(gains: SiteGains) -> Propagator:
        return ScanPropagator(SiteStepJacobian(gains), why="the weight sites that the model declares")

    def recorded_bytes(self, trajectory: Trajectory) -> int:
        """Return about how many bytes the gains need for each step of each trial."""
        item = trajectory.states.itemsize
        gains = sum(
            len(stage.outputs) * stage.units * (len(stage.targets) + len(self.components))
            for stage in self.stages
        )
        return item * (2 * gains + 4 * self.width + self.input_size) + saved_by_a_row(self, trajectory)

    def _between(self, gains: SiteGains, trajectory: Trajectory) -> ParameterOperator:
        if not self._all_at_sites(gains, trajectory):
            return super().parameter_operator(trajectory)
        trains_start = "h0" in self.trainable() and not trajectory.given
        return GramParameterOperator(SiteParameterJacobian(gains, self.parameter_space, trains_start))

    def _all_at_sites(self, gains: SiteGains, trajectory: Trajectory) -> bool:
        placed = {name for site in gains.sites for name in site.learned}.union(self.unread_parameters)
        if self.trainable_initial_state:
            placed.add("h0")
        if gains.elsewhere or not set(self.trainable()) <= placed or "h0" in self.shared_names():
            return False
        if type(self).initial_state is Model.initial_state or trajectory.given:
            return True
        with torch.enable_grad():
            return not self.initial_state(len(trajectory.inputs)).requires_grad

    # -- one step --------------------------------------------------------------------------------------------

    def _weights(self) -> dict[str, torch.Tensor]:
        """Return the sites' matrices by name."""
        names = dict.fromkeys(site.weight for site in self.sites if site.weight is not None)
        return {name: self.site_weight(name) for name in names}

    def _drive(
        self, weights: Mapping[str, torch.Tensor], x: torch.Tensor
    ) -> dict[tuple[str, ...], torch.Tensor]:  # [..., I] -> [..., G n]
        """Return what input sites and biases that are the same at each step add, by targets."""
        drive: dict[tuple[str, ...], torch.Tensor] = {}
        for site in self.sites:
            if site.per_step:
                continue
            bias = None if site.bias is None else self._bias(site)
            if site.source == INPUT:
                z = site.read(x)
                y = z if site.weight is None else torch.nn.functional.linear(z, weights[site.weight], bias)
            elif bias is not None:
                y = bias.expand(*x.shape[:-1], -1)
            else:
                continue
            drive[site.targets] = drive[site.targets] + y if site.targets in drive else y
        return drive

    def _next(
        self,
        weights: Mapping[str, torch.Tensor],
        drive: Mapping[tuple[str, ...], torch.Tensor],
        x: torch.Tensor,
        h: torch.Tensor,
        t: When | None,
        record: StepRecord | None = None,
    ) -> torch.Tensor:  # [N, H]
        """Return the next state from the input's drive and the state ``[N, H]``."""
        known = self._split(h)
        index = torch.full((len(h),), t, device=h.device) if isinstance(t, int) and self.time_varying else t
        for place, stage in enumerate(self.stages):
            keep = NOTHING if record is None else record.driven
            u = self._preactivations(stage, weights, drive, {INPUT: x, **known}, t, keep)
            if record is not None and isinstance(t, int):
                record.put(place, t, u)
            new = self._combine(stage, u, known, index)
            known |= {name + PRIME: new[name] for name in stage.outputs}
        pieces = [known[name + PRIME] for name in self.components]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1)

    def _combine(
        self, stage: Stage, u: Mapping[str, torch.Tensor], known: Mapping[str, torch.Tensor], t: When | None
    ) -> Mapping[str, torch.Tensor]:
        combine = getattr(self, stage.combine) if isinstance(stage.combine, str) else stage.combine
        h = {name: value for name, value in known.items() if value.shape[-1] == stage.units}
        return combine(u, h, t) if self.time_varying else combine(u, h)

    def _preactivations(
        self,
        stage: Stage,
        weights: Mapping[str, torch.Tensor],
        drive: Mapping[tuple[str, ...], torch.Tensor],
        known: Mapping[str, torch.Tensor],
        t: When | None,
        keep: frozenset[str] = NOTHING,
    ) -> dict[str, torch.Tensor]:  # target -> [..., n]
        """Return the preactivations of a stage; those to ``keep`` are added up in the memory of the drive."""
        sums: dict[tuple[str, ...], torch.Tensor] = {}
        for site in stage.sites:
            if site.targets in drive:
                sums[site.targets] = drive[site.targets]
        for site in stage.sites:
            if site.per_step or site.recurrent:
                y = self._product(site, weights[str(site.weight)], known[str(site.source)], t)
                add(sums, site.targets, y, in_place=keep.issuperset(site.targets))
        u: dict[str, torch.Tensor] = {}
        for targets, y in sums.items():
            scatter(targets, y, u, keep)
        return u

    def _product(
        self, site: Site, weight: torch.Tensor, source: torch.Tensor, t: When | None
    ) -> torch.Tensor:
        """Return ``W z`` of a site, with the bias where both differ from step to step."""
        z = site.read(source)
        if site.transform is not None:
            z = site.transform(z)
        if not site.per_step:
            return torch.nn.functional.linear(z, weight)
        bias = None if site.bias is None else self._bias(site)
        if isinstance(t, torch.Tensor):  # rows of different steps
            y = (weight[t] @ z.unsqueeze(-1)).squeeze(-1)
            return y if bias is None else y + bias[t]
        y = z @ weight[t].mT
        if bias is None:
            return y
        return y + (bias[t] if isinstance(t, int) else bias.unsqueeze(1))

    def _bias(self, site: Site) -> torch.Tensor:
        value = getattr(self, str(site.bias))
        assert isinstance(value, torch.Tensor)
        return value

    def _split(self, h: torch.Tensor) -> dict[str, torch.Tensor]:
        if len(self.components) == 1:
            return dict.fromkeys(self.components, h)
        return dict(zip(self.components, torch.split(h, list(self.components.values()), dim=-1), strict=True))

    # -- the gains along a trajectory ------------------------------------------------------------------------

    @in_isolation
    def _gains(self, trajectory: Trajectory) -> SiteGains:
        """Return the gains of every stage along a trajectory, time outermost."""
        batch, time, _ = trajectory.space.shape
        x, previous = (rows.transpose(0, 1) for rows in starts(trajectory))  # [T, B, I], [T, B, H]
        with torch.enable_grad():
            weights = self._weights()
        fixed = {name: weight.detach() for name, weight in weights.items()}
        record = recorded(trajectory.states)
        with torch.no_grad():
            drive = {} if record is not None else self._drive(fixed, x)
        known = {INPUT: x, **self._split(previous)}  # name -> [T, B, n]
        there = known  # of padded steps what stands there
        if trajectory.mask is not None:
            x, previous = (rows.detach().transpose(0, 1) for rows in (trajectory.inputs, trajectory.previous))
            there = {INPUT: x, **self._split(previous)}
        indices = trajectory.indices if self.time_varying else None
        held = None if trajectory.mask is None else (~trajectory.mask.T.unsqueeze(-1)).to(x)
        theta = {id(parameter): name for name, parameter in self.trainable().items()}
        stages, acting = [], set[int]()
        for place, stage in enumerate(self.stages):

            def combine(u: Values, h: Values, steps: slice, stage: Stage = stage) -> Values:
                at = None if indices is None else indices[steps].repeat_interleave(batch)
                return self._combine(stage, u, h, at)

            if record is not None:
                u = record.preactivations(place)
            else:
                with torch.no_grad():
                    u = self._preactivations(stage, fixed, drive, known, slice(None))
            last = place == len(self.stages) - 1  # nothing reads what it puts out
            found = pointwise_derivatives(stage, combine, u, known, outputs=not last)
            placed = [self._place(site, weights, known | there, theta) for site in stage.sites]
            acting = acting.union(found.others, *(strays for _, strays in placed))
            sites, shape = [site for site, _ in placed], (time, batch, stage.units)
            stages.append(PlacedStage.of(sites, found.gains, shape, held, tuple(self.components)))
            known |= {name + PRIME: value for name, value in found.outputs.items()}
        if acting - set(theta):
            expected = "nothing that learns but the model's own parameters in combine, transforms and weights"
            raise ArgumentError(mismatch(type(self).__name__, expected, "a function that holds another's"))
        return SiteGains(
            trajectory.space, dict(self.components), tuple(stages), trajectory.states, bool(acting)
        )

    def _place(
        self,
        site: Site,
        weights: Mapping[str, torch.Tensor],
        known: Mapping[str, torch.Tensor],
        theta: Mapping[int, str],
    ) -> tuple[PlacedSite, set[int]]:
        """Return a site, and the ids of the leaves that act there otherwise than it says.

        Parameters are known by identity, so that one which acts at several sites has one name at all of them.
        """
        value = None if site.bias is None else self._bias(site)
        bias = theta.get(id(value))
        strays = [] if value is None or value.is_leaf else leaves(value)
        if site.weight is None:
            return PlacedSite(site, None, None, bias=bias), set(map(id, strays))
        weight = weights[site.weight]
        source = known[str(site.source)]
        z, slope = site.read(source), None
        if site.transform is not None:
            with torch.enable_grad():
                leaf = z.detach().requires_grad_()
                z = site.transform(leaf)
                strays += [found for found in leaves(z) if found is not leaf]
                (slope,) = torch.autograd.grad(z.sum(), leaf)
        itself = weight if weight.is_leaf else getattr(self, site.weight, None)
        own = [getattr(self, name) for name in site.parameters] or [itself]
        made_of = {theta[id(p)]: p for p in own if id(p) in theta}
        again = partial(_record_weight, self, site.weight, tuple(made_of))
        learned = list(made_of.values())
        chain = Linearization(weight, learned, again, careful=True) if site.parameters else None
        if chain is not None or not weight.is_leaf:
            declared = set(map(id, made_of.values())) if site.parameters else set()
            strays += [found for found in leaves(weight) if id(found) not in declared]
        weight, width, names = weight.detach(), source.shape[-1], tuple(made_of)
        return PlacedSite(site, weight, z.detach(), slope, width, chain, names, bias), set(map(id, strays))


def _record_weight(
    model: SiteModel, name: str, made_of: Sequence[str]
) -> tuple[torch.Tensor, list[torch.Tensor]]:
    theta = model.trainable()
    return model.site_weight(name), [theta[parameter] for parameter in made_of]
