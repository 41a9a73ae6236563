"""State-space models for kpframe."""

from collections.abc import Iterator

from kpframe.plugin import ModelSpec, PropagatorSpec, hookimpl
from kpframe_ssm.settings import (
    LRUSettings,
    LTISettings,
    MambaSettings,
    S4DSettings,
    S5Settings,
    SSMSettings,
)


@hookimpl
def kpframe_models() -> Iterator[ModelSpec]:
    """Offer the state-space models, one name each, and ``ssm``, which picks one by its setting ``kind``."""
    yield ModelSpec(
        name="lti",
        factory="kpframe_ssm.lti:LTI",
        settings=LTISettings,
        api=1,
        summary="general linear time-invariant system h' = A h + B x with dense matrices",
    )
    yield ModelSpec(
        name="s4d",
        factory="kpframe_ssm.s4d:S4D",
        settings=S4DSettings,
        api=1,
        summary="S4D: a bank of diagonal complex systems, one for each channel (zoh, bilinear)",
    )
    yield ModelSpec(
        name="s5",
        factory="kpframe_ssm.s5:S5",
        settings=S5Settings,
        api=1,
        summary="S5: one diagonal complex system that all channels share (zoh, bilinear)",
    )
    yield ModelSpec(
        name="lru",
        factory="kpframe_ssm.lru:LRU",
        settings=LRUSettings,
        api=1,
        summary="linear recurrent unit, |lambda| < 1 by its form, inputs normalised",
    )
    yield ModelSpec(
        name="mamba",
        factory="kpframe_ssm.mamba:Mamba",
        settings=MambaSettings,
        api=1,
        summary="the Mamba block: a selective state-space model with a causal convolution",
    )
    yield ModelSpec(
        name="ssm",
        factory="kpframe_ssm.kinds:ssm",
        settings=SSMSettings,
        api=1,
        summary="any of these by the setting kind, for studies that compare them",
    )


@hookimpl
def kpframe_propagators() -> Iterator[PropagatorSpec]:
    """Offer the forms of the scan over modes that the models' setting ``scan`` chooses from."""
    for name, factory, summary, fits in (
        (
            "modes",
            "ModePropagator",
            "a scan over modes, sequential or chunked, whichever is cheaper for a product",
            "the A of s4d, s5, lru and mamba",
        ),
        (
            "modes_sequential",
            "SequentialModePropagator",
            "a scan over modes, one elementwise step after the other",
            "the A of s4d, s5, lru and mamba; fast where a step of all trials is large",
        ),
        (
            "modes_chunked",
            "ChunkedModePropagator",
            "a scan over modes, within all chunks of sqrt(T) steps at once, then over their ends",
            "the A of s4d, s5, lru and mamba; fast where a step is small and there are many",
        ),
        (
            "modes_fft",
            "FFTModePropagator",
            "a convolution with the powers of lambda, by FFT",
            "the A of s4d, s5 and lru without a mask, |lambda| <= 1",
        ),
    ):
        factory = f"kpframe_ssm.step:{factory}"
        yield PropagatorSpec(name=name, factory=factory, api=1, summary=summary, fits=fits)
