"""What linearizing and a product with Phi cost, beside a forward and backward pass of torch.nn.

Run by hand, on an otherwise idle machine: ``python tests/benchmarks/bench_products.py [--threads 2]``.
Ratios are taken pair by pair in one process, medians are printed, as a Markdown table.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from kpframe import create_model, linearize

SIZES = ((20, 90, 256), (100, 100, 100))
REFERENCES = {"rnn": torch.nn.RNN, "gru": torch.nn.GRU}
INPUTS = 32


def seconds(function: Callable[[], object]) -> float:
    """Return how long one call takes."""
    started = time.perf_counter()
    function()
    return time.perf_counter() - started


def paired(first: Callable[[], object], second: Callable[[], object], runs: int) -> tuple[float, float]:
    """Return the median time of ``first`` [ms] and the median of its ratio to ``second``."""
    first(), second()  # warm-up
    pairs = [(seconds(first), seconds(second)) for _ in range(runs)]
    return 1e3 * statistics.median(a for a, _ in pairs), statistics.median(a / b for a, b in pairs)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=15)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    print(
        "| model, B x T x H | torch.nn forward+backward | linearize | P q | K q | Phi q | 16 probes / one |"
    )
    print("|---|---|---|---|---|---|---|")
    for batch, steps, width in SIZES:
        x = torch.randn(batch, steps, INPUTS)
        for name, reference in REFERENCES.items():
            layer = reference(INPUTS, width, batch_first=True)
            model = create_model(name, input_size=INPUTS, hidden_size=width)
            flow = linearize(model, x)
            q, many = torch.randn(flow.P.domain.shape), torch.randn(16, *flow.P.domain.shape)

            def train(layer: torch.nn.Module = layer, x: torch.Tensor = x) -> None:
                layer(x)[0].sum().backward()

            cells = [f"{paired(train, train, options.runs)[0]:.1f} ms"]
            timed: list[Callable[[], object]] = [
                lambda model=model, x=x: linearize(model, x),
                lambda flow=flow, q=q: flow.P(q),
                lambda flow=flow, q=q: flow.K(q),
                lambda flow=flow, q=q: flow.Phi(q),
            ]
            for function in timed:
                milliseconds, ratio = paired(function, train, options.runs)
                cells.append(f"{milliseconds:.1f} ms ({ratio:.2f} x)")
            _, probes = paired(
                lambda flow=flow, many=many: flow.Phi(many), timed[-1], max(3, options.runs // 4)
            )
            cells.append(f"{probes:.1f}")
            print(f"| {name.upper()} {batch} x {steps} x {width} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
