"""A sharded operator beside the one of one process, and what a product must not send."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import distributed

from kpframe import Operator, Space

#: Shares of five trials by number of ranks.
COUNTS = {1: [5], 2: [4, 1], 3: [1, 3, 1]}


def own(space: Space, tensor: torch.Tensor) -> torch.Tensor:
    """Return this rank's part of a tensor ``[..., *space]`` of all ranks."""
    if space.shards is None:
        return tensor
    return tensor.narrow(space.dim("batch"), space.shards.start, space["batch"].size)


def assert_same(sharded: Operator, plain: Operator, seed: int = 0, tol: float = 1e-12) -> None:
    """Assert that both products are those of one process, and that they are adjoint to each other.

    The partner of each equality: the product of other vectors is far from it.
    """
    generator = torch.Generator().manual_seed(seed)
    pairs = [(sharded, plain), (sharded.T, plain.T)]
    vectors, products = [], []
    for ours, whole in pairs:
        for space, other in ((ours.domain, whole.domain), (ours.codomain, whole.codomain)):
            assert space.names == other.names
            assert space.dimension == other.size, f"{ours!r}: ({space}) beside ({other})"
        q, other = torch.randn(2, 2, *whole.domain.shape, generator=generator, dtype=whole.dtype)
        expected, different = whole(q), whole(other)
        out = ours(own(ours.domain, q).contiguous())
        scale = float(expected.abs().max())
        assert scale > 0, f"{ours!r} is zero"
        wanted = own(ours.codomain, expected)
        assert out.shape == wanted.shape
        if out.numel():
            assert float((out - wanted).abs().max()) <= tol * scale, f"{ours!r} differs"
            assert float((out - own(ours.codomain, different)).abs().max()) > 1e-6 * scale
        vectors.append(own(ours.domain, q).reshape(2, -1))
        products.append(out.reshape(2, -1))
    codomain, domain = sharded.codomain, sharded.domain
    forward = codomain.inner(products[0], vectors[1])
    backward = domain.inner(vectors[0], products[1])
    scale = float((codomain.norms(products[0])[:, None] * codomain.norms(vectors[1])).max())
    assert float((forward - backward).abs().max()) <= tol * scale, f"{sharded!r}* is not its adjoint"
    assert float(forward.abs().max()) > 1e-6 * scale


def raised(kind: type[Exception], call: Callable[[], Any]) -> str:
    """Return the message of an error of a class that a call must raise."""
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__}")


@contextmanager
def no_gathering() -> Iterator[None]:
    """Let every collective fail but all-reduces."""
    names = [
        name
        for name in dir(distributed)
        if name.startswith(("all_gather", "gather", "broadcast", "scatter", "all_to_all", "send", "recv"))
    ]
    kept = {name: getattr(distributed, name) for name in names}

    def refuse(*_: Any, **__: Any) -> None:
        raise AssertionError("a collective that is no all-reduce")

    try:
        for name in names:
            setattr(distributed, name, refuse)
        yield
    finally:
        for name, function in kept.items():
            setattr(distributed, name, function)
