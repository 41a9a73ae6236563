"""The sparse n-step approximation of real-time recurrent learning."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kpframe import IdentityOperator, LearningRule, Operator, StepJacobian, Update
from kpframe.flow import ScanPropagator
from kpframe.operators import chunk_size
from kpframe.plugin import takes_settings
from kpframe_rules.specs_structural import SnapNSettings


class Snap1(LearningRule):
    """SnAp-1 (Menick et al. 2021, ICLR): an error reaches a unit's past through the unit itself alone.

    Of the step Jacobian only the blocks within units are kept, ``P[blocks of A]``: the diagonal of a network
    of one component, 2 x 2 blocks over ``h`` and ``c`` in an LSTM. A is then diagonal over units, and where
    it was so before, the update is that of backpropagation through time. Where each parameter acts on one
    unit, as at weight sites, this is real-time recurrent learning with every other entry of the influence
    matrix set to zero; it keeps ``W_ii``, which ``eprop`` does not.
    Cost: for a model of weight sites in one stage, one scan without any product with a weight matrix, and one
    product with ``J*``; for others as many products with A as the state is wide, once, before that. An
    entry of a trainable initial state belongs to its unit, and reaches the first state by the blocks, too.
    """

    def change(self, update: Update) -> Update:
        """Return the update through the blocks within units."""
        return update.through(update.A.unit_blocks(), name="P[units]")


class SnapN(LearningRule):
    """SnAp-n (Menick et al. 2021, ICLR): influences on units that are reached within n steps.

    Real-time recurrent learning in which of the influence matrix only those entries are kept that are not
    zero after n steps: parameter p on unit i when p acts on a unit from which ``n - 1`` steps lead to i.
    Which units that are is read off the products of J and A along the trajectory; a unit stands for
    all its components. So ``J P`` becomes ``G = Sum_S P[A inside S] J_S`` over the sets S of units that
    parameters reach, with ``J_S`` the parameters that reach just S; for n > 1 that is no ``P[A']``.

    ``n = 1`` is ``snap1`` where each parameter acts on one unit; a trainable initial state acts on all that
    ``A_1`` leads to, by all of it. With n steps from any unit to any other it
    is backpropagation through time, which for dense recurrent weights is so from ``n = 2``; the rule is
    meant for sparse ones.
    Cost: as many products with A and ``J*`` as there are units, once, to see what is reached; then one scan
    and one product with ``J*`` for each set S, of which there are at most as many as units.

    Raises:
        SettingsError: for an n below 1.
    """

    @takes_settings(SnapNSettings)
    def __init__(self, settings: SnapNSettings) -> None:
        self.n = settings.n

    def change(self, update: Update) -> Update:
        """Return the update through the influences that are kept."""
        supports, members = reached(update, self.n)
        if len(supports) == 1 and bool(supports.all()):
            return update
        G = ConfinedInfluence(update.A, update.J, supports, members, name=f"G_{self.n}")
        return update.replace(J=G, P=IdentityOperator.like(update.P))

    def __repr__(self) -> str:
        return f"SnapN(n={self.n})"


class ConfinedInfluence(Operator):
    """``G = Sum_S P[A inside S] J_S``: influence matrices whose columns stay inside sets of state entries.

    Args:
        A, J: the step Jacobian and the parameter Jacobian.
        supports: bool ``[G, H]``, the sets S.
        members: int64 ``[M]``, the set of each parameter.
        name: what the operator prints as.
    """

    def __init__(
        self, A: StepJacobian, J: Operator, supports: torch.Tensor, members: torch.Tensor, *, name: str
    ) -> None:
        super().__init__(J.domain, J.codomain, dtype=J.dtype, device=J.device)
        self.A, self.J, self.name = A, J, name
        self.supports, self.members = supports, members

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        out = q.new_zeros(*q.shape[:-1], *self.codomain.shape)
        for inside, own, P in self._sets(q[..., 0].numel(), q.ndim - 1):
            out += P._apply(inside.unsqueeze(-2) * self.J._apply(own * q)).sum(dim=0)
        return out

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        probes = r.shape[:-3]
        out = r.new_zeros(*probes, *self.domain.shape)
        for inside, own, P in self._sets(probes.numel(), len(probes)):
            back = P._apply_adjoint(r.expand(len(inside), *r.shape))
            out += (own * self.J._apply_adjoint(inside.unsqueeze(-2) * back)).sum(dim=0)
        return out

    def _sets(self, count: int, probes: int) -> list[tuple[torch.Tensor, torch.Tensor, ScanPropagator]]:
        """Return, for some sets at a time: the sets ``[g, ..., 1, H]``, their own ``[g, ..., M]``, and P."""
        each = chunk_size(self, len(self.supports), held=count)
        out = []
        for start in range(0, len(self.supports), each):
            chosen = torch.arange(start, min(start + each, len(self.supports)), device=self.device)
            inside = self.supports[chosen].to(self.dtype).reshape(len(chosen), *(1,) * (probes + 1), -1)
            own = (self.members == chosen.unsqueeze(1)).to(self.dtype)
            own = own.reshape(len(chosen), *(1,) * probes, -1)
            out.append((inside, own, ScanPropagator(_InsideStepJacobian(self.A, inside))))
        return out


class _InsideStepJacobian(StepJacobian):
    """``S A_t`` with another set S for each of the vectors that ride, ``inside`` ``[g, ..., 1, H]``."""

    def __init__(self, A: StepJacobian, inside: torch.Tensor) -> None:
        super().__init__(A.domain, dtype=A.dtype, device=A.device)
        self.A, self.inside = A, inside

    def step(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``S A_t v``."""
        return self.inside * self.A.step(t, v)

    def step_adjoint(self, t: int, v: torch.Tensor) -> torch.Tensor:
        """Return ``A_t* S v``."""
        return self.A.step_adjoint(t, self.inside * v)


def reached(update: Update, n: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sets of state entries that parameters reach within n steps, and the set of each parameter.

    A set from which no step leads out is as good as the whole state, which stands for all of these.

    Returns:
        bool ``[G, H]`` and int64 ``[M]``.
    """
    labels = torch.unique(update.flow.A.units, return_inverse=True)[1]
    belongs = torch.nn.functional.one_hot(labels).mT.to(torch.bool)  # [U, H]
    within, steps = _acts_on(update.flow.J, belongs), _leads_to(update.flow.A, belongs)
    for _ in range(n - 1):
        within = within | _joined(steps, within)
    closed = (within | _joined(steps, within) == within).all(dim=0)
    sets, members = torch.unique(within | closed, dim=1, return_inverse=True)
    return _joined(sets.mT, belongs), members


def _acts_on(J: Operator, belongs: torch.Tensor) -> torch.Tensor:  # bool, [U, M]
    """Return on which units (rows) parameters act within a step, at some trial and step."""
    return torch.cat([J.T(part) != 0 for part in _random(J.T, belongs)])


def _leads_to(A: StepJacobian, belongs: torch.Tensor) -> torch.Tensor:  # bool, [U, U]
    """Return to which units (rows) a step leads from which (columns), at some trial and step."""
    moved = torch.cat([(A(part) != 0).flatten(1, 2).any(dim=1) for part in _random(A, belongs)])
    return _joined(belongs, A.domain.max(moved.float()).mT > 0)  # at some trial of any rank


def _random(operator: Operator, belongs: torch.Tensor) -> Iterator[torch.Tensor]:  # [n, B, T, H]
    """Yield vectors on one unit each: what they do not move, no vector on that unit moves.

    Normal entries, so that sums over trials, steps and components vanish only where each term does.
    """
    shape = operator.domain.shape
    draw = torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64, device="cpu")
    draw = draw.to(operator.device, operator.dtype)
    for some in torch.split(belongs, chunk_size(operator, len(belongs))):
        yield some[:, None, None, :] * draw


def _joined(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Return the product of two bool matrices, with "or" for the sum."""
    return first.float() @ second.float() > 0
