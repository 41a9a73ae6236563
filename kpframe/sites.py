"""``SiteModel``: linear weight sites, then something pointwise; the structure is derived, not written.

Most cells compute preactivations ``u_a = Sum_k W_k z_k + b_k`` from the input or from a pointwise
function ``z_k`` of a state component, and then combine them unit by unit: ``h' = combine(u, h)``. For
these the step Jacobian and the parameter Jacobian are products with the weights between pointwise
gains, which one reverse pass of ``combine`` for each component gives along a whole trajectory.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence

import torch
from attrs import field, frozen

from kpframe.errors import ArgumentError, mismatch
from kpframe.model import Model
from kpframe.parameter import ParameterOperator
from kpframe.propagator import Propagator
from kpframe.site_gains import PlacedSite, SiteGains
from kpframe.site_operators import SiteParameterJacobian, SiteParameterOperator, SiteStepJacobian
from kpframe.trajectory import Trajectory

INPUT = "input"


def _names(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(names)


@frozen
class Site:
    """One place where a weight matrix acts: ``W z + b``, its rows split evenly over ``targets``.

    Attributes:
        weight: name of the parameter ``[len(targets) * n, width of source]``.
        source: ``"input"`` or the name of a state component.
        targets: names of the preactivations the row blocks add to, in order.
        bias: name of the parameter ``[len(targets) * n]``, or None.
        transform: pointwise function of the source (``torch.tanh``), or None for the identity.
    """

    weight: str
    source: str
    targets: tuple[str, ...] = field(converter=_names)
    bias: str | None = None
    transform: Callable[[torch.Tensor], torch.Tensor] | None = None


class SiteModel(Model):
    """A model of weight sites and a pointwise ``combine``; see the module's description.

    All state components have the same width n, one entry a unit. A parameter that is at no site (and
    is not the trainable initial state) makes ``J`` fall back to automatic differentiation, as does an
    ``initial_state`` of the model's own; ``A`` stays structured.

    Args:
        input_size: width of the input.
        units: number n of units.
        components: names of the state's components, in order.
        sites: the weight sites.
        trainable_initial_state: makes ``h_0`` a parameter.
    """

    def __init__(
        self,
        input_size: int,
        units: int,
        components: Sequence[str],
        sites: Sequence[Site],
        *,
        trainable_initial_state: bool = False,
    ) -> None:
        super().__init__(
            input_size,
            dict.fromkeys(components, units),
            trainable_initial_state=trainable_initial_state,
        )
        self.units = units
        self.sites = tuple(sites)
        if not self.sites:
            raise ArgumentError(mismatch("sites", "at least one", "none"))
        for site in self.sites:
            if site.source != INPUT and site.source not in self.components:
                known = ", ".join(repr(name) for name in (INPUT, *self.components))
                raise ArgumentError(
                    mismatch(f"site {site.weight!r}: source", f"one of {known}", repr(site.source))
                )
            if site.source == INPUT and site.transform is not None:
                raise ArgumentError(
                    mismatch(f"site {site.weight!r}: transform", "None on the input", site.transform)
                )

    @abstractmethod
    def combine(
        self, u: Mapping[str, torch.Tensor], h: Mapping[str, torch.Tensor], t: torch.Tensor | None = None
    ) -> Mapping[str, torch.Tensor]:
        """Return the next state's components from preactivations and components, each ``[N, n]``.

        It acts unit by unit: entry i of the result depends on entry i of the arguments only. The
        conformance checks compare what follows from this with automatic differentiation. The step
        indices ``t`` ``[N]`` are given to models with ``time_varying = True``.
        """

    def step(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        """Return the next state ``[N, H]``, derived from the sites and ``combine``."""
        return self._next(self._drive(x), h, t)

    def rollout(
        self, x: torch.Tensor, h0: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> Trajectory:
        """Run the model over ``x``, the products with the input made for all steps at once.

        See ``Model.rollout`` for arguments and errors.
        """
        if type(self).step is not SiteModel.step:
            return super().rollout(x, h0, mask)
        trajectory = self._begin(x, h0, mask)
        drives = {targets: y.unbind(1) for targets, y in self._drive(trajectory.inputs).items()}
        h = trajectory.initial_state
        states = []
        for t in range(x.shape[1]):
            index = torch.full((len(h),), t, device=h.device) if self.time_varying else None
            new = self._next({targets: y[t] for targets, y in drives.items()}, h, index)
            h = new if mask is None else torch.where(mask[:, t].unsqueeze(-1), new, h)
            states.append(h)
        return self._end(trajectory, torch.stack(states, dim=1))

    def propagator(self, trajectory: Trajectory) -> Propagator:
        """Return ``P`` with the structured step Jacobian."""
        return Propagator(SiteStepJacobian(self._gains(trajectory)))

    def parameter_operator(self, trajectory: Trajectory) -> ParameterOperator:
        """Return ``K`` between the gains of the sites, or by autograd if a parameter is at no site."""
        placed = {name for site in self.sites for name in (site.weight, site.bias)}
        if self.trainable_initial_state:
            placed.add("h0")
        own_start = type(self).initial_state is not Model.initial_state and not trajectory.given
        if own_start or not set(self.trainable()) <= placed:
            return super().parameter_operator(trajectory)
        trains_start = "h0" in self.trainable() and not trajectory.given
        jacobian = SiteParameterJacobian(self._gains(trajectory), self.parameter_space, trains_start)
        return SiteParameterOperator(jacobian)

    def _weight(self, name: str) -> torch.Tensor:
        value = getattr(self, name)
        assert isinstance(value, torch.Tensor)
        return value

    def _drive(self, x: torch.Tensor) -> dict[tuple[str, ...], torch.Tensor]:  # [..., I] -> [..., G n]
        """Return what the input sites and all biases add to the preactivations, by targets."""
        drive: dict[tuple[str, ...], torch.Tensor] = {}
        for site in self.sites:
            bias = None if site.bias is None else self._weight(site.bias)
            if site.source == INPUT:
                y = torch.nn.functional.linear(x, self._weight(site.weight), bias)
            elif bias is not None:
                y = bias.expand(*x.shape[:-1], -1)
            else:
                continue
            drive[site.targets] = drive[site.targets] + y if site.targets in drive else y
        return drive

    def _next(
        self, drive: Mapping[tuple[str, ...], torch.Tensor], h: torch.Tensor, t: torch.Tensor | None
    ) -> torch.Tensor:  # [N, H]
        """Return the next state from the input's drive and the state ``[N, H]``."""
        state = self._split(h)
        new = self._combine(self._preactivations(drive, state), state, t)
        return torch.cat([new[name] for name in self.components], dim=-1)

    def _combine(
        self, u: Mapping[str, torch.Tensor], h: Mapping[str, torch.Tensor], t: torch.Tensor | None
    ) -> Mapping[str, torch.Tensor]:
        return self.combine(u, h, t) if self.time_varying else self.combine(u, h)

    def _preactivations(
        self, drive: Mapping[tuple[str, ...], torch.Tensor], state: Mapping[str, torch.Tensor]
    ) -> dict[str, torch.Tensor]:  # target -> [..., n]
        sums = dict(drive)
        for site in self.sites:
            if site.source != INPUT:
                y = torch.nn.functional.linear(self._source(site, state), self._weight(site.weight))
                sums[site.targets] = sums[site.targets] + y if site.targets in sums else y
        u: dict[str, torch.Tensor] = {}
        for targets, y in sums.items():
            for target, block in zip(targets, y.chunk(len(targets), dim=-1), strict=True):
                u[target] = u[target] + block if target in u else block
        return u

    @staticmethod
    def _source(site: Site, state: Mapping[str, torch.Tensor]) -> torch.Tensor:
        z = state[site.source]
        return z if site.transform is None else site.transform(z)

    def _split(self, h: torch.Tensor) -> dict[str, torch.Tensor]:
        return dict(zip(self.components, torch.split(h, self.units, dim=-1), strict=True))

    def _gains(self, trajectory: Trajectory) -> SiteGains:
        """Return the gains of ``combine`` along a trajectory, time outermost."""
        batch, time, _ = trajectory.space.shape
        x = trajectory.inputs.detach().transpose(0, 1)  # [T, B, I]
        state = self._split(trajectory.previous.detach().transpose(0, 1))  # component -> [T, B, n]
        with torch.no_grad():
            u = self._preactivations(self._drive(x), state)
        with torch.enable_grad():
            u = {name: value.reshape(time * batch, -1).detach().requires_grad_() for name, value in u.items()}
            h = {
                name: value.reshape(time * batch, -1).detach().requires_grad_()
                for name, value in state.items()
            }
            t = torch.arange(time, device=x.device).repeat_interleave(batch) if self.time_varying else None
            new = self._combine(u, h, t)
            gains = {name: _pointwise_gains(new[name], u, h) for name in self.components}
            placed = [self._place(site, x, state) for site in self.sites]
        mask = None if trajectory.mask is None else trajectory.mask.transpose(0, 1).unsqueeze(-1)
        return SiteGains.of(trajectory.space, self.units, gains, placed, mask)

    def _place(self, site: Site, x: torch.Tensor, state: Mapping[str, torch.Tensor]) -> PlacedSite:
        z, slope = x, None
        if site.source != INPUT:
            z = state[site.source]
            if site.transform is not None:
                leaf = z.detach().requires_grad_()
                z = site.transform(leaf)
                (slope,) = torch.autograd.grad(z.sum(), leaf)
        weight = self._weight(site.weight).detach()
        source = None if site.source == INPUT else site.source
        return PlacedSite(site.weight, site.bias, site.targets, source, weight, z.detach(), slope)


def _pointwise_gains(
    new: torch.Tensor, u: Mapping[str, torch.Tensor], h: Mapping[str, torch.Tensor]
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """Return the derivatives of one component by each preactivation and component it depends on."""
    sources = [*u.items(), *h.items()]
    if not new.requires_grad:
        return {}, {}
    gradients = torch.autograd.grad(
        new.sum(), [value for _, value in sources], retain_graph=True, allow_unused=True
    )
    present = [(name, g) for (name, _), g in zip(sources, gradients, strict=True)]
    return (
        {name: g for name, g in present[: len(u)] if g is not None},
        {name: g for name, g in present[len(u) :] if g is not None},
    )
