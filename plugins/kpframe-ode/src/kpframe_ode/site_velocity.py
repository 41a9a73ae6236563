"""``SiteODEModel``: velocities of weight sites with something pointwise, structured for every integrator.

An integrator evaluates the velocity several times a step with the same weights, each time at a point
that depends pointwise on the state and the velocities before. So a step is a ``SiteModel`` whose stages
are those of the velocity, once for each evaluation, and A, J, P and K keep their structure.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import partial

import torch
from attrs import evolve

from kpframe import Site, SiteModel, Stage
from kpframe.errors import ArgumentError, mismatch
from kpframe.models import INPUT, PRIME, component_widths
from kpframe_ode.exponential import phi1
from kpframe_ode.integrators import Scheme
from kpframe_ode.velocity import Integrated, require_linear_part, weighted_sum

Tensors = Mapping[str, torch.Tensor]


class SiteODEModel(Integrated, SiteModel):
    """``dh/dt`` from linear weight sites and then something pointwise; the author declares and writes these.

    As in ``kpframe.SiteModel``, but what ``velocity`` (or the method a stage names) returns under a
    component's name is its time derivative, and the integrator makes the step. A parameter acts at each
    evaluation, and J sums over them. Inputs, ``dt`` and what A and J tend to: see ``ODEModel``.

    Args:
        input_size: width of the input.
        units: number n of units.
        components: names of the state's components, in order.
        sites: the weight sites of the velocity.
        stages: instead of units and sites, the stages of one evaluation of the velocity. Later stages read
            outputs of earlier ones with a prime, those named after a component (its derivative) excepted.
        dt: time step, in the unit of time of the velocity.
        integrator, substeps: see ``ODEModel``.
        trainable_initial_state: makes ``h_0`` a parameter.

    Raises:
        ArgumentError: naming the argument, site or stage that does not fit.
    """

    def __init__(
        self,
        input_size: int,
        units: int | None = None,
        components: Sequence[str] = (),
        sites: Sequence[Site] = (),
        *,
        dt: float,
        stages: Sequence[Stage] | None = None,
        integrator: str = "rk4",
        substeps: int = 1,
        trainable_initial_state: bool = False,
    ) -> None:
        scheme = Scheme.of(integrator, dt, substeps)
        if stages is None:
            if units is None:
                raise ArgumentError(mismatch("units", "a number of units, or stages", "neither"))
            stages = (Stage(tuple(components), units, tuple(sites), combine="velocity"),)
        elif units is not None or sites:
            raise ArgumentError(mismatch("stages", "no units and no sites beside stages", "both"))
        _check(stages, components, input_size)
        super().__init__(
            input_size,
            components=components,
            stages=[
                self._placed(stage, components, evaluation, scheme)
                for evaluation in range(scheme.evaluations)
                for stage in stages
            ],
            trainable_initial_state=trainable_initial_state,
        )
        self.scheme = scheme
        self._names = {name: name in self.components for stage in stages for name in stage.outputs}
        require_linear_part(self, type(self).linear_part is SiteODEModel.linear_part)

    def velocity(self, u: Tensors, h: Tensors, t: torch.Tensor | None = None) -> Tensors:
        """Return ``dh/dt`` of every component from preactivations and components, each ``[N, n]``.

        It acts unit by unit, as ``SiteModel.combine`` does. The times ``t`` ``[N]``, in the unit of ``dt``,
        are given to models with ``time_varying = True``. A model of several stages names a method for each.
        """
        raise NotImplementedError(f"{type(self).__name__} must define velocity")

    def linear_part(
        self, u: Tensors, h: Tensors, t: torch.Tensor | None = None
    ) -> Mapping[str, torch.Tensor | float]:
        """Return each component's own linear rate lambda for ``"exponential_euler"``, by name.

        The velocity of unit i is lambda_i h_i plus the rest; a number, or ``[N, n]`` from the arguments,
        which are those of the component's velocity. Rates of decay are negative.
        """
        raise NotImplementedError(f"{type(self).__name__} has no linear_part")

    def _placed(self, stage: Stage, components: Collection[str], evaluation: int, scheme: Scheme) -> Stage:
        """Return a stage of the velocity as a stage of the step, at one evaluation, integrator included."""
        outputs: list[str] = []
        for name in stage.outputs:
            if name not in components:
                outputs.append(_numbered(name, evaluation))
                continue
            if scheme.recalls(evaluation):
                outputs.append(_slope(name, evaluation))
            outputs.append(_moved(name, evaluation, scheme))
        sites = tuple(_site(site, components, evaluation) for site in stage.sites)
        return Stage(tuple(outputs), stage.units, sites, partial(self._evaluate, stage, evaluation))

    def _evaluate(
        self, stage: Stage, evaluation: int, u: Tensors, h: Tensors, t: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return the outputs of one stage at one evaluation, and where its components go from there."""
        own_u = {name: u[_numbered(name, evaluation)] for name in stage.targets}
        arguments: tuple[object, ...] = (own_u, _own(h, self._names, evaluation))
        if t is not None:
            like = next(iter((*u.values(), *h.values())))
            arguments = (*arguments, self.scheme.time(t.to(like.dtype), evaluation))
        velocity = getattr(self, stage.combine) if isinstance(stage.combine, str) else stage.combine
        found: Tensors = velocity(*arguments)
        if set(stage.outputs) - set(found):
            where = f"{type(self).__name__}.{getattr(velocity, '__name__', 'velocity')}"
            raise ArgumentError(mismatch(where, f"outputs {list(stage.outputs)}", list(found)))
        moving = [name for name in stage.outputs if name in self.components]
        out = {_numbered(name, evaluation): found[name] for name in stage.outputs if name not in moving}
        exponential = bool(moving) and self.scheme.tableau.exponential
        linear = self.linear_part(*arguments) if exponential else {}  # type: ignore[arg-type]
        for name in moving:
            slope = found[name]
            if self.scheme.recalls(evaluation):
                out[_slope(name, evaluation)] = slope
            if exponential:
                slope = slope * phi1(linear[name] * self.scheme.step)
            out[_moved(name, evaluation, self.scheme)] = self._follow(name, evaluation, slope, h)
        return out

    def _follow(self, name: str, evaluation: int, slope: torch.Tensor, h: Tensors) -> torch.Tensor:
        """Return where a component goes from an evaluation: to the next point, or its new value."""
        tableau = self.scheme.tableau
        stage = evaluation % tableau.stages
        start = evaluation - stage
        *before, own = tableau.weights(stage)
        terms = [(w, h[_slope(name, start + j) + PRIME]) for j, w in enumerate(before) if w]
        return h[_point(name, start)] + self.scheme.step * weighted_sum([*terms, (own, slope)])


def _numbered(name: str, evaluation: int) -> str:
    return f"{name}@{evaluation}"


def _slope(component: str, evaluation: int) -> str:
    """Return the name of a component's velocity at an evaluation."""
    return _numbered(f"d/dt {component}", evaluation)


def _point(component: str, evaluation: int) -> str:
    """Return under which name an evaluation reads a component."""
    return component if evaluation == 0 else _numbered(component, evaluation) + PRIME


def _moved(component: str, evaluation: int, scheme: Scheme) -> str:
    """Return under which name an evaluation puts out where a component is next, or after the step."""
    return component if evaluation + 1 == scheme.evaluations else _numbered(component, evaluation + 1)


def _own(h: Tensors, names: Mapping[str, bool], evaluation: int) -> dict[str, torch.Tensor]:
    """Return what an evaluation may read, under the author's names."""
    own: dict[str, torch.Tensor] = {}
    for name, is_component in names.items():
        read = _point(name, evaluation) if is_component else _numbered(name, evaluation) + PRIME
        if read in h:
            own[name if is_component else name + PRIME] = h[read]
    return own


def _site(site: Site, components: Collection[str], evaluation: int) -> Site:
    """Return a site of the velocity as it is at one evaluation."""
    targets = tuple(_numbered(target, evaluation) for target in site.targets)
    if site.source is None or site.source == INPUT:
        return evolve(site, targets=targets)
    if site.source in components:
        return evolve(site, targets=targets, source=_point(site.source, evaluation))
    return evolve(site, targets=targets, source=_numbered(site.source[:-1], evaluation) + PRIME)


def _check(stages: Sequence[Stage], components: Sequence[str], input_size: int) -> None:
    """Raise ``ArgumentError`` for what a velocity cannot be made of."""
    component_widths(components, stages, input_size)
    derivatives = [name + PRIME for name in components]
    for stage in stages:
        for site in stage.sites:
            if site.source in derivatives:
                expected = "an output that is not a component's derivative"
                raise ArgumentError(mismatch(f"site {site.label}: source", expected, repr(site.source)))
