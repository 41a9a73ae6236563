"""Make the table of networks trained by several rules in ``docs/rules.md``, over seeds.

``python docs/tables/training_by_rules.py`` runs the command that stands above the table (ten seeds, some
minutes), writes the figures of each seed beside this file, and the table from them into the page. The tests
run it with few updates, hold the page against the figures, and one seed of these against a new run.
"""

from __future__ import annotations

import csv
import re
import shlex
import tempfile
from pathlib import Path
from statistics import fmean, stdev

from kpframe.cli import _app as app
from kpframe.spectra._numerics.statistics import t_factor
from kpframe.study._disk.results import read_dataset

HERE = Path(__file__).parent
PAGE, FIGURES = HERE.parent / "rules.md", HERE / "training_by_rules.csv"
COMMAND = (
    'kpframe train --rule bptt --rule "truncated_bptt(window=5)" --rule rflo --model rnn '
    "--set hidden_size=32 --set form=rate --set alpha=0.2 --task memory_pro --steps 300 "
    "--learning-rate 1e-2 --batch-size 32 --dtype float64 --seeds 10 --output trained"
)
#: Figures of the table: column of the file -> heading.
COLUMNS = {"test_loss": "test loss", "test_r2": "test R²", "effective_rank": "effective rank of Phi"}
Row = dict[str, str]


def train(**changed: object) -> list[Row]:
    """Return the figures of each rule and seed, from the command with some of its options changed."""
    _, *arguments = shlex.split(COMMAND)
    with tempfile.TemporaryDirectory() as folder:
        options = {"output": f"{folder}/trained", **changed}
        for name, value in options.items():  # the last of an option counts
            arguments += [f"--{name.replace('_', '-')}", str(value)]
        if app.run(arguments) != 0:
            raise SystemExit("the training failed")
        data = read_dataset(Path(folder) / "trained" / "training.nc")
    single = "seed" not in data.dims
    seeds = [int(changed.get("seed", 0))] if single else data.seed.values.tolist()
    rows = []
    for rule in data.rule.values:
        for seed in seeds:
            figures = {}
            for name in COLUMNS:
                values = data[name] if single else data[f"{name}_by_seed"].sel(seed=seed)
                values = values.sel(rule=rule)
                figures[name] = (
                    f"{float(values.sel(operator='Phi') if 'operator' in values.dims else values):.6g}"
                )
            rows.append({"rule": str(rule), "seed": str(seed), **figures})
    return rows


def table(rows: list[Row]) -> str:
    """Return the table: means over the seeds, and half of the 95% interval of the mean by Student's t."""
    seeds = sorted({int(row["seed"]) for row in rows})
    lines = [f"| rule, seeds {seeds[0]} to {seeds[-1]} | {' | '.join(COLUMNS.values())} |", "|---" * 4 + "|"]
    for rule in dict.fromkeys(row["rule"] for row in rows):
        cells = [cell([float(row[name]) for row in rows if row["rule"] == rule]) for name in COLUMNS]
        lines.append(f"| `{rule}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def cell(values: list[float]) -> str:
    """Return a mean and half of its 95% interval, to two digits of the latter."""
    half = 1.96 * t_factor(len(values)) * stdev(values) / len(values) ** 0.5
    digits = max(0, 1 - int(f"{half:e}".split("e")[1]))
    return f"{fmean(values):.{digits}f} ± {half:.{digits}f}"


def read() -> list[Row]:
    """Return the figures of each rule and seed that were written last."""
    with FIGURES.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def write(rows: list[Row]) -> None:
    """Write the figures, and the table from them into the page."""
    with FIGURES.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["rule", "seed", *COLUMNS], lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    found = re.compile(r"(<!-- made by tables/training_by_rules\.py -->\n\n).*?(\n\n<!-- end -->)", re.DOTALL)
    text, count = found.subn(lambda m: m[1] + table(rows) + m[2], PAGE.read_text(encoding="utf-8"))
    assert count == 1, "docs/rules.md has no place for the table"
    PAGE.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    write(train())
