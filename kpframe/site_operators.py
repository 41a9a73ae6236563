"""The structured operators of weight sites: products with the weights between pointwise gains.

With ``D[c, a] = dh'_c / du_a`` and ``E[c, c'] = dh'_c / dh_c'`` (both diagonal over units) and
``S = dz / dh`` the slope of a site's source::

    A_t v = D_t (W S_t v) + E_t v            J dtheta = D (dW z + db)

so nothing of size ``[B, T, H, H]`` is ever formed.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from functools import cached_property

import torch
from attrs import evolve

from kpframe.errors import ArgumentError, ShapeError, closest, mismatch
from kpframe.operators.atoms import IdentityOperator
from kpframe.operators.base import Operator
from kpframe.parameter import GroupProjector, ParameterJacobian, ParameterOperator
from kpframe.site_gains import PlacedSite, SiteGains, accumulate
from kpframe.spaces import Space
from kpframe.step_jacobian import DiagonalStepJacobian, StepJacobian


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
            gains.scatter(site.targets, y, du)
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
            back = gains.blocks(site.targets, g, like) @ site.weight
            if site.slope is not None:
                back = site.slope[t] * back
            source = _source(site)
            out[source] = out[source] + back if source in out else back
        for component in gains.components:
            for source, gain in gains.direct[component].items():
                out[source] = accumulate(out.get(source), gain[t], parts[component])
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
        self.first_step = SiteStepJacobian(gains) if trains_start else None
        names = [name for site in gains.sites for name in (site.name, site.bias) if name is not None]
        #: Whether one parameter acts at several sites, so that their Gram matrices do not just add up.
        self.ties = len(set(names)) < len(names)

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
                gains.scatter(site.targets, y, du)
        like = gains.like.new_zeros(*probes, time, batch, gains.units)
        out = _join(gains.push(slice(None), du, like), gains.components)
        if self.first_step is not None and "h0" in moved:
            start = moved["h0"].unsqueeze(-2).expand(*probes, batch, -1)
            out[..., 0, :, :] += self.first_step.step(0, start)
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
            columns = gains.blocks(site.targets, g, like).reshape(*probes, time * batch, -1)
            if site.name in names:
                _add(out, site.name, columns.mT @ site.z.reshape(time * batch, -1))
            if site.bias is not None and site.bias in names:
                _add(out, site.bias, columns.sum(dim=-2))
        if self.first_step is not None and "h0" in names:
            _add(out, "h0", self.first_step.step_adjoint(0, r[..., 0, :]).sum(dim=-2))
        return out


class SiteParameterOperator(ParameterOperator):
    """``K = J M J*`` of weight sites, as Gram matrices of what the sites read, between the gains.

    Sites that act on the same targets share one Gram matrix, and each bias that learns adds a one to it:
    ``K = Sum D (Z Z^T + c 1 1^T) D*``, two matrix products for each set of targets. Groups that a
    restriction froze cost nothing.
    """

    def _sandwich(self, metric: Operator, q: torch.Tensor) -> torch.Tensor:
        jacobian = self.jacobian
        if not isinstance(jacobian, SiteParameterJacobian) or not isinstance(
            metric, IdentityOperator | GroupProjector
        ):
            return super()._sandwich(metric, q)
        if jacobian.ties:
            return jacobian.forward(jacobian.backward(q, self.parameters), q.shape[:-3])
        gains = jacobian.gains
        batch, time, _ = self.codomain.shape
        probes = q.shape[:-3]
        parts = gains.split(q.transpose(-3, -2).contiguous())
        g = gains.pull(slice(None), parts)
        like = parts[gains.components[0]]
        du: dict[str, torch.Tensor] = {}
        for targets, z in self._grams:
            columns = gains.blocks(targets, g, like).reshape(*probes, time * batch, -1)
            y = (z @ (z.mT @ columns)).reshape(*probes, time, batch, -1)
            gains.scatter(targets, y, du)
        out = _join(gains.push(slice(None), du, like), gains.components)
        if jacobian.first_step is not None and "h0" in self.parameters:
            start = jacobian.first_step.step_adjoint(0, q[..., 0, :]).sum(dim=-2, keepdim=True)
            out[..., 0, :, :] += jacobian.first_step.step(0, start.expand(*probes, batch, -1))
        return out.transpose(-3, -2)

    @cached_property
    def _grams(self) -> list[tuple[tuple[str, ...], torch.Tensor]]:
        """For each set of targets, what its learning sites read, side by side: ``[T B, m]``."""
        assert isinstance(self.jacobian, SiteParameterJacobian)
        learning = set(self.parameters)
        columns: dict[tuple[str, ...], list[torch.Tensor]] = {}
        biases: dict[tuple[str, ...], int] = {}
        for site in self.jacobian.gains.sites:
            rows = site.z.reshape(-1, site.z.shape[-1])
            columns.setdefault(site.targets, []).extend([rows] if site.name in learning else [])
            biases[site.targets] = biases.get(site.targets, 0) + (site.bias in learning)
        for targets, count in biases.items():
            if count:
                one = self.jacobian.gains.like.new_full((len(rows), 1), math.sqrt(count))
                columns[targets].append(one)
        return [(targets, torch.cat(parts, dim=1)) for targets, parts in columns.items() if parts]

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
