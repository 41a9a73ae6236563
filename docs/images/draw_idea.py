"""Draw the pictures of the page on the idea, and write its numbers: ``python docs/images/draw_idea.py``.

All are of one network of two units, so that its states are points of a plane. With a folder as argument, the
pictures go there and the page stays as it is.
"""

from __future__ import annotations

import math
import re
import sys
from pathlib import Path

import torch
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.colors import SymLogNorm
from matplotlib.figure import Figure

import kpframe

UNITS, STEPS, TRIALS = 2, 12, 3
PAGE = Path(__file__).parents[1] / "idea.md"
NUMBERS = re.compile(r"(?<=<!-- made by images/draw_idea.py -->\n).*?(?=<!-- end of numbers -->)", re.DOTALL)
BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "0.55"

rcParams["svg.hashsalt"] = "idea"
rcParams["font.size"] = 9


def network() -> tuple[kpframe.Model, torch.Tensor, kpframe.Flow]:
    """Return a leaky network of two units, its inputs ``[B, T, 1]`` and its operators."""
    model = kpframe.create_model("rnn", input_size=1, hidden_size=UNITS, seed=4).double()
    with torch.no_grad():
        angle, gain = 0.5, 1.05  # a rotation that hardly shrinks, so that trajectories turn
        model.weight_hh_l0.copy_(
            gain * torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
        )
        model.weight_ih_l0.copy_(torch.tensor([[0.8], [0.3]]))
        for bias in (model.bias_ih_l0, model.bias_hh_l0):
            bias.zero_()
    x = torch.zeros(TRIALS, STEPS, 1, dtype=torch.float64)
    x[:, 0, 0] = torch.tensor([1.2, -0.5, 0.5])
    x[:, 5, 0] = torch.tensor([0.0, 0.6, -0.6])
    return model, x, kpframe.linearize(model, x)


def canvas(columns: int = 1, width: float = 7.2, height: float = 3.4) -> tuple[Figure, list[Axes]]:
    """Return a figure with so many panels beside each other."""
    figure = Figure(figsize=(width, height), layout="constrained")
    axes = figure.subplots(1, columns, squeeze=False)[0]
    for panel in axes:
        panel.spines[["top", "right"]].set_visible(False)
    return figure, list(axes)


def plane(panel: Axes) -> None:
    """Make a panel the plane of the two units."""
    panel.set_xlabel("unit 1")
    panel.set_ylabel("unit 2")
    panel.set_aspect("equal")
    panel.set_xlim(-1.05, 1.05)
    panel.set_ylim(-1.05, 1.05)
    panel.set_xticks([-1, 0, 1])
    panel.set_yticks([-1, 0, 1])


def below(panel: Axes, **settings: object) -> None:
    """Put a panel's legend under it, where it hides nothing."""
    panel.legend(frameon=False, loc="upper center", bbox_to_anchor=(0.5, -0.2), **settings)


def trajectory(flow: kpframe.Flow) -> Figure:
    """Draw the states of all trials, as curves over time and in the plane."""
    states = flow.trajectory.states
    figure, (left, right) = canvas(2)
    for trial, colour in enumerate((BLUE, ORANGE, GREEN)):
        h = states[trial]
        left.plot(range(1, STEPS + 1), h[:, 0], color=colour, label=f"trial {trial + 1}")
        left.plot(range(1, STEPS + 1), h[:, 1], color=colour, ls="--")
        right.plot(*torch.cat([torch.zeros(1, UNITS), h]).T, color=colour, marker="o", ms=3)
    left.set_xlabel("time step t")
    left.set_ylabel("unit 1 (solid), unit 2 (dashed)")
    left.set_xticks([1, 4, 8, 12])
    below(left, ncols=3)
    plane(right)
    return figure


def steps(model: kpframe.Model, x: torch.Tensor, flow: kpframe.Flow) -> Figure:
    """Draw what A does to a small circle around a state, and what J lets the parameters do in a step."""
    states, trial, t = flow.trajectory.states[0], 0, 3
    circle = torch.linspace(0, 2 * math.pi, 100, dtype=torch.float64)
    ring = 0.2 * torch.stack([circle.cos(), circle.sin()], dim=-1)
    A = flow.A.blocks()[trial, t]
    figure, (left, right) = canvas(2)
    for panel in (left, right):
        panel.plot(*states[: t + 3].T, color=GREY, marker="o", ms=3, lw=1)
        plane(panel)
    before, after = states[t - 1], states[t]
    left.plot(*(before + ring).T, color=BLUE, label="changes of $h_{t-1}$")
    left.plot(*(after + ring @ A.T).T, color=ORANGE, label="times $A_t$: changes of $h_t$")
    below(left)
    J = flow.J.to_dense().reshape(TRIALS, STEPS, UNITS, -1)[trial, t]  # [H, M]
    parts = flow.J.domain.axes[0].parts
    for part, colour in zip(parts, (GREEN, BLUE, ORANGE, GREY), strict=False):
        for place, column in enumerate(J[:, part.start : part.start + part.size].T):
            right.annotate(
                "",
                xy=(after + 0.4 * column).tolist(),
                xytext=after.tolist(),
                arrowprops={"arrowstyle": "->", "color": colour, "lw": 1.5},
            )
            if not place:
                right.plot([], [], color=colour, label=part.name.removesuffix("_l0"))
    below(right, ncols=2, title="columns of $J_t$, by parameter")
    for panel in (left, right):
        panel.set_xlim(-0.7, 0.5)
        panel.set_ylim(0.1, 1.1)
        panel.set_xticks([-0.5, 0, 0.5])
        panel.set_yticks([0.5, 1])
    return figure


def propagator(model: kpframe.Model, x: torch.Tensor, flow: kpframe.Flow) -> Figure:
    """Draw a kick at one step, where the network takes it and where P says that it does, and all of P."""
    trial, start, size = 0, 3, 0.15
    kick = torch.zeros(TRIALS, STEPS, UNITS, dtype=torch.float64)
    kick[trial, start] = size * torch.tensor([0.6, 0.8])
    states = flow.trajectory.states
    real = states.clone()
    h = states[:, start] + kick[:, start]
    real[:, start] = h
    for t in range(start + 1, STEPS):
        h = model.step(x[:, t], h).detach()
        real[:, t] = h
    figure, (left, right) = canvas(2)
    left.plot(*states[trial].T, color=GREY, marker="o", ms=3, lw=1, label="trajectory")
    left.plot(*real[trial, start:].T, color=BLUE, marker="o", ms=3, lw=1, label="after a kick")
    left.plot(*(states + flow.P(kick))[trial, start:].T, "x", color=ORANGE, label="trajectory + P kick")
    plane(left)
    below(left)
    matrix(right, flow.P, trial)
    return figure


def parameters(flow: kpframe.Flow) -> Figure:
    """Draw K along one trial, and which steps of all trials it ties together."""
    figure, (left, right) = canvas(2)
    matrix(left, flow.K, 0)
    tied = flow.K.partial_trace("hidden").to_dense().numpy()
    top = float(abs(tied).max())
    shown = right.imshow(tied, cmap="RdBu_r", vmin=-top, vmax=top)
    edges = [STEPS * trial - 0.5 for trial in range(1, TRIALS)]
    for edge in edges:
        right.axhline(edge, color="0.6", lw=0.6)
        right.axvline(edge, color="0.6", lw=0.6)
    centres = [STEPS * (trial + 0.5) - 0.5 for trial in range(TRIALS)]
    right.set_xticks(centres, [f"trial {trial + 1}" for trial in range(TRIALS)])
    right.set_yticks(centres, [f"trial {trial + 1}" for trial in range(TRIALS)], rotation=90, va="center")
    right.tick_params(length=0)
    right.set_title("traced over units: steps of all trials")
    figure.colorbar(shown, ax=right, shrink=0.8)
    return figure


def learning(model: kpframe.Model, x: torch.Tensor, flow: kpframe.Flow) -> tuple[Figure, dict[str, float]]:
    """Draw one step of gradient descent: the trajectory before and after, and what Phi said of it."""
    eta = 0.01
    target = torch.tensor([0.0, -0.8], dtype=torch.float64).expand(TRIALS, UNITS)
    states = flow.trajectory.states
    err = torch.zeros_like(states)
    err[:, -1] = states[:, -1] - target  # of half the squared distance at the last step
    said = -eta * flow.Phi(err)
    theta = model.trainable()
    for parameter in theta.values():
        parameter.grad = None
    h = model.initial_state(TRIALS)
    for t in range(STEPS):
        h = model.step(x[:, t], h)
    (0.5 * ((h - target) ** 2).sum()).backward()
    with torch.no_grad():
        for parameter in theta.values():
            parameter -= eta * parameter.grad
    after = kpframe.linearize(model, x).trajectory.states
    figure, (left, right) = canvas(2)
    for trial, colour in enumerate((BLUE, ORANGE, GREEN)):
        left.plot(*states[trial].T, color=colour, lw=1, alpha=0.5)
        left.plot(*after[trial].T, color=colour, marker="o", ms=3, lw=1)
        left.plot(*(states + said)[trial].T, "x", color="black", ms=4)
    left.plot(*target[0], marker="*", color="black", ms=11, ls="")
    plane(left)
    left.plot([], [], color=GREY, lw=1, label="before")
    left.plot([], [], color=GREY, marker="o", ms=3, lw=1, label="after one step")
    left.plot([], [], "x", color="black", ms=4, label="as Phi says")
    left.plot([], [], "*", color="black", label="target of the last step")
    below(left, ncols=2)
    matrix(right, flow.Phi, 0)
    change = after - states
    off = {"Phi": change - said, "K": change + eta * flow.K(err)}
    return figure, {name: float(miss.norm() / change.norm()) for name, miss in off.items()}


def matrix(panel: Axes, operator: kpframe.Operator, trial: int) -> None:
    """Draw an operator between the states of one trial as a matrix, with a line at each step."""
    dense = operator.select(batch=trial).to_dense().numpy()
    top = float(abs(dense).max())
    panel.imshow(dense, cmap="RdBu_r", norm=SymLogNorm(top / 30, vmin=-top, vmax=top))
    for edge in range(UNITS, UNITS * STEPS, UNITS):
        panel.axhline(edge - 0.5, color="0.85", lw=0.4)
        panel.axvline(edge - 0.5, color="0.85", lw=0.4)
    places = [UNITS * t + (UNITS - 1) / 2 for t in (0, 3, 7, 11)]
    panel.set_xticks(places, ["1", "4", "8", "12"])
    panel.set_yticks(places, ["1", "4", "8", "12"])
    panel.set_xlabel("from step s")
    panel.set_ylabel("to step t")
    panel.set_title(f"{operator!r} of trial {trial + 1}, as a matrix")


def draw(folder: Path) -> dict[str, float]:
    """Write the five pictures into a folder, and return the numbers that the page tells."""
    model, x, flow = network()

    pictures = {
        "trajectory": trajectory(flow),
        "steps": steps(model, x, flow),
        "propagator": propagator(model, x, flow),
        "parameters": parameters(flow),
    }
    last, off = learning(model, x, flow)
    for name, figure in {**pictures, "learning": last}.items():
        figure.savefig(folder / f"idea_{name}.svg", metadata={"Date": None})
    return off


def sentence(off: dict[str, float]) -> str:
    """Return what the page says of the last picture."""
    return (
        f"\nIn the picture the change of all states is as Phi says to {off['Phi']:.0%} of its size: what is\n"
        f"left is of second order in `η`. K alone, without the way through time, is "
        f"off by {off['K']:.0%}.\n\n"
    )


if __name__ == "__main__":
    given = sys.argv[1:]
    found = draw(Path(given[0]) if given else Path(__file__).parent)
    if not given:
        PAGE.write_text(
            NUMBERS.sub(lambda _: sentence(found), PAGE.read_text(encoding="utf-8")), encoding="utf-8"
        )
