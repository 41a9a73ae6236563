"""P by recorded scans: what is recorded, replayed, copied, given up and refused.

Where there is no card, a tape stands for it: it records operations on their memory, as a graph of CUDA does,
and replays them on the same memory.
"""

from __future__ import annotations

import copy
import pickle
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, ClassVar

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode

from kpframe import linearize
from kpframe.errors import ArgumentError, UnsupportedError
from kpframe.flow import CudaGraphPropagator, DiagonalStepJacobian, StepJacobian, repeatable
from kpframe.flow._cuda_graph import CudaRecorder, recorder_of
from kpframe.operators import Space
from kpframe.testing import parametrize_with_checks

F64 = torch.float64
SCANNED = "; the last product was the scan itself: "
NEW = "the shape was new; the next product of it records the scan"


class Operations(TorchDispatchMode):
    """All operations, with what they took and returned."""

    def __init__(self) -> None:
        super().__init__()
        self.made: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        self.made.append((func, args, kwargs or {}, out))
        return out


class Tape:
    """A recorder on the CPU: operations are repeated on their tensors, results written where they were."""

    def __init__(self) -> None:
        self.records, self.replays, self.turns = 0, 0, 0
        self.held: list[torch.Tensor] = []
        self.busy: str | None = None
        self.fails: str | None = None

    def hindrance(self) -> str | None:
        return self.busy

    @contextmanager
    def turn(self) -> Iterator[None]:
        assert self.turns % 2 == 0, "two at a time"
        self.turns += 1
        yield
        self.turns += 1

    def hold(self, tensor: torch.Tensor) -> None:
        self.held.append(tensor)

    def record(self, run: Callable[[], object]) -> Callable[[], object]:
        if self.fails is not None:
            raise RuntimeError(self.fails)
        self.records += 1
        with Operations() as operations:
            run()

        def replay() -> None:
            self.replays += 1
            for func, args, kwargs, out in operations.made:
                new = func(*args, **kwargs)
                if not any(returned.alias_info for returned in func._schema.returns):
                    out.copy_(new)  # memory of its own, written again

        return replay


class OnTape(CudaGraphPropagator):
    """The propagator with a tape in the place of a card."""

    device_type = "cpu"
    tape: ClassVar[Tape]

    def _recorder(self) -> Tape:
        return self.tape


@pytest.fixture
def tape(monkeypatch) -> Tape:
    made = Tape()
    monkeypatch.setattr(OnTape, "tape", made, raising=False)
    return made


def steps(lab, kind: str) -> StepJacobian:
    """Return a step Jacobian of each kind whose scan can be recorded."""
    name = kind if kind in lab.TOYS else "gru"
    model = lab.make(name, seed=2)
    A = linearize(model, **lab.trials(model, mask=True, time=5)).A
    keep = torch.tensor([[True, True, False, True, True], [True, False, True, True, False]])
    return {
        "dense": lambda: linearize(model, **lab.trials(model, time=5), method="dense").A,
        "diagonal": A.diagonal,
        "units": A.unit_blocks,
        "entries": lambda: A.where(torch.eye(3, dtype=torch.bool)),
        "chunks": lambda: A.masked(torch.arange(5) % 2 != 0),
        "masked": lambda: A.masked(keep),
        "dense, masked": lambda: linearize(model, **lab.trials(model, time=5), method="dense").A.masked(keep),
        "switched": lambda: A.switched(0.2 * A, keep),
        "sum": lambda: A + 0.3 * A.diagonal(),
    }.get(kind, lambda: A)()


KINDS = (
    *("rnn", "leaky current", "gru", "lstm", "clocked"),
    *("dense", "diagonal", "units", "entries", "chunks", "masked", "dense, masked", "switched", "sum"),
)


@pytest.mark.parametrize("kind", KINDS)
def test_replays_are_the_scan(lab, tape, kind) -> None:
    """On arguments that the recording never saw, of either direction, with one probe and with several."""
    A = steps(lab, kind)
    P = OnTape(A)
    plain = type("Plain", (OnTape,), {"_hindrance": lambda *_: "asked"})(A)
    for probes in ((), (2, 3)):
        for adjoint in (False, True):
            op, reference = (P.T, plain.T) if adjoint else (P, plain)
            for seed in range(4):
                q = lab.randn(seed, *probes, *A.domain.shape)
                assert torch.equal(op(q), reference(q))
                lab.differ(op(q), q)
    assert tape.records == 4
    assert tape.replays == 4 * 7  # the first product of each is the scan itself, of eight
    assert P.why == "asked for; 4 of at most 8 graphs recorded"
    assert tape.turns > 0
    assert plain.why.endswith("the last product was the scan itself: asked")


def test_what_was_returned_is_not_written_to_again(lab, tape) -> None:
    A = steps(lab, "gru")
    P = OnTape(A)
    q, other = lab.randn(1, *A.domain.shape), lab.randn(2, *A.domain.shape)
    found = [P(q) for _ in range(4)]
    kept = found[3].clone()
    P(other)
    assert torch.equal(found[3], kept)
    lab.differ(P(other), kept)
    found[3].zero_()  # nor does a caller who writes to it change a graph
    assert torch.equal(P(q), kept)
    assert all(held.data_ptr() not in (one.data_ptr() for one in found) for held in tape.held)


def test_a_vector_that_is_not_finite_leaves_nothing_behind(lab, tape) -> None:
    A = steps(lab, "lstm")
    P = OnTape(A)
    q = lab.randn(1, *A.domain.shape)
    expected = P(q)
    P(q)
    bad = q.clone()
    bad[0, 0, 0] = torch.inf
    assert not torch.isfinite(P(bad, check=False)).all()
    assert torch.equal(P(q), expected)


def test_the_graph_used_longest_ago_is_given_up(lab, tape) -> None:
    A = steps(lab, "rnn")
    P = OnTape(A, max_graphs=2)
    one, two, three = (lab.randn(k, k, *A.domain.shape) for k in (1, 2, 3))
    for q in (one, one, two, two, one, three, three):  # of one and two, two was used longest ago
        P(q)
    assert tape.records == 3
    assert P.why == "asked for; 2 of at most 2 graphs recorded; the last product was the scan itself: " + NEW
    replays = tape.replays
    P(one)
    assert (tape.records, tape.replays) == (3, replays + 1)
    P(two)
    P(two)
    assert tape.records == 4
    with pytest.raises(ArgumentError, match="max_graphs"):
        OnTape(A, max_graphs=0)


def test_graphs_go_with_their_operator(lab, tape) -> None:
    A = steps(lab, "gru")
    P = OnTape(A, max_graphs=3)
    q = lab.randn(1, *A.domain.shape)
    P(q), P(q)
    for other in (copy.copy(P), copy.deepcopy(P), P.with_step(0.5 * A)):
        assert isinstance(other, OnTape)
        assert other.max_graphs == 3
        assert "; 0 of at most 3 graphs recorded" in other.why
        other(q)
        assert other.why.endswith(NEW)
    lab.differ(P.with_step(0.5 * A)(q), P(q))
    assert "; 1 of at most 3" in P.why
    assert "; 0 of at most 3 graphs recorded" in pickle.loads(pickle.dumps(P)).why


def test_what_is_no_graph_says_why(lab, tape) -> None:
    A = steps(lab, "gru")
    P = OnTape(A)
    q = lab.randn(1, *A.domain.shape)
    expected = P(q)
    P(q)
    before = tape.replays

    def scanned(reason: str, out: torch.Tensor) -> None:
        assert tape.replays == before
        assert P.why.endswith(f"; the last product was the scan itself: {reason}")
        assert torch.equal(out, expected)

    with FlopCounterMode(display=False) as counter:
        scanned("a mode of torch looks at each operation", P(q))
    assert counter.get_total_flops() > 0
    tape.busy = "a graph of the caller's is being captured"
    scanned(tape.busy, P(q))
    tape.busy = None
    assert torch.equal(P(q), expected)
    assert tape.replays == before + 1
    assert P.why == "asked for; 1 of at most 8 graphs recorded"


def test_gradients_are_recorded_by_the_scan_itself(lab, tape) -> None:
    P = OnTape(steps(lab, "diagonal"))
    leaf = lab.randn(1, *P.domain.shape).requires_grad_()
    for _ in range(3):
        out = P._apply(leaf)
    assert P.why.endswith("; the last product was the scan itself: gradients are recorded")
    q = leaf.detach()
    with pytest.raises(UnsupportedError, match="outside the transforms"):
        torch.func.vmap(P)(q.unsqueeze(0))
    found = torch.func.vmap(lambda one: one + P._apply(q))(q.unsqueeze(0))[0]
    assert torch.equal(found, q + out)
    assert P.why.endswith("itself: a transform of torch.func is under way")
    (gradient,) = torch.autograd.grad(out.sum(), leaf)
    lab.close(gradient, P.T(torch.ones_like(leaf)))
    lab.differ(gradient, torch.ones_like(leaf))
    P(leaf), P(leaf)  # where nothing is recorded
    assert tape.records == 1


def test_a_recording_that_fails_is_not_tried_again(lab, tape) -> None:
    A = steps(lab, "gru")
    P, q = OnTape(A), lab.randn(1, *A.domain.shape)
    expected = P(q)
    tape.fails = "operation not permitted\nwhile capturing"
    for _ in range(3):
        assert torch.equal(P(q), expected)
        reason = "recording it failed (operation not permitted while capturing)"
        assert P.why.endswith(f"0 of at most 8 graphs recorded{SCANNED}{reason}")
    tape.fails = None
    P(q)
    assert tape.records == 0
    assert P.T(q).shape == q.shape
    P.T(q)
    assert tape.records == 1


class Counting(DiagonalStepJacobian):
    """A step Jacobian that is not what it says: its scan keeps a number of its own."""

    def __init__(self, *args: Any) -> None:
        super().__init__(*args)
        self.calls = 0

    def scan(self, q: torch.Tensor) -> torch.Tensor:
        self.calls += 1
        q[1:] += self.calls
        return q


def test_a_replay_that_departs_is_never_used(tape) -> None:
    values = torch.full((2, 3, 4), 0.5, dtype=F64)
    A = Counting(values, Space.of(batch=2, time=3, hidden=4))
    P, q = OnTape(A), torch.ones(2, 3, 4, dtype=F64)
    found = [P(q)[0, 1, 0].item() for _ in range(4)]
    assert found == [2, 3, 5, 6]  # the scan itself; the third call to it was the recording
    assert P.why.endswith(f"0 of at most 8 graphs recorded{SCANNED}a replay departs from it")
    assert tape.records == 1


def test_what_cannot_be_recorded_is_refused(lab) -> None:
    model = lab.make("gru")
    flow = linearize(model, **lab.trials(model))
    with pytest.raises(UnsupportedError, match="it is for cuda devices, and A is on cpu"):
        flow.with_propagator("cuda_graph")
    with pytest.raises(UnsupportedError, match="it is for cuda devices, and A is on cpu"):
        flow.with_propagator("cuda_graph", max_graphs=3)
    assert OnTape.fits(flow.A) is None
    assert not CudaGraphPropagator.prefers(flow.A)
    for A in (linearize(model, **lab.trials(model), method="autograd").A, 1e-30 * flow.A):
        assert not repeatable(A)
        assert "same operations on the same memory" in str(OnTape.fits(A))


class ReplayedOnTape(OnTape):
    """Each product made three times, so that the last is a replay."""

    tape = Tape()

    def _product(self, q: torch.Tensor, *, adjoint: bool) -> torch.Tensor:
        for _ in range(3):
            out = super()._product(q, adjoint=adjoint)
        assert self._scanned in (None, "there is nothing to scan"), self._scanned
        return out


@pytest.mark.slow
@parametrize_with_checks([ReplayedOnTape], kind="propagator")
def test_conformance_of_replays(check) -> None:
    check()


# -- what is asked of CUDA ---------------------------------------------------------------------------------


class FakeCuda:
    """The part of ``torch.cuda`` that a recorder uses, which writes down what it is asked."""

    def __init__(self) -> None:
        self.told: list[str] = []
        self.capturing = False
        self.now = FakeStream(self, "main")
        self.events = 0

    def is_current_stream_capturing(self) -> bool:
        return self.capturing

    def current_stream(self) -> FakeStream:
        return self.now

    def Stream(self) -> FakeStream:
        return FakeStream(self, "side")

    @contextmanager
    def stream(self, stream: FakeStream) -> Iterator[None]:
        before, self.now = self.now, stream
        yield
        self.now = before

    @contextmanager
    def device(self, device: torch.device) -> Iterator[None]:
        self.told.append(f"on {device}")
        yield

    def CUDAGraph(self) -> FakeGraph:
        return FakeGraph(self)

    @contextmanager
    def graph(self, graph: FakeGraph, stream: FakeStream, capture_error_mode: str) -> Iterator[None]:
        self.told.append(f"capture on {stream.name}, {capture_error_mode}")
        with self.stream(stream):
            yield
        self.told.append("captured")


class FakeStream:
    def __init__(self, cuda: FakeCuda, name: str) -> None:
        self.cuda, self.name = cuda, name

    def wait_stream(self, other: FakeStream) -> None:
        self.cuda.told.append(f"{self.name} waits for {other.name}")

    def wait_event(self, event: str) -> None:
        self.cuda.told.append(f"{self.name} waits for {event}")

    def record_event(self, event: str | None) -> str:
        self.cuda.told.append(f"{self.name} records")
        return event or "the last turn"


class FakeGraph:
    def __init__(self, cuda: FakeCuda) -> None:
        self.cuda = cuda

    def replay(self) -> None:
        self.cuda.told.append(f"replay on {self.cuda.now.name}")


def test_what_is_asked_of_cuda() -> None:
    cuda = FakeCuda()
    recorder = CudaRecorder(torch.device("cuda:1"), cuda)
    with recorder.turn():
        replay = recorder.record(lambda: cuda.told.append(f"scan on {cuda.now.name}"))
        replay()
    assert cuda.told == [
        "on cuda:1",
        *("side waits for main", "scan on side", "main waits for side"),
        *("capture on side, thread_local", "scan on side", "captured"),
        "replay on main",
        "main records",
    ]
    cuda.told.clear()
    cuda.now = FakeStream(cuda, "another")

    def fails() -> None:
        replay()
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError), recorder.turn():
        fails()
    assert cuda.told == [
        "on cuda:1",
        "another waits for the last turn",
        "replay on another",
        "another records",
    ]
    assert recorder.hindrance() is None
    cuda.capturing = True
    assert recorder.hindrance() == "a graph of the caller's is being captured"


def test_threads_take_turns_on_a_device() -> None:
    recorder = CudaRecorder(torch.device("cuda:1"), FakeCuda())
    entered = threading.Event()

    def other() -> None:
        with recorder.turn():
            entered.set()

    thread = threading.Thread(target=other)
    with recorder.turn():
        thread.start()
        assert not entered.wait(0.05)
    assert entered.wait(300)
    thread.join()
    one = torch.device("cuda:0")
    assert recorder_of(one) is recorder_of(torch.device("cuda:0"))
    assert recorder_of(one) is not recorder_of(torch.device("cuda:1"))


# -- on a card ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("toy", ["rnn", "gru", "lstm"])
def test_on_a_card(lab, device, toy, dtype) -> None:
    if device.type != "cuda":
        pytest.skip("--device cuda, where there is one")
    model = lab.make(toy, dtype=dtype)
    case = lab.trials(model, mask=True, batch=3, time=50, dtype=dtype)
    here = linearize(model, **case)
    there = linearize(model.to(device), **{key: value.to(device) for key, value in case.items()})
    graphs = there.with_propagator("cuda_graph")
    for probes in ((), (5,)):
        for seed in range(4):
            q = lab.randn(seed, *probes, *here.P.domain.shape, dtype=dtype)
            for name in ("P", "Phi"):
                found = getattr(graphs, name)(q.to(device))
                lab.close(
                    found, getattr(there, name)(q.to(device)), 1e-5 if dtype == torch.float32 else 1e-12
                )
                lab.close(found.cpu(), getattr(here, name)(q), 1e-4 if dtype == torch.float32 else 1e-10)
    assert "; 4 of at most 8 graphs recorded" in graphs.P.why
    assert "scan itself" not in graphs.P.why
    torch.cuda.set_sync_debug_mode("error")
    try:
        graphs.Phi(q.to(device), check=False)
    finally:
        torch.cuda.set_sync_debug_mode("default")
