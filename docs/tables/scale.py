"""Write the tables of the page on scale: ``python docs/tables/scale.py``.

What was measured comes from ranks_measured.json, which ``python tests/benchmarks/test_ranks.py
docs/tables/ranks_measured.json`` writes; the rest is what the model of ``kpframe plan`` says.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

from kpframe.study._scaling.machine import Machine
from kpframe.study._scaling.on_paper import product_on_paper

HERE = Path(__file__).parent
PAGE = HERE.parent / "scale.md"
MEASURED = HERE / "ranks_measured.json"
#: A network of so many parameters has so many units: W is nearly all of them.
PARAMETERS, HIDDEN = 10**9, 31_623
TRIALS, STEPS, PROBES, RANKS = 10_000, 100, 16, 1_000
#: Of a rank: a card that multiplies matrices in float32 at this rate, and copies at this one.
RATE, COPIES, LATENCY = 50e12, 2e12, 10e-6
#: Name -> bandwidth between ranks [bytes/s].
NETWORKS = {
    "10 Gbit/s Ethernet": 1.25e9,
    "100 Gbit/s": 12.5e9,
    "400 Gbit/s a rank": 50e9,
    "450 GB/s, as inside a machine": 450e9,
}


def seconds(value: float) -> str:
    """Return a time as text."""
    if value >= 100:
        return f"{value:.0f} s"
    return f"{value:.2g} s" if value >= 1 else f"{1e3 * value:.3g} ms"


def size(value: float) -> str:
    """Return bytes as text."""
    for unit in ("B", "kB", "MB", "GB"):
        if value < 1000 or unit == "GB":
            break
        value /= 1000
    return f"{value:.3g} {unit}"


def on_paper() -> list[str]:
    """Return the rows of what 1,000 ranks and 10^9 parameters would take."""
    lines = [
        "| between ranks | probes | memory of a rank | an all-reduce | computing | a product | efficiency | "
        "communicating is half at |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, bandwidth in NETWORKS.items():
        machine = Machine(LATENCY, bandwidth, RATE, COPIES)
        for probes in (1, PROBES):
            work = product_on_paper(PARAMETERS, HIDDEN, TRIALS, STEPS, probes, machine)
            on = work.on(RANKS, machine)
            reduced = machine.all_reduce_seconds(1, work.sent_bytes, RANKS)
            stops = work.stops_at(machine)
            assert on.memory_bytes is not None
            cells = (
                name,
                str(probes),
                size(on.memory_bytes),
                seconds(reduced),
                seconds(on.computing),
                seconds(on.computing + reduced),
                f"{work.alone / (RANKS * (on.computing + reduced)):.0%}",
                "none" if stops is None else f"{stops:,} ranks",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return lines


def measured() -> list[str]:
    """Return the rows of what was planned and measured on ranks of one machine."""
    found = json.loads(MEASURED.read_text(encoding="utf-8"))
    lines = [
        "| a record | ranks | products, planned and made | bytes sent by a rank | memory of a rank | time |",
        "|---|---|---|---|---|---|",
    ]
    for row in found["records"]:
        pairs = {name: row[name] for name in ("products", "bytes", "memory", "seconds")}
        texts = {
            "products": "{}, {}".format(*pairs["products"]),
            "bytes": "{:,}, {:,}".format(*pairs["bytes"]),
            "memory": ", ".join(map(size, pairs["memory"])),
            "seconds": f"{', '.join(map(seconds, pairs['seconds']))} "
            f"({pairs['seconds'][0] / pairs['seconds'][1] - 1:+.0%})",
        }
        what = f"{row['study']}, {row['trials']} trials, {row['parameters']:,} parameters"
        lines.append(f"| {what} | {row['ranks']} | {' | '.join(texts.values())} |")
    pair = found["pairs"]
    lines += [
        "",
        f"On {found['machine']} ({found['figures']}). `{pair['what']}` of an RNN at {pair['size']} takes "
        f"{pair['ratio']:.2f} times as long as {pair['beside']} of one process "
        f"({pair['milliseconds']:.0f} ms, the median of pairs in turn); {pair['note']}.",
    ]
    return lines


def written(page: str) -> str:
    """Return the text of the page with its tables made anew."""
    for name, lines in (("paper", on_paper()), ("measured", measured())):
        table = re.compile(
            rf"(?<=<!-- {name}: made by tables/scale.py -->\n).*?(?=<!-- end of table -->)", re.DOTALL
        )
        text = "\n".join(["", *lines, "", ""])
        page, count = table.subn(lambda _, text=text: text, page)
        assert count == 1, name
    return page


if __name__ == "__main__":
    PAGE.write_text(written(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
