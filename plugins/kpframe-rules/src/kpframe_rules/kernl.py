"""Kernel RNN learning with a kernel that is given."""

from __future__ import annotations

import math

import torch

from kpframe import IdentityOperator, LearningRule, MatrixOperator, Space, Update
from kpframe.errors import ArgumentError, ShapeError, mismatch
from kpframe.operators import BATCH, HIDDEN, TIME, KroneckerOperator, check_finite
from kpframe.plugin import takes_settings
from kpframe_rules.leak import constant_leak, decaying
from kpframe_rules.specs_structural import KeRNLSettings


class KeRNL(LearningRule):
    """Kernel RNN learning with a fixed kernel (Roth, Kanitscheider & Fiete 2019, ICLR).

    What moved unit j some steps ago is taken to move unit i by ``A_ij Lambda_j^steps``, whatever the
    trajectory: ``P = (I (x) A) P[Lambda]``. The paper learns A and Lambda by perturbing the states; here
    they are given. ``A = I`` and ``Lambda = 1 - alpha`` is ``rflo`` in a network of one layer. A trainable
    initial state is taken to move ``h_t`` by ``A Lambda^t``.
    Cost: one scan without any product with a weight matrix, one product with A, and one with ``J*``.

    A random kernel is normal, with variance 1/H. Tensors come in by ``of_kernel``.

    Raises:
        SettingsError: for an unknown kernel, a decay that is no such factor, or an unusable seed.
        UnsupportedError: when it is applied without ``decay``, for a model without a constant leak.
    """

    @takes_settings(KeRNLSettings)
    def __init__(self, settings: KeRNLSettings) -> None:
        self.kernel: str | torch.Tensor = settings.kernel
        self.decay: float | torch.Tensor | None = settings.decay
        self.seed = settings.seed

    @classmethod
    def of_kernel(
        cls, kernel: torch.Tensor | None = None, decay: float | torch.Tensor | None = None
    ) -> KeRNL:
        """Return the rule with a kernel, and a decay for each entry of the state.

        Args:
            kernel: A, ``[H, H]``; None for the identity.
            decay: Lambda, the factor for one step, in [0, 1]: a number, or ``[H]``. None: the leak
                ``1 - alpha`` of the model.

        Raises:
            ArgumentError, NonFiniteError: for a decay that is no such factor, NaN or infinity.
            ShapeError: when it is applied, for a kernel or decay of another size than the state.
        """
        if not isinstance(decay, torch.Tensor):
            rule = cls(decay=decay)
        else:
            if not bool(((decay >= 0) & (decay <= 1)).all()):
                raise ArgumentError(mismatch("decay", "None, or factors in [0, 1]", repr(decay)))
            rule = cls()
            rule.decay = decay.detach().clone()
        if kernel is not None:
            check_finite(kernel, "kernel")
            rule.kernel = kernel.detach().clone()
        return rule

    def change(self, update: Update) -> Update:
        """Return the update through the kernel and its decay."""
        trajectory = update.flow.trajectory
        if self.decay is None:
            Lambda = constant_leak(update.A, trajectory.mask, "kernl without decay")
        else:
            Lambda = decaying(self._decay(trajectory.states[0, 0]), update.A, trajectory.mask, "Lambda")
        made = update.through(Lambda, name="P[Lambda]")
        if isinstance(self.kernel, str) and self.kernel == "identity":
            return made
        P = made.P
        outer = Space((P.domain[BATCH], P.domain[TIME]))
        kernel = MatrixOperator(self._matrix(update), Space((P.domain[HIDDEN],)), name="A")
        each = IdentityOperator(outer, dtype=P.dtype, device=P.device)
        return made.replace(P=KroneckerOperator(each, kernel) @ P)

    def _decay(self, like: torch.Tensor) -> torch.Tensor:  # [H]
        """Return the factor of each state entry."""
        decay = self.decay
        if not isinstance(decay, torch.Tensor):
            decay = torch.tensor(decay, dtype=torch.float64, device="cpu")
        if tuple(decay.shape) not in ((), tuple(like.shape)):
            raise ShapeError(mismatch("decay", f"shape [hidden={len(like)}]", list(decay.shape)))
        return decay.to(like).expand(like.shape)

    def _matrix(self, update: Update) -> torch.Tensor:  # [H, H]
        P = update.P
        hidden = P.domain.shape[-1]
        if isinstance(self.kernel, torch.Tensor):
            kernel = self.kernel
        else:
            generator = torch.Generator().manual_seed(self.seed)
            kernel = torch.randn(hidden, hidden, generator=generator, dtype=torch.float64, device="cpu")
            kernel = kernel / math.sqrt(hidden)
        if tuple(kernel.shape) != (hidden, hidden):
            expected = f"shape [hidden={hidden}, hidden={hidden}]"
            raise ShapeError(mismatch("kernel", expected, list(kernel.shape)))
        return kernel.to(P.device, P.dtype)

    def __repr__(self) -> str:
        def show(value: object) -> str:
            return f"<tensor {list(value.shape)}>" if isinstance(value, torch.Tensor) else repr(value)

        return f"KeRNL(kernel={show(self.kernel)}, decay={show(self.decay)}, seed={self.seed})"
