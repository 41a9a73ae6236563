"""Learning rules beside the exact gradient, on one network."""

from __future__ import annotations

import math

import numpy as np
import torch
import xarray as xr

from kpframe.errors import told
from kpframe.operators._scale import cosine, norm
from kpframe.rules._rule import LearningRule
from kpframe.rules._update import Update
from kpframe.spectra import alignment
from kpframe.study._moment import Moment
from kpframe.study._quantities.dims import attributes, require
from kpframe.study._quantity import Quantity
from kpframe.study._rules.compare import flow_of, formula_of

_TEXTS = {
    "gradient_cosine": "cosine of the rule's update with the exact gradient",
    "loss_rate_ratio": "rate of descent of the loss, relative to the exact gradient's",
    "flow_alignment": "alignment of the rule's flow with Phi",
    "flow_alignment_stderr": "standard error of the alignment",
}


class Rules(Quantity):
    """What each learning rule would do to the network, beside the exact gradient, ``[rule]``.

    A rule that raises an error costs its own figures, which are then NaN; ``failure`` says why.
    """

    needs = ("rules", "readout", "targets")
    on_ranks = "all"

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return the figures; the rules draw from ``moment.generator(100)``, ``(101)``, ..."""
        require(moment, self.needs)
        assert moment.readout is not None
        exact = Update.exact(moment.flow, moment.readout).output_operator(moment.output_err)
        rows: list[tuple[float, ...]] = []
        formulas: list[str] = []
        failures: list[str] = []
        for place, rule in enumerate(moment.around.rules.values()):
            try:
                row, formula = _figures(moment, exact, rule, 100 + place)
                failure = ""
            except Exception as error:  # it costs the rule's own figures
                if moment.shards is not None:
                    raise  # ranks go on together: rank 0 measures alone, and tells it as one process does
                row, formula, failure = (math.nan,) * len(_TEXTS), "", told(error)
            rows.append(row)
            formulas.append(formula)
            failures.append(failure)
        columns = zip(_TEXTS.items(), np.array(rows).T, strict=True)
        data = xr.Dataset({name: ("rule", column, attributes(text)) for (name, text), column in columns})
        why = attributes("why a rule has no figures")
        data["failure"] = ("rule", np.array(failures, dtype=object), why)
        return data.assign_coords(
            rule=("rule", list(moment.around.rules), attributes("learning rule")),
            formula=("rule", np.array(formulas, dtype=object), attributes("the rule's flow")),
        )


def _figures(
    moment: Moment, exact: torch.Tensor, rule: LearningRule, place: int
) -> tuple[tuple[float, ...], str]:
    """Return a rule's figures, in the order of ``_TEXTS``, and how its flow prints."""
    assert moment.readout is not None
    made = rule.update(moment.flow, moment.readout)
    update, own_flow = made.output_operator(moment.output_err), flow_of(made)
    likeness = (math.nan, math.nan)
    if own_flow is not None:
        source = moment.generator(place)
        found = alignment(own_flow, moment.flow.Phi, budget=moment.around.budget, generator=source)
        likeness = (float(found.value), float(found.stderr))
    shards = moment.shards
    angle, size = cosine(update, exact, shards), norm(exact, shards)
    # descent of the loss per unit step, as a share of what the exact gradient reaches
    rate = angle * norm(update, shards) / size if size else math.nan
    return (angle, rate, *likeness), formula_of(made)
