"""Real-time recurrent learning: the gradient forward in time."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from kpframe import Flow, IdentityOperator, LearningRule, MatrixOperator, Operator, Readout, Update
from kpframe.flow import local_jacobian, split_parameters
from kpframe.operators import check_memory, chunk_size, in_isolation
from kpframe.plugin import takes_settings
from kpframe_rules.specs_structural import RTRLSettings


class RTRL(LearningRule):
    """Real-time recurrent learning (Williams & Zipser 1989, Neural Computation 1:270)::

        G_t = A_t G_{t-1} + J_t         g = Sum_t G_t* Err_t

    with the influence matrix ``G_t = dh_t/dtheta``, ``[H, M]`` for each trial, carried forward in time. The
    update is exact, that of backpropagation through time by another way, which makes the rule a check of it
    and the reference of its approximations (``snap1``, ``snap_n``, the stochastic ones).
    Cost: M products with A at each step. Memory: B H M numbers for ``gradient`` and ``contributions``, which
    go online, and T times as many for the operators.

    Raises:
        SettingsError: for ``max_bytes`` below 1 MiB.
        MemoryBudgetError: when it is applied, for influence matrices over the budget.
    """

    exact = True

    @takes_settings(RTRLSettings)
    def __init__(self, settings: RTRLSettings) -> None:
        self.max_bytes = settings.max_bytes

    def change(self, update: Update) -> Update:
        """Return the update with the influence matrices of all steps in the place of J and P."""
        J, P = update.J, update.P
        self._check_memory("influence matrices", update, P.domain.size)
        G = torch.stack(list(self.influence(update)), dim=1)  # [B, T, H, M]
        matrix = G.reshape(P.domain.size, J.domain.size)
        through_time = (
            MatrixOperator(matrix, J.domain, P.domain, name="G")
            if P.domain.shards is None
            else ShardedInfluence(matrix, J)
        )
        return update.replace(J=through_time, P=IdentityOperator.like(P))

    def influence(self, update: Update) -> Iterator[torch.Tensor]:
        """Yield ``G_t`` ``[B, H, M]`` for one step after the other.

        Raises:
            MemoryBudgetError: for a matrix over the budget.
        """
        batch, time, hidden = update.P.domain.shape
        size = update.J.domain.size
        self._check_memory("an influence matrix", update, batch * hidden)
        G = torch.zeros(size, batch, hidden, dtype=update.P.dtype, device=update.P.device)
        for t in range(time):
            G = self._rows(update, t).movedim(-1, 0) + (update.A.step(t, G) if t else 0)
            yield G.movedim(0, -1)

    def contributions(
        self, flow: Flow, err: torch.Tensor, readout: Readout | None = None
    ) -> Iterator[torch.Tensor]:
        """Yield what each step adds to the gradient of each trial, ``[B, M]``, online.

        Args:
            flow: the operators along the trajectory.
            err: ``[B, T, H]``.
            readout: the readout; for rules that this one is composed with.

        Raises:
            ShapeError, DtypeError, DeviceError: when ``err`` does not lie in the state space.
            MemoryBudgetError: as ``influence``.
        """
        flow.P.domain.check(err, "err", dtype=flow.P.dtype, device=flow.P.device)
        influence = self.influence(Update.exact(flow, readout))
        for t in range(err.shape[1]):
            yield _added(err[:, t], influence)

    def gradient(
        self,
        flow: Flow,
        err: torch.Tensor | None = None,
        readout: Readout | None = None,
        *,
        output_err: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return the gradient by parameter name, online: B H M numbers at a time.

        See ``LearningRule.gradient`` for the errors that it takes. Raises like ``contributions``.
        """
        err = Update.exact(flow, readout).incoming(err, output_err)
        flat = torch.zeros(flow.J.domain.size, dtype=flow.P.dtype, device=flow.P.device)
        for part in self.contributions(flow, err, readout):
            flat = flat + part.sum(dim=0)
        return split_parameters(flow.J.domain, flow.K.metric(flow.P.domain.sum(flat)))

    @staticmethod
    def _rows(update: Update, t: int) -> torch.Tensor:  # [B, H, M]
        """Return ``J_t``, from products of J* with the basis of one step."""
        J = local_jacobian(update.J)
        batch, _, hidden = J.codomain.shape
        unit = torch.eye(hidden, dtype=J.dtype, device=J.device)
        out = []
        for trial in range(batch):
            for some in torch.split(unit, chunk_size(J, hidden)):
                basis = unit.new_zeros(len(some), *J.codomain.shape)
                basis[:, trial, t] = some
                out.append(J.T(basis) if J.codomain.shards is None else J._apply_adjoint(basis))
        return torch.cat(out).reshape(batch, hidden, -1)

    def _check_memory(self, what: str, update: Update, rows: int) -> None:
        needed = rows * update.J.domain.size * update.P.dtype.itemsize
        remedy = "take fewer trials or steps, or raise max_bytes"
        update.P.domain.together(
            lambda: check_memory(f"{self!r}: {what}", needed, update.P.device, remedy, self.max_bytes)
        )

    def __repr__(self) -> str:
        return f"RTRL(max_bytes={self.max_bytes})"


class ShardedInfluence(Operator):
    """``G`` ``[B T H, M]`` of this rank's trials; ``G*`` adds up over ranks."""

    name = "G"

    def __init__(self, matrix: torch.Tensor, J: Operator) -> None:
        super().__init__(J.domain, J.codomain, dtype=J.dtype, device=J.device)
        self.matrix = matrix

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return (q @ self.matrix.mT).reshape(*q.shape[:-1], *self.codomain.shape)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self.codomain.sum(r.flatten(-3) @ self.matrix)


@in_isolation  # each step by itself, as the caller goes on in between
def _added(err: torch.Tensor, influence: Iterator[torch.Tensor]) -> torch.Tensor:  # [B, H] -> [B, M]
    """Return ``G_t* Err_t`` of each trial, for the next of the influence matrices."""
    return (err.unsqueeze(-2) @ next(influence)).squeeze(-2)
