"""What the atlas found."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
import xarray as xr
from common import COLOURS, is_below, mean_and_half, said
from matplotlib.figure import Figure

from kpframe import linearize
from kpframe.checkpoint import load_checkpoint

OPERATORS = ("P P*", "K", "Phi")


def numbers(run: xr.DataTree, folder: Path) -> xr.Dataset:
    """Return ranks as shares of the dimension, alignments, losses and gaps of forecasts, and forms of K."""
    data = run.to_dataset().sel(operator=list(OPERATORS))
    shares = data.effective_rank / data.state_dimension
    found = xr.Dataset(
        {
            "share": shares,
            "kept": data.alignment_with_first.isel(step=-1, drop=True),
            "local": data.operator_alignment.sel(operator="Phi", operator_other="K", drop=True),
            "loss": data.test_loss,
            "gap": data.ahead_output_gap,
        }
    ).assign_coords(task=[str(text).partition("(")[0] for text in data.task.values])
    forms = [_form(folder, str(name)) for name in found.network.values]
    found["form"] = ("network", [form for form, _ in forms])
    found["blocks"] = ("network", [blocks for _, blocks in forms])
    return found.drop_vars([name for name in found.coords if name not in found.dims])


def _form(folder: Path, network: str) -> tuple[str, str]:
    """Return how K of a model is computed, and into how many blocks over units it falls apart."""
    cells = json.loads((folder / "run.json").read_text(encoding="utf-8"))["cells"]
    cell = next(one for one in cells if one["coordinates"]["network"] == network)
    (path,) = (folder / "checkpoints").glob(f"{cell['name']}-000000.safetensors")
    model = load_checkpoint(path).build_model()
    x = torch.randn(2, 5, model.input_size, generator=torch.Generator().manual_seed(0))
    K = linearize(model, x).K
    labels = K.block_labels()
    return K.method, "one" if labels is None else str(len(labels.unique()))


def figure(numbers: xr.Dataset) -> Figure:
    """Draw shares of dimensions and gaps of forecasts before and after training, a row for each model."""
    made = Figure(figsize=(9.2, 5.4), layout="constrained")
    panels = made.subplots(1, 4, sharey=True)
    rows = np.arange(numbers.sizes["network"])[::-1]
    every = {operator: numbers.share.sel(operator=operator) for operator in OPERATORS} | {
        "forecast": numbers.gap
    }
    for axes, (title, values) in zip(panels, every.items(), strict=True):
        for place, task in enumerate(numbers.task.values):
            for step, face in ((0, "none"), (-1, COLOURS[place])):
                own = values.sel(task=task).isel(step=step)
                pairs = [mean_and_half(own.sel(network=name)) for name in numbers.network.values]
                mean, half = np.array(pairs).T
                when = "before" if step == 0 else "after"
                style = {"color": COLOURS[place], "mfc": face, "fmt": "o", "ms": 4, "lw": 0.8}
                bars, label = np.minimum(half, 0.95 * mean), f"{task}, {when}"
                axes.errorbar(mean, rows + 0.15 - 0.3 * place, xerr=bars, label=label, **style)
        label = "gap / change of outputs" if title == "forecast" else "effective rank / dimension"
        axes.set(xscale="log", title=title, xlabel=label)
        axes.title.set_fontsize(10)
        axes.grid(True, color="0.93", lw=0.6)
    panels[0].set_yticks(rows, numbers.network.values)
    made.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=4, fontsize=7)
    return made


def finding(numbers: xr.Dataset) -> str:
    """Say what was found."""
    share, count = numbers.share.mean("task"), numbers.sizes["network"]
    names = [str(name) for name in numbers.network.values]
    start = share.isel(step=0)
    lower = [n for n in names if is_below(_of(start, "K", n), _of(start, "P P*", n))]
    higher = [n for n in names if is_below(_of(start, "P P*", n), _of(start, "K", n))]
    last = share.isel(step=-1)
    fell = [n for n in names if is_below(_of(last, "Phi", n), _of(start, "Phi", n))]
    rose = [n for n in names if is_below(_of(start, "Phi", n), _of(last, "Phi", n))]
    kept = numbers.kept.mean("task").sel(operator="Phi")
    means = {n: float(kept.sel(network=n).mean("seed")) for n in names}
    tasks = [str(task) for task in numbers.task.values]
    gap = numbers.gap.mean("task")
    nearer = [n for n in names if is_below(*(gap.sel(network=n).isel(step=at, drop=True) for at in (-1, 0)))]
    further = [n for n in names if is_below(*(gap.sel(network=n).isel(step=at, drop=True) for at in (0, -1)))]
    first = {n: float(gap.sel(network=n).isel(step=0).mean("seed")) for n in names}
    known = [n for n in names if np.isfinite(first[n])]
    best, worst = min(known, key=first.get), max(known, key=first.get)
    most, least = max(means, key=means.get), min(means, key=means.get)
    lines = [
        "| model | K | blocks of K | P P* | K | Phi | Phi after | Phi with K | Phi with first "
        f"| forecast off, before | after | {' | '.join(f'loss, `{task}`' for task in tasks)} |",
        "|" + "---|" * (11 + len(tasks)),
    ]
    for name in names:
        own, local = numbers.sel(network=name), numbers.local.sel(network=name).mean("task")
        loss = numbers.loss.sel(network=name).isel(step=-1)
        off = gap.sel(network=name)
        lines.append(
            f"| `{name}` | {own.form.item()} | {own.blocks.item()} | "
            + " | ".join(_percent(_of(start, operator, name)) for operator in OPERATORS)
            + f" | {_percent(_of(last, 'Phi', name))} | {said(local.isel(step=0))} | "
            f"{said(kept.sel(network=name))} | "
            + " | ".join(_percent(off.isel(step=at)) for at in (0, -1))
            + f" | {' | '.join(said(loss.sel(task=task)) for task in tasks)} |"
        )
    table = "\n".join(lines)
    open_ones = [n for n in names if n not in lower and n not in higher]
    sites, apart = int((numbers.form == "sites").sum()), int((numbers.blocks != "one").sum())
    text = (
        f"As published for RNN and GRU, K has fewer effective dimensions than P P* before training, beyond "
        f"chance, in {len(lower)} of {count} models; it has more in {_listed(higher)}, and neither is shown "
        f"for {_listed(open_ones)}. The rank of Phi falls over training in {_listed(fell)}, rises in "
        f"{_listed(rose)}, and is not shown to change in the others.\n\n"
        f"K of {sites} models is made of weight sites; that of {apart} falls apart into blocks over units. "
        f"Phi stays nearest to its first form in `{most}` (alignment {said(kept.sel(network=most))}) and "
        f"moves furthest in `{least}` ({said(kept.sel(network=least))}).\n\n"
        f"With Phi as it is before training, 50 updates of gradient descent at half of the largest stable "
        f"rate are forecast best in `{best}`, to {_percent(gap.sel(network=best).isel(step=0))} of the "
        f"change of outputs, and worst in `{worst}`, to {_percent(gap.sel(network=worst).isel(step=0))}. "
        f"After training forecasts are better in {_listed(nearer)}, worse in {_listed(further)}, and not "
        "shown to differ in the others."
    )
    caption = (
        "Ranks are shares of the dimension of the states, before training unless said; means over both "
        "tasks, and intervals over seeds."
    )
    return f"{text}\n\n{caption}\n\n{table}"


def _listed(names: list[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "none"


def _of(values: xr.DataArray, operator: str, network: str) -> xr.DataArray:
    return values.sel(operator=operator, network=network)


def _percent(values: xr.DataArray) -> str:
    return f"{said(100 * values, 1)}%"


LEFT_OUT = """
Three seeds, as a run takes more than ten minutes. Networks are as small as they can be, trials 5 steps long
(the feedforward models take one step a layer, and see the input of the first step alone, so that
`flip_flop` is beyond them), and training is 60 updates by Adam, which does not bring every model far: the
losses say how far. The forecasts are of gradient descent from there, by a copy of each network on the 8
trials. `ssm` is the family with `kind = "s5"`, and `noisy_rnn` has no noise here, so that it is `rnn`; both
show that figures do not depend on the name. The neurons of `hh` and `morris_lecar` are read out from gates
(m, w), in steps of 0.25 and 1 ms.
"""
