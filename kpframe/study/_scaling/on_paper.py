"""A product with Phi of a network that nobody has yet: counted, not measured."""

from __future__ import annotations

from kpframe.study._scaling.machine import Machine
from kpframe.study._scaling.work import Line, Work

#: Passes over all weights in a product with Phi: P*, J*, J and P, a multiplication and an addition each.
_FLOPS = 2 * 4
#: Vectors of states that a product holds for each probe: what goes in, what comes out, and one between.
_VECTORS = 3
#: Vectors of parameters that a product holds for each probe: the gradient, and its copy that is summed up.
_GRADIENTS = 2


def product_on_paper(
    parameters: int, hidden: int, trials: int, steps: int, probes: int, machine: Machine, itemsize: int = 4
) -> Work:
    """Return the work of one product with Phi of a recurrent network, on any number of ranks.

    Args:
        parameters: M, each of which takes part once in each step of a trial.
        hidden: units.
        trials: of all ranks.
        steps: of a trial.
        probes: vectors that go together, in one all-reduce.
        machine: computes at its rate of matrix products.
        itemsize: bytes of a number.
    """
    states = itemsize * steps * hidden
    computing = Line(0.0, _FLOPS * probes * steps * parameters / machine.product_rate)
    memory = Line(
        itemsize * parameters * (1 + _GRADIENTS * probes),
        states * (2 + _VECTORS * probes),  # beside probes: gains, and what the weights read
    )
    return Work(
        trials,
        computing.at(trials),
        memory.at(trials),
        computing,
        memory,
        1,
        itemsize * probes * parameters,
    )
