"""What the core itself offers, by the hooks of plugins; the host always holds it, and counts it as none.

A plugin that offers one of these names clashes with the core, as with another plugin: the bare name is
refused, and ``kpframe:NAME`` is the core's.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any, Protocol

from attrs import frozen

from kpframe import __version__
from kpframe.plugin._core_learning import learning_quantities
from kpframe.plugin._core_quantities import quantities
from kpframe.plugin._hookspecs import hookimpl
from kpframe.plugin._loading import collect
from kpframe.plugin._settings import setting
from kpframe.plugin._specs import (
    ParameterOperatorSpec,
    PluginInfo,
    PropagatorSpec,
    QuantitySpec,
    ReducerSpec,
)

CORE = "kpframe"
_REDUCER = "kpframe.operators"


class Tensor(Protocol):
    """A ``torch.Tensor``, named where torch is not imported; what takes it checks it."""


@frozen
class Axes:
    """The axes that are reduced."""

    axes: tuple[str, ...] = setting(help="names of the axes")


@frozen
class Lengths:
    """A length for each axis, written as ``time=5``."""

    lengths: dict[str, Any] = setting(help="steps that one average spans, by the name of the axis: time=5")

    @classmethod
    def gather(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of keywords that are names of axes."""
        return {"lengths": dict(values)}


@frozen
class Indices:
    """An index for each axis, written as ``time=-1``."""

    indices: dict[str, Any] = setting(help="entries to keep, by the name of the axis: time=-1")

    @classmethod
    def gather(cls, values: Mapping[str, Any]) -> dict[str, Any]:
        """Return the settings of keywords that are names of axes."""
        return {"indices": dict(values)}


@frozen
class Mask:
    """Which steps are valid."""

    mask: Tensor = setting(help="bool tensor [batch, time], True at valid steps")


@frozen
class Directions:
    """What is projected onto."""

    directions: Tensor = setting(help="tensor [k, size of the axis], a direction a row")
    axis: str = setting("hidden", help="the axis that is replaced")
    name: str = setting("output", help="the name of the axis of coordinates")


@frozen
class Memory:
    """How much may be held."""

    max_bytes: int = setting(2 * 2**30, ge=1, help="largest memory that the matrices may take [bytes]")


@frozen
class Graphs:
    """How many graphs are held."""

    max_graphs: int = setting(
        8,
        ge=1,
        help="graphs held at once, each with memory for its vectors",
    )


@hookimpl
def kpframe_propagators() -> Iterator[PropagatorSpec]:
    """Yield the propagators that any step Jacobian or model has."""
    for name, factory, settings, summary, fits in (
        (
            "scan",
            "kpframe.flow:ScanPropagator",
            None,
            "the step Jacobian's own pass through time",
            "any A; fast where A has a scan of its own, such as that of weight sites",
        ),
        (
            "stepwise",
            "kpframe.flow:StepwisePropagator",
            None,
            "a loop over time, one product with the step Jacobian a step",
            "any A; the plain loop that the others are compared with",
        ),
        (
            "dense",
            "kpframe.flow:DensePropagator",
            Memory,
            "step Jacobians written out as matrices [batch, time, hidden, hidden]",
            "any A of a narrow state; fast for many products, in the memory of the matrices",
        ),
        (
            "graph",
            "kpframe.models:GraphPropagator",
            None,
            "derivatives of the graph of the whole roll-out",
            "the A that automatic differentiation makes of a model; fast for wide states",
        ),
        (
            "cuda_graph",
            "kpframe.flow:CudaGraphPropagator",
            Graphs,
            "the step Jacobian's own pass through time as CUDA graphs, one launch in place of several a step",
            "on a CUDA device, an A that is repeatable, as those of weight sites, blocks and diagonals are",
        ),
    ):
        yield PropagatorSpec(name, factory, settings=settings, summary=summary, fits=fits)


@hookimpl
def kpframe_parameter_operators() -> Iterator[ParameterOperatorSpec]:
    """Yield the parameter operators that any parameter Jacobian or model of sites has."""
    yield ParameterOperatorSpec(
        "product",
        "kpframe.flow:ProductParameterOperator",
        summary="J M J* as three products",
        fits="any J and any metric",
    )
    yield ParameterOperatorSpec(
        "gram",
        "kpframe.models:GramParameterOperator",
        summary="a Gram matrix of what the weight sites read, between their gains",
        fits="the J of weight sites; fast where there are more parameters than trials and steps",
    )


@hookimpl
def kpframe_reducers() -> Iterator[ReducerSpec]:
    """Yield the reductions over named axes."""
    for name, factory, settings, summary in (
        ("mean", "Mean.over", Axes, "average over both copies of the axes"),
        ("sum", "Sum.over", Axes, "sum over both copies of the axes"),
        ("bin", "Bin.over", Lengths, "averages over windows of the axes"),
        ("select", "Select.over", Indices, "chosen entries of the axes"),
        ("last_valid", "LastValid", Mask, "each trial's last valid step"),
        ("project", "Project", Directions, "coordinates along directions, in place of an axis"),
        ("partial_trace", "PartialTrace.over", Axes, "trace over the axes"),
        ("block_diagonal", "BlockDiagonal.over", Axes, "entries at which both copies of the axes are equal"),
    ):
        yield ReducerSpec(name, f"{_REDUCER}:{factory}", settings=settings, summary=summary)


@hookimpl
def kpframe_quantities() -> Iterator[QuantitySpec]:
    """Yield what studies can record."""
    yield from quantities()
    yield from learning_quantities()


@cache
def core() -> PluginInfo:
    """Return the core as the host holds it: like a plugin, and with what it offers."""
    specs = tuple(collect(sys.modules[__name__], CORE))
    return PluginInfo(CORE, __version__, entry_point="", status="loaded", specs=specs)
