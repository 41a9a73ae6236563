"""A compiled propagator for kpframe."""

from collections.abc import Iterator

from kpframe.plugin import PropagatorSpec, hookimpl


@hookimpl
def kpframe_propagators() -> Iterator[PropagatorSpec]:
    """Offer the propagator ``native``."""
    yield PropagatorSpec(
        name="native",
        factory="kpframe_native.propagator:NativePropagator",
        api=1,
        automatic=True,
        summary="all steps in one compiled loop: products with the weights and gains fused, no Python a step",
        fits="A of a SiteModel of one stage, on the CPU (rnn, gru, lstm, hh ...)",
    )
