"""A compiled propagator and parameter operator for kpframe."""

from collections.abc import Iterator

from kpframe.plugin import ParameterOperatorSpec, PropagatorSpec, hookimpl


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


@hookimpl
def kpframe_parameter_operators() -> Iterator[ParameterOperatorSpec]:
    """Offer the parameter operator ``native``."""
    yield ParameterOperatorSpec(
        name="native",
        factory="kpframe_native.parameter_operator:NativeParameterOperator",
        api=1,
        automatic=True,
        summary="both products with what is read in one compiled pass, gains fused",
        fits="J of a SiteModel of one stage whose weights are parameters themselves, on the CPU",
    )
