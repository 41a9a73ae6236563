"""``J = df/dtheta`` at fixed ``h_{t-1}``: how parameters move the state within one step."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Protocol

import torch

from kpframe.errors import UnsupportedError
from kpframe.flow._unit_probes import UnitProbes
from kpframe.flow._weighted_steps import WeightedRead
from kpframe.operators._base import Operator


class WeightGroup(Protocol):
    """Weights that act on the same preactivations ``u_t = W z_t``, with biases: ``J_t = D_t (z_t (x) I)``.

    W has all their columns side by side, and z all that they read; see ``ParameterJacobian.weight_groups``.
    G preactivations of n units each make up the ``G n`` rows of W.
    """

    @property
    def targets(self) -> tuple[str, ...]:
        """Names of the G preactivations, such as the gates of an LSTM."""

    @property
    def units(self) -> int:
        """The number n of units of each preactivation."""

    @property
    def per_step(self) -> bool:
        """Whether each step has weights of its own."""

    @property
    def names(self) -> frozenset[str]:
        """Names of the parameters that were asked for; others are taken as constant."""

    @property
    def z(self) -> torch.Tensor:
        """What is read, ``[T, B, m]``; a last column of ones where biases learn."""

    def gain(self) -> torch.Tensor:
        """Return ``D_t = dh_t / du_t``, ``[G n, T, B, H]``, by which a preactivation moves the state."""

    def weight(self, moved: Mapping[str, torch.Tensor], probes: Sequence[int]) -> torch.Tensor | None:
        """Return how W ``[*probes, G n, m]`` moves with its parameters; None where none of them moves.

        Args:
            moved: parameter -> its tangent ``[*probes, *shape]``.
            probes: the leading dimensions.
        """

    def gradients(self, total: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
        """Yield the adjoint of ``weight``: each parameter and its part of ``total`` ``[..., G n, m]``, as W.

        A parameter that acts in several places comes several times; its gradient is the sum.
        """


class ParameterJacobian(Operator):
    """``J = df/dtheta`` at fixed ``h_{t-1}``: parameter space -> state space.

    With a trainable initial state, ``h_0`` is part of theta and enters the first step through ``A_1``.
    """

    #: How the products are computed: ``"sites"``, ``"autograd"`` ...
    method = "custom"
    name = "J"

    def start_adjoint(self, r: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Start ``J* r``, ``[..., M]`` of ``r`` ``[..., B, T, H]``, and return what waits for it.

        Where ranks share the trials, it waits for their sum.
        """
        gradient = self._apply_adjoint(r)
        return lambda: gradient

    def weight_groups(self, names: Iterable[str]) -> Sequence[WeightGroup]:
        """Return the weights among the parameters ``names``, those on the same preactivations together.

        A trainable initial state is in none of them.

        Raises:
            UnsupportedError: for a form that does not know where its parameters act.
        """
        raise UnsupportedError(self._siteless("weight_groups"))

    def weighted_reads(self, names: Iterable[str]) -> tuple[WeightedRead, ...] | None:
        """Return where the parameters ``names`` act, None where J is not known to be weights behind gains.

        The parameters are the weights themselves, of one stage and the same at each step, and each acts in
        one place; the gains are pointwise. A form of K that is compiled takes it from here.
        """
        return None

    def unit_labels(self, names: Iterable[str]) -> torch.Tensor | None:  # [H], int64
        """Return the unit ``[H]`` of each entry, where each of the parameters ``names`` acts on one alone.

        Else None. A form that does not know finds out by about 2 log2 H products with J*, once; see
        ``UnitProbes``. Of one rank's trials among others' it does not try; J of all of them does.
        """
        return None if self.codomain.shards is not None else self._unit_probes.labels(names)

    @cached_property
    def _unit_probes(self) -> UnitProbes:
        return UnitProbes.of(self)

    def trial_gradients(self, r: torch.Tensor) -> torch.Tensor | None:  # [p, B, T, H] -> [p, B, M]
        """Return what each trial alone sends to the parameters, ``[p, B, M]`` for ``r`` ``[p, B, T, H]``.

        It is ``J* r`` without its sum over trials; None where a form does not keep trials apart at the cost
        of a product with J*.
        """
        return None

    def with_gains(self, values: torch.Tensor, *, name: str) -> ParameterJacobian:
        """Return J with given values in the place of its gains: ``values (z (x) I)`` for ``D (z (x) I)``.

        Every preactivation of a unit moves alike, unless the state has no gain to it at all. A trainable
        initial state is left out: it acts through ``A_1``, not through a gain.

        Args:
            values: ``[B, T, H]``, one for each entry of the state.
            name: what the result prints as.

        Raises:
            UnsupportedError: for a form that does not know its gains, or has several stages within a step.
        """
        raise UnsupportedError(self._siteless("with_gains"))

    def _siteless(self, method: str) -> str:
        return (
            f"{self!r} ({self.method} form) does not know its weights apart from its gains; {method} works "
            "on models written as a SiteModel"
        )
