"""What a network scores on test trials."""

from __future__ import annotations

import xarray as xr

from kpframe.study._moment import Moment
from kpframe.study._quantities.dims import attributes, require
from kpframe.study._quantity import Quantity
from kpframe.study._scores import SCORES, scores_of


class Scores(Quantity):
    """Loss on test trials, and accuracy or R^2: ``test_loss``, and ``test_accuracy`` or ``test_r2``."""

    needs = ("readout", "test")
    of_network = True

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return the two figures."""
        require(moment, self.needs)
        loss, test, readout = moment.around.loss, moment.around.test, moment.readout
        assert loss is not None
        assert test is not None
        assert readout is not None
        test_loss, value = scores_of(moment.model, readout, test, loss)
        score = SCORES[loss]
        return xr.Dataset(
            {
                "test_loss": ((), test_loss, attributes("test loss", score.loss_unit)),
                score.variable: ((), value, attributes(score.text)),
            }
        )
