"""Several estimates side by side."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from kpframe.errors import ArgumentError, mismatch, shown
from kpframe.operators._cards import grid
from kpframe.spectra._estimate import Estimate, interval_text, pair_text


class EstimateTable(Mapping[str, Estimate]):
    """Estimates by name, read as a mapping; prints as a table, and in a notebook shows itself as one.

    Args:
        estimates: them by name, in the order in which they are to stand.
        title: above the table in a notebook.

    Raises:
        ArgumentError: for anything else than a mapping of names to estimates.

    Examples:
        >>> from kpframe import Estimate
        >>> from kpframe.spectra import EstimateTable
        >>> EstimateTable({"P": Estimate(12.25, 0.25, 30, "xtrace"), "K": Estimate(3, 0, 8, "exact")})
           value       95% interval    method  products
        P  12.2 ± 0.2  11.76 to 12.74  xtrace  30
        K  3 ± 0       exact           exact   8
    """

    def __init__(self, estimates: Mapping[str, Estimate], *, title: str = "Estimates") -> None:
        if not isinstance(estimates, Mapping):
            raise ArgumentError(mismatch("estimates", "a mapping of names to estimates", shown(estimates)))
        for name, estimate in estimates.items():
            if not isinstance(estimate, Estimate):
                raise ArgumentError(mismatch(f"estimates[{name!r}]", "an Estimate", shown(estimate)))
        self.title = title
        self._estimates = {str(name): estimate for name, estimate in estimates.items()}

    def __getitem__(self, name: str) -> Estimate:
        return self._estimates[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._estimates)

    def __len__(self) -> int:
        return len(self._estimates)

    def _rows(self) -> list[tuple[str, ...]]:
        return [
            (
                name,
                pair_text(found.value, found.stderr),
                interval_text(found),
                found.method,
                str(found.num_matvecs),
            )
            for name, found in self._estimates.items()
        ]

    def __repr__(self) -> str:
        rows = [("", *_HEAD), *self._rows()]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = ("  ".join(map(str.ljust, row, widths)).rstrip() for row in rows)
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return grid(self.title, ("", *_HEAD), self._rows())


_HEAD = ("value", "95% interval", "method", "products")
