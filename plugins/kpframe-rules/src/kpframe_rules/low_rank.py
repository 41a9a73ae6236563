"""Weight updates in a subspace of low rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from attrs import frozen

from kpframe import LearningRule, Space, Update
from kpframe.errors import ArgumentError, ShapeError, mismatch
from kpframe.flow import match_parameters, parameter_values
from kpframe.operators import PARAMETER, Part, SelfAdjointOperator
from kpframe.plugin import takes_settings
from kpframe_rules.metrics import scaled
from kpframe_rules.specs_feedback import LowRankProjectionSettings

#: Orthonormal bases of a weight's columns ``[m, r]`` and rows ``[n, r]``.
Pair = tuple[torch.Tensor, torch.Tensor]


class LowRankProjection(LearningRule):
    """Gradients of weights are projected onto a subspace of low rank: the metric is a projector Q.

    For a weight ``[m, n]`` with orthonormal ``U [m, r]`` and ``V [n, r]``:

    =============  ===========================================  ==============================================
    ``side``       Q of a gradient g                            updates that are left
    =============  ===========================================  ==============================================
    ``"left"``     ``U U^T g``                                  U times anything: GaLore (Zhao et al. 2024)
    ``"right"``    ``g V V^T``                                  LoRA's ``B A`` (Hu et al. 2022), A fixed with
                                                                orthonormal rows, B trained from 0
    ``"both"``     ``U U^T g V V^T``                            U times an [r, r] matrix times V^T
    ``"tangent"``  ``g - (1 - U U^T) g (1 - V V^T)``            LoRA with both factors trained:
                                                                ``dU V^T + U dV^T``
    =============  ===========================================  ==============================================

    Q is fixed while it acts, so the update is linear. On the identity metric ``K - K_Q`` is positive
    semi-definite. A metric that is there already becomes ``Q M Q``. Parameters that are no matrices learn as
    before (compose with ``frozen`` to stop them); a weight with another matrix at each step has a subspace
    for each. Cost: that of the rule and ``4 m n r`` operations a weight.

    A side of a weight with no more entries than the rank is kept whole. Random bases are uniform over
    subspaces (QR of a normal matrix), and each weight has its own draw whichever others are projected;
    ``basis="weight"`` takes the leading singular vectors of the weight as it is in the flow. ``of_bases`` and
    ``of_gradients`` take others.

    Raises:
        SettingsError: for unusable settings.
        ArgumentError: when it is applied, for names that match no parameter, or no matrix.
    """

    bases: Mapping[str, Pair] | None = None

    @takes_settings(LowRankProjectionSettings)
    def __init__(self, settings: LowRankProjectionSettings) -> None:
        self.rank, self.side, self.basis = settings.rank, settings.side, settings.basis
        self.seed, self.weights = settings.seed, settings.weights

    @classmethod
    def of_bases(cls, bases: Mapping[str, Pair], side: str = "left") -> LowRankProjection:
        """Return the projection onto given bases.

        Args:
            bases: name of a weight -> (U, V), ``[m, r]`` and ``[n, r]``, whose columns are made orthonormal.
            side: see the class.

        Raises:
            ArgumentError: for what is no pair of matrices.
            ShapeError: when it is applied, for bases that do not fit their weight.
        """
        made = {name: _pair(name, pair) for name, pair in bases.items()}
        rank = max((matrix.shape[-1] for pair in made.values() for matrix in pair), default=1)
        rule = cls(rank=rank, side=side, weights=tuple(made))
        rule.bases = made
        return rule

    @classmethod
    def of_gradients(
        cls, gradients: Mapping[str, torch.Tensor], rank: int, side: str = "left"
    ) -> LowRankProjection:
        """Return the projection onto the leading singular vectors of given gradients (GaLore's).

        Args:
            gradients: by parameter, such as another rule's ``gradient(...)``; those that are no matrices are
                left out.
            rank, side: see the class.
        """
        matrices = {name: g for name, g in gradients.items() if g.ndim >= 2}
        if not matrices:
            raise ArgumentError(mismatch("gradients", "those of at least one matrix", list(gradients)))
        rule = cls.of_bases({name: _leading(g, rank) for name, g in matrices.items()}, side)
        rule.rank = rank
        return rule

    def change(self, update: Update) -> Update:
        """Return the update with the projector as its metric."""
        space = update.K.jacobian.domain
        chosen = match_parameters(space, self.weights)
        pieces = []
        generator = torch.Generator().manual_seed(self.seed)
        for part in space[PARAMETER].parts:
            if len(part.shape) >= 2:
                drawn = _random(part, self.rank, generator)
                if part.name in chosen:
                    pieces.append(self._piece(update, part, drawn))
        if not pieces:
            raise ArgumentError(mismatch("weights", "names of at least one matrix", list(self.weights)))
        Q = LowRankProjector(space, self.side, pieces)
        return update.replace(K=scaled(update.K, Q, Q, f"K_{self.side}"))

    def _piece(self, update: Update, part: Part, drawn: Pair) -> _Piece:
        like = torch.empty((), dtype=update.K.dtype, device=update.K.device)
        if self.bases is not None:
            pair = parameter_values(update.K.jacobian.domain, self.bases, "bases")[part.name]
            for label, matrix, size in zip("UV", pair, part.shape[-2:], strict=True):
                if matrix.shape[-2] != size or matrix.shape[:-2] not in (part.shape[:-2], ()):
                    expected = f"{list(part.shape[:-2])} + [{size}, r]"
                    raise ShapeError(mismatch(f"bases[{part.name!r}]: {label}", expected, list(matrix.shape)))
        elif self.basis == "weight":
            pair = _leading(update.flow.model.trainable()[part.name].detach(), self.rank)
        else:
            pair = drawn
        return _Piece(part, pair[0].to(like), pair[1].to(like))

    def __repr__(self) -> str:
        basis = "given" if self.bases is not None else self.basis
        seed = f", seed={self.seed}" if basis == "random" else ""
        return f"LowRankProjection(rank={self.rank}, side={self.side!r}, basis={basis!r}{seed})"


@frozen(eq=False)
class _Piece:
    """A weight's place, and orthonormal bases of its columns and rows."""

    part: Part
    U: torch.Tensor
    V: torch.Tensor


class LowRankProjector(SelfAdjointOperator):
    """The orthogonal projector Q of ``LowRankProjection`` on the parameter space."""

    name = "Q"

    def __init__(self, space: Space, side: str, pieces: Sequence[_Piece]) -> None:
        super().__init__(space, space, dtype=pieces[0].U.dtype, device=pieces[0].U.device)
        self.side, self.pieces = side, tuple(pieces)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        out = q.clone()
        for piece in self.pieces:
            g = q[..., piece.part.slice].reshape(*q.shape[:-1], *piece.part.shape)
            out[..., piece.part.slice] = self._project(g, piece.U, piece.V).reshape(*q.shape[:-1], -1)
        return out

    def _project(self, g: torch.Tensor, U: torch.Tensor, V: torch.Tensor) -> torch.Tensor:
        if self.side == "right":
            return g @ V @ V.mT
        left = U @ (U.mT @ g)
        if self.side == "left":
            return left
        if self.side == "both":
            return left @ V @ V.mT
        rest = g - left
        return left + rest @ V @ V.mT

    @property
    def positive(self) -> bool:
        """Always true."""
        return True


def _random(part: Part, rank: int, generator: torch.Generator) -> Pair:
    """Return random orthonormal bases, drawn on the CPU in float64."""
    made = []
    for size in part.shape[-2:]:
        shape = (*part.shape[:-2], size, min(rank, size))
        normal = torch.randn(shape, generator=generator, dtype=torch.float64, device="cpu")
        made.append(torch.linalg.qr(normal).Q)
    return made[0], made[1]


def _leading(matrix: torch.Tensor, rank: int) -> Pair:
    """Return the leading left and right singular vectors; a side that is no longer than rank, whole."""
    m, n = matrix.shape[-2:]
    U, _, Vh = torch.linalg.svd(matrix, full_matrices=True)
    return U[..., : min(rank, m)], Vh.mT[..., : min(rank, n)]


def _pair(name: str, pair: Pair) -> Pair:
    for label, matrix in zip("UV", pair, strict=True):
        if not isinstance(matrix, torch.Tensor) or matrix.ndim < 2:
            raise ArgumentError(mismatch(f"bases[{name!r}]: {label}", "a matrix", type(matrix).__name__))
    return torch.linalg.qr(pair[0].detach()).Q, torch.linalg.qr(pair[1].detach()).Q
