"""How far estimates of traces and effective ranks are from the exact values, by method and by cost."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
import xarray as xr

from kpframe.errors import ArgumentError, mismatch
from kpframe.operators._base import Operator
from kpframe.plugin._core_quantities import EstimatorSettings
from kpframe.plugin._takes import takes_settings
from kpframe.spectra import effective_rank, trace
from kpframe.study._moment import Moment
from kpframe.study._quantities.dims import attributes, operator_coordinate
from kpframe.study._quantities.draws import root_mean, signs
from kpframe.study._quantity import Quantity

#: The place of the random probes among a moment's sources of random numbers.
PLACE = 240

#: Estimates a figure from products with an operator, given a number of them and a source of probes.
Estimator = Callable[[Operator, int, torch.Generator], float]


class EstimatorError(Quantity):
    """Root mean square errors, relative to the exact values, ``[operator, method, budget]``.

    Traces, ``trace_error`` by ``trace_method``: the methods of ``kpframe.trace``, and ``one_sided``, the mean
    of ``|X* z|^2`` over random signs z for an operator ``X X*``. It takes products with ``X*`` alone, each
    counted as half a product with the operator: a budget buys twice as many probes.

    Effective ranks ``tr^2 / tr(op^2)``, ``rank_error`` by ``rank_method``: ``nystrom``, that of
    ``kpframe.effective_rank``; ``two_sided``, from means of ``<z, op z>`` and ``|op z|^2``; ``one_sided``,
    from ``C_ij = <X* z_i, X* z_j>`` alone, means of ``C_ii`` and of ``C_ij^2`` for i other than j.

    The operator's matrix is formed once, exactly, and products come from it: the errors are those of the
    methods. A budget of at least the dimension gives the methods of ``kpframe`` the exact value. NaN for an
    operator that is zero.

    Sources: as in ``kpframe.trace``; one-sided estimators: Hazelden 2025, arXiv 2511.10796.
    """

    # by rank 0 alone on several ranks: its products are with a matrix, which no rank has less work with

    @takes_settings(EstimatorSettings)
    def __init__(self, settings: EstimatorSettings) -> None:
        self.settings = settings

    def check(self, moment: Moment) -> None:
        """Raise ``ArgumentError`` where there is nothing to estimate, and as ``measure``."""
        if not (self.settings.methods or self.settings.rank_methods) or not self.settings.budgets:
            raise ArgumentError(mismatch("methods, rank_methods, budgets", "a method and a budget", "none"))
        for name in moment.around.probes:
            self._affordable(moment.along(name))

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return the errors, their standard errors over the draws, and the exact values.

        Raises:
            ArgumentError: for an operator not known to be positive, and where the exact values would take
                more products than ``most``.
        """
        self._affordable(moment)
        settings, names = self.settings, list(moment.operators)
        budgets = sorted(set(settings.budgets))
        found: dict[str, list[np.ndarray]] = {"trace": [], "rank": []}
        exact: dict[str, list[float]] = {"trace": [], "rank": []}
        for place, operator in enumerate(moment.operators.values()):
            dense = operator.cached()
            dimension = operator.domain.size
            total = trace(dense, budget=dimension)
            rank = effective_rank(dense, budget=dimension)
            source = moment.generator(PLACE + place)
            for figure, truth, estimators in (
                ("trace", total.value, _chosen(TRACES, settings.methods)),
                ("rank", rank.value, _chosen(RANKS, settings.rank_methods)),
            ):
                exact[figure].append(truth)
                found[figure].append(
                    np.array(
                        [
                            [_error(one, dense, budget, settings.draws, source, truth) for budget in budgets]
                            for one in estimators
                        ]
                    ).reshape(len(estimators), len(budgets), 2)
                )
        data = xr.Dataset(
            coords={
                "operator": operator_coordinate(names),
                "budget": (
                    "budget",
                    budgets,
                    attributes("products with the operator that an estimate takes"),
                ),
            }
        )
        for figure, text, methods in (
            ("trace", "trace", settings.methods),
            ("rank", "effective rank tr^2 / tr(op^2)", settings.rank_methods),
        ):
            chosen = list(dict.fromkeys(methods))
            data[f"{figure}_exact"] = ("operator", exact[figure], attributes(f"exact {text}"))
            if not chosen:
                continue
            dim = f"{figure}_method"
            data = data.assign_coords({dim: (dim, chosen, attributes(f"how the {text} is estimated"))})
            rows, dims = np.stack(found[figure]), ("operator", dim, "budget")
            about = f"relative root mean square error of the estimated {text}"
            data[f"{figure}_error"] = (dims, rows[..., 0], attributes(about))
            data[f"{figure}_error_stderr"] = (
                dims,
                rows[..., 1],
                attributes(f"standard error of the {about}"),
            )
        return data

    def _affordable(self, moment: Moment) -> None:
        size = moment.flow.P.domain.size
        if size > self.settings.most:
            expected = f"at least {size}, the products with each operator that the exact values take"
            got = f"{self.settings.most}; or measure fewer trials"
            raise ArgumentError(mismatch("most", expected, got))
        for name, operator in moment.operators.items():
            if not operator.positive:
                expected = "operators that are positive by how they are made, such as 'P P*', K or Phi"
                raise ArgumentError(mismatch("operators", expected, repr(name)))


def _error(
    estimator: Estimator, op: Operator, budget: int, draws: int, source: torch.Generator, truth: float
) -> tuple[float, float]:
    """Return the relative root mean square error of an estimator, and its standard error."""
    if not truth:
        return np.nan, np.nan
    found = torch.tensor([estimator(op, budget, source) for _ in range(draws)], dtype=torch.float64)
    value, stderr = root_mean((found / truth - 1).square())
    return float(value), float(stderr)


def _chosen(estimators: dict[str, Estimator], names: Sequence[str]) -> list[Estimator]:
    return [estimators[name] for name in dict.fromkeys(names)]


def _probed(op: Operator, num: int, source: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Return random signs and the operator's products with them, ``[num, n]`` each, float64."""
    like = torch.empty(0, dtype=op.dtype, device=op.device)
    z = signs(source, num, *op.domain.shape, like=like)
    return z.flatten(start_dim=1).double(), op(z).flatten(start_dim=1).double()


def _trace_by(method: str) -> Estimator:
    def estimate(op: Operator, budget: int, source: torch.Generator) -> float:
        return trace(op, budget=budget, method=method, generator=source).value

    return estimate


def _one_sided_trace(op: Operator, budget: int, source: torch.Generator) -> float:
    z, y = _probed(op, 2 * budget, source)
    return float((z * y).sum(dim=1).mean())  # <z, X X* z> = |X* z|^2


def _nystrom_rank(op: Operator, budget: int, source: torch.Generator) -> float:
    return effective_rank(op, budget=budget, generator=source, of="op").value


def _two_sided_rank(op: Operator, budget: int, source: torch.Generator) -> float:
    z, y = _probed(op, budget, source)
    return float((z * y).sum(dim=1).mean().square() / y.square().sum(dim=1).mean())


def _one_sided_rank(op: Operator, budget: int, source: torch.Generator) -> float:
    z, y = _probed(op, 2 * budget, source)
    gram = z @ y.mT
    num = len(gram)
    squares = (gram.square().sum() - gram.diagonal().square().sum()) / (num * (num - 1))
    return float(gram.diagonal().mean().square() / squares)


TRACES: dict[str, Estimator] = {
    **{name: _trace_by(name) for name in ("hutchinson", "hutchpp", "xtrace", "xnystrace")},
    "one_sided": _one_sided_trace,
}
RANKS: dict[str, Estimator] = {
    "nystrom": _nystrom_rank,
    "two_sided": _two_sided_rank,
    "one_sided": _one_sided_rank,
}
