"""``kpframe bench``: what the operators cost on this machine, as a table and JSON."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import click

from kpframe.study._disk.files import check_file, write_text

if TYPE_CHECKING:
    import torch

    from kpframe.study._bench.products import Row, Size
    from kpframe.study._bench.sweeps import Sweep

_SIZE = "BxTxH"


@click.command()
@click.argument("models", nargs=-1)
@click.option("--size", "sizes", multiple=True, metavar=_SIZE, help="Trials x steps x units, as 20x90x256.")
@click.option(
    "--runs", type=click.IntRange(min=1), default=11, show_default=True, help="Pairs for each median."
)
@click.option("--threads", type=click.IntRange(min=1), default=2, show_default=True, help="Threads of torch.")
@click.option("--dtype", type=click.Choice(["float32", "float64"]), default="float32", show_default=True)
@click.option("--device", default="cpu", show_default=True, help="cpu, cuda or cuda:N.")
@click.option("--peer", "peers", multiple=True, help="Also measure this package (kpflow), which must import.")
@click.option("--sweeps", "with_sweeps", is_flag=True, help="Also fit how the cost grows with each size.")
@click.option(
    "--ranks", type=click.IntRange(min=1), default=1, help="Also time Phi on so many ranks, trials shared."
)
@click.option("--no-spectra", is_flag=True, help="Leave the rank and the eigenpairs out.")
@click.option("--json", "json_path", type=click.Path(path_type=Path, dir_okay=False), help="Write JSON here.")
def bench(
    models: tuple[str, ...],
    sizes: tuple[str, ...],
    runs: int,
    threads: int,
    dtype: str,
    device: str,
    peers: tuple[str, ...],
    with_sweeps: bool,
    ranks: int,
    no_spectra: bool,
    json_path: Path | None,
) -> None:
    """Time set-up and products of MODELS beside a forward and backward pass, pair by pair.

    MODELS are registered names; by default those of rnn, gru and lstm that are installed, and a wrapped
    cell, which brings no structure. Read the ratios: they hold on other machines, times do not.
    """
    import torch

    from kpframe.cli._progress import step_progress
    from kpframe.study._bench.peers import CELLS, import_peer
    from kpframe.study._bench.products import product_rows
    from kpframe.study._bench.sweeps import sweeps

    if json_path is not None:
        check_file(json_path)  # before the work, not after it
    chosen = models or _default_models()
    measured = [_parse(size) for size in sizes or ("20x90x256", "100x100x100")]
    torch.set_num_threads(threads)
    place, kind = _device(device), getattr(torch, dtype)
    _check_ranks(ranks, measured, place)
    # of the default models, a peer measures those that it takes
    taken_by = {name: peers if name in CELLS or models else () for name in chosen}
    for name, taken in taken_by.items():
        for peer in taken:
            import_peer(peer, name)  # what cannot be measured is refused before anything is
    rows: list[Row] = []
    grown: list[Sweep] = []
    total = len(chosen) * (len(measured) + with_sweeps)
    with step_progress() as report:
        for at, (name, size) in enumerate(product(chosen, measured)):
            report(f"timing {name} {size}", at, total)
            options = {"runs": runs, "dtype": kind, "device": place, "spectra": not no_spectra}
            rows += product_rows(name, size, peers=taken_by[name], **options)
            if ranks > 1:
                from kpframe.study._bench.ranks import rank_row

                rows.append(rank_row(name, size, ranks, runs=runs, dtype=kind))
        for at, name in enumerate(chosen if with_sweeps else (), len(chosen) * len(measured)):
            report(f"timing how {name} grows", at, total)
            grown += sweeps(name, runs=max(3, runs // 3), dtype=kind, device=place)
    _show(rows, grown)
    if json_path is not None:
        settings = {
            "threads": threads,
            "dtype": dtype,
            "device": device,
            "runs": runs,
            "torch": torch.__version__,
        }
        document = {
            "settings": settings,
            "rows": [row.to_dict() for row in rows],
            "sweeps": [sweep.to_dict() for sweep in grown],
        }
        write_text(json_path, json.dumps(document, indent=2) + "\n")


def _show(rows: list[Row], grown: list[Sweep]) -> None:
    from kpframe.cli._tables import new_console, new_table

    table = new_table("model", "B x T x H", "what", "time [ms]", "ratio", "to", "note", prose=("note",))
    for row in rows:
        ratio = "" if row.ratio is None else f"{row.ratio:.2f}"
        table.add_row(row.model, row.size, row.what, f"{row.milliseconds:.1f}", ratio, row.beside, row.note)
    console = new_console()
    console.print(table)
    if grown:
        table = new_table("model", "grows with", "values", "time [ms]", "exponent")
        for sweep in grown:
            values = ", ".join(map(str, sweep.sizes))
            times = ", ".join(f"{value:.1f}" for value in sweep.milliseconds)
            table.add_row(sweep.model, sweep.over, values, times, f"{sweep.exponent:.2f}")
        console.print(table)


def _default_models() -> tuple[str, ...]:
    from kpframe.plugin import get_manager
    from kpframe.study._bench.peers import LAYERS
    from kpframe.study._bench.products import WRAPPED

    known = {spec.name for spec in get_manager().specs("model")}
    return (*(name for name in LAYERS if name in known), WRAPPED)


def _device(text: str) -> torch.device:
    import torch

    try:
        place = torch.device(text)
        torch.empty(0, device=place)
    except (RuntimeError, AssertionError) as error:  # an unknown name; a torch built without CUDA
        reason = str(error).splitlines()[0]
        raise click.BadParameter(
            f"expected a device of this machine, got {text!r} ({reason})", param_hint="--device"
        ) from error
    return place


def _check_ranks(ranks: int, sizes: list[Size], place: torch.device) -> None:
    """Raise for ranks that would have no trials, or for a device that they are not timed on."""
    fewest = min(size.batch for size in sizes)
    if ranks > fewest:
        text = f"expected at most {fewest}, one for each trial, got {ranks}"
        raise click.BadParameter(text, param_hint="--ranks")
    if ranks > 1 and place.type != "cpu":
        raise click.BadParameter(f"expected --device cpu beside it, got {place}", param_hint="--ranks")


def _parse(text: str) -> Size:
    from kpframe.study._bench.products import Size

    parts = text.lower().split("x")
    if len(parts) != 3 or not all(part.isdigit() and int(part) > 0 for part in parts):
        raise click.BadParameter(f"expected {_SIZE} such as 20x90x256, got {text!r}", param_hint="--size")
    return Size(*map(int, parts))
