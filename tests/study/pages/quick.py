"""Checks of a page made of a dataset by hand, quick enough to run with one fault after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, partial
from importlib import import_module

import pytest
import xarray as xr
from matplotlib.figure import Figure

from kpframe.study._plot.source import NEEDS

from . import checks_comparison as compared
from . import checks_report as reported
from . import checks_training as trained
from .data import comparison, study, training
from .page import Page, page_of

#: The room of each page: its writer, and a dataset for it.
ROOMS: dict[str, tuple[str, Callable[[], xr.Dataset]]] = {
    reported.__name__: ("html:write_report", cache(study)),
    compared.__name__: ("comparison:write_comparison", cache(partial(comparison, 1))),
    trained.__name__: ("training:write_training", cache(training)),
}


@contextmanager
def one_figure(kept: str) -> Iterator[None]:
    """Draw one figure only, as most of the time goes into the others."""
    with pytest.MonkeyPatch.context() as patch:
        for name in ("either", "operators", "rules", "training"):
            module = import_module(f"kpframe.study._plot.{name}")
            for key, value in list(vars(module).items()):
                if key in NEEDS and callable(value) and key != kept:
                    patch.setattr(module, key, lambda *_: Figure().subplots())
        yield


def seen(check: Callable[[Page, xr.Dataset], None], figure: str = "") -> Callable[[], None]:
    """Return a check of its own page, in which one figure (of that function) is drawn or none."""
    where, data = ROOMS[check.__module__]
    module, _, writer = where.partition(":")

    def run() -> None:
        with one_figure(figure):
            check(page_of(getattr(import_module(f"kpframe.study._report.{module}"), writer), data()), data())

    return run


LEARNING = seen(reported.check_learning, "learning")
RANKS = seen(reported.check_ranks, "effective_ranks")
SPECTRA = seen(reported.check_spectra, "spectrum")
MODES = seen(reported.check_eigenfunctions, "eigenfunctions")
TRIALS = seen(reported.check_trials, "trial_kernels")
RULES = seen(reported.check_rules, "rules")
TABLES = seen(reported.check_tables)
LEAD = seen(reported.check_lead)
DEMO = seen(reported.check_terminal)

AGREEMENT = seen(compared.check_agreement, "rule_cosines")
LAGS = seen(compared.check_lags, "lags")
TIMES = seen(compared.check_times, "cosines_by_time")
PAIRS = seen(compared.check_pairs, "pairs")
FLOWS = seen(compared.check_spectra, "flow_spectra")
ROWS = seen(compared.check_tables)
COMPARE = seen(compared.check_terminal)

LOSSES = seen(trained.check_learning, "losses")
GEOMETRY = seen(trained.check_geometry, "rule_geometry")
RESULTS = seen(trained.check_results)
CHANGES = seen(trained.check_changes)
TRAIN = seen(trained.check_terminal)
