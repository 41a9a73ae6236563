"""The Frobenius norm of an operator."""

from __future__ import annotations

import math

import torch

from kpframe.operators import Operator
from kpframe.operators._isolation import in_isolation
from kpframe.operators._memory import chunk_size
from kpframe.operators._scale import norm
from kpframe.spectra._arguments import check_budget, check_name, check_operator, check_rtol
from kpframe.spectra._estimate import Estimate, within_budget
from kpframe.spectra._numerics.gram import Gram, moments
from kpframe.spectra._numerics.matvecs import Matvecs, Sampler
from kpframe.spectra._numerics.one_sided import norm_of_moments, one_sided_first
from kpframe.spectra._numerics.ranks import basis_rows, row_dots
from kpframe.spectra._numerics.statistics import TINY, jackknife

METHODS = ("auto", "nystrom", "hutchinson")


@in_isolation
def frobenius_norm(
    op: Operator,
    *,
    budget: int = 60,
    rtol: float | None = None,
    method: str = "auto",
    generator: torch.Generator | None = None,
    max_budget: int | None = None,
) -> Estimate:
    """Estimate the Frobenius norm of any operator from its products.

    ``nystrom`` (the default) takes a leave-one-out Nystrom sketch: of a positive operator, |A|^2 with one
    product a probe, else tr(A A*) with two. ``hutchinson`` is the root of the mean of |A z|^2, one product
    a probe and no adjoint; it serves below two probes of the other. With an ``rtol``, ``auto`` first tries
    products with X* alone of an operator known as X X* (K = J J*, Phi = G G*), half of a product each, and
    takes them where ``budget`` is enough ("one-sided"). The bias of the root is removed by the
    jackknife. A budget of at least the smaller dimension gives the exact value, also that of an inner space
    through which the operator is known to go (``method``: "exact, on the small side").

    Args:
        op: any operator.
        budget: number of operator products; 1 gives a value with infinite ``stderr``.
        rtol: when given, the budget is doubled as in ``trace``.
        method: ``auto``, ``nystrom`` or ``hutchinson``.
        generator: the source of the probes; None: a new one with seed 0.
        max_budget: bound for ``rtol``, in products.

    Raises:
        ArgumentError: for a budget, tolerance, method or generator that cannot be used.
        NonFiniteError: when a product is not finite.

    Sources: Epperly, Tropp, Webber 2024 (the sketch, here for A^2 too); Hutchinson 1990; one-sided: arXiv
    2511.10796.

    Examples:
        >>> import kpframe, torch
        >>> op = kpframe.DiagonalOperator(torch.tensor([3.0, 4.0]))
        >>> kpframe.frobenius_norm(op, budget=2)
        5 ± 0 (exact, 2 products)
    """
    check_operator(op)
    budget, max_budget = check_budget(budget, max_budget)
    rtol = check_rtol(rtol)
    check_name(method, METHODS, "method")
    gram = Gram(op)
    shared = {"budget": budget, "rtol": rtol, "method": method, "max_budget": max_budget}
    single, paired = Sampler(op, generator, shared=shared), gram.sampler(generator)

    def estimate(num_products: int) -> Estimate:
        # |A|^2 = tr(A* A) = E |A z|^2 (Hutchinson 1990, for A* A); or from a sketch of G, |A|^2 = |G|_F^2 for
        # G = A, and tr G for G = A A*. The root of a mean is too low on average, as the root is concave.
        num = num_products // gram.weight
        if method == "hutchinson" or num < 2:
            _, images = single.products(num_products, "gaussian")
            squares = row_dots(images, images, op.codomain)[:, None]
            value, stderr = jackknife(squares, _root)
            unit, name = single.matvec.unit, "hutchinson"
        else:
            value, stderr = moments(paired, num).estimate(_root if gram.weight == 2 else _root_of_square)
            unit, name = gram.unit, "nystrom"
        return Estimate(unit * value, unit * stderr, single.count + paired.count, name)

    def rest() -> Estimate:
        return within_budget(
            estimate,
            lambda: _norm_of(gram) if gram.small else exact_norm(op),
            budget=budget,
            exact_cost=gram.exact_cost,
            rtol=rtol,
            max_budget=max_budget,
        )

    if method != "auto" or gram.weight == 2 or budget >= gram.exact_cost:
        return rest()
    return one_sided_first(op, single.generator, norm_of_moments, rest, rtol=rtol, budget=budget)


def _root(means: torch.Tensor) -> torch.Tensor:
    return means[..., 0].clamp(min=TINY).sqrt()


def _root_of_square(means: torch.Tensor) -> torch.Tensor:
    return means[..., 1].clamp(min=TINY).sqrt()


def _norm_of(gram: Gram) -> Estimate:
    value, count = gram.exact_norm()
    return Estimate(value, 0.0, count, gram.exact)


@in_isolation
def exact_norm(op: Operator) -> Estimate:
    """Return the norm from products with the basis of the smaller side, never held as a whole."""
    matvec = Matvecs(op, plain=True)
    by_rows = op.codomain.dimension < op.domain.dimension
    space, other = (op.codomain, op.domain) if by_rows else (op.domain, op.codomain)
    size, total = space.dimension, 0.0
    step = chunk_size(op, max(1, size))
    for start in range(0, size, step):
        rows = basis_rows(space, start, min(start + step, size), op)
        out = matvec.adjoint(rows) if by_rows else matvec(rows)
        total = math.hypot(total, norm(out))
    if other.shards is not None:  # in units of the rank with most of it
        unit = float(other.shards.max(torch.tensor(total, dtype=torch.float64, device=op.device))) or 1.0
        shares = torch.tensor(total / unit, dtype=torch.float64, device=op.device).square()
        total = unit * math.sqrt(float(other.shards.sum(shares)))
    return Estimate(total, 0.0, matvec.count, "exact")
