"""The weight sites of each layer."""

from __future__ import annotations

from collections.abc import Callable

import torch

from kpframe import Site, Stage
from kpframe_rnn.connectivity import Connectivity
from kpframe_rnn.noise import Noise


def names(layers: int) -> dict[str, tuple[str, str]]:
    """Return each layer's preactivation -> (state component, noise): ``u, h, noise``, numbered if several."""
    suffixes = ("",) if layers == 1 else tuple(f"_l{k}" for k in range(layers))
    return {f"u{suffix}": (f"h{suffix}", f"noise{suffix}") for suffix in suffixes}


def shapes(connectivity: Connectivity, noise: Noise, *, bias: bool) -> dict[str, tuple[int, ...]]:
    """Return the tensors of all layers, in the order they are drawn in: torch's, with its names.

    The factors of a low-rank matrix, and its bulk, take the place of ``weight_hh``.
    """
    n, rank = connectivity.units, connectivity.rank
    found: dict[str, tuple[int, ...]] = {}
    for k in range(noise.layers):
        found[f"weight_ih_l{k}"] = (n, n if k else noise.signals)
        if rank is None:
            found[f"weight_hh_l{k}"] = (n, n)
        else:
            found |= {f"bulk_hh_l{k}": (n, n)} if connectivity.gain is not None else {}
            found |= {f"m_l{k}": (n, rank), f"n_l{k}": (n, rank)}
        found |= {f"bias_ih_l{k}": (n,), f"bias_hh_l{k}": (n,)} if bias else {}
    return found


def declare(
    connectivity: Connectivity,
    noise: Noise,
    *,
    bias: bool,
    transform: Callable[[torch.Tensor], torch.Tensor] | None,
) -> tuple[Stage, ...]:
    """Return a stage for each layer: input (or the layer below), recurrence and, if asked for, noise.

    ``transform`` is what weights read of a state: its rate in the current form.
    """
    stages, source = [], "input"
    for k, (target, (component, noise_target)) in enumerate(names(noise.layers).items()):
        b_ih, b_hh = (f"bias_ih_l{k}", f"bias_hh_l{k}") if bias else (None, None)
        sites = [
            Site(
                f"weight_ih_l{k}",
                source,
                target,
                b_ih,
                transform=transform if k else None,
                # without state noise the input has no other columns
                columns=slice(0, noise.inputs) if k == 0 and noise.state_noise else None,
                parameters=_made_of(f"weight_ih_l{k}", connectivity.dale if k else noise.input_noise > 0),
            ),
            Site(
                f"weight_hh_l{k}",
                component,
                target,
                b_hh,
                transform=transform,
                parameters=_recurrent_made_of(k, connectivity),
            ),
        ]
        if noise.state_noise:
            sites.append(Site(None, "input", noise_target, columns=noise.state_columns(k)))
        stages.append(Stage(component, connectivity.units, sites))
        source = f"{component}'"
    return tuple(stages)


def _made_of(weight: str, derived: bool) -> tuple[str, ...]:
    return (weight,) if derived else ()


def _recurrent_made_of(k: int, connectivity: Connectivity) -> tuple[str, ...]:
    if connectivity.rank is None:
        return _made_of(f"weight_hh_l{k}", connectivity.dale)
    bulk = (f"bulk_hh_l{k}",) if connectivity.train_bulk else ()
    return (*bulk, f"m_l{k}", f"n_l{k}")
