"""Learning rules as operator compositions.

A rule maps the instantaneous error ``Err = d loss / d h`` to a parameter gradient,
``g = M J* P_rule* E Err``; along it the state moves by ``dh = -eta P J g = -eta Phi_rule Err``.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from copy import copy
from functools import wraps
from inspect import signature
from typing import Any, TypeVar

import torch

from kpframe.errors import (
    ArgumentError,
    NotLinearError,
    UnsupportedError,
    check_seed,
    mismatch,
)
from kpframe.flow._flow import Flow
from kpframe.flow._named_parameters import split_parameters
from kpframe.flow._parameter_operator import ParameterOperator
from kpframe.models._model import Model
from kpframe.operators._base import Operator
from kpframe.operators._cards import card
from kpframe.operators._isolation import in_isolation
from kpframe.plugin._manager import create
from kpframe.rules._update import Update
from kpframe.tasks._readout import Readout

Rule = TypeVar("Rule", bound="StochasticRule")
R = TypeVar("R")


class LearningRule(ABC):
    """A learning rule: what it replaces in the exact update.

    Backpropagation through time replaces nothing. A subclass defines ``change``; the compositions follow.
    ``frozen @ truncated`` is the rule that truncates first and freezes then.

    A rule that is no composition of operators defines ``gradient`` itself. What a caller has switched on in
    torch (inference mode, autocast ...) changes nothing in it; where it does not take ``output_err``, it is
    given the hidden error that this makes.

    Examples:
        >>> import kpframe, torch
        >>> class Recent(kpframe.LearningRule):
        ...     def change(self, update):
        ...         return update.replace(P=update.propagator.truncated(2))
        >>> generator = torch.manual_seed(0)
        >>> flow = kpframe.linearize(kpframe.wrap(torch.nn.RNNCell(3, 4)), torch.randn(2, 5, 3))
        >>> Recent().flow_operator(flow)
        P K P_2*
        >>> {name: tuple(g.shape) for name, g in Recent().gradient(flow, torch.ones(2, 5, 4)).items()}
        {'weight_ih': (4, 3), 'weight_hh': (4, 4), 'bias_ih': (4,), 'bias_hh': (4,)}
    """

    #: Whether the update is linear in the error; a rule that is not pretends no operator.
    linear = True
    #: Whether the rule needs the readout that the error comes through.
    needs_readout = False
    #: Whether the update is the exact gradient; the conformance kit holds such a rule to ``loss.backward()``.
    exact = False

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for name in ("gradient", "apply_gradient"):
            if name in vars(cls):
                setattr(cls, name, in_isolation(_with_output_errors(vars(cls)[name])))

    @abstractmethod
    def change(self, update: Update) -> Update:
        """Return what the rule makes of an update: ``update.replace(P=update.propagator.truncated(5))``."""

    @in_isolation
    def update(self, flow: Flow, readout: Readout | None = None) -> Update:
        """Return the rule's update along a flow.

        Args:
            flow: the operators along the trajectory.
            readout: what the error comes through, for rules that need it.

        Raises:
            UnsupportedError: for a rule that needs a readout, without one; for a flow without the structure
                that the rule needs.
        """
        if self.needs_readout and readout is None:
            raise UnsupportedError(
                mismatch("readout", f"the readout that the error comes through, which {self!r} needs", None)
            )
        return self.change(Update.exact(flow, readout))

    def propagator(self, flow: Flow, readout: Readout | None = None) -> Operator:
        """Return the rule's ``P_rule``, on the state space; see ``update`` for arguments and errors."""
        return self.update(flow, readout).P

    def parameter_operator(self, flow: Flow, readout: Readout | None = None) -> ParameterOperator:
        """Return the rule's ``K = J M J*``; see ``update`` for arguments and errors."""
        return self.update(flow, readout).K

    def update_operator(self, flow: Flow, readout: Readout | None = None) -> Operator:
        """Return ``M J* P_rule* E``: error ``(batch, time, hidden)`` -> gradient ``(parameter,)``.

        See ``update`` for the arguments.

        Raises:
            NotLinearError: for a rule that is not linear in the error.
            UnsupportedError: as ``update``.
        """
        self.check_linear()
        return self.update(flow, readout).operator

    def flow_operator(self, flow: Flow, readout: Readout | None = None) -> Operator:
        """Return ``Phi_rule = P J M J* P_rule* E``, printed ``P K P_rule*``: ``dh = -eta Phi_rule Err``.

        Raises like ``update_operator``.
        """
        self.check_linear()
        return self.update(flow, readout).flow_operator

    def output_operator(self, flow: Flow, readout: Readout) -> Operator:
        """Return ``M J* P_rule* B^T``: output error ``(batch, time, output)`` -> gradient ``(parameter,)``.

        B is the weight of ``readout``, or the matrix that the rule puts in its place; the map is exact for
        any number of outputs. ``flow`` has the operators along the trajectory.

        Raises:
            NotLinearError: for a rule that is not linear in the error.
            UnsupportedError: as ``update``.
        """
        self.check_linear()
        return self.update(flow, readout).output_operator

    @in_isolation
    def gradient(
        self,
        flow: Flow,
        err: torch.Tensor | None = None,
        readout: Readout | None = None,
        *,
        output_err: torch.Tensor | None = None,
    ) -> dict[str, torch.Tensor]:
        """Return the rule's gradient by parameter name, for one of two errors; see ``Update.incoming``.

        Args:
            flow: the operators along the trajectory.
            err: ``[B, T, H]``, the loss's derivative by the states through the readout alone.
            readout: what the error comes through, for rules that need it, and for ``output_err``.
            output_err: ``[B, T, O]``, the loss's derivative by the outputs, from which every rule's gradient
                is exact.

        Raises:
            ArgumentError: for both errors or neither; for an ``err`` that comes through no output, where the
                rule puts another matrix in the place of the readout's.
            ShapeError, DtypeError, DeviceError, NonFiniteError: when the error lies in another space, or has
                NaN or infinity in it.
            NotLinearError: for a rule that is not linear in the error.
            UnsupportedError: as ``update``; for an ``err`` that does not determine what is fed back, with
                more outputs than units.
        """
        self.check_linear()
        update = self.update(flow, readout)
        return split_parameters(flow.J.domain, update.back(update.incoming(err, output_err)))

    def apply_gradient(
        self,
        model: Model,
        flow: Flow,
        err: torch.Tensor | None = None,
        readout: Readout | None = None,
        *,
        output_err: torch.Tensor | None = None,
    ) -> None:
        """Fill ``.grad`` of a model's parameters with the rule's gradient, for any torch optimizer.

        Parameters that nothing along the flow reads (``flow.unread``) keep theirs, as in ``loss.backward()``:
        a readout inside the module learns by whatever else fills it.

        See ``gradient`` for the other arguments and errors.

        Args:
            model: the model whose parameters are those of the flow, by name and shape.

        Raises:
            ArgumentError: when the flow is that of another model.
        """
        theta = model.trainable()
        shapes = {name: tuple(p.shape) for name, p in theta.items()}
        expected = {part.name: part.shape for part in flow.J.domain.axes[0].parts}
        if shapes != expected:
            raise ArgumentError(mismatch("model", f"the parameters of the flow, {expected}", shapes))
        kind, own = f"{flow.J.dtype} on {flow.J.device}", {f"{p.dtype} on {p.device}" for p in theta.values()}
        if own - {kind}:
            raise ArgumentError(
                mismatch("model", f"parameters like those of the flow, {kind}", ", ".join(own - {kind}))
            )
        for name, value in self.gradient(flow, err, readout, output_err=output_err).items():
            if bool(value.any()) or name not in flow.unread:  # asked of zeros alone, as it costs a step
                theta[name].grad = value

    def __matmul__(self, other: object) -> LearningRule:
        if not isinstance(other, LearningRule):
            return NotImplemented
        return ComposedRule(self, other)

    def __repr__(self) -> str:
        return f"{type(self).__name__}()"

    def _repr_html_(self) -> str:
        summary = " ".join((type(self).__doc__ or "").split("\n\n")[0].split())
        rows = [
            ("what it is", summary),
            ("update", "g = M J* P_rule* Err, dh = -eta P J g" if self.linear else "by its own gradient()"),
            (
                "in the error",
                "linear: it has an operator" if self.linear else "not linear: it has no operator",
            ),
            ("needs", "the readout" if self.needs_readout else "the flow alone"),
        ]
        return card(repr(self), rows)

    def check_linear(self) -> None:
        """Raise ``NotLinearError`` for a rule that is not linear in the error."""
        if not self.linear:
            raise NotLinearError(
                f"{self!r} is not linear in the error, so it has no operator; gradient() gives its update"
            )


def _with_output_errors(method: Callable[..., R]) -> Callable[..., R]:
    """Return a rule's own ``gradient`` or ``apply_gradient`` with an argument ``output_err``.

    One that has none gets the hidden error ``W^T e`` in its place.
    """
    parameters = signature(method).parameters.values()
    if any(p.name == "output_err" or p.kind is p.VAR_KEYWORD for p in parameters):
        return method
    called = signature(getattr(LearningRule, method.__name__))

    @wraps(method)
    def run(*arguments: Any, output_err: torch.Tensor | None = None, **named: Any) -> R:
        if output_err is None:
            return method(*arguments, **named)
        given = called.bind(*arguments, **named)
        given.apply_defaults()
        values = {**given.arguments}
        del values["output_err"]
        update = Update.exact(values["flow"], values["readout"])
        values["err"] = update.incoming(values["err"], output_err)
        return method(*values.values())

    return run


class ComposedRule(LearningRule):
    """``outer @ inner``: what the outer rule makes of the inner one's update."""

    def __init__(self, outer: LearningRule, inner: LearningRule) -> None:
        for rule in (outer, inner):
            if not rule.linear:
                raise NotLinearError(mismatch("rule", "rules that are linear in the error", repr(rule)))
        self.outer, self.inner = outer, inner
        self.needs_readout = outer.needs_readout or inner.needs_readout

    def change(self, update: Update) -> Update:
        """Return the outer rule's change of the inner one's."""
        return self.outer.change(self.inner.change(update))

    def __repr__(self) -> str:
        return f"{self.outer!r} @ {self.inner!r}"


class StochasticRule(LearningRule):
    """A rule that draws at random: one seed, one draw along a given flow.

    ``change`` uses ``self.generator()``, a new generator of the rule's seed, so that the same rule on the
    same flow gives the same operator.

    Args:
        seed: of the draw.
    """

    #: Whether each trial has a draw of its own, so that trials in another order give another update.
    draws_by_trial = False
    #: The largest number of outcomes that ``expectation`` goes through.
    max_outcomes = 2**14

    def __init__(self, seed: int = 0) -> None:
        self.seed = check_seed(seed)

    def generator(self) -> torch.Generator:
        """Return a CPU generator at the rule's seed."""
        return torch.Generator().manual_seed(self.seed)

    def sample(self: Rule, generator: torch.Generator) -> Rule:
        """Return the same rule with a seed drawn from ``generator``."""
        drawn = copy(self)
        drawn.seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
        return drawn

    def outcomes(self, update: Update) -> Iterator[tuple[float, Update]]:
        """Yield the probability of every outcome and the update it makes, where they are finitely many.

        A rule that can count them refuses too many before it makes the first: ``check_outcomes``.

        Args:
            update: what the rule changes.

        Raises:
            UnsupportedError: for a rule with a continuum of outcomes.
        """
        raise UnsupportedError(f"{self!r} has a continuum of outcomes; average over sample(generator)")

    def check_outcomes(self, binary: int) -> None:
        """Raise unless the outcomes of a number of choices, ``binary`` ones, are few enough to go through.

        Raises:
            ArgumentError: for more than ``max_outcomes``.
        """
        if 2**binary > self.max_outcomes:
            raise ArgumentError(mismatch("flow", self._few_outcomes(), f"2**{binary}"))

    def _few_outcomes(self) -> str:
        return f"a trajectory with at most {self.max_outcomes} outcomes of {self!r}"

    @in_isolation
    def expectation(self, flow: Flow, readout: Readout | None = None) -> Operator:
        """Return the exact mean of the update operator, by going through every outcome.

        See ``update`` for the arguments.

        Raises:
            ArgumentError: for more than ``max_outcomes`` outcomes.
            UnsupportedError: as ``outcomes``.
        """
        total: Operator | None = None
        mass = 0.0
        for count, (probability, update) in enumerate(self.outcomes(Update.exact(flow, readout))):
            if count >= self.max_outcomes:
                raise ArgumentError(mismatch("flow", self._few_outcomes(), "more"))
            part = probability * update.operator
            total = part if total is None else total + part
            mass += probability
        if total is None or abs(mass - 1) > 1e-9:
            raise ArgumentError(mismatch(f"outcomes of {self!r}", "probabilities that add up to 1", mass))
        return total


def create_rule(name: str, /, **settings: Any) -> LearningRule:
    """Return the learning rule called ``name``, of its ``settings``; raises like ``create_model``.

    Examples:
        >>> import kpframe
        >>> kpframe.create_rule("truncated_bptt", window=5)
        TruncatedBPTT(window=5, mode='sliding', offset=0)
    """
    made: LearningRule = create("rule", name, settings, LearningRule)
    return made
