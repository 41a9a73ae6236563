"""Learning rules beside backpropagation through time, on one trajectory and one error.

Gradients are compared whole, and step by step in both facings. A gradient is a sum over pairs of steps, of an
error at step t and the parameters' use at step s that it reaches::

    g = M J* P* Err = Sum_{s <= t} g_ts,     g_ts = M J_s* P[t, s]* Err_t                                  (1)

Summed over s, what is left is the contribution of each error (*past-facing*: an error at t looks back);
summed over t, the contribution of each use (*future-facing*). Comparing the one facing of a rule with the
other facing of the exact gradient gives small cosines even for rules that agree (Marschall, Cho & Savin 2020,
JMLR 21:135).

The loss falls along ``-g_rule`` at the rate ``<g, g_rule>``, to which each pair adds its part. With the exact
gradient g on the left, all pairs of one t come from one product with P*, as::

    <g, M J_s* q_s> = <J_s M* g, q_s>     for q = P* (Err at step t alone)                                 (2)
"""

from __future__ import annotations

import math

import torch
from attrs import frozen

from kpframe.errors import ArgumentError, mismatch
from kpframe.flow._flow import Flow, check_flow
from kpframe.operators._isolation import in_isolation
from kpframe.operators._memory import chunk_size
from kpframe.operators._scale import cosine, norm, row_cosines
from kpframe.operators._spaces import PARAMETER
from kpframe.rules._rule import LearningRule
from kpframe.rules._update import Update
from kpframe.tasks._readout import Readout

FACINGS = ("past", "future", "past of the rule, future of bptt", "future of the rule, past of bptt")


@frozen(eq=False)
class UpdateComparison:
    """A rule's update ``g_rule`` beside the exact gradient ``g``.

    Attributes:
        cosine: of the updates, summed over trials and steps.
        norm_ratio: ``|g_rule| / |g|``.
        loss_rate: ``-<g, g_rule>``, the change of the loss per unit learning rate.
        descent: ``<g, g_rule> / |g|^2``: 1 for the exact gradient, negative where the loss grows.
        metric_condition: least condition number of a positive metric M with ``g_rule = M g``,
            ``(1 + sin a) / (1 - sin a)`` for the angle a between the two; infinite where there is none, which
            is where ``<g, g_rule> <= 0``.
        by_parameter: parameter -> its part of ``loss_rate``.
        by_pair: ``[T, T]``, the part of ``loss_rate`` of errors at step t that reach step s, at ``[t, s]``,
            in float64.
        by_time: facing -> cosine at each step ``[T]``, in float64, NaN where either is zero; see ``FACINGS``.
    """

    cosine: float
    norm_ratio: float
    loss_rate: float
    descent: float
    metric_condition: float
    by_parameter: dict[str, float]
    by_pair: torch.Tensor
    by_time: dict[str, torch.Tensor]

    @property
    def by_lag(self) -> torch.Tensor:  # [T]
        """The part ``[T]`` of ``loss_rate`` of errors that travel 0, 1, ... steps back."""
        steps = len(self.by_pair)
        return torch.stack([self.by_pair.diagonal(-lag).sum() for lag in range(steps)])


@in_isolation
def compare_update(
    flow: Flow,
    err: torch.Tensor | None,
    rule: LearningRule,
    readout: Readout | None = None,
    *,
    output_err: torch.Tensor | None = None,
) -> UpdateComparison:
    """Return a rule's update beside the exact gradient, along a flow and for one error.

    Costs T backward passes, for the steps one by one, beside those of the two updates.

    Args:
        flow: the operators along the trajectory.
        err: ``[B, T, H]``, the loss's derivative by the states through the readout, or None.
        rule: linear in the error.
        readout: what the error comes through, for rules that need it, and for ``output_err``.
        output_err: ``[B, T, O]``, the loss's derivative by the outputs, in the place of ``err``.

    Raises:
        ArgumentError: for an error whose exact gradient is zero, beside which nothing can be compared; as
            ``Update.incoming``.
        NotLinearError, UnsupportedError: for a rule without an operator, or without what it needs.
        ShapeError, DtypeError, DeviceError, NonFiniteError: when the error does not fit.

    Examples:
        >>> import kpframe, torch
        >>> class Recent(kpframe.LearningRule):
        ...     def change(self, update):
        ...         return update.replace(P=update.propagator.truncated(1))
        >>> generator = torch.manual_seed(0)
        >>> flow = kpframe.linearize(kpframe.wrap(torch.nn.RNNCell(3, 4)), torch.randn(2, 5, 3))
        >>> compared = kpframe.comparison.compare_update(flow, torch.randn(2, 5, 4), Recent())
        >>> 0 < compared.cosine < 1, compared.by_lag.shape
        (True, torch.Size([5]))
    """
    check_flow(flow)
    rule.check_linear()
    plain = Update.exact(flow, readout)
    hidden = plain.incoming(err, output_err)
    exact = _Facings.of(plain, hidden, hidden)
    if not bool(exact.total.any()):
        raise ArgumentError(mismatch("err", "an error with a gradient that is not zero", "one without any"))
    update = rule.update(flow, readout)
    ours = _Facings.of(update, update.incoming(err, output_err), hidden)
    ratio = norm(ours.total) / norm(exact.total)
    angle = cosine(exact.total, ours.total)
    parts = flow.J.domain[PARAMETER].parts
    one, other = exact.total.double(), ours.total.double()  # squares of float32 leave its range
    return UpdateComparison(
        cosine=angle,
        norm_ratio=ratio,
        loss_rate=-float(one @ other),
        descent=angle * ratio if ratio else 0.0,
        metric_condition=_condition(angle),
        by_parameter={p.name: -float(one[p.slice] @ other[p.slice]) for p in parts},
        by_pair=-ours.pairs,
        by_time={
            "past": row_cosines(ours.past, exact.past),
            "future": row_cosines(ours.future, exact.future),
            FACINGS[2]: row_cosines(ours.past, exact.future),
            FACINGS[3]: row_cosines(ours.future, exact.past),
        },
    )


@frozen(eq=False)
class _Facings:
    """An update taken apart.

    Attributes:
        past, future: ``[T, M]``.
        pairs: ``[T, T]``, the product of each part with the exact gradient.
    """

    past: torch.Tensor
    future: torch.Tensor
    pairs: torch.Tensor

    @property
    def total(self) -> torch.Tensor:  # [M]
        return self.past.sum(dim=0)

    @classmethod
    def of(cls, update: Update, error: torch.Tensor, hidden: torch.Tensor) -> _Facings:
        """Take apart what an update makes of the error that it sends back, beside that of the hidden one."""
        P, J, M, flow = update.P, update.J, update.K.metric, update.flow
        steps = error.shape[1]
        exact = (flow.J.T @ flow.P.T)(hidden)
        weight = J(M.T(exact))  # (2)
        past, pairs = [], []
        chunk = chunk_size(P, steps, held=2)
        for start in range(0, steps, chunk):
            chosen = range(start, min(start + chunk, steps))
            alone = error.new_zeros(len(chosen), *error.shape)
            for row, t in enumerate(chosen):
                alone[row, :, t] = error[:, t]
            back = P.T(alone)
            past.append(M(J.T(back)))
            pairs.append((weight.double() * back.double()).sum(dim=(1, 3)))
        whole = P.T(error)
        future = []
        for start in range(0, steps, chunk):
            chosen = range(start, min(start + chunk, steps))
            alone = whole.new_zeros(len(chosen), *whole.shape)
            for row, s in enumerate(chosen):
                alone[row, :, s] = whole[:, s]
            future.append(M(J.T(alone)))
        return cls(torch.cat(past), torch.cat(future), P.domain.sum(torch.cat(pairs)))


def _condition(cosine: float) -> float:
    """Return the least condition number of a positive matrix that turns a vector by an angle a.

    The largest angle by which a matrix of condition number k turns a vector has the sine
    ``(k - 1) / (k + 1)`` (Gustafson 1968), hence ``k = (1 + sin a) / (1 - sin a)``.
    """
    if not cosine > 0:
        return math.inf
    sine = math.sqrt(max(0.0, 1 - min(cosine, 1.0) ** 2))
    return (1 + sine) / (1 - sine) if sine < 1 else math.inf
