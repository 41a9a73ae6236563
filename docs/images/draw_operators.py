"""Draw ``operators.svg``: P, K and Phi = P K P* of a small network, as matrices.

``python docs/images/draw_operators.py`` writes it beside this file; with a folder as argument, there.
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch
from matplotlib import rcParams
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure

import kpframe

UNITS, STEPS = 10, 8


def draw(folder: Path) -> None:
    """Write the picture into a folder."""
    rcParams["svg.hashsalt"] = "operators"
    torch.manual_seed(3)
    model = kpframe.create_model("rnn", input_size=4, hidden_size=UNITS, gain=1.1).double()
    flow = kpframe.linearize(model, torch.randn(1, STEPS, 4, dtype=torch.float64))
    panels = [
        (r"$\Phi$", "how gradient descent\nmoves the trajectory", flow.Phi),
        ("$P$", "how a change travels\nforward in time", flow.P),
        ("$K$", "what the parameters\ncan change in a step", flow.K),
        ("$P^*$", "how an error travels\nback in time", flow.P.T),
    ]

    figure = Figure(figsize=(9.2, 2.75), layout="constrained")
    axes = figure.subplots(1, 4)
    for place, (panel, (symbol, text, operator)) in enumerate(zip(axes, panels, strict=True)):
        matrix = operator.to_dense().numpy()
        top = abs(matrix).max()
        panel.imshow(matrix, cmap="RdBu_r", norm=SymLogNorm(top / 30, vmin=-top, vmax=top))
        for edge in range(UNITS, UNITS * STEPS, UNITS):
            panel.axhline(edge - 0.5, color="0.8", lw=0.4)
            panel.axvline(edge - 0.5, color="0.8", lw=0.4)
        centres = [UNITS * (t + 0.5) - 0.5 for t in range(STEPS)]
        panel.set_xticks(centres, [str(t + 1) for t in range(STEPS)], fontsize=7)
        panel.set_yticks(centres, [str(t + 1) for t in range(STEPS)], fontsize=7)
        panel.tick_params(length=0)
        panel.set_title(symbol, fontsize=15)
        panel.set_xlabel(text, fontsize=9)
        if place:
            sign = "=" if place == 1 else r"$\cdot$"
            panel.text(-0.17, 0.5, sign, transform=panel.transAxes, fontsize=16, ha="center", va="center")
    axes[0].set_ylabel("time step", fontsize=8)
    figure.savefig(folder / "operators.svg", metadata={"Date": None})


if __name__ == "__main__":
    draw(Path(sys.argv[1]) if sys.argv[1:] else Path(__file__).parent)
