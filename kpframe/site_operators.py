"""The structured operators of weight sites: products with the weights between pointwise gains.

With ``D[c, a] = dh'_c / du_a`` and ``E[c, c'] = dh'_c / dh_c'`` (both diagonal over units) and
``S = dz / dh`` the slope of a site's source::

    A_t v = D_t (W S_t v) + E_t v            J dtheta = D (dW z + db)

so nothing of size ``[B, T, H, H]`` is ever formed. A step of several stages is a chain of these.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from functools import cached_property

import torch
from attrs import frozen

from kpframe.errors import ArgumentError, ShapeError, closest, mismatch
from kpframe.operators.atoms import IdentityOperator
from kpframe.operators.base import Operator
from kpframe.parameter import GroupProjector, ParameterJacobian, ParameterOperator
from kpframe.site_gains import PlacedSite, SiteGains, add, gather, scatter
from kpframe.spaces import Space
from kpframe.step_jacobian import DiagonalStepJacobian, StepJacobian


class SiteStepJacobian(StepJacobian):
    """``A_t v = Sum_k D (W_k S_k v) + E v``; one product with each recurrent weight a step."""

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

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self._product(slice(None), q.transpose(-3, -2)).transpose(-3, -2)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self._product_adjoint(slice(None), r.transpose(-3, -2)).transpose(-3, -2)

    def _product(self, t: int | slice, v: torch.Tensor) -> torch.Tensor:
        return self.gains.join(self.gains.tangent(t, self.gains.split(v), {}), v.shape[:-1])

    def _product_adjoint(self, t: int | slice, r: torch.Tensor) -> torch.Tensor:
        back, _ = self.gains.cotangent(t, self.gains.split(r), state=True)
        return self.gains.join(back, r.shape[:-1])

    def diagonal(self) -> DiagonalStepJacobian:
        """Return the operator that keeps the diagonal of each ``A_t``, in closed form for one stage."""
        gains = self.gains
        if len(gains.stages) > 1:
            return super().diagonal()
        batch, time, _ = self.domain.shape
        (stage,) = gains.stages
        outputs = {output.name: output for output in stage.outputs}
        columns: dict[str, torch.Tensor] = {}
        for component in gains.components:
            output = outputs[component]
            total = gains.like.new_zeros(time, batch, stage.units)
            for placed in stage.sites:
                if placed.site.source == component:
                    for target, own in zip(
                        placed.site.targets, _own_weights(placed, stage.units), strict=True
                    ):
                        if target in output.gains:
                            total = total + own * output.gains[target]
            if component in output.direct:
                total = total + output.direct[component]
            columns[component] = total
        values = gains.join(columns, (time, batch)).transpose(0, 1).contiguous()
        return DiagonalStepJacobian(values, self.domain, name=f"diag({self.name})")

    def replace(self, weights: Mapping[str, torch.Tensor]) -> SiteStepJacobian:
        """Return ``A`` with other weights on its paths, the gains unchanged.

        Args:
            weights: name of a site's weight -> matrix of the same shape.
        """
        known = {
            placed.site.weight: placed.weight
            for placed in self.gains.sites
            if placed.site.recurrent and placed.weight is not None
        }
        for name, weight in weights.items():
            if name not in known:
                names = [str(name) for name in known]
                raise ArgumentError(
                    mismatch("weights", f"names among {names}", f"{name!r}{closest(name, names)}")
                )
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
        return SiteStepJacobian(gains, name=f"{self.name}[{', '.join(weights)}]")

    def direct(self) -> SiteStepJacobian:
        """Return ``A`` by its direct path ``E`` only: no weight site passes anything on."""
        gains = self.gains.with_weights(lambda p: torch.zeros_like(_matrix(p)))
        return SiteStepJacobian(gains, name=f"{self.name}[direct]")


class SiteParameterJacobian(ParameterJacobian):
    """``J dtheta = D (dW z + db)``, two matrix products for each site over all trials and steps."""

    method = "sites"

    def __init__(self, gains: SiteGains, domain: Space, trains_start: bool) -> None:
        super().__init__(domain, gains.space, dtype=gains.like.dtype, device=gains.like.device)
        self.gains = gains
        self._parts = {part.name: part for part in domain.axes[0].parts}
        self.first_step = SiteStepJacobian(gains) if trains_start else None
        names = [name for placed in gains.sites for name in placed.site.learned if name in self._parts]
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
        batch, time, _ = self.codomain.shape
        du: dict[str, torch.Tensor] = {}
        for placed in self.gains.sites:
            y = _moved_products(placed, moved, (*probes, time, batch))
            if y is not None:
                scatter(placed.site.targets, y, du)
        return self.push(du, moved.get("h0"), probes)

    def push(
        self, du: Mapping[str, torch.Tensor], start: torch.Tensor | None, probes: torch.Size
    ) -> torch.Tensor:  # [..., B, T, H]
        """Return how the state moves within each step with the preactivations and ``h_0`` ``[..., H]``."""
        batch, time, _ = self.codomain.shape
        out = self.gains.join(self.gains.tangent(slice(None), {}, du), (*probes, time, batch))
        if self.first_step is not None and start is not None:
            out[..., 0, :, :] += self.first_step.step(0, start.unsqueeze(-2).expand(*probes, batch, -1))
        return out.transpose(-3, -2)

    def pull(self, r: torch.Tensor) -> dict[str, torch.Tensor]:
        """Return what reaches each preactivation ``[..., T, B, n]`` within the steps of ``r``."""
        parts = self.gains.split(r.transpose(-3, -2).contiguous())
        return self.gains.cotangent(slice(None), parts, state=False)[1]

    def pull_start(self, r: torch.Tensor) -> torch.Tensor:  # [..., B, T, H] -> [..., H]
        """Return what reaches a trainable initial state through the first step."""
        assert self.first_step is not None
        return self.first_step.step_adjoint(0, r[..., 0, :]).sum(dim=-2)

    def backward(self, r: torch.Tensor, names: Collection[str]) -> dict[str, torch.Tensor]:
        """Return the gradients ``[..., *parameter]`` of the named parameters for a state vector."""
        pulled = self.pull(r)
        out: dict[str, torch.Tensor] = {}
        for placed in self.gains.sites:
            if any(name in names for name in placed.site.learned):
                columns = gather(placed.site.targets, pulled)
                if columns is not None:
                    _add_gradients(placed, columns, names, out)
        if self.first_step is not None and "h0" in names:
            add(out, "h0", self.pull_start(r))
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
        pulled = jacobian.pull(q)
        du: dict[str, torch.Tensor] = {}
        for gram in self._grams:
            columns = gather(gram.targets, pulled)
            if columns is not None:
                scatter(gram.targets, gram.apply(columns), du)
        for placed in self._chained:
            columns = gather(placed.site.targets, pulled)
            if columns is not None:
                moved: dict[str, torch.Tensor] = {}
                _add_gradients(placed, columns, self.parameters, moved)
                y = _moved_products(placed, moved, columns.shape[:-1])
                if y is not None:
                    scatter(placed.site.targets, y, du)
        learns_start = jacobian.first_step is not None and "h0" in self.parameters
        return jacobian.push(du, jacobian.pull_start(q) if learns_start else None, q.shape[:-3])

    @cached_property
    def _grams(self) -> list[_Gram]:
        """For each set of targets, what its learning sites read, side by side."""
        assert isinstance(self.jacobian, SiteParameterJacobian)
        learning, like = set(self.parameters), self.jacobian.gains.like
        batch, time, _ = self.codomain.shape
        columns: dict[tuple[tuple[str, ...], bool], list[torch.Tensor]] = {}
        biases: dict[tuple[tuple[str, ...], bool], int] = {}
        for placed in self.jacobian.gains.sites:
            if placed.chain is not None:
                continue
            key = (placed.site.targets, placed.site.per_step)
            if placed.site.weight in learning and placed.z is not None:
                columns.setdefault(key, []).append(placed.z)
            biases[key] = biases.get(key, 0) + (placed.site.bias in learning)
        for key, count in biases.items():
            if count:
                columns.setdefault(key, []).append(like.new_full((time, batch, 1), math.sqrt(count)))
        return [
            _Gram(targets, torch.cat(parts, dim=-1), per_step)
            for (targets, per_step), parts in columns.items()
        ]

    @cached_property
    def _chained(self) -> list[PlacedSite]:
        """Learning sites whose matrix is made of its parameters."""
        assert isinstance(self.jacobian, SiteParameterJacobian)
        learning = set(self.parameters)
        return [
            placed
            for placed in self.jacobian.gains.sites
            if placed.chain is not None and learning & set(placed.site.learned)
        ]

    def with_metric(self, metric: Operator, *, name: str = "K_M") -> ParameterOperator:
        """Return ``J M J*`` with another metric on the parameter space."""
        return SiteParameterOperator(self.jacobian, metric, name=name)


@frozen(eq=False)
class _Gram:
    """The Gram matrix over trials and steps (or over the trials of each step) of ``z`` ``[T, B, m]``."""

    targets: tuple[str, ...]
    z: torch.Tensor
    per_step: bool

    def apply(self, columns: torch.Tensor) -> torch.Tensor:  # [..., T, B, G n]
        if self.per_step:
            return self.z @ (self.z.mT @ columns)
        z = self.z.flatten(0, 1)
        return (z @ (z.mT @ columns.flatten(-3, -2))).reshape(columns.shape)


def _moved_products(
    placed: PlacedSite, moved: Mapping[str, torch.Tensor], shape: tuple[int, ...]
) -> torch.Tensor | None:  # [*shape, G n], where shape = [..., T, B]
    """Return how a site's products move with its parameters; None where none of them moves."""
    site, probes = placed.site, shape[:-2]
    y: torch.Tensor | None = None
    weight = _moved_weight(placed, moved, probes)
    if weight is not None and placed.z is not None:
        if site.per_step:
            y = placed.z @ weight.mT
        else:
            y = (placed.z.flatten(0, 1) @ weight.mT).reshape(*shape, -1)
    if site.bias is not None and site.bias in moved:
        bias = moved[site.bias].unsqueeze(-2)
        bias = bias if site.per_step else bias.unsqueeze(-2)
        y = bias.expand(*shape, -1) if y is None else y + bias
    return y


def _moved_weight(
    placed: PlacedSite, moved: Mapping[str, torch.Tensor], probes: tuple[int, ...]
) -> torch.Tensor | None:  # [..., G n, m]
    site = placed.site
    if placed.chain is None:
        return None if site.weight is None else moved.get(site.weight)
    if not any(name in moved for name in placed.made_of):
        return None
    count = math.prod(probes)
    tangents = [
        moved[name].reshape(count, *own.shape) if name in moved else own.new_zeros(count, *own.shape)
        for name, own in zip(placed.made_of, placed.chain.inputs, strict=True)
    ]
    return placed.chain.jvp(tangents).reshape(*probes, *placed.chain.output.shape)


def _add_gradients(
    placed: PlacedSite, columns: torch.Tensor, names: Collection[str], out: dict[str, torch.Tensor]
) -> None:
    """Add the gradients of a site's parameters for what reaches its targets, ``[..., T, B, G n]``."""
    site = placed.site
    made_of = (site.weight,) if placed.chain is None else placed.made_of
    if placed.z is not None and any(name in names for name in made_of):
        if site.per_step:
            gradient = columns.mT @ placed.z
        else:
            gradient = columns.flatten(-3, -2).mT @ placed.z.flatten(0, 1)
        if placed.chain is None:
            add(out, str(site.weight), gradient)
        else:
            probes = gradient.shape[:-2]
            pulled = placed.chain.vjp(gradient.reshape(-1, *gradient.shape[-2:]))
            for name, value in zip(placed.made_of, pulled, strict=True):
                if name in names:
                    add(out, name, value.reshape(*probes, *value.shape[1:]))
    if site.bias is not None and site.bias in names:
        add(out, site.bias, columns.sum(dim=-2 if site.per_step else (-3, -2)))


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
