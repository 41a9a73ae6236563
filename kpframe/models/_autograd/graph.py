"""What a graph that autograd recorded says of itself: its leaves, and how much it keeps."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from functools import cache
from typing import Any

import torch


def nodes(*outputs: torch.Tensor) -> Iterator[Any]:
    """Yield the nodes of the graph that leads to tensors, each once."""
    seen: set[object] = set()
    stack: list[Any] = [output.grad_fn for output in outputs]
    while stack:
        node = stack.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        yield node
        stack.extend(parent for parent, _ in node.next_functions)


def leaves(*outputs: torch.Tensor) -> list[torch.Tensor]:
    """Return the tensors at the ends of a graph, which are those that it can teach."""
    found = [node.variable for node in nodes(*outputs) if hasattr(node, "variable")]
    return found + [output for output in outputs if output.requires_grad and output.grad_fn is None]


def saved_bytes(output: torch.Tensor) -> int:
    """Return how many bytes the graph that leads to a tensor keeps, memory that tensors share once.

    An estimate: it reads what the nodes show, and keeps nothing of it. Hooks on saved tensors would know
    all, but refuse ``torch.func`` inside a step, and an output that they are given is never set free.
    """
    found: dict[object, int] = {}
    for node in nodes(output):
        for tensor in _saved(node):
            try:
                storage = tensor.untyped_storage()
                found[storage.data_ptr()] = storage.nbytes()
            except (RuntimeError, NotImplementedError):  # a sparse tensor, or one of torch.func
                found[node] = max(found.get(node, 0), _size(tensor))
    return sum(found.values())


def _saved(node: Any) -> Iterator[torch.Tensor]:
    kind: Any = type(node)
    for name in _names(kind):
        try:
            value = getattr(node, name)
        except Exception:  # what has been written to, or given up, can no longer be read
            continue
        for tensor in value if isinstance(value, tuple | list) else (value,):
            if isinstance(tensor, torch.Tensor):
                yield tensor


@cache
def _names(kind: Hashable) -> tuple[str, ...]:
    return tuple(name for name in dir(kind) if name.startswith("_saved_") or name == "saved_tensors")


def _size(tensor: torch.Tensor) -> int:
    try:
        entries = tensor._nnz() if tensor.layout == torch.sparse_coo else tensor.numel()
        return int(entries) * tensor.itemsize
    except Exception:
        return 0
