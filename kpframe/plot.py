"""Figures of recorded data, and of one operator, as matplotlib ``Axes``.

Figures of a run share what is said here. Each returns the panels it has drawn, an array of ``Axes`` of shape
``[rows, columns]``, or its only ``Axes`` where it takes ``ax``. They take:

- ``data``: a run: its folder, what ``kpframe.open_run`` returns, or a dataset of it.
- ``axes``: to draw on, as many as there are panels, row by row; a new figure when left out.
- ``ax``: to draw on, of a figure of one panel; a new figure when left out.
- ``panels``: dims each of whose places has a panel; places of the others are lines.
- ``step_axis``: ``"true"``, or ``"index"`` for steps evenly spaced.
- ``selection``: labels of dims, one or several: ``step=1000``, ``operator=["K", "Phi"]``; and ``label``, the
  name that a study gave the quantity.

Raises:
    ArgumentError: for data that do not have what the figure is made of; says which quantity records it. For
        labels that are not there, and for another number of ``axes`` than there are panels.
"""

from kpframe.errors import MissingDependencyError

try:
    from kpframe.study._plot.alignments import alignment_maps, alignments, operator_alignments
    from kpframe.study._plot.departures import (
        cut_losses,
        estimator_errors,
        kernel_changes,
        limit_errors,
        signal_dimensions,
        truncation_errors,
    )
    from kpframe.study._plot.dynamics import (
        finite_time_exponents,
        lyapunov_exponents,
        mean_finite_time_exponents,
        random_action,
        routing,
    )
    from kpframe.study._plot.either import eigenfunctions, spectrum
    from kpframe.study._plot.forecast import forecast, forecasts_ahead, stable_rate
    from kpframe.study._plot.learning import (
        contributions,
        contributions_by_epoch,
        contributions_by_time,
        contributions_by_trial,
        credit,
        credit_by_lag,
        interference,
        parameters,
        predicted_changes,
        propagator_similarities,
    )
    from kpframe.study._plot.operator import matrix
    from kpframe.study._plot.operators import effective_ranks, norms, time_kernels, traces, trial_kernels
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
    from kpframe.study._plot.states import state_dimensions, trajectories, variance_explained
    from kpframe.study._plot.sweeps import curves, heat_maps, series, sweep
    from kpframe.study._plot.training import learning, losses, losses_by_epoch, losses_by_time, scores
    from kpframe.study._plot.views import view_alignments, views
except ModuleNotFoundError as error:
    raise MissingDependencyError(f"figures need {error.name}: pip install 'kpframe[study]'") from error

__all__ = [
    "alignment_maps",
    "alignments",
    "contributions",
    "contributions_by_epoch",
    "contributions_by_time",
    "contributions_by_trial",
    "cosines_by_time",
    "credit",
    "credit_by_lag",
    "curves",
    "cut_losses",
    "effective_ranks",
    "eigenfunctions",
    "estimator_errors",
    "figures_of",
    "finite_time_exponents",
    "flow_spectra",
    "forecast",
    "forecasts_ahead",
    "heat_maps",
    "interference",
    "kernel_changes",
    "lags",
    "learning",
    "limit_errors",
    "losses",
    "losses_by_epoch",
    "losses_by_time",
    "lyapunov_exponents",
    "matrix",
    "mean_finite_time_exponents",
    "norms",
    "operator_alignments",
    "pairs",
    "parameters",
    "predicted_changes",
    "propagator_similarities",
    "random_action",
    "routing",
    "rule_cosines",
    "rule_geometry",
    "rules",
    "scores",
    "series",
    "signal_dimensions",
    "spectrum",
    "stable_rate",
    "state_dimensions",
    "sweep",
    "time_kernels",
    "traces",
    "trajectories",
    "trial_kernels",
    "truncation_errors",
    "variance_explained",
    "view_alignments",
    "views",
]
