"""Optimizers of torch that do not load its compiler."""

from __future__ import annotations

import inspect
from typing import Any, TypeVar, cast

import torch

Kind = TypeVar("Kind", bound=torch.optim.Optimizer)
#: Methods that torch keeps its compiler out of, and loads it for.
_KEPT_OUT = ("add_param_group", "zero_grad", "state_dict", "load_state_dict")


def uncompiled(kind: type[Kind]) -> type[Kind]:
    """Return a kind of optimizer that makes the same updates and is never compiled.

    The first optimizer of a process loads ``torch._dynamo`` to keep it out of some methods, which takes over
    a second of CPU time and serves nobody where nothing is compiled. Here these methods are the plain ones.
    """
    plain: dict[str, Any] = {name: inspect.unwrap(getattr(kind, name)) for name in _KEPT_OUT}
    plain["step"] = torch.no_grad()(inspect.unwrap(kind.step))
    return cast("type[Kind]", type(kind.__name__, (kind,), plain))
