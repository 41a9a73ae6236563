"""Networks of FitzHugh-Nagumo neurons for kpframe: settings and hook. No torch here: listing stays fast."""

from collections.abc import Iterator

from attrs import frozen

from kpframe.plugin import ModelSpec, hookimpl, setting


@frozen
class Settings:
    """Settings of both models. The equations are dimensionless; time is in units of the fast variable's."""

    input_size: int = setting(ge=1, help="inputs per step")
    hidden_size: int = setting(ge=1, help="number of neurons n; the state is v and w, 2 n wide")
    dt: float = setting(0.1, gt=0, help="time step [fast time units]")
    a: float = setting(0.7, help="offset of the recovery [1]")
    b: float = setting(0.8, ge=0, help="decay of the recovery [1]")
    tau: float = setting(12.5, gt=0, help="time constant of the recovery [fast time units]")
    seed: int | None = setting(None, ge=0, help="seed of the initial weights; unset: torch's own generator")


@hookimpl
def kpframe_models() -> Iterator[ModelSpec]:
    """Offer the network twice: by its equations alone, and with its weights declared as sites."""
    yield ModelSpec(
        name="fitzhugh_nagumo",
        factory="kpframe_fitzhugh_nagumo.model:FitzHughNagumo",
        settings=Settings,
        api=1,
        summary="excitable neurons with trainable coupling, by their equations alone",
    )
    yield ModelSpec(
        name="fitzhugh_nagumo_sites",
        factory="kpframe_fitzhugh_nagumo.structured:FitzHughNagumoSites",
        settings=Settings,
        api=1,
        summary="excitable neurons with trainable coupling, with declared weight sites",
    )
