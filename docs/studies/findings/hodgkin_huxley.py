"""How operators of a Hodgkin-Huxley network differ from those of an RNN with as many state variables."""

from __future__ import annotations

from pathlib import Path

import xarray as xr
from common import COLOURS, draw_line, is_below, said, step_axis
from matplotlib.figure import Figure

LEFT_OUT = """
Trials of biological length: a trial lasts 26 steps of 0.2 ms, which is enough for a neuron to fire and for
its synapses to act on others, and no more. Inhibition, other time steps and trained conductances. P, K and
Phi of Hodgkin-Huxley neurons mix volts with shares, and their figures depend on these units.
"""


def numbers(run: xr.DataTree, folder: Path) -> xr.Dataset:
    """Return ranks and alignments of both networks, and their scores."""
    data = run.to_dataset()
    with_phi = data.operator_alignment.sel(operator_other="Phi", drop=True)
    return xr.Dataset(
        {
            "rank": data.effective_rank,
            "dimension": data.state_dimension.isel(seed=0, step=0, drop=True),
            "alignment": with_phi,
            "test_r2": data.test_r2,
        }
    ).drop_vars("effective_rank_method", errors="ignore")


def figure(numbers: xr.Dataset) -> Figure:
    """Draw ranks and alignments of both networks against updates."""
    drawn = Figure(figsize=(10, 3), layout="constrained")
    panels = drawn.subplots(1, 4)
    for colour, network in zip(COLOURS, numbers.network.values, strict=False):
        one = numbers.sel(network=network)
        for axes, operator in zip(panels, ("P P*", "K", "Phi"), strict=False):
            ranks = one["rank"].sel(operator=operator).transpose("seed", "step")
            draw_line(axes, numbers.step.values, ranks, color=colour, label=str(network))
            axes.set_title(f"rank of {operator}", fontsize=9)
        for style, operator in (("-", "P P*"), (":", "K")):
            values = one.alignment.sel(operator=operator).transpose("seed", "step")
            label = f"{network}: {operator}"
            draw_line(panels[3], numbers.step.values, values, color=colour, ls=style, label=label)
    panels[3].set_title("alignment with Phi", fontsize=9)
    panels[3].set_ylim(0, 1)
    panels[0].set_yscale("log")
    for axes in panels[1:3]:
        axes.set_ylim(bottom=0)
    for axes in panels:
        step_axis(axes, numbers.step.values)
    panels[0].legend(frameon=False, fontsize=8)
    panels[3].legend(frameon=False, fontsize=7)
    return drawn


def finding(numbers: xr.Dataset) -> str:
    """Say whether K is of low and P of high rank in both, and how the networks differ."""
    first = numbers.isel(step=0)
    names = [str(name) for name in numbers.network.values]
    low = {name: is_below(_rank(first, name, "K"), _rank(first, name, "P P*")) for name in names}
    holds = [name for name in names if low[name]]
    spiking, plain = names
    smaller = [
        operator
        for operator in map(str, numbers.operator.values)
        if is_below(_rank(first, spiking, operator), _rank(first, plain, operator))
    ]
    head = (
        "That K is of lower rank than P holds before training "
        + (
            "in both networks"
            if len(holds) == 2
            else f"in the {holds[0]} alone"
            if holds
            else "in neither network"
        )
        + ", and of the three operators "
        + (
            f"{', '.join(f'`{name}`' for name in smaller)} {'is' if len(smaller) == 1 else 'are'}"
            if smaller
            else "none is"
        )
        + " of lower rank in the Hodgkin-Huxley network than in the RNN."
    )
    rows = ["| network | operator | rank before training | after | alignment with Phi, before | after |"]
    rows.append("|---|---|---|---|---|---|")
    for name in names:
        for operator in map(str, numbers.operator.values):
            one = numbers.sel(network=name, operator=operator)
            cells = [said(one["rank"].isel(step=place), 1) for place in (0, -1)]
            cells += [said(one.alignment.isel(step=place)) for place in (0, -1)]
            rows.append(f"| {name} | `{operator}` | {' | '.join(cells)} |")
    scores = ", ".join(f"{said(numbers.test_r2.sel(network=n).isel(step=-1))} ({n})" for n in names)
    most = int(numbers.dimension.max())
    text = (
        f"Effective ranks, of at most {most} dimensions. A rank is lower where the 95% interval of the "
        f"difference over "
        f"seeds lies below 0. After {int(numbers.step[-1])} updates the `R^2` on unseen trials is "
        f"{scores}: figures after "
        "training compare networks that have learned differently well."
    )
    return "\n".join([head, "", *rows, "", text])


def _rank(numbers: xr.Dataset, network: str, operator: str) -> xr.DataArray:
    return numbers["rank"].sel(network=network, operator=operator)
