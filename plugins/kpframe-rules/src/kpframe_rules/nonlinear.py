"""Rules that are not linear in the error: clipping, and Adam from scratch."""

from __future__ import annotations

from typing import NoReturn

import torch

from kpframe import Flow, LearningRule, Readout, Update
from kpframe.errors import ArgumentError, NotLinearError, mismatch
from kpframe.flow import join_parameters, split_parameters
from kpframe.plugin import takes_settings
from kpframe_rules.bptt import BPTT
from kpframe_rules.specs_feedback import AdamFromScratchSettings, ClippedSettings


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

    Raises:
        SettingsError, ArgumentError: for an unusable norm or rule.
    """

    @takes_settings(ClippedSettings)
    def __init__(self, settings: ClippedSettings) -> None:
        super().__init__(settings.rule)
        self.max_norm = settings.max_norm

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

    Raises:
        SettingsError, ArgumentError: for an unusable eps or rule.
    """

    @takes_settings(AdamFromScratchSettings)
    def __init__(self, settings: AdamFromScratchSettings) -> None:
        super().__init__(settings.rule)
        self.eps = settings.eps

    def _made_of(self, g: torch.Tensor) -> torch.Tensor:
        return g / (g.abs() + self.eps)

    def __repr__(self) -> str:
        return f"AdamFromScratch(eps={self.eps:g}, rule={self.rule!r})"
