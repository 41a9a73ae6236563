"""Networks of Hodgkin-Huxley and Morris-Lecar neurons for kpframe."""

from collections.abc import Iterator

from kpframe.plugin import ModelSpec, hookimpl
from kpframe_hh.settings import HodgkinHuxleySettings, MorrisLecarSettings


@hookimpl
def kpframe_models() -> Iterator[ModelSpec]:
    """Offer the models ``hh`` and ``morris_lecar``."""
    yield ModelSpec(
        name="hh",
        factory="kpframe_hh.hodgkin_huxley:HodgkinHuxley",
        settings=HodgkinHuxleySettings,
        api=1,
        summary="Hodgkin-Huxley neurons (squid axon) with conductance synapses",
    )
    yield ModelSpec(
        name="morris_lecar",
        factory="kpframe_hh.morris_lecar:MorrisLecar",
        settings=MorrisLecarSettings,
        api=1,
        summary="Morris-Lecar neurons (calcium and potassium spikes) with conductance synapses",
    )
