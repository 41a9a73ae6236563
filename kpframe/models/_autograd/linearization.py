"""Both products of a Jacobian from one retained autograd graph.

The vector-Jacobian product (vjp) is a reverse pass. The Jacobian-vector product (jvp) is a reverse pass
through that reverse pass, which is linear in its cotangent; so no forward mode is needed, which fused kernels
often lack. Used wherever a model brings no structure of its own.

In equations, a reverse pass computes ``g(v) = J* v``. It is recorded once for a ``v`` that is a leaf itself
(its value does not matter: g is linear). Its own reverse pass, for the cotangent d, is ``(dg/dv)* d = J d``:
the derivative of ``<J* v, d> = <v, J d>`` by v. (J. Townsend, "A new trick for calculating Jacobian vector
products", 2017.)
"""

from __future__ import annotations

import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

from kpframe.errors import UnsupportedError, mismatch
from kpframe.models._autograd.adjoint_check import check_linear, check_products, refusal
from kpframe.models._autograd.graph import nodes
from kpframe.operators._isolation import isolated
from kpframe.operators._scale import divided, multiplied, unit_of

#: Records a graph: returns its output and the leaves it is differentiated by.
Recipe = Callable[[], tuple[torch.Tensor, Sequence[torch.Tensor]]]

_recording = threading.RLock()


@contextmanager
def recording(device: torch.device | None, what: object) -> Iterator[None]:
    """Record graphs that can be differentiated twice, ``isolated`` from what the caller has switched on.

    Attention is computed by plain operations, as torch's fused kernels have no second derivative, and so
    is what ``torch.compile`` made faster.
    """
    with ExitStack() as stack:
        stack.enter_context(isolated(device, what))
        stack.enter_context(torch.enable_grad())
        stack.enter_context(sdpa_kernel(SDPBackend.MATH))
        if "torch._dynamo" in sys.modules and hasattr(torch.compiler, "set_stance"):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


class Linearization:
    """The Jacobian of ``output`` with respect to ``inputs``, at the point where the graph was recorded.

    A graph can be neither copied nor pickled. A copy has the recipe, and records with its first product.

    Args:
        output: a tensor of any shape with a graph, or a constant (then the Jacobian is zero).
        inputs: leaf tensors of any shape that require gradients.
        again: how to record the same again: a function that can be pickled (``functools.partial`` of one of a
            module). Without, the linearization can be neither copied nor pickled.
        careful: checks the products before the first one; otherwise before the first ``J d``.
    """

    def __init__(
        self,
        output: torch.Tensor,
        inputs: Sequence[torch.Tensor],
        again: Recipe | None = None,
        *,
        careful: bool = False,
    ) -> None:
        self._again, self._careful = again, careful
        self._hold(output, inputs)

    @classmethod
    def of(cls, recipe: Recipe, device: torch.device) -> Linearization:
        """Return what ``recipe`` records on ``device``, undisturbed by what surrounds the call."""
        return cls(*_record(recipe, device), again=recipe)

    def _hold(self, output: torch.Tensor, inputs: Sequence[torch.Tensor]) -> None:
        self.inputs = tuple(inputs)
        self._cotangent = torch.zeros_like(output, requires_grad=True)
        self._pullback: tuple[torch.Tensor, ...] | None = None
        self._batches: dict[object, bool] = {}  # by the node that a graph ends in
        self.output = output  # last: it says that the rest is there

    def __getstate__(self) -> tuple[Recipe, torch.device, bool]:
        if self._again is None:
            expected = "one made with again=, the recipe that records its graph anew"
            raise UnsupportedError(mismatch("copy or pickle of a Linearization", expected, "one without"))
        device = self._device if "output" not in self.__dict__ else self.output.device
        return self._again, device, self._careful

    def __setstate__(self, state: tuple[Recipe, torch.device, bool]) -> None:
        self._again, self._device, self._careful = state

    def __getattr__(self, name: str) -> Any:  # called for what a copy does not have yet
        if name not in ("output", "inputs", "_cotangent", "_pullback", "_batches"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        with _recording:  # threads that share a copy share its graph
            if "output" not in self.__dict__ and self._again is not None:
                self._hold(*_record(self._again, self._device))
        return self.__dict__[name]

    def vjp(self, cotangents: torch.Tensor, only: slice = slice(None)) -> tuple[torch.Tensor, ...]:
        """Return ``J* r`` for ``cotangents`` ``[k, *output]``, one tensor ``[k, *input]`` for each input.

        ``only`` some inputs cost only the passes to them.

        Raises:
            UnsupportedError: where what is recorded has no such products; see ``check_products``.
        """
        if self._careful and self._live:
            with isolated(self.output.device, "J*"):
                self.check()
        unit = unit_of(cotangents)
        found = self.raw_vjp(divided(cotangents, unit), only)
        return found if unit == 1 else tuple(multiplied(unit, g) for g in found)

    def raw_vjp(self, cotangents: torch.Tensor, only: slice = slice(None)) -> tuple[torch.Tensor, ...]:
        """Return ``J* r`` as autograd gives it: not checked, and in no unit but the cotangents' own.

        Some derivatives lose digits with the scale of the cotangent, that of a matrix exponential for one.
        See ``vjp`` for the arguments.
        """
        inputs = self.inputs[only]
        if not self.output.requires_grad or not inputs:
            return tuple(i.new_zeros(len(cotangents), *i.shape) for i in inputs)
        with isolated(self.output.device, "J*"):
            return _gradients((self.output,), inputs, (cotangents,), self._batches)

    def jvp(self, tangents: Sequence[torch.Tensor | None]) -> torch.Tensor:
        """Return ``J d`` for ``tangents`` ``[k, *input]``, one tensor for each input: ``[k, *output]``.

        None stands for an input that does not move. Raises like ``vjp``.
        """
        with isolated(self.output.device, "J"):
            if self._pullback is None:
                self.check()
            assert self._pullback is not None  # the check recorded it
            moved = [(g, d) for g, d in zip(self._pullback, tangents, strict=True) if d is not None]
            live = [(g, d) for g, d in moved if g.requires_grad]
            if not live:
                return self.output.new_zeros(len(moved[0][1]) if moved else 1, *self.output.shape)
            outputs, vectors = zip(*live, strict=True)
            unit = unit_of(*vectors)
            units = tuple(divided(d, unit) for d in vectors)
            moved_by = _gradients(outputs, (self._cotangent,), units, self._batches)[0]
            return moved_by if unit == 1 else multiplied(unit, moved_by)

    def check(self, r: torch.Tensor | None = None) -> tuple[torch.Tensor, ...]:
        """Record what ``J d`` needs, check both products with one cotangent ``r`` ``[*output]``.

        Returns ``J* r``.

        Raises:
            UnsupportedError: see ``check_products``.
        """
        self._careful = False
        try:
            with torch.enable_grad():
                self._pullback = self._record_pullback()
            return check_products(self, r) if self._live else self._pullback
        except Exception as error:
            self._pullback, self._careful = None, True
            if (refused := refusal(error, self)) is error:
                raise
            raise refused from error

    def check_linear(self, r: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Return ``J* r`` for one cotangent ``[*output]``, after checking that it scales with it.

        Raises:
            UnsupportedError: see ``check_products``.
        """
        return check_linear(self, r)[0]

    @property
    def _live(self) -> bool:
        return self.output.requires_grad and bool(self.inputs)

    def _record_pullback(self) -> tuple[torch.Tensor, ...]:
        if not self._live:
            return tuple(torch.zeros_like(i) for i in self.inputs)
        return torch.autograd.grad(
            self.output,
            self.inputs,
            self._cotangent,
            create_graph=True,
            retain_graph=True,
            allow_unused=True,
            materialize_grads=True,
        )


def _record(recipe: Recipe, device: torch.device) -> tuple[torch.Tensor, Sequence[torch.Tensor]]:
    with recording(device, "recording"):
        return recipe()


def _gradients(
    outputs: tuple[torch.Tensor, ...],
    inputs: tuple[torch.Tensor, ...],
    vectors: tuple[torch.Tensor, ...],
    known: dict[object, bool],
) -> tuple[torch.Tensor, ...]:
    """Return the vector-Jacobian products of a batch of vectors, each ``[k, *output]``."""
    if len(vectors[0]) == 1:
        single = _gradient(outputs, inputs, tuple(v[0] for v in vectors))
        return tuple(g.unsqueeze(0) for g in single)
    if len(vectors[0]) > 1 and all(_batches(o, known) for o in outputs):
        try:
            return _batch(outputs, inputs, vectors)
        except (RuntimeError, NotImplementedError):  # of sparse tensors, or of what a hook does
            known.update((output.grad_fn, False) for output in outputs)  # one by one says what is wrong
    singles = [_gradient(outputs, inputs, tuple(v[k] for v in vectors)) for k in range(len(vectors[0]))]
    return tuple(torch.stack(column) for column in zip(*singles, strict=True))


def _batch(
    outputs: tuple[torch.Tensor, ...], inputs: tuple[torch.Tensor, ...], vectors: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, ...]:
    with warnings.catch_warnings():
        # an operation without a batching rule is looped over inside torch, which warns about speed
        warnings.filterwarnings("ignore", message="There is a performance drop")
        batch = torch.autograd.grad(
            outputs, inputs, vectors, retain_graph=True, allow_unused=True, is_grads_batched=True
        )
    # torch would fill in an unused input's gradient without the batch dimension
    return tuple(
        i.new_zeros(len(vectors[0]), *i.shape) if g is None else g for g, i in zip(batch, inputs, strict=True)
    )


def _gradient(
    outputs: tuple[torch.Tensor, ...], inputs: tuple[torch.Tensor, ...], vectors: tuple[torch.Tensor, ...]
) -> tuple[torch.Tensor, ...]:
    """Return the vector-Jacobian products of vectors ``[*output]``, as the gradient of one number.

    It is the same to the last bit. For vectors of their own torch imports sympy, to compare shapes, which
    takes longer than most of what is asked for.
    """
    with torch.enable_grad():
        number = torch.stack([(o * _kept(v)).sum() for o, v in zip(outputs, vectors, strict=True)]).sum()
    return torch.autograd.grad(number, inputs, retain_graph=True, allow_unused=True, materialize_grads=True)


def _kept(vector: torch.Tensor) -> torch.Tensor:
    """Return a vector that a graph may keep."""
    return vector.clone() if vector.is_inference() else vector


def _batches(output: torch.Tensor, known: dict[object, bool]) -> bool:
    """Whether the graph can take a batch of vectors: custom autograd functions without a vmap rule cannot.

    The walk through a graph is made once; ``known`` keeps its result.
    """
    end = output.grad_fn
    if end not in known:
        known[end] = _can_batch(output)
    return known[end]


def _can_batch(output: torch.Tensor) -> bool:
    custom = (getattr(node, "_forward_cls", None) for node in nodes(output))
    return all(forward is None or getattr(forward, "generate_vmap_rule", False) for forward in custom)
