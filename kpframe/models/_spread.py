"""Parameters that training tools keep in parts on several processes, which operators do not take."""

from __future__ import annotations

from collections.abc import Iterable

import torch

from kpframe.errors import UnsupportedError, mismatch

#: Classes of torch that hold, or are, parts of parameters.
_SPREAD = {"FullyShardedDataParallel", "FSDPModule", "FlatParameter", "DTensor", "ShardedTensor"}

#: What to do about it.
GATHERED = (
    "gather them first, on all ranks: get_model_state_dict(module, "
    "options=StateDictOptions(full_state_dict=True)) of torch.distributed.checkpoint.state_dict, or "
    "full_tensor() of each, loaded into a module that is not sharded"
)


def check_whole(module: torch.nn.Module, argument: str) -> None:
    """Raise ``UnsupportedError`` for parameters that are spread over processes; says how to gather them."""
    if found := spread_class((*module.modules(), *module.parameters())):
        expected = "parameters that are whole on this process"
        got = f"{found}, which spreads them over several"
        raise UnsupportedError(f"{mismatch(argument, expected, got)}; {GATHERED}")


def spread_class(things: Iterable[object]) -> str:
    """Return the class of torch by which any of the things is spread over processes; empty for none."""
    for thing in things:
        for kind in type(thing).__mro__:
            if kind.__name__ in _SPREAD and kind.__module__.partition(".")[0] == "torch":
                return kind.__name__
    return ""
