"""Figures of recorded data as matplotlib ``Axes``; matplotlib is loaded with this module."""

from kpframe.errors import MissingDependencyError

try:
    from kpframe.study._plot.operators import effective_ranks, eigenfunctions, spectrum, trial_kernels
    from kpframe.study._plot.rules import (
        cosines_by_time,
        flow_spectra,
        lags,
        pairs,
        rule_cosines,
        rule_geometry,
        rules,
    )
    from kpframe.study._plot.source import figures_of
    from kpframe.study._plot.training import learning, rule_losses
except ModuleNotFoundError as error:
    raise MissingDependencyError(f"figures need {error.name}: pip install 'kpframe[study]'") from error

__all__ = [
    "cosines_by_time",
    "effective_ranks",
    "eigenfunctions",
    "figures_of",
    "flow_spectra",
    "lags",
    "learning",
    "pairs",
    "rule_cosines",
    "rule_geometry",
    "rule_losses",
    "rules",
    "spectrum",
    "trial_kernels",
]
