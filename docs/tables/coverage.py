"""Write the table of coverage into the page on estimates: ``python docs/tables/coverage.py``.

All of it is computed anew, in some minutes, by what ``tests/spectra/test_coverage_near_dimension.py`` asserts
bounds of. Shares are kept in coverage.json, from which the table is made. The seeds of the runs are 0, 1, 2
..., so that they come again.
"""

from __future__ import annotations

import json
import re
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

import torch

ROOT = Path(__file__).parents[2]
PAGE, KEPT = ROOT / "docs" / "estimates.md", Path(__file__).with_suffix(".json")
PLACE = re.compile(r"(?<=<!-- made by tables/coverage.py -->\n).*?(?=<!-- end of table -->)", re.DOTALL)
RUNS = 200
#: Spectrum of the tests -> how the page writes it.
SPECTRA = {
    "linear": "linear, 1 to 3",
    "exponential": "`0.9^i`",
    "inverse": "1/i",
    "step": "7 ones, then 1e-3",
}
QUANTITIES = ("trace", "norm", "rank", "alignment")
BUDGETS = (2, 5, 10, 15, 18, 19, 20)
#: Budget -> spectrum -> quantity -> share of runs.
Kept = dict[str, dict[str, dict[str, float]]]


def tests() -> ModuleType:
    """Return the module of the tests that defines the operators and the truth."""
    if str(ROOT) not in sys.path:
        sys.path.insert(0, str(ROOT))
    return import_module("tests.spectra.test_coverage_near_dimension")


def share(budget: int, spectrum: str, quantity: str) -> float:
    """Return the share of runs whose interval held the truth."""
    module = tests()
    call, truth = module.quantity(quantity, module.SPECTRA[spectrum])
    found: float = module.coverage(call, truth, budget, RUNS)
    return found


def table(kept: Kept) -> str:
    """Return the table, the lowest and highest share over the quantities in each cell."""
    lines = [f"| products | {' | '.join(SPECTRA.values())} |", "|---" * (1 + len(SPECTRA)) + "|"]
    for budget in BUDGETS:
        shares = [kept[str(budget)][spectrum].values() for spectrum in SPECTRA]
        cells = [f"{min(each):.2f}-{max(each):.2f}" for each in shares]
        lines.append(f"| {budget} | {' | '.join(cells)} |")
    return "\n".join(["", *lines, "", ""])


if __name__ == "__main__":
    torch.set_num_threads(1)
    found: Kept = {
        str(budget): {
            spectrum: {quantity: share(budget, spectrum, quantity) for quantity in QUANTITIES}
            for spectrum in SPECTRA
        }
        for budget in BUDGETS
    }
    KEPT.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(PLACE.sub(lambda _: table(found), text), encoding="utf-8")
