"""What declaring the sites buys: times of the plain and of the structured form, pair by pair.

Run by hand on an idle machine: ``python benchmark.py``. One thread; the medians of 15 pairs are printed.
"""

import statistics
import time
from collections.abc import Callable

import torch

import kpframe

TRIALS, STEPS, NEURONS, INPUTS, PROBES, PAIRS = 20, 50, 100, 4, 16, 15


def seconds(function: Callable[[], object]) -> float:
    """Return how long one call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def main() -> None:
    """Print one line for each thing that is timed."""
    torch.set_num_threads(1)
    x = torch.randn(TRIALS, STEPS, INPUTS)
    names = ("fitzhugh_nagumo", "fitzhugh_nagumo_sites")
    models = [kpframe.create_model(name, input_size=INPUTS, hidden_size=NEURONS, seed=0) for name in names]
    flows = [kpframe.linearize(model, x) for model in models]
    q = torch.randn(flows[0].P.domain.shape)
    many = torch.randn(PROBES, *q.shape)
    calls: dict[str, list[Callable[[], object]]] = {
        "linearize": [lambda m=model: kpframe.linearize(m, x) for model in models],
        "P q": [lambda f=flow: f.P(q) for flow in flows],
        "K q": [lambda f=flow: f.K(q) for flow in flows],
        "Phi q": [lambda f=flow: f.Phi(q) for flow in flows],
        f"Phi of {PROBES}": [lambda f=flow: f.Phi(many) for flow in flows],
    }
    for what, (plain, structured) in calls.items():
        plain(), structured()  # the plain form records its graphs at the first product
        pairs = [(seconds(plain), seconds(structured)) for _ in range(PAIRS)]
        slow, fast = (1e3 * statistics.median(times) for times in zip(*pairs, strict=True))
        ratio = statistics.median(a / b for a, b in pairs)
        print(f"{what:<10} plain {slow:6.1f} ms   structured {fast:6.1f} ms   ratio {ratio:5.1f}")


if __name__ == "__main__":
    main()
