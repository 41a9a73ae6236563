"""Products make no host wait for a device: they read no number back and take nothing from the host.

An operator is moved to a device that holds no numbers (``meta``), where whatever needs one raises. What is
made on the host and copied there would make it wait, too, and is looked for in each operation.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kpframe import MatrixOperator, linearize
from kpframe.operators import Operator

META = torch.device("meta")


class _Pickler(pickle.Pickler):
    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.kept: list[Any] = []

    def persistent_id(self, value: Any) -> int | None:
        if not isinstance(value, torch.Tensor | torch.device):
            return None
        self.kept.append(value)
        return len(self.kept) - 1


class _Unpickler(pickle.Unpickler):
    def __init__(self, file: io.BytesIO, kept: list[Any]) -> None:
        super().__init__(file)
        self.kept = kept
        self.made: dict[int, torch.Tensor] = {}

    def persistent_load(self, place: int) -> torch.Tensor | torch.device:
        value = self.kept[place]
        if isinstance(value, torch.device):
            return META
        made = value.detach().to(META).requires_grad_(value.requires_grad)
        return self.made.setdefault(id(value), made)


def moved(op: Operator) -> Operator:
    """Return an operator with all that it has kept on the device without numbers."""
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(op)
    file.seek(0)
    return _Unpickler(file, pickler.kept).load()


class OnDevice(TorchDispatchMode):
    """Raises at an operation that takes or returns a tensor elsewhere."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for value in tree_leaves((args, kwargs or {}, out)):
            if isinstance(value, torch.Tensor) and value.device != META:
                raise RuntimeError(f"{func}: a tensor on {value.device}")
        return out


class NothingFromTheHost(TorchFunctionMode):
    """Raises where numbers of Python become a tensor, of which the device gets a copy."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        made = func in (torch.tensor, torch.as_tensor, torch.from_numpy, torch.Tensor.new_tensor)
        if func in (torch.Tensor.__getitem__, torch.Tensor.__setitem__):
            indices = args[1] if isinstance(args[1], tuple) else (args[1],)
            made = any(isinstance(index, list | np.ndarray) for index in indices)
        if made:
            raise RuntimeError(f"{func.__name__}: numbers of the host")
        return func(*args, **(kwargs or {}))


WAITS = r"on meta tensors|out of meta tensor|register_meta|Meta kernel|a tensor on cpu|numbers of the host"


def product_on_device(op: Operator) -> None:
    """Make a product on the device, the second one: what a first one keeps is kept."""
    op(torch.ones(2, *op.domain.shape, dtype=op.dtype))
    there = moved(op)
    q = torch.empty(2, *op.domain.shape, dtype=op.dtype, device=META)
    with NothingFromTheHost(), OnDevice():
        out = there(q)
    assert out.shape == (2, *op.codomain.shape)
    assert out.device == META


def operators(lab, toy: str) -> dict[str, Operator]:
    model = lab.make(toy, seed=2, trainable_initial_state=True)
    flow = linearize(model, **lab.trials(model, mask=True, time=5))
    A, P, K, Phi = flow.A, flow.P, flow.K, flow.Phi
    H = A.domain.shape[2]
    keep = torch.tensor([[True, True, False, True, True], [True, False, True, True, False]])
    return {
        "A": A,
        "P": P,
        "J": flow.J,
        "K": K,
        "G": flow.G,
        "Phi": Phi,
        "inverse": P.inverse,
        "transition": P.transition(3, 1),
        "P_2": P.truncated(2),
        "P_4": P.truncated(4),
        "chunks": P.chunked(2),
        "unequal": P.chunked(3, 1),
        "masked": P.with_step(A.masked(keep)),
        "stepwise": flow.with_propagator("stepwise").P,
        "dense": flow.with_propagator("dense").P,
        "scaled": P.with_step(0.5 * A),
        "sum": P.with_step(A + 0.3 * A.diagonal()),
        "switched": P.with_step(A.switched(0.2 * A, keep)),
        "diagonal": P.with_step(A.diagonal()),
        "units": P.with_step(A.unit_blocks()),
        "entries": P.with_step(A.where(torch.eye(H, dtype=torch.bool))),
        "product": flow.with_parameter_operator("product").K,
        "some": K.restrict(["weight_hh"]),
        "mean": Phi.mean("batch"),
        "bin": Phi.bin(time=2),
        "select": Phi.select(hidden=[0, 1]),
        "last": Phi.select(time=-1),
        "valid": Phi.last_valid(keep),
        "project": Phi.project(lab.randn(1, 2, H)),
        "algebra": 2.0 * (P + P.T) - lab.randn(2, *A.domain.shape) * Phi,
        "cached": P.select(time=-1).mean("batch").cached(),
    }


@pytest.mark.parametrize(
    "toy",
    ["gru", *(pytest.param(toy, marks=pytest.mark.slow) for toy in ("leaky current", "lstm", "clocked"))],
)
def test_products_wait_for_nothing(lab, toy) -> None:
    for name, op in operators(lab, toy).items():
        for one in (op,) if op.T is op else (op, op.T):
            try:
                product_on_device(one)
            except (RuntimeError, NotImplementedError) as error:
                raise AssertionError(f"{name}: {one!r}") from error


class Read(MatrixOperator):
    """A matrix whose product does something with its result."""

    def __init__(self, look: Callable[[torch.Tensor], object]) -> None:
        super().__init__(torch.eye(3))
        self.look = look

    def __reduce__(self) -> Any:
        return Read, (self.look,)

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        self.look(q)
        return q.clone()


LOOKS: dict[str, Callable[[torch.Tensor], object]] = {
    "nothing": torch.square,
    "item": lambda q: q.sum().item(),
    "bool": lambda q: bool((q > 0).any()),
    "all finite": lambda q: bool(torch.isfinite(q).all()),
    "tolist": torch.Tensor.tolist,
    "nonzero": torch.nonzero,
    "mask": lambda q: q[q > 0],
    "cpu": torch.Tensor.cpu,
    "equal": lambda q: torch.equal(q, q),
    "host's zeros": lambda q: q + torch.zeros(3),
    "host's index": lambda q: q.index_select(-1, torch.arange(2)),
    "tensor": lambda q: torch.tensor([1.0, 2.0, 3.0], device=q.device),
    "list": lambda q: q[..., [0, 1]],
    "new_tensor": lambda q: q.new_tensor([1.0]),
}


@pytest.mark.parametrize("name", LOOKS)
def test_what_would_wait_is_found(monkeypatch, name) -> None:
    op = Read(LOOKS[name])
    monkeypatch.setattr(f"{__name__}.moved", lambda op: _on_meta(Read(op.look)))
    if name == "nothing":
        product_on_device(op)
        return
    with pytest.raises((RuntimeError, NotImplementedError), match=WAITS):
        product_on_device(op)


def _on_meta(op: Operator) -> Operator:
    op.device = META
    return op


def test_products_that_read_a_number_are_known(lab) -> None:
    """Those that choose by what they find, as docs/performance.md says."""
    model = lab.make("gru", seed=2)
    case = lab.trials(model, time=5)
    flow = linearize(model, **case)
    derived = linearize(model, **case, method="autograd")
    for op in (1e-30 * flow.Phi, flow.Phi.partial_trace("batch"), derived.J, derived.P):
        with pytest.raises((RuntimeError, NotImplementedError), match=WAITS):
            product_on_device(op)
