"""The trace of a square operator."""

from __future__ import annotations

from collections.abc import Callable

import torch

from kpframe.operators import Operator
from kpframe.operators._isolation import in_isolation
from kpframe.operators._memory import chunk_size
from kpframe.spectra._arguments import check_budget, check_name, check_rtol, check_square
from kpframe.spectra._estimate import Estimate, within_budget
from kpframe.spectra._numerics.matvecs import Matvecs, Sampler
from kpframe.spectra._numerics.one_sided import one_sided_first, trace_of_moments
from kpframe.spectra._numerics.ranks import basis_rows, trace_of
from kpframe.spectra._numerics.small_side import WHERE, SmallSide, small_side
from kpframe.spectra._traces.hutchinson import hutchinson
from kpframe.spectra._traces.hutchpp import hutchpp
from kpframe.spectra._traces.xnystrace import xnystrace
from kpframe.spectra._traces.xtrace import xtrace

#: The methods by name: from probes and products, within a budget, to a value and its standard error.
METHODS: dict[str, Callable[[Sampler, int], tuple[float, float]]] = {
    "hutchinson": hutchinson,
    "hutchpp": hutchpp,
    "xnystrace": xnystrace,
    "xtrace": xtrace,
}


@in_isolation
def trace(
    op: Operator,
    *,
    budget: int = 60,
    rtol: float | None = None,
    method: str = "auto",
    generator: torch.Generator | None = None,
    max_budget: int | None = None,
) -> Estimate:
    """Estimate the trace of a square operator from its products.

    ``auto`` takes XNysTrace for operators tagged positive (relative error around 1e-3 with 60 products
    where eigenvalues decay fast), else XTrace; ``xnystrace``, ``xtrace``, ``hutchpp`` and ``hutchinson``
    may be named.
    With an ``rtol``, ``auto`` first tries products with X* alone of an operator known as X X* (K = J J*,
    Phi = G G*), half of a product each, and takes them where ``budget`` is enough ("one-sided").
    A budget of at least the dimension gives the exact value from basis vectors, whatever the method; so does
    one of at least that of a smaller space through which the operator is known to go, as Phi = G M G* through
    the parameters (``method``: "exact, on the small side").

    Args:
        op: a square operator.
        budget: number of operator products; 1 gives a value with infinite ``stderr``.
        rtol: when given, the budget is doubled until ``stderr <= rtol * |value|``, the exact value is
            cheaper, or ``max_budget`` (default 16 times the budget) is reached, which ``method`` then says.
        method: the estimator's name.
        generator: the source of the probes; None: a new one with seed 0.
        max_budget: bound for ``rtol``, in products.

    Raises:
        ArgumentError: for a budget, tolerance, method or generator that cannot be used.
        SpaceMismatchError: when the operator is not square.
        NonFiniteError: when a product is not finite.

    Sources: Hutchinson 1990; Hutch++: Meyer, Musco, Musco, Woodruff 2021; XTrace and XNysTrace: Epperly,
    Tropp, Webber 2024; one-sided: arXiv 2511.10796.

    Examples:
        >>> import kpframe, torch
        >>> op = kpframe.DiagonalOperator(1 / torch.arange(1.0, 1001.0) ** 2)
        >>> kpframe.trace(op, budget=60)
        1.64... ± 0.00... (xnystrace, 60 products)
        >>> exact = kpframe.trace(op, budget=1000)
        >>> exact.exact, round(exact.value, 4)
        (True, 1.6439)
    """
    check_square(op, "trace")
    budget, max_budget = check_budget(budget, max_budget)
    rtol = check_rtol(rtol)
    check_name(method, ("auto", *METHODS), "method")
    shared = {"budget": budget, "rtol": rtol, "method": method, "max_budget": max_budget}
    source = Sampler(op, generator, shared=shared)
    side = small_side(op)

    def estimate(num_products: int) -> Estimate:
        name = method
        if name == "auto":
            name = "xnystrace" if op.positive else "xtrace"
            if num_products < (2 if name == "xnystrace" else 4):
                name = "hutchinson"
        value, stderr = METHODS[name](source, num_products)
        rounding = 8 * torch.finfo(op.dtype).eps * abs(value)
        unit = source.matvec.unit
        return Estimate(unit * value, unit * max(stderr, rounding), source.count, name)

    exact_cost = op.domain.dimension if side is None else side.dimension

    def rest() -> Estimate:
        return within_budget(
            estimate,
            lambda: exact_trace(op) if side is None else _trace_of(side),
            budget=budget,
            exact_cost=exact_cost,
            rtol=rtol,
            max_budget=max_budget,
        )

    if method != "auto" or budget >= exact_cost:
        return rest()
    return one_sided_first(op, source.generator, trace_of_moments, rest, rtol=rtol, budget=budget)


def _trace_of(side: SmallSide) -> Estimate:
    return Estimate(side.eigenvalues.sum(), 0.0, side.dimension, f"exact, {WHERE}")


@in_isolation
def exact_trace(op: Operator) -> Estimate:
    """Return the trace from products with the basis, which is never held as a whole."""
    matvec = Matvecs(op, plain=True)
    space = op.domain
    dimension = space.dimension
    total = 0.0
    step = chunk_size(op, max(1, dimension))
    for start in range(0, dimension, step):
        stop = min(start + step, dimension)
        total += trace_of(matvec(basis_rows(space, start, stop, op)), space, start, stop)
    whole = space.sum(torch.tensor(total, dtype=torch.float64, device=op.device))
    return Estimate(whole, 0.0, matvec.count, "exact")
