"""Effective ranks: how many directions an operator really uses."""

from __future__ import annotations

import math

import torch

from kpframe.errors import ArgumentError, mismatch
from kpframe.operators import Operator
from kpframe.operators._isolation import in_isolation
from kpframe.spectra._arguments import check_budget, check_name, check_operator, check_positive, check_rtol
from kpframe.spectra._estimate import Estimate, within_budget
from kpframe.spectra._numerics.gram import Gram, moments
from kpframe.spectra._numerics.one_sided import one_sided_first
from kpframe.spectra._numerics.probes import agreed, new_generator
from kpframe.spectra._numerics.spectral_measure import spectral_measure
from kpframe.spectra._numerics.statistics import TINY

KINDS = ("participation", "entropy", "threshold")
GRAMS = ("auto", "op", "op op*")


@in_isolation
def effective_rank(
    op: Operator,
    *,
    kind: str = "participation",
    threshold: float = 0.95,
    budget: int = 60,
    rtol: float | None = None,
    generator: torch.Generator | None = None,
    max_budget: int | None = None,
    of: str = "auto",
) -> Estimate:
    """Estimate an effective rank of an operator from its products.

    It is a rank of the eigenvalues of a positive operator G. **Which G decides the figure**: ``op op*`` has
    the squares of a positive operator's eigenvalues, so that its rank is lower, and the two are not to be
    compared. G is the operator itself where it is known to be positive (``op.positive``, from how it was
    built: ``K``, ``Phi``, ``A @ A.T``), and else ``op op*``; so for Phi and for its own dense matrix, whose
    positivity nothing shows, it may not be the same. ``method``, and with it the estimate's repr, says which
    it was: "participation of op", "participation of op op*"; ``of`` chooses it.

    With the eigenvalues of G normalised to sum to one (p):

    - ``participation``: tr(G)^2 / tr(G^2) = 1 / sum p^2. Both moments come from one leave-one-out Nystrom
      sketch (Epperly, Tropp, Webber 2024), one product of G a probe; the ratio's bias is removed. With an
      ``rtol``, of an operator known as X X* (K = J J*, Phi = G G*), products with X* alone are tried first,
      half of a product each, and serve where ``budget`` is enough for them (arXiv 2511.10796): ``method``
      then says "one-sided".
    - ``entropy``: exp(-sum p log p), and ``threshold``: the least number of eigenvalues that hold the share
      ``threshold`` of the trace. Below the dimension these need an estimated spectrum: half of the budget
      finds the leading eigenpairs, the rest sees what they leave through stochastic Lanczos quadrature
      (Ubaru, Chen, Saad 2017). ``stderr`` is the jackknife over the Lanczos probes and what changes when
      the quadrature is taken one step shorter. ``threshold`` is then not a whole number; its error includes
      that, and what the eigenvalues within the quadrature node that reaches the share may differ.

    A budget of at least the smaller dimension gives the exact value, also that of an inner space through
    which the operator is known to go, as Phi = G M G* through the parameters (``method`` says "on the small
    side"). A zero operator has rank 0.

    Args:
        op: any operator.
        kind: ``participation``, ``entropy`` or ``threshold``.
        threshold: the share of the trace, for ``threshold`` only.
        budget: number of operator products; a product of ``op op*`` costs two.
        rtol: when given, the budget is doubled as in ``trace``.
        generator: the source of the probes; None: a new one with seed 0.
        max_budget: bound for ``rtol``, in products.
        of: G: ``op``, which must be known to be positive, ``op op*``, or ``auto``, as above.

    Raises:
        ArgumentError: for an unknown kind or G, an operator not known to be positive where G is to be ``op``,
            or a budget, threshold, tolerance or generator that cannot be used; ``op op*`` needs a budget of 2
            or more.
        NonFiniteError: when a product is not finite.

    Examples:
        >>> import kpframe, torch
        >>> op = kpframe.DiagonalOperator(torch.tensor([2.0, 2.0, 0.0]))
        >>> kpframe.effective_rank(op, budget=3)
        2 ± 0 (participation of op, exact, 3 products)
        >>> kpframe.effective_rank(op, kind="entropy", budget=3).value
        2.0
    """
    check_operator(op)
    check_name(kind, KINDS, "kind")
    share = check_positive(threshold, "threshold")
    if share > 1:
        raise ArgumentError(mismatch("threshold", "a share in (0, 1]", share))
    check_name(of, GRAMS, "of")
    if of == "op" and not op.positive:
        raise ArgumentError(mismatch("of", "'op op*' for an operator not known to be positive", repr(of)))
    gram = Gram(op, squared=of == "op op*")
    budget, max_budget = check_budget(budget, max_budget, min(gram.weight, max(1, gram.dimension)))
    rtol = check_rtol(rtol)
    shared = {"kind": kind, "threshold": share, "budget": budget, "rtol": rtol, "max_budget": max_budget}
    source = agreed(new_generator(generator), gram.gram, **shared)
    sampler = gram.sampler(source)
    label = f"{kind}({share:g})" if kind == "threshold" else kind

    spent = 0

    def functional(values: torch.Tensor, weights: torch.Tensor) -> float:
        if kind == "threshold":
            return _threshold_of(values, weights, share)
        return (_entropy_of if kind == "entropy" else _participation_of)(values, weights)

    def resolution(values: torch.Tensor, weights: torch.Tensor) -> float:
        return math.hypot(_bend_of(values, weights, share) / 2, 12**-0.5)  # and up to the next whole number

    def estimate(num_products: int) -> Estimate:
        nonlocal spent
        num = num_products // gram.weight
        if kind == "participation":
            # tr(G)^2 / tr(G^2), both moments from the same sketch
            value, stderr = moments(sampler, num).estimate(_participation)
            return Estimate(value, stderr, sampler.count, f"{kind} of {gram.name}, nystrom")
        seen = spectral_measure(gram.matvec(), num, source)
        value, stderr = seen.estimate(functional, resolution if kind == "threshold" else None)
        spent += seen.count
        return Estimate(value, stderr, spent, f"{label} of {gram.name}, stochastic Lanczos")

    def exact() -> Estimate:
        eigenvalues, count = gram.eigenvalues()
        value = float(functional(eigenvalues, torch.ones_like(eigenvalues)))
        return Estimate(value, 0.0, count, f"{label} of {gram.name}, {gram.exact}")

    def rest() -> Estimate:
        return within_budget(
            estimate, exact, budget=budget, exact_cost=gram.exact_cost, rtol=rtol, max_budget=max_budget
        )

    if kind != "participation" or gram.weight == 2 or budget >= gram.exact_cost:
        return rest()
    label = f"{label} of op, "
    return one_sided_first(op, source, _participation, rest, rtol=rtol, budget=budget, label=label)


def _participation(means: torch.Tensor) -> torch.Tensor:  # [..., 2] -> [...]
    return means[..., 0] ** 2 / means[..., 1].clamp(min=TINY)


def _participation_of(values: torch.Tensor, weights: torch.Tensor) -> float:
    """Return (sum g)^2 / sum g^2 of weighted eigenvalues."""
    square = float((weights * values**2).sum())
    return float((weights * values).sum()) ** 2 / square if square > 0 else 0.0


def _entropy_of(values: torch.Tensor, weights: torch.Tensor) -> float:
    """Return exp(-sum p log p) with p the eigenvalues over their sum (Roy, Vetterli 2007)."""
    total = float((weights * values).sum())
    if total <= 0:
        return 0.0
    shares = values.clamp(min=0) / total
    return math.exp(-float((weights * torch.xlogy(shares, shares)).sum()))


def _threshold_of(values: torch.Tensor, weights: torch.Tensor, share: float) -> float:
    """Return how much weight the largest values need to hold ``share`` of the total."""
    values, weights, last, part = _crossing(values, weights, share)
    if last is None:
        return 0.0
    known = float(weights[last]) == 1  # one eigenvalue, which counts as a whole
    return float(weights[:last].sum()) + (math.ceil(part - 1e-9) if known else part)


def _bend_of(values: torch.Tensor, weights: torch.Tensor, share: float) -> float:
    """Return by how much a count within the node that reaches the share may be too high.

    Within a node the held share is taken to grow evenly, as if all its eigenvalues were equal. Where they
    fall instead from halfway to the node before to halfway to the next, it grows faster at first: after a
    part f of the weight w it is ahead by ``w f (1 - f) / 2`` times their range.
    """
    values, weights, last, part = _crossing(values, weights, share)
    if last is None or float(weights[last]) == 1:
        return 0.0
    weight = float(weights[last])
    first, final = values[max(0, last - 1)], values[min(len(values) - 1, last + 1)]
    return part * (1 - part / weight) / 2 * float((first - final) / 2 / values[last])


def _crossing(
    values: torch.Tensor, weights: torch.Tensor, share: float
) -> tuple[torch.Tensor, torch.Tensor, int | None, float]:
    """Return values and weights, descending, which node reaches the share, and how much of it is needed."""
    values, order = values.clamp(min=0).sort(descending=True)
    weights = weights[order]
    held = (weights * values).cumsum(0)
    if not len(held) or held[-1] <= 0:
        return values, weights, None, 0.0
    goal = float(share * held[-1] * (1 - 1e-12))  # a sum that rounds to the share has reached it
    last = int(torch.searchsorted(held, goal))
    before = float(held[last] - weights[last] * values[last])
    return values, weights, last, (goal - before) / float(values[last])
