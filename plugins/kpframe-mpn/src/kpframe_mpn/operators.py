"""A, J and K of a multi-plasticity network, neuron by neuron: O(B T n k) a product, no block ever written."""

from __future__ import annotations

from collections.abc import Collection, Mapping

import torch
from attrs import evolve

from kpframe.errors import ArgumentError, DtypeError, ShapeError, UnsupportedError, closest, mismatch
from kpframe.flow import (
    DiagonalStepJacobian,
    GroupProjector,
    ParameterJacobian,
    ProductParameterOperator,
    StepJacobian,
)
from kpframe.operators import HIDDEN, IdentityOperator, Operator, Space
from kpframe_mpn.gains import Gains, Step
from kpframe_mpn.rates import gather, spread

WEIGHT, BIAS, START = "weight_ih_l0", "bias_ih_l0", "h0"


class ModulationStepJacobian(StepJacobian):
    """``A_t (h, M) = (D du, N' (a o M + c D du))`` with ``du = <g, M>`` for each neuron; h is not read."""

    method = "neurons"

    def __init__(self, gains: Gains, *, name: str = "A") -> None:
        super().__init__(gains.space, dtype=gains.x.dtype, device=gains.x.device, name=name)
        self.gains = gains

    @property
    def units(self) -> torch.Tensor:  # [H], int64
        """Which neuron each entry of the state belongs to: ``h_i`` and row i of M are of one."""
        h, M = (part.stop - part.start for part in (p.slice for p in self.domain[HIDDEN].parts))
        neurons = torch.arange(h, device=self.device)
        return torch.cat([neurons, neurons.repeat_interleave(M // h)])

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

    def _product(self, t: Step, v: torch.Tensor) -> torch.Tensor:
        gains, out = self.gains, torch.empty_like(v)
        h, M = gains.split(v)
        new_h, new_M = gains.split(out)
        du = torch.mul(gains.synapse[t], M, out=new_M).sum(dim=-1)
        torch.mul(gains.decay[t], M, out=new_M)
        dh = gains.push_(t, du, new_M)
        new_h.copy_(dh if gains.held is None else torch.addcmul(dh, gains.held[t], h))
        return out

    def _product_adjoint(self, t: Step, r: torch.Tensor) -> torch.Tensor:
        gains, out = self.gains, torch.empty_like(r)
        h, M = gains.split(r)
        new_h, new_M = gains.split(out)
        u, R = gains.pull(t, h, M, new_M)
        torch.mul(gains.decay[t], R, out=new_M).addcmul_(gains.synapse[t], u.unsqueeze(-1))
        new_h.copy_(torch.zeros_like(h) if gains.held is None else gains.held[t] * h)
        return out

    def diagonal(self) -> DiagonalStepJacobian:
        """Return the operator that keeps the diagonal of each ``A_t``, in closed form."""
        gains = self.gains
        reaches = gains.slope.unsqueeze(-1) * gains.synapse  # [T, B, n, k]: dh' / dM
        M = gains.decay.expand_as(reaches)
        if gains.response is not None:
            M = torch.addcmul(M, gains.response, reaches)
        if gains.squash is not None:
            unit, shrink = gains.squash.unit, gains.squash.shrink
            if unit is not None:
                along = 0 if gains.response is None else (unit * gains.response).sum(dim=-1, keepdim=True)
                M = M - unit * (unit * gains.decay + along * reaches)
            M = shrink * M
        h = torch.zeros_like(gains.slope) if gains.held is None else gains.held.expand_as(gains.slope)
        values = torch.cat([h, M.flatten(-2)], dim=-1).transpose(0, 1).contiguous()
        return DiagonalStepJacobian(values, self.domain, name=f"diag({self.name})").keeping(self.valid)

    def replace(self, weights: Mapping[str, torch.Tensor]) -> ModulationStepJacobian:
        """Return ``A`` with other weights on its path through the activity, the gains unchanged.

        Args:
            weights: ``{"weight_ih_l0": [n, k]}``.

        Raises:
            UnsupportedError: for the additive form, where no weight is on a path through time.
        """
        own = self.gains.modulating
        if own is None:
            raise UnsupportedError(f"{self!r}: with form='additive' no weight is on its paths through time")
        for name, weight in weights.items():
            if name != WEIGHT:
                raise ArgumentError(mismatch("weights", repr(WEIGHT), f"{name!r}{closest(name, [WEIGHT])}"))
            if weight.shape != own.shape:
                raise ShapeError(mismatch(f"weights[{name!r}]", list(own.shape), list(weight.shape)))
            if (weight.dtype, weight.device) != (own.dtype, own.device):
                expected, got = f"{own.dtype} on {own.device}", f"{weight.dtype} on {weight.device}"
                raise DtypeError(mismatch(f"weights[{name!r}]", expected, got))
            own = weight.detach().clone()
        synapse = self.gains.x.unsqueeze(-2) * own
        gains = evolve(self.gains, synapse=synapse, modulating=own)
        return ModulationStepJacobian(gains, name=f"{self.name}[{', '.join(weights)}]").keeping(self.valid)

    def direct(self) -> ModulationStepJacobian:
        """Return ``A`` by the path from M to M at fixed activity: no synapse passes anything on."""
        gains = evolve(self.gains, slope=torch.zeros_like(self.gains.slope))
        return ModulationStepJacobian(gains, name=f"{self.name}[direct]").keeping(self.valid)


class ModulationParameterJacobian(ParameterJacobian):
    """``J dtheta = (D du, N' (c D du + e deta + m dlambda))`` with ``du = <s, dW> + db`` for each neuron.

    The products with W are one matrix product over all trials and steps (additive form), or one for each
    neuron (multiplicative form).
    """

    method = "neurons"

    def __init__(self, gains: Gains, domain: Space, trains_start: bool) -> None:
        super().__init__(domain, gains.space, dtype=gains.x.dtype, device=gains.x.device)
        self.gains = gains
        self._parts = {part.name: part for part in domain.axes[0].parts}
        self._first_step = ModulationStepJacobian(gains) if trains_start else None

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        probes = q.shape[:-1]
        moved = {
            name: q[..., part.slice].reshape((*probes, *part.shape)) for name, part in self._parts.items()
        }
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
        du = gains.x.new_zeros(*probes, time, batch, gains.neurons)
        if WEIGHT in moved:
            du = du + _drive(gains.sources, moved[WEIGHT]).reshape(du.shape)
        if BIAS in moved:
            du = du + moved[BIAS].unsqueeze(-2).unsqueeze(-2)
        out = gains.x.new_zeros(*probes, time, batch, self.codomain.shape[2])
        h, M = gains.split(out)
        for rate in gains.rates:
            if rate.name in moved:
                change = spread(rate.slope * moved[rate.name], rate.shape)
                M.addcmul_(rate.gain, change.unsqueeze(-3).unsqueeze(-3))
        h.copy_(gains.push_(slice(None), du, M))
        if self._first_step is not None and START in moved:
            start = moved[START].unsqueeze(-2).expand(*probes, batch, -1)
            out[..., 0, :, :] += self._first_step.step(0, start)
        return out.transpose(-3, -2)

    def backward(self, r: torch.Tensor, names: Collection[str]) -> dict[str, torch.Tensor]:
        """Return the gradients ``[..., *parameter]`` of the named parameters for a state vector."""
        gains = self.gains
        h, M = gains.split(r.transpose(-3, -2))
        scratch = torch.empty_like(M)
        u, R = gains.pull(slice(None), h, M, scratch)
        out: dict[str, torch.Tensor] = {}
        if WEIGHT in names:
            out[WEIGHT] = _correlation(u.flatten(-3, -2), gains.sources)
        if BIAS in names:
            out[BIAS] = u.sum(dim=(-3, -2))
        for rate in gains.rates:
            if rate.name in names:
                summed = torch.mul(rate.gain, R, out=scratch).sum(dim=(-4, -3))
                out[rate.name] = rate.slope * gather(summed, rate.shape)
        if self._first_step is not None and START in names:
            out[START] = self._first_step.step_adjoint(0, r[..., 0, :]).sum(dim=-2)
        return out


class ModulationParameterOperator(ProductParameterOperator):
    """``K = J M J*``; with no metric, or on some of the parameters, straight from gradient to change.

    On the preactivations the weights' part of K is ``S S^T`` for each neuron, with S ``[T B, k]`` what its
    synapses read, modulated: one Gram matrix for all neurons in the additive form, where K is a Kronecker
    product between the gains; one for each neuron in the multiplicative form. It is never written out.
    """

    def _sandwich(self, metric: Operator, q: torch.Tensor) -> torch.Tensor:
        jacobian = self.jacobian
        if isinstance(jacobian, ModulationParameterJacobian) and isinstance(
            metric, IdentityOperator | GroupProjector
        ):
            return jacobian.forward(jacobian.backward(q, self.parameters), q.shape[:-3])
        return super()._sandwich(metric, q)


def _drive(sources: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:  # [..., n, k] -> [..., T B, n]
    """Return the products of synapses with what they read, ``[T B, k]`` or ``[n, T B, k]``."""
    if sources.ndim == 2:
        return sources @ weight.mT
    columns = weight.reshape(-1, *weight.shape[-2:]).permute(1, 2, 0)  # [n, k, probes]
    rows = (sources @ columns).permute(2, 1, 0)  # [probes, T B, n]
    return rows.reshape(*weight.shape[:-2], *rows.shape[1:])


def _correlation(u: torch.Tensor, sources: torch.Tensor) -> torch.Tensor:  # [..., T B, n] -> [..., n, k]
    """Return the adjoint of ``_drive``."""
    if sources.ndim == 2:
        return u.mT @ sources
    rows = u.reshape(-1, *u.shape[-2:]).permute(2, 0, 1)  # [n, probes, T B]
    gradient = (rows @ sources).transpose(0, 1)  # [probes, n, k]
    return gradient.reshape(*u.shape[:-2], *gradient.shape[1:])
