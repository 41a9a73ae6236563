"""Surroundings of our own, so that what a caller has switched on in torch changes no figure.

Inference mode records no graph, autocast computes in half precision, caches of parametrisations cut weights
out of a graph, a default device puts new tensors elsewhere, anomaly detection breaks batched passes. All that
records, differentiates or multiplies runs under ``isolated``, which switches them off inside and leaves them
as they were. Where nothing is switched on, which is the rule, it enters nothing.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from functools import wraps
from typing import Any, ParamSpec, TypeVar

import torch
from torch.autograd import forward_ad
from torch.nn.utils import parametrize
from torch.overrides import _get_current_function_mode_stack
from torch.utils._device import DeviceContext

from kpframe.errors import UnsupportedError, mismatch

P = ParamSpec("P")
R = TypeVar("R")

_NOTHING = nullcontext()


def isolated(device: torch.device | None, what: object) -> AbstractContextManager[None]:
    """Return a context in which the caller's inference mode, autocast and the like are off.

    Gradients are recorded in it as outside, under inference mode not at all; enter ``torch.enable_grad`` or
    ``no_grad`` after it.

    Args:
        device: where the work is done, which is the default device inside if the caller has set one.
        what: what is done, for messages; printed only then.

    Raises:
        UnsupportedError: inside a transform of ``torch.func``, which cannot be switched off.
    """
    if (
        torch.is_inference_mode_enabled()
        or torch._C._is_any_autocast_enabled()
        or torch._C._len_torch_function_stack()
        or in_transform()
        or parametrize._cache_enabled
        or torch.is_anomaly_enabled()
        or _shared.depth
    ):
        return _shielded(device or torch.device("cpu"), what)
    return _NOTHING


def in_transform() -> bool:
    """Return whether a call is inside a transform of ``torch.func`` (vmap, grad, jacrev ...)."""
    return torch._C._functorch.peek_interpreter_stack() is not None


def product_precision() -> frozenset[str]:
    """Return how torch is told to round what float32 matrix products multiply: empty where it is not."""
    try:
        found = {torch.get_float32_matmul_precision()}
    except RuntimeError:  # set for a backend of its own, by the names of torch 2.9
        all_of: Any = torch.backends
        places = {"": all_of, "cuda": all_of.cuda.matmul, "mkldnn": all_of.mkldnn.matmul}
        found = {f"{name} {place.fp32_precision}" for name, place in places.items()}
    return frozenset(one for one in found if one.split()[-1] not in ("highest", "ieee", "none"))


def in_isolation(function: Callable[P, R]) -> Callable[P, R]:
    """Return ``function`` decorated to run ``isolated``, on the device of its first argument with one."""

    @wraps(function)
    def run(*args: P.args, **kwargs: P.kwargs) -> R:
        device = next((found for value in (*args, *kwargs.values()) if (found := _device(value))), None)
        with isolated(device, function.__name__):
            return function(*args, **kwargs)

    return run


def constant(tensor: torch.Tensor, what: object) -> torch.Tensor:
    """Return an argument as a tensor that any graph can hold: one made in inference mode as a copy.

    Raises:
        UnsupportedError: for one that carries a forward-mode tangent, which would be lost.
    """
    if forward_ad._current_level >= 0 and _has_tangent(tensor):
        expected = "a tensor without a forward-mode tangent (an operator is linear: apply it to the tangent)"
        raise UnsupportedError(mismatch(f"argument of {what}", expected, "a dual tensor"))
    return tensor.clone() if tensor.is_inference() else tensor


def _has_tangent(tensor: torch.Tensor) -> bool:
    return forward_ad.unpack_dual(tensor).tangent is not None  # type: ignore[no-untyped-call]


@contextmanager
def _shielded(device: torch.device, what: object) -> Iterator[None]:
    if in_transform():
        raise UnsupportedError(
            f"{what}: expected a call outside the transforms of torch.func (vmap, grad, jacrev ...), got one "
            "inside, which would see a constant; leading dimensions of an operator's argument are "
            "probes, as with vmap, and an operator is its own derivative (op(q), op.T(r), op.to_dense())"
        )
    with ExitStack() as stack:
        if torch.is_inference_mode_enabled():
            stack.enter_context(torch.inference_mode(False))
            stack.enter_context(torch.no_grad())
        for kind in {"cpu", "cuda", device.type}:
            if kind != "meta" and torch.is_autocast_enabled(kind):
                torch.set_autocast_enabled(kind, False)
                stack.callback(torch.set_autocast_enabled, kind, True)
        modes = _get_current_function_mode_stack()  # type: ignore[no-untyped-call]
        if any(isinstance(mode, DeviceContext) and mode.device != device for mode in modes):
            stack.enter_context(device)
        stack.enter_context(_shared)
        yield


class _Shared:
    """The switches that torch keeps once for all threads; off while any thread is inside."""

    def __init__(self) -> None:
        self.depth = 0
        self._lock = threading.Lock()
        self._before = (0, False, True)

    def __enter__(self) -> None:
        with self._lock:
            if not self.depth:
                caches = parametrize._cache_enabled
                self._before = (caches, torch.is_anomaly_enabled(), torch.is_anomaly_check_nan_enabled())
                parametrize._cache_enabled = 0
                torch.set_anomaly_enabled(False)
            self.depth += 1

    def __exit__(self, *error: object) -> None:
        with self._lock:
            self.depth -= 1
            if not self.depth:
                caches, anomaly, check_nan = self._before
                parametrize._cache_enabled += caches
                torch.set_anomaly_enabled(anomaly, check_nan)


_shared = _Shared()


def _device(value: object) -> torch.device | None:
    """Return the device of a tensor or an operator, or of a flow's operators."""
    found = getattr(value, "device", None) or getattr(getattr(value, "P", None), "device", None)
    return found if isinstance(found, torch.device) else None
