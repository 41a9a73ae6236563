"""``P`` by CUDA graphs: a scan is recorded once for each shape, and replayed.

A scan launches several small kernels a step, each of which takes longer to launch than to run. A graph has
all of them in one launch. It works on memory of its own: a vector is copied in, and the result copied out,
so that no later replay writes to what a caller holds.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from typing import Any, Protocol

import torch

from kpframe.errors import one_line, whole
from kpframe.flow._propagator import Propagator, time_outermost
from kpframe.flow._repeatable import repeatable
from kpframe.flow._step_jacobian import StepJacobian
from kpframe.operators._isolation import in_transform, product_precision

Scan = Callable[[torch.Tensor], torch.Tensor]

_NEW = "the shape was new; the next product of it records the scan"


class Recorder(Protocol):
    """What records work on a device; ``CudaRecorder`` is the one of CUDA."""

    def hindrance(self) -> str | None:
        """Return why nothing can be recorded or replayed now, None where it can."""

    def turn(self) -> AbstractContextManager[None]:
        """Return a context in which no other replay is under way on the device, for host and device."""

    def record(self, run: Callable[[], object]) -> Callable[[], object]:
        """Return what repeats the work of ``run`` on the memory that it was recorded on."""

    def hold(self, tensor: torch.Tensor) -> None:
        """Keep the memory of a tensor from others until what is launched now has used it."""


class CudaRecorder:
    """Graphs of one CUDA device.

    Replays take turns on the device, also those of other propagators and threads: graphs that are recorded on
    one stream share the workspace that its matrix products use. Turns wait on the device, never on the host.

    Args:
        device: the device.
        cuda: the module that has streams, events and graphs.
    """

    def __init__(self, device: torch.device, cuda: Any = torch.cuda) -> None:
        self._device, self._cuda = device, cuda
        self._lock = threading.RLock()
        self._side: Any = None
        self._last: Any = None  # an event after the last turn

    def hindrance(self) -> str | None:
        """Return why nothing can be recorded or replayed now."""
        return (
            "a graph of the caller's is being captured" if self._cuda.is_current_stream_capturing() else None
        )

    @contextmanager
    def turn(self) -> Iterator[None]:
        """Let one thread in at a time, and its stream go on after the last turn's work."""
        with self._lock, self._cuda.device(self._device):
            stream = self._cuda.current_stream()
            if self._last is not None:
                stream.wait_event(self._last)
            try:
                yield
            finally:
                self._last = stream.record_event(self._last)

    def record(self, run: Callable[[], object]) -> Callable[[], object]:
        """Run once on a stream aside, where libraries set up what a capture may not, then capture there."""
        cuda = self._cuda
        self._side = self._side or cuda.Stream()
        stream = cuda.current_stream()
        self._side.wait_stream(stream)
        with cuda.stream(self._side):
            run()
        stream.wait_stream(self._side)
        graph = cuda.CUDAGraph()
        # other threads may go on to allocate meanwhile; the graph's own memory is in a pool of its own
        with cuda.graph(graph, stream=self._side, capture_error_mode="thread_local"):
            run()
        replay: Callable[[], object] = graph.replay
        return replay

    def hold(self, tensor: torch.Tensor) -> None:
        """Keep the memory of a tensor until what is launched on the current stream has used it."""
        tensor.record_stream(self._cuda.current_stream())


_recorders: dict[torch.device, CudaRecorder] = {}
_making = threading.Lock()


def recorder_of(device: torch.device) -> CudaRecorder:
    """Return the recorder of a device, of which there is one."""
    with _making:
        return _recorders.setdefault(device, CudaRecorder(device))


class CudaGraphPropagator(Propagator):
    """``P`` by the scan that its step Jacobian brings, recorded as CUDA graphs.

    There is a graph for each of P and P\\* and each number of probes, dtype, device and precision of matrix
    products. The first product of a kind is the scan itself, the second records it, and is compared with it
    once: what departs from it is never used. From then on a product is one copy in, one launch and one copy
    out, and the host waits for nothing. The graphs go with the propagator; copies and pickles begin anew.

    The scan itself is run where a graph cannot be: while gradients are recorded, inside another capture,
    ``torch.compile`` or a transform of ``torch.func``, under a mode of torch that looks at each operation,
    and where recording has failed. ``why`` says so of the last product.

    Args:
        A: the step Jacobian.
        max_graphs: how many are held; the one that was used longest ago is given up first.
        name: how it prints.
        why: why the products are computed so.

    Raises:
        UnsupportedError: for a step Jacobian on another device, or one that is not ``repeatable``.
    """

    device_type = "cuda"

    def __init__(
        self, A: StepJacobian, *, max_graphs: int = 8, name: str = "P", why: str = "asked for"
    ) -> None:
        self._graphs: OrderedDict[object, _Recorded | str] = OrderedDict()
        self._scanned: str | None = None
        super().__init__(A, name=name, why=why)
        self.max_graphs = whole(max_graphs, "max_graphs")

    @property
    def method(self) -> str:
        """Always ``"cuda_graph"``."""
        return "cuda_graph"

    @property
    def why(self) -> str:
        """Why the products are computed so, how many graphs there are, and what kept the last from one."""
        count = sum(isinstance(known, _Recorded) for known in tuple(self._graphs.values()))
        told = f"{self._asked}; {count} of at most {self.max_graphs} graphs recorded"
        scanned = self._scanned
        return told if scanned is None else f"{told}; the last product was the scan itself: {scanned}"

    @why.setter
    def why(self, value: str) -> None:
        self._asked = value

    @classmethod
    def fits(cls, A: StepJacobian) -> str | None:
        """Return why the scan of a step Jacobian cannot be recorded, or None where it can."""
        reason = super().fits(A)
        if reason is None and not repeatable(A):
            return (
                "its scan is not known to be the same operations on the same memory at each call "
                "(kpframe.flow.repeatable)"
            )
        return reason

    @property
    def settings(self) -> dict[str, Any]:
        """How many graphs are held."""
        return {"max_graphs": self.max_graphs}

    def __getstate__(self) -> dict[str, object]:
        """Return what is pickled and copied: no graphs."""
        return {**super().__getstate__(), "_graphs": OrderedDict(), "_scanned": None}

    def _apply(self, q: torch.Tensor) -> torch.Tensor:
        return self._product(q, adjoint=False)

    def _apply_adjoint(self, r: torch.Tensor) -> torch.Tensor:
        return self._product(r, adjoint=True)

    def _recorder(self) -> Recorder:
        return recorder_of(self.device)

    def _product(self, q: torch.Tensor, *, adjoint: bool) -> torch.Tensor:
        scan = self.A.scan_adjoint if adjoint else self.A.scan
        recorder = self._recorder()
        scanned = self._hindrance(q, recorder)
        if scanned is None:
            rows = q.reshape(-1, *self.domain.shape)
            key = (adjoint, rows.shape, rows.dtype, rows.device, *_precision())
            with recorder.turn():
                out, scanned = self._in_turn(key, rows, scan, recorder)
            out = out.reshape(len(out), *q.shape[:-3], *out.shape[2:])
        else:
            out = scan(time_outermost(q))
        self._scanned = scanned
        return out.movedim(0, -2)

    def _hindrance(self, q: torch.Tensor, recorder: Recorder) -> str | None:
        """Return why this product cannot be a graph, None where it can."""
        if q.requires_grad and torch.is_grad_enabled():
            return "gradients are recorded"
        if torch.compiler.is_compiling():
            return "torch.compile is tracing"
        if in_transform():
            return "a transform of torch.func is under way"
        if torch._C._len_torch_dispatch_stack():
            return "a mode of torch looks at each operation"
        if not q.numel() or self.A.steps == 1:
            return "there is nothing to scan"
        return recorder.hindrance()

    def _in_turn(
        self,
        key: object,
        rows: torch.Tensor,
        scan: Scan,
        recorder: Recorder,
    ) -> tuple[torch.Tensor, str | None]:
        """Return the product ``[T, k, B, H]``, and why it is not a replay, None where it is one."""
        known = self._graphs.get(key)
        if isinstance(known, _Recorded):
            self._graphs.move_to_end(key)
            return known.product(rows), None
        out = scan(time_outermost(rows))
        if known == _NEW:
            known = _recorded(rows, out, scan, recorder)
        self._graphs[key] = _NEW if known is None else known
        self._graphs.move_to_end(key)
        while len(self._graphs) > self.max_graphs:
            self._graphs.popitem(last=False)
        return out, known if isinstance(known, str) else _NEW


class _Recorded:
    """A scan recorded on memory of its own."""

    def __init__(self, rows: torch.Tensor, scan: Scan, recorder: Recorder) -> None:
        self._buffer = time_outermost(rows)  # [T, k, B, H]
        self._hold = recorder.hold
        self._replay = recorder.record(partial(scan, self._buffer))

    def product(self, rows: torch.Tensor) -> torch.Tensor:  # [k, B, T, H] -> [T, k, B, H]
        """Return the scan of other rows of the same shape, copied out of the memory it was made in."""
        self._hold(self._buffer)
        self._buffer.copy_(rows.movedim(-2, 0))
        self._replay()
        return self._buffer.clone()


def _recorded(
    rows: torch.Tensor,
    expected: torch.Tensor,
    scan: Scan,
    recorder: Recorder,
) -> _Recorded | str:
    """Return the recorded scan if it repeats what the scan itself returns, else why there is none."""
    try:
        made = _Recorded(rows, scan, recorder)
        found = made.product(rows)
    except RuntimeError as error:  # what a capture does not allow, or no memory for it
        return f"recording it failed ({one_line(str(error))})"
    finite = expected.nan_to_num(0.0, 0.0, 0.0)
    tolerance = torch.finfo(rows.dtype).eps ** (2 / 3) * float(finite.abs().max())
    if torch.allclose(found, expected, rtol=0.0, atol=tolerance, equal_nan=True):
        return made
    return "a replay departs from it"


def _precision() -> tuple[object, ...]:
    """Return the switches of torch that choose how matrix products are made; a graph keeps what it met."""
    return product_precision(), torch.are_deterministic_algorithms_enabled()
