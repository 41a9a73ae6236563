"""What an estimate says it cost is what it cost: every product counts, those of attempts that failed too."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from kpframe.operators import FunctionOperator, Operator
from kpframe.operators._spaces import Space
from kpframe.spectra import Estimate, alignment, effective_rank, frobenius_norm, trace

F64 = torch.float64
SIZE = 60
SPACE = Space.of(index=SIZE)


class Counter:
    """Counts the rows that two matrices are multiplied with, transposed or not."""

    def __init__(self, positive: bool) -> None:
        seeded = torch.Generator().manual_seed(1)
        self.spent = 0
        self.positive = positive
        self.first, self.second = (self._operator(seeded) for _ in range(2))
        self.spent = 0  # declaring costs products

    def _operator(self, seeded: torch.Generator) -> Operator:
        matrix = torch.randn(SIZE, SIZE, generator=seeded, dtype=F64)
        if self.positive:
            matrix = matrix @ torch.diag(0.8 ** torch.arange(SIZE, dtype=F64)) @ matrix.T
            matrix = (matrix + matrix.T) / 2

        def counted(by: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
            def product(q: torch.Tensor) -> torch.Tensor:
                self.spent += q.reshape(-1, SIZE).shape[0]
                return q @ by

            return product

        return FunctionOperator(
            SPACE, SPACE, counted(matrix.T), counted(matrix), dtype=F64, positive=self.positive
        )


QUANTITIES: dict[str, Callable[..., Estimate]] = {
    **{
        f"trace {method}": lambda counter, method=method, **options: trace(
            counter.first, method=method, **options
        )
        for method in ("auto", "hutchinson", "hutchpp", "xtrace")
    },
    "norm": lambda counter, **options: frobenius_norm(counter.first, **options),
    "norm hutchinson": lambda counter, **options: frobenius_norm(
        counter.first, method="hutchinson", **options
    ),
    **{
        kind: lambda counter, kind=kind, **options: effective_rank(counter.first, kind=kind, **options)
        for kind in ("participation", "entropy", "threshold")
    },
    "alignment": lambda counter, **options: alignment(counter.first, counter.second, **options),
}


@pytest.mark.parametrize("positive", [True, False])
@pytest.mark.parametrize("name", sorted(QUANTITIES))
@pytest.mark.rows(4)
def test_every_product_counts(name: str, positive: bool) -> None:
    """Where the budget suffices, where it is raised and where the exact value ends the attempts."""
    seen = set()
    for options in (
        {"budget": 16},
        {"budget": 4, "rtol": 1e-9, "max_budget": 30},  # twice and once more, never reached
        {"budget": 4, "rtol": 1e-9, "max_budget": 1000},  # until the exact value is cheaper
        {"budget": 2, "rtol": 1e-9, "max_budget": 1000},
        {"budget": 16, "rtol": 0.9},
        {"budget": 200},
    ):
        counter = Counter(positive)
        found = QUANTITIES[name](counter, **options)
        assert found.num_matvecs == counter.spent, options
        seen.add((found.exact, "not reached" in found.method))
    assert seen == {(True, False), (False, True), (False, False)}


@pytest.mark.parametrize("positive", [True, False])
def test_the_first_attempt_may_be_of_another_method(positive: bool) -> None:
    """One product is enough for Hutchinson alone; what follows takes other probes."""
    counter = Counter(positive)
    found = trace(counter.first, budget=1, rtol=1e-9, max_budget=16)
    assert found.method == ("xnystrace" if positive else "xtrace") + ", rtol not reached"
    assert found.num_matvecs == counter.spent > 16
    counter = Counter(positive)
    found = frobenius_norm(counter.first, budget=1, rtol=1e-9, max_budget=16)
    assert found.method == "nystrom, rtol not reached"
    assert found.num_matvecs == counter.spent > 16
