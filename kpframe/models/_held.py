"""Tensors that a module holds besides its parameters: what calls left in it, and what was not registered."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping

import torch

from kpframe.models._autograd.graph import leaves

#: Attributes of every module; parameters and submodules are looked through by name.
_OWN = frozenset(vars(torch.nn.Module()))

#: How deep containers and objects are looked into.
_DEPTH = 5


def held_tensors(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the buffers, and the tensors in other attributes, of a module and its parts: where, and what.

    Modules that are not registered (in a plain list) are looked into like any object, parameters and all.
    """
    seen: set[int] = set()
    for prefix, part in module.named_modules():
        yield from _of_module(part, f"{prefix}." if prefix else "", seen, _DEPTH)


def detached_copies(module: torch.nn.Module) -> dict[int, torch.Tensor]:
    """Return copies, by the identity of the original, of the held tensors that ``copy.deepcopy`` refuses.

    Those that carry a graph get one of their own, which ends in a new leaf; so a step that reads one is
    seen to learn what is no parameter.
    """
    copies: dict[int, torch.Tensor] = {}
    for _, tensor in held_tensors(module):
        if not tensor.is_leaf:
            copies[id(tensor)] = tensor.detach().clone().requires_grad_().clone()
        elif tensor.layout not in (torch.strided, torch.sparse_coo):
            copies[id(tensor)] = tensor.detach().clone()
    return copies


def describe_foreign(module: torch.nn.Module, leaf: torch.Tensor) -> str:
    """Return what a leaf is that a step of a module learns, and what to do about it."""
    for name, tensor in held_tensors(module):
        if tensor is leaf and "[" in name:
            return (
                f"{name!r}, of a part that is not registered; hold parts in torch.nn.ModuleList, ModuleDict "
                "or ParameterList, not in a plain list, tuple or dict"
            )
        if tensor is leaf:
            return f"{name!r}, which is no parameter; make it a torch.nn.Parameter, or detach it"
        if any(end is leaf for end in leaves(tensor)):
            return f"{name!r}, computed outside the step; compute it inside, make it state, or detach it"
    return (
        f"a tensor {list(leaf.shape)} of another module or of none; a function must use the module that it "
        "is given, and a module hold what it learns"
    )


def _of_module(
    part: torch.nn.Module, prefix: str, seen: set[int], depth: int
) -> Iterator[tuple[str, torch.Tensor]]:
    for name, buffer in part._buffers.items():
        if buffer is not None:
            yield prefix + name, buffer
    for name, value in vars(part).items():
        if name not in _OWN:
            yield from _inside(prefix + name, value, seen, depth)


def _inside(name: str, value: object, seen: set[int], depth: int) -> Iterator[tuple[str, torch.Tensor]]:
    if isinstance(value, torch.Tensor):
        yield name, value
        return
    if depth == 0 or id(value) in seen or isinstance(value, str | bytes | int | float | type):
        return
    seen.add(id(value))
    if isinstance(value, torch.nn.Module):
        for inner, parameter in value._parameters.items():
            if parameter is not None:
                yield f"{name}.{inner}", parameter
        for inner, part in value._modules.items():
            yield from _inside(f"{name}.{inner}", part, seen, depth - 1)
        yield from _of_module(value, f"{name}.", seen, depth - 1)
    elif isinstance(value, Mapping):
        for key, item in value.items():
            yield from _inside(f"{name}[{key!r}]", item, seen, depth - 1)
    elif isinstance(value, list | tuple | set | frozenset | deque):
        for place, item in enumerate(value):
            yield from _inside(f"{name}[{place}]", item, seen, depth - 1)
    elif hasattr(value, "__dict__") and not callable(value):
        for key, item in vars(value).items():
            yield from _inside(f"{name}.{key}", item, seen, depth - 1)
