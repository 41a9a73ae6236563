"""What bars, bands and ± on the page of a run are, in words."""

from __future__ import annotations

import xarray as xr

from kpframe.study._over_seeds import stderr_of_mean
from kpframe.study._plot.grouped import Grouped


def stderr(values: xr.DataArray, errors: xr.DataArray | None) -> xr.DataArray | None:
    """Return standard errors in the sense of all pages; None where there are none."""
    if "seed" not in values.dims:
        return errors
    return stderr_of_mean(values, "seed")


def covered(run: Grouped) -> str:
    """Return what bars and errors of a run are."""
    if run.several:
        seeds = ", ".join(str(seed) for seed in run.seeds)
        return (
            f"Means over the seeds {seeds}; bars are 95% intervals by Student's t over the seeds. A figure "
            "that one seed alone has stands without a bar."
        )
    return (
        "One seed: bars are 95% intervals of the estimates alone, for these networks along these trials, and "
        "say nothing of other seeds; figures without a bar are exact or have no standard error."
    )


def errors_are(run: Grouped) -> str:
    """Return what ± stands for in the tables of a run."""
    if run.several:
        seeds = ", ".join(str(seed) for seed in run.seeds)
        return (
            f"Means over the seeds {seeds}. ± is the standard error of the mean over the seeds, widened so "
            "that 1.96 times it is the 95% interval by Student's t; it is infinite for a figure of one seed."
        )
    return (
        "One seed: ± is the standard error of the estimate alone, for these networks along these trials; it "
        "says nothing of other seeds. A figure without it is exact or has none."
    )
