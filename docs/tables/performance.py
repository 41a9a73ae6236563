"""Measure what products cost on this machine, and write the tables of the page on performance.

``python docs/tables/performance.py measure [PIECE ...]`` measures the pieces (all of them by default, under
five minutes) and puts them into performance.json beside it, each in the place of what was there;
``--device cuda`` measures a card. ``python docs/tables/performance.py`` writes the tables from that file.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch

from kpframe import effective_rank, eigsh, linearize
from kpframe.errors import UnknownNameError, UnsupportedError
from kpframe.flow import Flow
from kpframe.plugin import get_manager
from kpframe.study._bench.peers import training_step
from kpframe.study._bench.products import PROBES, WRAPPED, Size, make
from kpframe.study._bench.timing import Clock, flops, matmul_rate

HERE = Path(__file__).parent
PAGE = HERE.parent / "performance.md"
MEASURED = HERE / "performance.json"

Row = dict[str, Any]

#: Layers of torch.nn, and what each piece measures.
LAYERS = {"rnn": "RNN", "gru": "GRU", "lstm": "LSTM"}
PIECES = (*LAYERS, "wrapped", "long")
WIDE, NARROW, LONG = Size(20, 90, 256), Size(100, 100, 100), Size(1, 10_000, 256)
TOLERANCE, SEEDS = 0.02, 5
PAIRS, TOLERATED = 10, 1e-3

#: The forms of P and K that are compared, by their names in the tables.
FORMS: dict[str, dict[str, str]] = {
    "plain": {"propagator": "scan", "parameter_operator": "gram"},
    "native": {"propagator": "native", "parameter_operator": "native"},
    "cuda_graph": {"propagator": "cuda_graph", "parameter_operator": "gram"},
}


# -- measuring ---------------------------------------------------------------------------------------------


class Bench:
    """Rows of one model at one size, on a device."""

    def __init__(self, name: str, size: Size, device: torch.device, runs: int) -> None:
        self.name, self.size, self.runs, self.clock = name, size, runs, Clock(device)
        self.model = make(name, size.hidden, torch.float32, device)
        self.x = torch.randn(size.batch, size.time, self.model.input_size, device=device)
        self.step = training_step(name, self.model, self.x)[1]
        self.q = torch.randn(size.batch, size.time, self.model.width, device=device)

    def flows(self) -> dict[str, Flow]:
        """Return the flow in each form that there is here."""
        if self.name == WRAPPED:
            return {"plain": linearize(self.model, self.x)}
        found = {}
        for form, forms in FORMS.items():
            try:
                found[form] = linearize(self.model, self.x, **forms)
            except (UnknownNameError, UnsupportedError):  # not installed, or of another device
                continue
        return found

    def row(self, form: str, what: str, **found: Any) -> Row:
        """Return a row, its numbers to four digits."""
        rounded = {key: float(f"{value:.4g}") for key, value in found.items()}
        return {"model": self.name, "size": str(self.size), "form": form, "what": what, **rounded}

    def paired(
        self, form: str, what: str, call: Callable[[], object], other: Callable[[], object], runs: int
    ) -> Row:
        """Return the row of a call, beside another right after it."""
        timing = self.clock.paired(call, other, runs)
        return self.row(form, what, seconds=timing.seconds, ratio=timing.ratio)

    def products(self) -> Iterator[Row]:
        """Yield what linearize and each product take, beside a forward and backward pass."""
        flows, runs = self.flows(), self.runs
        yield self.row("plain", "forward and backward", seconds=self.clock.median(self.step, runs))
        work, d = flops(lambda: flows["plain"].Phi(self.q)), torch.randn_like(flat_parameters(flows["plain"]))
        for form, flow in flows.items():
            q = self.q
            forms = {} if self.name == WRAPPED else FORMS[form]
            linearized = lambda forms=forms: linearize(self.model, self.x, **forms)  # noqa: E731
            yield self.paired(form, "linearize", linearized, self.step, runs)
            yield self.paired(form, "linearize / roll-out", linearized, self.rollout, runs)
            for what, op, vector in (
                *(("P", flow.P, q), ("P*", flow.P.T, q), ("J", flow.J, d), ("J*", flow.J.T, q)),
                *(("K", flow.K, q), ("Phi", flow.Phi, q)),
            ):
                product = lambda op=op, vector=vector: op(vector)  # noqa: E731
                product(), product()  # a graph is recorded with the second
                row = self.paired(form, what, product, self.step, runs)
                yield row
            rate = matmul_rate(torch.float32, q.device)
            yield self.row(form, "share of the rate", ratio=work / row["seconds"] / rate, rate=rate)
            many = torch.randn(PROBES, *q.shape, device=q.device)
            sixteen, one = (lambda flow=flow, v=v: flow.Phi(v) for v in (many, q))
            sixteen(), sixteen()
            yield self.paired(form, f"{PROBES} probes / one", sixteen, one, max(3, runs // 3))

    def rollout(self) -> None:
        """Run the model alone."""
        with torch.no_grad():
            self.model.rollout(self.x)

    def rank(self) -> Iterator[Row]:
        """Yield what the participation rank of Phi to a stated error takes, the median of seeds."""
        for form, flow in self.flows().items():
            seconds, errors = [], []
            for seed in range(SEEDS + 1):
                generator = torch.Generator(self.q.device).manual_seed(seed)
                started = time.perf_counter()
                found = effective_rank(flow.Phi, rtol=TOLERANCE, generator=generator)
                seconds.append(time.perf_counter() - started)  # a number has left for the host
                errors.append(float(found.stderr) / float(found.value))
            seconds, errors = seconds[1:], errors[1:]  # the first is the warm-up
            yield self.row(form, "rank", seconds=statistics.median(seconds), error=max(errors))

    def eigenpairs(self) -> Iterator[Row]:
        """Yield what the leading eigenpairs of K take, and how many have converged."""
        K = linearize(self.model, self.x).K
        generator = torch.Generator(self.q.device).manual_seed(0)
        started = time.perf_counter()
        found = eigsh(K, k=PAIRS, budget=160, tol=TOLERATED, generator=generator)
        seconds = time.perf_counter() - started
        converged = int(torch.as_tensor(found.converged).sum())
        yield self.row(
            "plain", "eigenpairs", seconds=seconds, products=found.num_matvecs, converged=converged
        )

    def one_probe(self) -> Iterator[Row]:
        """Yield what Phi of one probe takes."""
        for form, flow in self.flows().items():
            product = lambda flow=flow: flow.Phi(self.q)  # noqa: E731
            product(), product()
            yield self.paired(form, "Phi", product, self.step, max(3, self.runs // 3))


def flat_parameters(flow: Flow) -> torch.Tensor:
    """Return a vector of the parameter space."""
    return torch.empty(flow.J.domain.size, dtype=flow.P.dtype, device=flow.P.device)


def measured(piece: str, device: torch.device, runs: int) -> list[Row]:
    """Return the rows of a piece."""
    if piece == "long":
        return list(Bench("rnn", LONG, device, runs).one_probe())
    rows = []
    for size in (WIDE, NARROW):
        bench = Bench(WRAPPED if piece == "wrapped" else piece, size, device, runs)
        rows += bench.products()
        if size == WIDE:
            rows += bench.eigenpairs() if piece == "wrapped" else bench.rank()
    return rows


def machine(device: torch.device) -> dict[str, Any]:
    """Return what a figure depends on besides the code."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    found = {"cores": cores, "threads": torch.get_num_threads(), "torch": torch.__version__.split("+")[0]}
    if device.type == "cuda":
        found["card"] = torch.cuda.get_device_name(device)
    return {**found, "date": time.strftime("%Y-%m-%d", time.gmtime())}


def measure(pieces: list[str], device: torch.device, runs: int) -> None:
    """Measure pieces and put them into the file, one after the other."""
    for piece in pieces:
        started = time.perf_counter()
        rows = measured(piece, device, runs)
        document = read()
        of_device = document.setdefault(device.type, {})
        of_device[piece] = {"machine": machine(device), "rows": rows}
        text = json.dumps(document, indent=1, sort_keys=True)
        MEASURED.write_text(re.sub(r"\{\s+([^{}[\]]*?)\s+\}", one_line, text) + "\n", encoding="utf-8")
        print(f"{piece}: {len(rows)} rows in {time.perf_counter() - started:.0f} s", flush=True)


def one_line(match: re.Match[str]) -> str:
    """Return an object of the file without its line breaks."""
    return "{" + re.sub(r"\s*\n\s*", " ", match[1]) + "}"


def read() -> dict[str, Any]:
    """Return what has been measured, by device and piece."""
    if not MEASURED.exists():
        return {}
    found: dict[str, Any] = json.loads(MEASURED.read_text(encoding="utf-8"))
    return found


# -- tables ------------------------------------------------------------------------------------------------


class Rows:
    """What was measured on one device."""

    def __init__(self, pieces: Mapping[str, Any]) -> None:
        self.pieces = pieces
        self._rows = {
            (row["model"], row["size"], row["form"], row["what"]): row
            for piece in pieces.values()
            for row in piece["rows"]
        }

    def get(self, model: str, size: Size, form: str, what: str) -> Row | None:
        """Return a row, None where it was not measured."""
        return self._rows.get((model, str(size), form, what))

    def forms(self) -> list[str]:
        """Return the forms that there are, in order."""
        return [form for form in FORMS if any(key[2] == form for key in self._rows)]


def duration(seconds: float) -> str:
    """Return a time as text."""
    if seconds >= 1:
        return f"{seconds:.2g} s"
    return f"{1e3 * seconds:.2g} ms" if seconds < 0.0995 else f"{seconds:.2f} s"


def ratio(row: Row) -> str:
    """Return the ratio of a row."""
    return f"{row['ratio']:.2f}"


def overview(rows: Rows) -> list[str]:
    """Return the table of what matters most, a column a form."""
    forms = rows.forms()
    lines = [f"| | {' | '.join(forms)} |", f"|---|{'---|' * len(forms)}"]

    def line(what: str, model: str, size: Size, key: str, text: Callable[[Row], str]) -> None:
        found = [rows.get(model, size, form, key) for form in forms]
        if any(found):
            cells = ["" if row is None else text(row) for row in found]
            lines.append(f"| {what} | {' | '.join(cells)} |")

    for name, layer in LAYERS.items():
        for size in (WIDE, NARROW):
            line(
                f"`{name}`: `Phi q` / `torch.nn.{layer}` forward and backward, {size}",
                name,
                size,
                "Phi",
                ratio,
            )
    for name in LAYERS:
        for size in (WIDE, NARROW):
            what = f"`{name}`: share of the rate of a large product, {size}"
            line(what, name, size, "share of the rate", lambda row: f"{row['ratio']:.0%}")
    line(f"`rnn`: `Phi q`, {LONG}", "rnn", LONG, "Phi", lambda row: duration(row["seconds"]))
    for name in LAYERS:
        for size in (WIDE, NARROW):
            what = f"`{name}`: {PROBES} probes / one, {size}"
            line(what, name, size, f"{PROBES} probes / one", lambda row: f"{row['ratio']:.1f}")
    for name in LAYERS:
        what = f"`{name}`: effective rank of Phi to {TOLERANCE:.0%}, {WIDE}"
        line(what, name, WIDE, "rank", lambda row: f"{duration(row['seconds'])}, stated {row['error']:.1%}")
    line(
        f"wrapped cell: {PAIRS} eigenpairs of K to {TOLERATED:g}, {WIDE}",
        *(WRAPPED, WIDE, "eigenpairs"),
        lambda row: (
            f"{duration(row['seconds'])}, {row['converged']:.0f} converged, {row['products']:.0f} products"
        ),
    )
    for name in (*LAYERS, WRAPPED):
        for size in (WIDE, NARROW):
            what = f"{name if name == WRAPPED else f'`{name}`'}: linearize / roll-out, {size}"
            line(what, name, size, "linearize / roll-out", ratio)
    return lines


def products(rows: Rows) -> list[str]:
    """Return the table of all products: times, and ratios to a forward and backward pass."""
    names = ("linearize", "P", "P*", "J", "J*", "K", "Phi")
    heads = " | ".join(name.replace("*", r"\*") for name in names)
    lines = [
        f"| model, trials x steps x units | form | forward and backward | {heads} |",
        f"|---|---|---|{'---|' * len(names)}",
    ]
    for name in (*LAYERS, WRAPPED):
        for size in (WIDE, NARROW):
            step = rows.get(name, size, "plain", "forward and backward")
            for form in rows.forms():
                found = [rows.get(name, size, form, what) for what in names]
                if step is not None and any(found):
                    cells = [
                        "" if row is None else f"{duration(row['seconds'])} ({ratio(row)})" for row in found
                    ]
                    what = name if name == WRAPPED else f"`{name}`"
                    lines.append(
                        f"| {what}, {size} | {form} | {duration(step['seconds'])} | {' | '.join(cells)} |"
                    )
    return lines


def conditions(rows: Rows) -> str:
    """Return what the figures were measured on."""
    told = {
        f"{(piece['machine'].get('card', '') + ', ').removeprefix(', ')}"
        f"{piece['machine']['cores']} cores, {piece['machine']['threads']} threads, "
        f"torch {piece['machine']['torch']}, {piece['machine']['date']}"
        for piece in rows.pieces.values()
    }
    rates = [row["rate"] for piece in rows.pieces.values() for row in piece["rows"] if "rate" in row]
    size = 1536
    return (
        f"Measured on {'; '.join(sorted(told))}, in float32; a product of two {size:,} x {size:,} matrices "
        f"ran at {min(rates) / 1e9:,.0f} to {max(rates) / 1e9:,.0f} Gflop/s beside them."
    )


NO_CARD = "No card was at hand: no figure on this page was measured on one."


def sections(document: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return the lines of each table of the page."""
    found: dict[str, list[str]] = {}
    if "cpu" in document:
        rows = Rows(document["cpu"])
        found["overview"] = [conditions(rows), "", *overview(rows)]
        found["products"] = products(rows)
    if "cuda" in document:
        rows = Rows(document["cuda"])
        found["card"] = [conditions(rows), "", *overview(rows), "", *products(rows)]
    else:
        found["card"] = [NO_CARD]
    return found


def written(page: str, document: Mapping[str, Any]) -> str:
    """Return the text of the page with its tables made anew."""
    for name, lines in sections(document).items():
        table = re.compile(
            rf"(<!-- {name}: made by tables/performance.py -->\n).*?(<!-- end of table -->)", re.DOTALL
        )
        text = "\n".join(["", *lines, "", ""])
        page, count = table.subn(lambda found, text=text: found[1] + text + found[2], page)
        assert count == 1, name
    return page


def main() -> None:
    """Measure, or write the tables."""
    parser = argparse.ArgumentParser(description=str(__doc__).splitlines()[0])
    parser.add_argument("command", nargs="?", choices=["measure"], help="measure first")
    parser.add_argument("pieces", nargs="*", metavar="PIECE", help=f"of {', '.join(PIECES)}; all by default")
    parser.add_argument("--device", default="cpu", help="cpu or cuda")
    parser.add_argument("--threads", type=int, default=2, help="threads of torch")
    parser.add_argument("--runs", type=int, default=11, help="pairs for each median")
    asked = parser.parse_args()
    unknown = sorted(set(asked.pieces) - set(PIECES))
    if unknown:
        parser.error(f"expected pieces among {', '.join(PIECES)}, got {', '.join(unknown)}")
    if asked.command == "measure":
        torch.set_num_threads(asked.threads)
        known = {spec.name for spec in get_manager().specs("model")}
        pieces = [piece for piece in asked.pieces or PIECES if piece in known or piece not in LAYERS]
        measure(pieces, torch.device(asked.device), asked.runs)
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8"), read()), encoding="utf-8")


if __name__ == "__main__":
    main()
