"""Rules that are not linear in the error: clipping, and Adam from scratch."""

from __future__ import annotations

import math
from typing import NoReturn

import torch

from kpframe import Flow, LearningRule, Readout, Update
from kpframe.errors import ArgumentError, NotLinearError, mismatch
from kpframe.flow import join_parameters, split_parameters
from kpframe_rules.bptt import BPTT


class NonlinearRule(LearningRule):
    """Another rule's gradient, put through a function of it; there is no operator.

    Args:
        rule: the other rule; None for backpropagation through time.
    """

    linear = False

    def __init__(self, rule: LearningRule | None = None) -> None:
        if rule is not None and not isinstance(rule, LearningRule):
            raise ArgumentError(mismatch("rule", "a LearningRule, or None for bptt", repr(rule)))
        self.rule = BPTT() if rule is None else rule
        self.needs_readout = self.rule.needs_readout

    def change(self, update: Update) -> NoReturn:
        """Refuse: the rule is no composition of operators.

        Raises:
            NotLinearError: always.
        """
        raise NotLinearError(
            f"{self!r} is not linear in the error, so it has no P and no K; gradient() gives its update, and "
            f"those of {self.rule!r} are its operators before that"
        )

    def gradient(
        self,
        flow: Flow,
        err: torch.Tensor | None = None,
        readout: Readout | None = None,
        *,
        output_err: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return the rule's gradient by parameter name; see ``LearningRule.gradient``."""
        parts, space = self.rule.gradient(flow, err, readout, output_err=output_err), flow.J.domain
        return split_parameters(space, self._made_of(join_parameters(space, parts))) if parts else {}

    def _made_of(self, g: torch.Tensor) -> torch.Tensor:  # [M] -> [M]
        raise NotImplementedError


class Clipped(NonlinearRule):
    """Another rule's gradient, scaled down to a largest norm (Pascanu, Mikolov & Bengio 2013, ICML)::

        g = g_rule min(1, max_norm / |g_rule|)

    with the norm over all parameters together, as ``torch.nn.utils.clip_grad_norm_`` has it (which adds 1e-6
    to the norm). Cost: that of the rule.

    Args:
        max_norm: > 0.
        rule: whose gradient; None for backpropagation through time.

    Raises:
        ArgumentError: for an unusable norm or rule.
    """

    def __init__(self, max_norm: float, rule: LearningRule | None = None) -> None:
        super().__init__(rule)
        if isinstance(max_norm, bool) or not isinstance(max_norm, int | float) or not 0 < max_norm < math.inf:
            raise ArgumentError(mismatch("max_norm", "a finite number > 0", repr(max_norm)))
        self.max_norm = max_norm

    def _made_of(self, g: torch.Tensor) -> torch.Tensor:
        largest = float(g.abs().max()) or 1.0
        direction = g.double() / largest  # squares of small or large numbers stay within range
        length = float(direction.norm())
        if not largest * length > self.max_norm:
            return g.clone()
        return (self.max_norm / length * direction).to(g.dtype)

    def __repr__(self) -> str:
        return f"Clipped(max_norm={self.max_norm:g}, rule={self.rule!r})"


class AdamFromScratch(NonlinearRule):
    """The first step of Adam, from moments of zero (Kingma & Ba 2015), per unit of learning rate::

        g = g_rule / (|g_rule| + eps)

    entry by entry: after bias correction the moments are ``m_hat = g_rule`` and ``v_hat = g_rule^2``,
    whatever the betas. Almost the sign of the gradient, where ``frozen_adam`` is linear. Cost: that of the
    rule.

    Args:
        eps: > 0.
        rule: whose gradient; None for backpropagation through time.

    Raises:
        ArgumentError: for an unusable eps or rule.
    """

    def __init__(self, eps: float = 1e-8, rule: LearningRule | None = None) -> None:
        super().__init__(rule)
        if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 < eps < math.inf:
            raise ArgumentError(mismatch("eps", "a finite number > 0", repr(eps)))
        self.eps = eps

    def _made_of(self, g: torch.Tensor) -> torch.Tensor:
        return g / (g.abs() + self.eps)

    def __repr__(self) -> str:
        return f"AdamFromScratch(eps={self.eps:g}, rule={self.rule!r})"
