"""What a learning step does: predicted loss rates, where they come from, and prediction against fact.

All figures are per unit learning rate eta, to first order: along the update g of a rule::

    d theta = -eta g,     g = M J* P_rule* Err                                                             (1)
    dh      = -eta P J g = -eta Phi_rule Err                                                               (2)
    d loss  = <Err, dh> = -eta <Err, Phi_rule Err> = -eta <J* P* Err, g>                                   (3)

The last form of (3) takes the rate apart by parameters, the one before by trials and steps: of the Err on the
left, whose loss falls, or of that on the right, which made the update.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from functools import partial

import torch
from attrs import frozen

from kpframe.errors import ArgumentError, SpaceMismatchError, mismatch
from kpframe.flow._flow import Flow, check_flow
from kpframe.operators._base import Operator
from kpframe.operators._finite import check_finite
from kpframe.operators._isolation import in_isolation
from kpframe.operators._scale import divided, norm, unit_of
from kpframe.operators._spaces import PARAMETER, Space
from kpframe.rules._rule import LearningRule
from kpframe.rules._update import Update
from kpframe.tasks._readout import Readout


@in_isolation
def loss_rate(
    flow: Flow,
    err: torch.Tensor | None = None,
    rule: LearningRule | None = None,
    readout: Readout | None = None,
    *,
    output_err: torch.Tensor | None = None,
) -> float:
    """Return ``-<Err, Phi_rule Err>``, the change of the loss per unit learning rate.

    It is never positive for the exact gradient (``rule=None``); a rule may have a positive one.

    Args:
        flow: where the step is taken.
        err: ``[B, T, H]``, ``Err``, the loss's derivative by the states through the readout.
        rule: the rule that makes the update; the exact gradient when left out.
        readout: what the error comes through, for rules that need it, and for ``output_err``.
        output_err: ``[B, T, O]``, the loss's derivative by the outputs, in the place of ``err``.

    Raises:
        ArgumentError, ShapeError, DtypeError, DeviceError: as ``Update.incoming``.
        NotLinearError, UnsupportedError: for a rule without an operator, or without what it needs.

    Examples:
        >>> import kpframe, torch
        >>> generator = torch.manual_seed(0)
        >>> flow = kpframe.linearize(kpframe.wrap(torch.nn.RNNCell(3, 4)), torch.randn(2, 5, 3))
        >>> err = torch.randn(2, 5, 4)
        >>> g = (flow.J.T @ flow.P.T)(err)  # the gradient
        >>> rate = kpframe.gradient_flow.loss_rate(flow, err)
        >>> bool(torch.isclose(torch.tensor(rate), -g.square().sum()))
        True
    """
    check_flow(flow)
    hidden = Update.exact(flow, readout).incoming(err, output_err)
    update = _update(flow, rule, readout)
    moved = update.moved(update.incoming(err, output_err))
    return -float(flow.P.domain.sum((hidden.double() * moved.double()).sum()))


@frozen(eq=False)
class Contributions:
    """A loss rate taken apart; each part adds up to the whole.

    Attributes:
        parameter: by parameter group, name -> rate.
        batch: by trial whose error is reduced, ``[B]``; where trials are sharded, of this rank's own.
        time: by time step whose error is reduced, ``[T]``.
        batch_of_update: by trial whose error made the update, ``[B]``, likewise.
        time_of_update: by time step whose error made the update, ``[T]``.
    """

    parameter: Mapping[str, float]
    batch: torch.Tensor
    time: torch.Tensor
    batch_of_update: torch.Tensor
    time_of_update: torch.Tensor

    @property
    def total(self) -> float:
        """The loss rate itself."""
        return float(self.time.sum())


@in_isolation
def contributions(
    flow: Flow,
    err: torch.Tensor | None = None,
    rule: LearningRule | None = None,
    readout: Readout | None = None,
    *,
    output_err: torch.Tensor | None = None,
) -> Contributions:
    """Return ``loss_rate`` by parameter group, by trial and by time step.

    With ``R = -Err o (Phi_rule Err)`` the sums of R over time and units are the contributions of the
    trials that gain; with ``-Err o (Phi_rule* Err)`` those of the trials learned from, where Phi_rule takes
    the output error if that is what is given. See ``loss_rate`` for arguments and errors.
    """
    check_flow(flow)
    hidden = Update.exact(flow, readout).incoming(err, output_err)
    made = _update(flow, rule, readout)
    incoming = made.incoming(err, output_err)
    forward = -hidden.double() * made.moved(incoming)  # (3) by the left Err; float32 would leave its range
    if output_err is None:
        assert err is not None  # one of the two is there
        backward = -err.double() * made.flow_operator.T(hidden)
    else:
        backward = -output_err.double() * made.output_flow_operator.T(hidden)
    exact = (flow.J.T @ flow.P.T)(hidden)
    update = made.back(incoming)  # (3), its last form
    groups = {
        part.name: -float(exact[part.slice].double() @ update[part.slice].double())
        for part in flow.J.domain[PARAMETER].parts
    }
    by_time = flow.P.domain.sum(torch.stack([forward.sum((0, 2)), backward.sum((0, 2))]))
    return Contributions(groups, forward.sum((1, 2)), by_time[0], backward.sum((1, 2)), by_time[1])


@in_isolation
def predicted_change(flow: Flow, update: torch.Tensor, eta: float) -> torch.Tensor:  # [B, T, H]
    """Return ``dh = -eta P J g`` ``[B, T, H]``, the first-order change of the states along ``flow``.

    ``update`` is ``g`` ``[M]``, a vector of the parameter space; ``eta`` the learning rate.
    """
    check_flow(flow)
    return -eta * flow.P(flow.J(update))


@in_isolation
def actual_change(flow: Flow, update: torch.Tensor, eta: float) -> torch.Tensor:  # [B, T, H]
    """Return how the states ``[B, T, H]`` of ``flow`` really change when theta moves by ``-eta g``.

    One roll-out. ``update`` is ``g`` ``[M]``, a vector of the parameter space; ``eta`` the learning rate.
    """
    check_flow(flow)
    flow.J.domain.check(update, "update", dtype=flow.J.dtype, device=flow.J.device)
    model = copy.deepcopy(flow.model)
    trajectory = flow.trajectory
    with torch.no_grad():
        for part, parameter in zip(flow.J.domain[PARAMETER].parts, model.trainable().values(), strict=True):
            parameter.sub_(eta * update[part.slice].reshape(part.shape))
        moved = model.rollout(
            trajectory.inputs, trajectory.initial_state if trajectory.given else None, trajectory.mask
        )
    return moved.states - trajectory.states


@frozen(eq=False)
class TaylorTest:
    """First-order prediction against fact at several step sizes.

    Attributes:
        etas: the step sizes.
        errors: norm of actual minus predicted change at each.
        changes: norm of the actual change at each.
        slope: fitted exponent of the errors; 2 where the prediction is right to first order.
    """

    etas: tuple[float, ...]
    errors: tuple[float, ...]
    changes: tuple[float, ...]
    slope: float


@in_isolation
def taylor_test(
    flow: Flow, update: torch.Tensor, etas: Sequence[float] = (1e-1, 3e-2, 1e-2, 3e-3)
) -> TaylorTest:
    """Return how far first-order predictions are from what happens, as the step shrinks.

    In float32 rounding hides small steps.

    Args:
        flow: where the step is taken.
        update: ``g`` ``[M]``, a vector of the parameter space.
        etas: the step sizes, relative to the norm of the update.

    Raises:
        ArgumentError: for fewer than two step sizes, one that is not positive, or a zero update.

    Examples:
        >>> import kpframe, torch
        >>> generator = torch.manual_seed(0)
        >>> x = torch.randn(2, 5, 3, dtype=torch.float64)
        >>> flow = kpframe.linearize(kpframe.wrap(torch.nn.RNNCell(3, 4).double()), x)
        >>> test = kpframe.gradient_flow.taylor_test(flow, torch.ones(36, dtype=torch.float64))
        >>> round(test.slope, 1)  # errors fall with the square of the step
        2.0
    """
    if len(etas) < 2 or any(not eta > 0 for eta in etas):
        raise ArgumentError(mismatch("etas", "two or more positive step sizes", etas))
    size = norm(update)
    if not size > 0:
        raise ArgumentError(mismatch("update", "a vector other than zero", f"norm {size}"))
    scale = unit_of(update)
    unit = divided(update, scale) / (size / scale)
    errors, changes = [], []
    for eta in etas:
        actual = actual_change(flow, unit, eta)
        errors.append(norm(actual - predicted_change(flow, unit, eta), flow.P.domain.shards))
        changes.append(norm(actual, flow.P.domain.shards))
    x = torch.tensor(etas, dtype=torch.float64, device="cpu").log()
    y = torch.tensor(errors, dtype=torch.float64, device="cpu").clamp(min=1e-300).log()
    x = x - x.mean()
    return TaylorTest(
        tuple(etas), tuple(errors), tuple(changes), float((x * (y - y.mean())).sum() / (x * x).sum())
    )


def cross_flow(test: Flow, train: Flow) -> Operator:
    """Return ``(P J)_test (P J)_train*``: how learning from the trials of ``train`` moves those of ``test``.

    Raises:
        SpaceMismatchError: when the two flows do not have the same parameters.
    """
    check_flow(test, "test")
    check_flow(train, "train")
    if test.J.domain != train.J.domain:
        raise SpaceMismatchError(
            mismatch("train", f"a flow with the parameters ({test.J.domain})", f"({train.J.domain})")
        )
    return test.P @ test.J @ train.J.T @ train.P.T


@in_isolation
def effective_dimension(y: torch.Tensor, space: Space | None = None) -> float:
    """Return ``tr(C)^2 / tr(C^2)`` of ``C = Sum_{b,t} y_bt y_bt^T``, the Gram matrix over units.

    For ``y = K v`` or ``Phi v`` it counts the directions in which learning moves the state: few of them
    is the simplicity bias of gradient descent.

    Args:
        y: ``[B, T, H]``.
        space: the state space of the flow, ``flow.P.domain``, where trials are sharded over ranks.

    Raises:
        ArgumentError: when ``y`` is zero, which has no dimension.
        NonFiniteError: when it holds NaN or infinity.
    """
    shards = None if space is None else space.shards
    check = partial(check_finite, y, "y", space)
    check() if shards is None else shards.together(check)
    if not (bool(y.any()) if shards is None else shards.any(bool(y.any()))):
        raise ArgumentError(mismatch("y", "a state vector other than zero", "zero"))
    rows = divided(y, unit_of(y, shards=shards)).reshape(-1, y.shape[-1])
    if shards is not None:
        gram = shards.sum(rows.mT @ rows)
        return float(gram.trace()) ** 2 / float((gram * gram).sum())
    # Y Y^T and Y^T Y have the same eigenvalues but for zeros: the smaller one
    gram = rows.mT @ rows if rows.shape[1] <= rows.shape[0] else rows @ rows.mT
    return float(gram.trace()) ** 2 / float((gram * gram).sum())


def _update(flow: Flow, rule: LearningRule | None, readout: Readout | None) -> Update:
    if rule is None:
        return Update.exact(flow, readout)
    rule.check_linear()
    return rule.update(flow, readout)
