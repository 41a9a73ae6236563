"""Diagonal metrics: learning rates for each parameter, and the second moments of Adam."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from kpframe import DiagonalOperator, LearningRule, Model, Update
from kpframe.errors import ArgumentError, DeviceError, DtypeError, ShapeError, mismatch
from kpframe.flow import match_parameters, parameter_values
from kpframe.operators import PARAMETER, Part
from kpframe.plugin import takes_settings
from kpframe_rules.metrics import scaled
from kpframe_rules.specs_feedback import FrozenAdamSettings, LearningRatesSettings


class LearningRates(LearningRule):
    """Each parameter has a learning rate: ``g = M J* P* Err`` with M their diagonal, next to a common eta.

    Where there is another metric already (``learning_rates @ natural_gradient``), it is taken in the
    coordinates that the rates stretch: ``M^1/2 M_inner M^1/2``. Frozen parameters stay frozen. A rate of 0
    freezes a parameter. Cost: that of the rule. Ours.

    Of several patterns that match a parameter the last one counts: ``{"*": 0.1, "weight_hh*": 0.01}``.

    Raises:
        SettingsError, ArgumentError: for a rate that is no finite number >= 0.
        ArgumentError: when it is applied, for a name that matches no parameter; lists those there are.
    """

    @takes_settings(LearningRatesSettings)
    def __init__(self, settings: LearningRatesSettings) -> None:
        self.rates, self.other = dict(settings.rates), settings.other

    def change(self, update: Update) -> Update:
        """Return the update with the rates as its metric."""
        values = _like(update).new_full((update.K.jacobian.domain.size,), self.other)
        parts = _parts(update)
        for pattern, rate in self.rates.items():
            for name in match_parameters(update.K.jacobian.domain, [pattern]):
                values[parts[name].slice] = rate
        return _with_diagonal(update, values, "K_rates")

    def __repr__(self) -> str:
        return f"LearningRates(rates={self.rates}, other={self.other})"


class FrozenAdam(LearningRule):
    """The preconditioner of Adam at a moment of training, held fixed (Kingma & Ba 2015, Algorithm 1)::

        M = diag(1 / (sqrt(v_hat) + eps)),     v_hat = v / (1 - beta2^step)

    with v the running mean of squared gradients. So the update stays linear in the error, which Adam's
    own is not (``adam_from_scratch``). Momentum, the learning rate and weight decay are no part of it.
    Another metric that is there already is taken in the stretched coordinates, as for ``learning_rates``.
    Cost: that of the rule.

    ``second_moments`` has ``v_hat`` of every parameter that learns, of its shape, entries >= 0;
    ``of_optimizer`` and ``of_state_dict`` read them, bias corrected, from Adam or AdamW.

    Raises:
        SettingsError: for an unusable eps.
        ArgumentError: for moments that are negative or not finite; when it is applied, for a parameter
            without.
        ShapeError, DtypeError, DeviceError: when it is applied, for moments unlike their parameter.
    """

    @takes_settings(FrozenAdamSettings)
    def __init__(self, settings: FrozenAdamSettings) -> None:
        self.second_moments = {
            name: _moment(f"second_moments[{name!r}]", value)
            for name, value in settings.second_moments.items()
        }
        self.eps = settings.eps

    @classmethod
    def of_optimizer(cls, optimizer: torch.optim.Optimizer, model: Model) -> FrozenAdam:
        """Return the rule with the moments of a ``torch.optim.Adam`` or ``AdamW`` that trains the model.

        Raises:
            ArgumentError: for another optimizer, one that has made no step yet, or one that does not train
                some parameter of the model.
        """
        names = {id(parameter): name for name, parameter in model.trainable().items()}
        order = [names.get(id(p), "") for group in optimizer.param_groups for p in group["params"]]
        if missing := [name for name in names.values() if name not in order]:
            raise ArgumentError(mismatch("optimizer", f"one that trains {missing[0]!r}", "one without"))
        return cls.of_state_dict(optimizer.state_dict(), order)

    @classmethod
    def of_state_dict(cls, state_dict: Mapping[str, Any], names: Sequence[str]) -> FrozenAdam:
        """Return the rule with the moments in an optimizer's ``state_dict()``.

        Args:
            state_dict: of ``torch.optim.Adam`` or ``AdamW``. With ``amsgrad`` the largest moments count.
            names: of the parameters in the order in which the optimizer was given them; an empty one leaves
                its parameter out, as does what stands behind the last.

        Raises:
            ArgumentError: for the state of another optimizer, one that has made no step yet, or groups that
                differ in eps.
        """
        moments: dict[str, torch.Tensor] = {}
        eps: set[float] = set()
        for group in state_dict["param_groups"]:
            for index in group["params"]:
                name = names[index] if index < len(names) else ""
                if not name:
                    continue
                state = state_dict["state"].get(index, {})
                kept = "max_exp_avg_sq" if group.get("amsgrad") else "exp_avg_sq"
                if not state and any(state_dict["state"].values()):
                    continue  # it never had a gradient: nothing reads it
                if kept not in state or "betas" not in group:
                    expected = f"Adam's {kept} of {name!r}, after at least one step"
                    raise ArgumentError(mismatch("state_dict", expected, sorted(state) or "nothing"))
                correction = 1 - group["betas"][1] ** float(state["step"])
                moments[name] = state[kept] / correction
                eps.add(float(group["eps"]))
        if len(eps) != 1:
            raise ArgumentError(mismatch("state_dict", "one eps for the named parameters", sorted(eps)))
        return cls(moments, eps.pop())

    def change(self, update: Update) -> Update:
        """Return the update with Adam's preconditioner as its metric."""
        like = _like(update)
        values = like.new_zeros(update.K.jacobian.domain.size)
        learn = update.K.parameters
        moments = parameter_values(update.K.jacobian.domain, self.second_moments, "second_moments")
        for name, part in _parts(update).items():
            if name in moments:
                v = moments[name]
                _check(name, v, part, like)
                values[part.slice] = (1 / (v.sqrt() + self.eps)).reshape(-1)
            elif name in learn and name not in update.flow.unread:
                have = ", ".join(self.second_moments) or "none"
                raise ArgumentError(mismatch("second_moments", f"a tensor for {name!r}", f"those of {have}"))
        return _with_diagonal(update, values, "K_adam")

    def __repr__(self) -> str:
        return f"FrozenAdam(second_moments={list(self.second_moments)}, eps={self.eps})"


def _moment(label: str, value: object) -> torch.Tensor:
    """Return a copy of a second moment, checked."""
    if not isinstance(value, torch.Tensor):
        raise ArgumentError(mismatch(label, "a tensor", type(value).__name__))
    if not bool((value >= 0).all() and torch.isfinite(value).all()):
        raise ArgumentError(mismatch(label, "finite entries >= 0", f"one of {float(value.min())}"))
    return value.detach().clone()


def _with_diagonal(update: Update, values: torch.Tensor, name: str) -> Update:
    space = update.K.jacobian.domain
    root = DiagonalOperator(values.sqrt(), space, name="M^1/2")
    return update.replace(K=scaled(update.K, root, DiagonalOperator(values, space, name="M"), name))


def _parts(update: Update) -> dict[str, Part]:
    return {part.name: part for part in update.K.jacobian.domain[PARAMETER].parts}


def _like(update: Update) -> torch.Tensor:
    return torch.empty((), dtype=update.K.dtype, device=update.K.device)


def _check(name: str, v: torch.Tensor, part: Part, like: torch.Tensor) -> None:
    label = f"second_moments[{name!r}]"
    if tuple(v.shape) != part.shape:
        raise ShapeError(mismatch(label, f"the parameter's shape {list(part.shape)}", list(v.shape)))
    if v.dtype != like.dtype:
        raise DtypeError(mismatch(label, f"the flow's dtype {like.dtype}", f"{v.dtype} (nothing is cast)"))
    if v.device != like.device:
        raise DeviceError(mismatch(label, f"the flow's device {like.device}", v.device))
