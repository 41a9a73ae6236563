"""How states and outputs changed since the step recorded before, beside what was predicted of it."""

from __future__ import annotations

import numpy as np
import torch
import xarray as xr
from attrs import frozen

from kpframe.errors import ArgumentError, mismatch
from kpframe.flow._named_parameters import join_parameters
from kpframe.operators._scale import norm
from kpframe.operators._spaces import Space, tell_apart
from kpframe.rules._update import Update
from kpframe.study._moment import Moment
from kpframe.study._quantities.dims import attributes, time_coordinate, trial_coordinate
from kpframe.study._quantities.existing import DIMS, Compared, Kept
from kpframe.study._quantity import Quantity
from kpframe.study._scores import SCORES
from kpframe.tasks._error import task_loss
from kpframe.tasks._readout import Readout

STATES, OUTPUTS = "states", "outputs"
LINEAR, FLOW = "linearisation", "gradient flow"

_TEXTS = {
    "change_norm": "norm of the change since the step recorded before",
    "change_cosine": "cosine of the predicted change with the actual one",
    "change_norm_ratio": "|predicted change| / |actual change|",
    "change_error": "|actual - predicted change| / |actual change|",
}
_PREDICTED = tuple(name for name in _TEXTS if name != "change_norm")
_KEPT: tuple[Kept, ...] = ("whole", "time", "trial")


class PredictedChange(Quantity):
    """The change of the states, and of the outputs, since the step recorded before, and two predictions.

    - ``linearisation``: to first order at the step before, from how the parameters changed:
      ``dh = G (theta - theta_before)``, and ``dy = W dh + dW h + db`` with the readout's own change.
    - ``gradient flow``: from the network before alone, ``dh = -eta n Phi Err`` for n updates of learning rate
      eta on these very trials, and the readout along its own gradient. That is what plain gradient descent
      would do; for other optimisers and trials the cosine says how near they come. Where eta is not known,
      only the cosine is there. It needs a readout and targets.

    Changes are compared as wholes, by time and by trial, at the steps that exist. NaN where nothing has
    changed and at the first recorded step; ``change_reason`` says why. A change is a difference of two
    roll-outs: in float32 it is known to about 1e-7 of the states, which tells for very small ones.
    """

    on_ranks = "all"

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return the figures, with dims ``change_of``, ``prediction``, ``time`` and ``trial``.

        Raises:
            ArgumentError: where the step before had other parameters.
        """
        of, predictions = _parts(moment)
        batch, time = moment.whole_probe.inputs.shape[:2]
        sizes = {"change_of": len(of), "prediction": len(predictions), "time": time, "trial": batch}
        data = xr.Dataset(
            coords={
                "change_of": ("change_of", of, attributes("what changed")),
                "prediction": ("prediction", predictions, attributes("what predicts the change")),
                "time": time_coordinate(moment),
                "trial": trial_coordinate(moment),
                **moment.trial_coordinates(),
            }
        )
        for name, text in _TEXTS.items():
            own = ("prediction",) if name in _PREDICTED else ()
            for kept in _KEPT:
                dims = (*own, "change_of", *DIMS[kept])
                about = f"{text}, {'as a whole' if kept == 'whole' else f'by {kept}'}"
                empty = np.full([sizes[dim] for dim in dims], np.nan)
                data[_named(name, kept)] = (dims, empty, attributes(about))
        data["parameter_change_norm"] = ((), np.nan, attributes("norm of the change of the parameters"))
        if FLOW in predictions:
            assert moment.around.loss is not None
            unit, nothing = SCORES[moment.around.loss].loss_unit, np.full(len(predictions), np.nan)
            first_order = attributes("change of the loss to first order along the predicted change", unit)
            data["loss_change"] = ((), np.nan, attributes("change of the loss on these trials", unit))
            data["loss_change_predicted"] = ("prediction", nothing, first_order)
        reason = _fill(data, moment)
        data["change_reason"] = ((), np.array(reason, dtype=object), attributes("why figures of change lack"))
        return data


def _named(name: str, kept: Kept) -> str:
    return name if kept == "whole" else f"{name}_by_{kept}"


def _parts(moment: Moment) -> tuple[list[str], list[str]]:
    """Return what changes, and what predicts it, for what is known of a moment."""
    if moment.readout is None:
        return [STATES], [LINEAR]
    targets = moment.around.loss is not None and moment.probe.trials is not None
    return [STATES, OUTPUTS], [LINEAR, FLOW] if targets else [LINEAR]


@frozen(eq=False)
class _Change:
    """Changes ``[B, T, H]`` of the states and ``[B, T, O]`` of the outputs, None without a readout."""

    states: torch.Tensor
    outputs: torch.Tensor | None = None

    def of(self, name: str) -> torch.Tensor:
        found = self.states if name == STATES else self.outputs
        assert found is not None  # outputs are asked for where there is a readout
        return found


def _fill(data: xr.Dataset, moment: Moment) -> str:
    """Write the figures into a dataset of NaN; return why there are none, empty where there are."""
    before = moment.previous
    if before is None:
        return "no step was recorded before"
    space = before.flow.J.domain
    moved = _parameter_change(before, moment, space)
    actual = _actual(before, moment)
    predicted, known = {LINEAR: _linear(before, moment, moved)}, {LINEAR: True}
    data["parameter_change_norm"][()] = norm(moved)
    if FLOW in data.prediction:
        rate = moment.learning_rate if before.learning_rate is None else before.learning_rate
        known[FLOW] = rate is not None
        predicted[FLOW] = _descent(before, (rate or 1.0) * (moment.step - before.step))
        data["loss_change"][()] = _loss(moment) - _loss(before)
    same = []
    for part, of in enumerate(data.change_of.values.tolist()):
        for place, (name, change) in enumerate(predicted.items()):
            compared = Compared(actual.of(of), change.of(of), moment)
            for kept in _KEPT:
                data[_named("change_norm", kept)][part] = compared.norm(kept)
                data[_named("change_cosine", kept)][place, part] = compared.cosine(kept)
                if known[name]:
                    data[_named("change_norm_ratio", kept)][place, part] = compared.ratio(kept)
                    data[_named("change_error", kept)][place, part] = compared.error(kept)
        if not float(data["change_norm"][part]) > 0:
            same.append(of)
    if FLOW in predicted:
        for place, (name, change) in enumerate(predicted.items()):
            if known[name]:
                along = before.output_err.double() * change.of(OUTPUTS).double()
                data["loss_change_predicted"][place] = float(moment.summed(along.sum()))
    reasons = [f"no change of {' and '.join(same)} since step {before.step}"] if same else []
    if not all(known.values()):
        reasons.append("no size of the gradient flow, as the learning rate is not known")
    return "; ".join(reasons)


def _parameter_change(before: Moment, moment: Moment, space: Space) -> torch.Tensor:  # [M]
    other = moment.flow.J.domain
    if other != space:
        then, now = tell_apart(space, other)
        raise ArgumentError(mismatch("moment", f"the parameters of step {before.step} ({then})", f"({now})"))
    values = [join_parameters(space, one.flow.model.trainable()).detach() for one in (moment, before)]
    return values[0] - values[1]


def _actual(before: Moment, moment: Moment) -> _Change:
    now, then = moment.flow.trajectory.states, before.flow.trajectory.states
    if moment.readout is None or before.readout is None:
        return _Change(now - then)
    with torch.no_grad():
        return _Change(now - then, moment.readout(now) - before.readout(then))


def _linear(before: Moment, moment: Moment, moved: torch.Tensor) -> _Change:
    """Return the change to first order, from that of the parameters."""
    states = before.flow.G(moved)
    if moment.readout is None or before.readout is None:
        return _Change(states)
    now, then = moment.readout, before.readout
    with torch.no_grad():
        weight, bias = now.full_weight() - then.full_weight(), now.bias - then.bias
    return _through(then, states, before.flow.trajectory.states, weight, bias)


def _descent(before: Moment, size: float) -> _Change:
    """Return the change along the gradients of the network and of the readout, for a step of that size."""
    readout, e = before.readout, before.output_err
    assert readout is not None  # the error comes through it
    err = Update.exact(before.flow, readout).incoming(output_err=e)
    h = before.flow.trajectory.states
    weight = torch.zeros_like(readout.full_weight())
    if readout.weight.requires_grad:
        weight[:, readout.hidden] = -size * before.summed(
            torch.einsum("bto,bth->oh", e, h[..., readout.hidden])
        )
    bias = (
        -size * before.summed(e.sum(dim=(0, 1))) if readout.bias.requires_grad else torch.zeros_like(e[0, 0])
    )
    return _through(readout, -size * before.flow.Phi(err), h, weight, bias)


def _through(
    readout: Readout, states: torch.Tensor, h: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor
) -> _Change:
    """Return a change of the states with that of the outputs, ``dy = W dh + dW h + db``."""
    with torch.no_grad():
        return _Change(states, states @ readout.full_weight().mT + h @ weight.mT + bias)


def _loss(moment: Moment) -> float:
    """Return the loss on the trials, in float64: differences of it are looked at."""
    assert moment.readout is not None
    assert moment.around.loss is not None
    with torch.no_grad():
        outputs = moment.every_trial(moment.readout(moment.flow.trajectory.states)).double()
        return float(task_loss(outputs, moment.whole_trials.to(dtype=torch.float64), moment.around.loss))
