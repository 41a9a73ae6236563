"""The structured operators of weight sites: products with the weights between pointwise gains.

With ``D[c, a] = dh'_c / du_a`` and ``E[c, c'] = dh'_c / dh_c'`` (both diagonal over units) and
``S = dz / dh`` the slope of a site's source::

    A_t v = D_t (W S_t v) + E_t v            J dtheta = D (dW z + db)

so nothing of size ``[B, T, H, H]`` is ever formed. Gains are kept time outermost, ``[T, B, n]``, which
makes the slice of a step contiguous.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

import torch
from attrs import evolve, frozen

from kpframe.errors import ArgumentError, ShapeError, closest, mismatch
from kpframe.operators.atoms import IdentityOperator
from kpframe.operators.base import Operator
from kpframe.parameter import GroupProjector, ParameterJacobian, ParameterOperator
from kpframe.spaces import Space
from kpframe.step_jacobian import DiagonalStepJacobian, StepJacobian

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
                    total = _accumulate(total, gain[t], du[target])
            out[component] = torch.zeros_like(like) if total is None else total
        return out

    def pull(self, t: int | slice, r: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return the adjoint of :meth:`push`: a preactivation that nothing depends on is absent."""
        out: dict[str, torch.Tensor] = {}
        for component in self.components:
            for target, gain in self.targets[component].items():
                out[target] = _accumulate(out.get(target), gain[t], r[component])
        return out

    def blocks(self, site: PlacedSite, parts: Mapping[str, torch.Tensor], like: torch.Tensor) -> torch.Tensor:
        """Return the targets' blocks side by side ``[..., G n]``, zeros where a target is absent."""
        pieces = [parts[target] if target in parts else torch.zeros_like(like) for target in site.targets]
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1)


def _accumulate(total: torch.Tensor | None, gain: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
    return gain * value if total is None else torch.addcmul(total, gain, value)


class SiteStepJacobian(StepJacobian):
    """``A_t v = Sum_k D (W_k S_k v) + E v``; one product with each recurrent weight a step."""

    method = "sites"

    def __init__(self, gains: SiteGains, *, name: str = "A") -> None:
        super().__init__(gains.space, dtype=gains.like.dtype, device=gains.like.device, name=name)
        self.gains = gains
        self._recurrent = tuple(site for site in gains.sites if site.source is not None)

    def step(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t v``."""
        return self._product(t, v)

    def step_adjoint(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t* v``."""
        return self._product_adjoint(t, v)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self._product(slice(None), q.transpose(-3, -2)).transpose(-3, -2)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self._product_adjoint(slice(None), r.transpose(-3, -2)).transpose(-3, -2)

    def _product(self, t: int | slice, v: torch.Tensor) -> torch.Tensor:
        gains = self.gains
        parts = gains.split(v)
        du: dict[str, torch.Tensor] = {}
        for site in self._recurrent:
            z = parts[_source(site)]
            y = (z if site.slope is None else site.slope[t] * z) @ site.weight.mT
            for target, block in zip(site.targets, y.chunk(len(site.targets), dim=-1), strict=True):
                du[target] = du[target] + block if target in du else block
        out = gains.push(t, du, parts[gains.components[0]])
        for component in gains.components:
            for source, gain in gains.direct[component].items():
                out[component] = torch.addcmul(out[component], gain[t], parts[source])
        return _join(out, gains.components)

    def _product_adjoint(self, t: int | slice, r: torch.Tensor) -> torch.Tensor:
        gains = self.gains
        parts = gains.split(r)
        like = parts[gains.components[0]]
        g = gains.pull(t, parts)
        out: dict[str, torch.Tensor] = {}
        for site in self._recurrent:
            back = gains.blocks(site, g, like) @ site.weight
            if site.slope is not None:
                back = site.slope[t] * back
            source = _source(site)
            out[source] = out[source] + back if source in out else back
        for component in gains.components:
            for source, gain in gains.direct[component].items():
                out[source] = _accumulate(out.get(source), gain[t], parts[component])
        return _join(
            {name: out.get(name, torch.zeros_like(like)) for name in gains.components}, gains.components
        )

    def diagonal(self) -> DiagonalStepJacobian:
        """Return the operator that keeps the diagonal of each ``A_t``, in closed form."""
        gains = self.gains
        columns = []
        for component in gains.components:
            total = torch.zeros_like(gains.sites[0].z[..., :1]).expand(
                *gains.sites[0].z.shape[:2], gains.units
            )
            for site in self._recurrent:
                if site.source != component:
                    continue
                rows = site.weight.chunk(len(site.targets))
                for target, block in zip(site.targets, rows, strict=True):
                    if target in gains.targets[component]:
                        own = block.diagonal() * gains.targets[component][target]
                        total = total + (own if site.slope is None else own * site.slope)
            if component in gains.direct[component]:
                total = total + gains.direct[component][component]
            columns.append(total)
        values = torch.cat(columns, dim=-1).transpose(0, 1).contiguous()
        return DiagonalStepJacobian(values, self.domain, name=f"diag({self.name})")

    def replace(self, weights: Mapping[str, torch.Tensor]) -> SiteStepJacobian:
        """Return ``A`` with other weights on its paths through time, the gains unchanged.

        Args:
            weights: parameter name -> matrix of the same shape.
        """
        known = [site.name for site in self._recurrent]
        for name, weight in weights.items():
            if name not in known:
                raise ArgumentError(
                    mismatch("weights", f"names among {known}", f"{name!r}{closest(name, known)}")
                )
            own = next(site.weight for site in self._recurrent if site.name == name)
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
        sites = [
            evolve(site, weight=weights[site.name].detach().clone()) if site.name in weights else site
            for site in self.gains.sites
        ]
        return SiteStepJacobian(
            evolve(self.gains, sites=tuple(sites)), name=f"{self.name}[{', '.join(weights)}]"
        )

    def direct(self) -> SiteStepJacobian:
        """Return ``A`` by its direct path ``E`` only: no weight site passes anything on."""
        sites = [
            site if site.source is None else evolve(site, weight=torch.zeros_like(site.weight))
            for site in self.gains.sites
        ]
        return SiteStepJacobian(evolve(self.gains, sites=tuple(sites)), name=f"{self.name}[direct]")


class SiteParameterJacobian(ParameterJacobian):
    """``J dtheta = D (dW z + db)``, two matrix products for each site over all trials and steps."""

    method = "sites"

    def __init__(self, gains: SiteGains, domain: Space, trains_start: bool) -> None:
        super().__init__(domain, gains.space, dtype=gains.like.dtype, device=gains.like.device)
        self.gains = gains
        self._parts = {part.name: part for part in domain.axes[0].parts}
        self._first_step = SiteStepJacobian(gains) if trains_start else None

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        probes = q.shape[:-1]
        moved = {name: q[..., part.slice].reshape(*probes, *part.shape) for name, part in self._parts.items()}
        return self.forward(moved, probes)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        probes = r.shape[:-3]
        gradients = self.backward(r, self._parts)
        flat = [
            gradients[name].reshape(*probes, -1) if name in gradients else r.new_zeros(*probes, part.size)
            for name, part in self._parts.items()
        ]
        return torch.cat(flat, dim=-1) if flat else r.new_zeros(*probes, 0)

    def forward(
        self, moved: Mapping[str, torch.Tensor], probes: torch.Size
    ) -> torch.Tensor:  # [..., B, T, H]
        """Return how the state moves within each step when the named parameters move."""
        gains = self.gains
        batch, time, _ = self.codomain.shape
        du: dict[str, torch.Tensor] = {}
        for site in gains.sites:
            y: torch.Tensor | None = None
            if site.name in moved:
                rows = site.z.reshape(time * batch, -1)
                y = (rows @ moved[site.name].mT).reshape(*probes, time, batch, -1)
            if site.bias is not None and site.bias in moved:
                bias = moved[site.bias].unsqueeze(-2).unsqueeze(-2)
                y = bias.expand(*probes, time, batch, -1) if y is None else y + bias
            if y is not None:
                for target, block in zip(site.targets, y.chunk(len(site.targets), dim=-1), strict=True):
                    du[target] = du[target] + block if target in du else block
        like = gains.like.new_zeros(*probes, time, batch, gains.units)
        out = _join(gains.push(slice(None), du, like), gains.components)
        if self._first_step is not None and "h0" in moved:
            start = moved["h0"].unsqueeze(-2).expand(*probes, batch, -1)
            out[..., 0, :, :] += self._first_step.step(0, start)
        return out.transpose(-3, -2)

    def backward(self, r: torch.Tensor, names: Collection[str]) -> dict[str, torch.Tensor]:
        """Return the gradients ``[..., *parameter]`` of the named parameters for a state vector."""
        gains = self.gains
        batch, time, _ = self.codomain.shape
        probes = r.shape[:-3]
        parts = gains.split(r.transpose(-3, -2))
        g = gains.pull(slice(None), parts)
        like = parts[gains.components[0]]
        out: dict[str, torch.Tensor] = {}
        for site in gains.sites:
            if site.name not in names and site.bias not in names:
                continue
            columns = gains.blocks(site, g, like).reshape(*probes, time * batch, -1)
            if site.name in names:
                _add(out, site.name, columns.mT @ site.z.reshape(time * batch, -1))
            if site.bias is not None and site.bias in names:
                _add(out, site.bias, columns.sum(dim=-2))
        if self._first_step is not None and "h0" in names:
            _add(out, "h0", self._first_step.step_adjoint(0, r[..., 0, :]).sum(dim=-2))
        return out


class SiteParameterOperator(ParameterOperator):
    """``K = J M J*`` of weight sites; groups that a restriction froze cost nothing."""

    def _sandwich(self, metric: Operator, q: torch.Tensor) -> torch.Tensor:
        jacobian = self.jacobian
        if not isinstance(jacobian, SiteParameterJacobian) or not isinstance(
            metric, IdentityOperator | GroupProjector
        ):
            return super()._sandwich(metric, q)
        return jacobian.forward(jacobian.backward(q, self.parameters), q.shape[:-3])

    def with_metric(self, metric: Operator, *, name: str = "K_M") -> ParameterOperator:
        """Return ``J M J*`` with another metric on the parameter space."""
        return SiteParameterOperator(self.jacobian, metric, name=name)


def _source(site: PlacedSite) -> str:
    assert site.source is not None  # only recurrent sites are asked
    return site.source


def _join(parts: Mapping[str, torch.Tensor], components: Sequence[str]) -> torch.Tensor:
    pieces = [parts[name] for name in components]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces, dim=-1)


def _add(total: dict[str, torch.Tensor], name: str, value: torch.Tensor) -> None:
    total[name] = total[name] + value if name in total else value
