"""A propagator by parallel scan for kpframe."""

from collections.abc import Iterator

from attrs import frozen

from kpframe.plugin import PropagatorSpec, hookimpl, setting


@frozen
class ParallelScanSettings:
    """Settings of the propagator ``parallel_scan``."""

    growth: float | None = setting(
        None,
        ge=1,
        help="largest entry of a product of steps, beyond which no longer ones are made; "
        "unset: eps^(-1/4), which is 8192 in float64 and 54 in float32",
    )
    max_bytes: int = setting(
        2**30, ge=2**20, help="largest memory that composing the products of steps takes [bytes]"
    )


@hookimpl
def kpframe_propagators() -> Iterator[PropagatorSpec]:
    """Offer the propagator ``parallel_scan``."""
    yield PropagatorSpec(
        name="parallel_scan",
        factory="kpframe_scan.propagator:ParallelScanPropagator",
        settings=ParallelScanSettings,
        api=1,
        summary="products of steps, composed in a balanced tree once and used by every product with P",
        fits="any A of up to 32 states in few trials; fast for long sequences, in 4 times the memory of A",
    )
