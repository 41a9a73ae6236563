"""One model at one size: every product's time, beside a training step and what others need."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from typing import Any

import torch
from attrs import asdict, frozen

from kpframe.models._linearize import linearize
from kpframe.models._model import Model, create_model
from kpframe.models._wrap.cell import wrap
from kpframe.spectra import effective_rank, eigsh
from kpframe.study._bench.peers import by_hand, reference_package, training_step
from kpframe.study._bench.timing import Call, Clock, flops, matmul_rate, peak_bytes

INPUTS = 32
PROBES = 16
UPDATES = 100
#: A model of no structure, by the name it has in the tables.
WRAPPED = "wrapped cell"


@frozen
class Size:
    """Trials, steps and units."""

    batch: int
    time: int
    hidden: int

    def __str__(self) -> str:
        return f"{self.batch} x {self.time} x {self.hidden}"


@frozen
class Row:
    """A line of the table.

    Attributes:
        model, size: what was measured.
        what: the product.
        milliseconds: median time of one call [ms].
        ratio: median over pairs of its time over that of ``beside``; None where there is no such thing.
        beside: what it is compared with.
        note: method, accuracy, memory ...
    """

    model: str
    size: str
    what: str
    milliseconds: float
    ratio: float | None = None
    beside: str = ""
    note: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        return asdict(self)


def make(name: str, hidden: int, dtype: torch.dtype, device: torch.device) -> Model:
    """Return a model of the given width with seeded weights; ``WRAPPED`` is a ``torch.nn.GRUCell``."""
    torch.manual_seed(0)
    if name == WRAPPED:
        return wrap(torch.nn.GRUCell(INPUTS, hidden)).to(device, dtype)
    return create_model(name, input_size=INPUTS, hidden_size=hidden).to(device, dtype)


def product_rows(
    name: str,
    size: Size,
    *,
    runs: int,
    dtype: torch.dtype,
    device: torch.device,
    peers: Sequence[str] = (),
    spectra: bool = True,
) -> Iterator[Row]:
    """Yield the rows of a model at a size, as they are measured."""
    clock = Clock(device)
    model = make(name, size.hidden, dtype, device)
    x = torch.randn(size.batch, size.time, model.input_size, dtype=dtype, device=device)
    flow = linearize(model, x)
    q = torch.randn(flow.P.domain.shape, dtype=dtype, device=device)
    many = torch.randn(PROBES, *flow.P.domain.shape, dtype=dtype, device=device)
    d = torch.randn(flow.J.domain.size, dtype=dtype, device=device)
    beside, step = training_step(name, model, x)
    beside = f"{beside} forward+backward"

    def row(what: str, call: Call, note: str = "") -> Row:
        timing = clock.paired(call, step, runs)
        return Row(name, str(size), what, 1e3 * timing.seconds, timing.ratio, beside, note)

    def rollout() -> None:
        with torch.no_grad():
            model.rollout(x)

    yield Row(name, str(size), beside, 1e3 * clock.median(step, runs))
    yield row("linearize", lambda: linearize(model, x), f"P: {flow.P.method}, K: {flow.K.method}")
    once = clock.paired(lambda: linearize(model, x), rollout, max(3, runs // 2))
    yield Row(name, str(size), "linearize", 1e3 * once.seconds, once.ratio, "the model's own roll-out")
    for what, op, vector in (
        ("P", flow.P, q),
        ("P*", flow.P.T, q),
        ("J", flow.J, d),
        ("J*", flow.J.T, q),
        ("K", flow.K, q),
    ):
        yield row(what, lambda op=op, vector=vector: op(vector))  # type: ignore[misc]
    yield _with_rate(row("Phi", lambda: flow.Phi(q)), lambda: flow.Phi(q), dtype, device)
    probes = clock.paired(lambda: flow.Phi(many), lambda: flow.Phi(q), max(3, runs // 4))
    yield Row(name, str(size), f"Phi, {PROBES} probes", 1e3 * probes.seconds, probes.ratio, "Phi of one")
    yield from _peer_rows(name, size, model, x, q, lambda: flow.Phi(q), clock, max(3, runs // 3), peers)
    yield _updates_row(name, size, model, x, clock)
    if spectra:
        yield from _spectra_rows(name, size, flow, clock)


def _with_rate(row: Row, call: Call, dtype: torch.dtype, device: torch.device) -> Row:
    """Add memory and the share of the machine's rate of matrix products to a row."""
    notes = []
    work = flops(call)
    if work:
        share = work / (row.milliseconds / 1e3) / matmul_rate(dtype, device)
        notes.append(f"{share:.0%} of the machine's matrix-product rate")
    batch, time, hidden = map(int, row.size.split(" x "))
    states = batch * time * hidden * dtype.itemsize
    notes.append(f"peak {peak_bytes(call, device) / states:.1f} x batch x time x hidden numbers")
    return Row(row.model, row.size, row.what, row.milliseconds, row.ratio, row.beside, ", ".join(notes))


def _peer_rows(
    name: str,
    size: Size,
    model: Model,
    x: torch.Tensor,
    q: torch.Tensor,
    ours: Call,
    clock: Clock,
    runs: int,
    peers: Sequence[str],
) -> Iterator[Row]:
    """Yield how long others take for ``Phi q``, and how many times ours that is."""
    others: dict[str, Callable[[], object]] = {"Phi by torch.func, by hand": by_hand(model, x, q)}
    for package in peers:
        build, product = reference_package(package, name, model, x, q)
        others[f"Phi by {package}"] = product
        yield Row(name, str(size), f"set-up of {package}", 1e3 * clock.median(build, 2))
    for what, call in others.items():
        timing = clock.paired(call, ours, runs)
        yield Row(name, str(size), what, 1e3 * timing.seconds, timing.ratio, "Phi")


def _updates_row(name: str, size: Size, model: Model, x: torch.Tensor, clock: Clock) -> Row:
    """Return what ``UPDATES`` updates through the operators take, against automatic differentiation."""
    trained = {kind: deepcopy(model) for kind in ("operators", "autograd")}
    optimizers = {kind: torch.optim.SGD(one.parameters(), lr=1e-4) for kind, one in trained.items()}

    def through_operators() -> None:
        for _ in range(UPDATES):
            flow = linearize(trained["operators"], x)
            gradient = (flow.J.T @ flow.P.T)(torch.ones_like(flow.trajectory.states))
            for part, parameter in zip(
                flow.J.domain.axes[0].parts, trained["operators"].trainable().values(), strict=True
            ):
                parameter.grad = gradient[part.slice].reshape(part.shape)
            optimizers["operators"].step()

    def by_autograd() -> None:
        for _ in range(UPDATES):
            optimizers["autograd"].zero_grad()
            trained["autograd"].rollout(x).states.sum().backward()  # type: ignore[no-untyped-call]
            optimizers["autograd"].step()

    ours, theirs = clock.seconds(through_operators), clock.seconds(by_autograd)
    return Row(name, str(size), f"{UPDATES} updates", 1e3 * ours, ours / theirs, "the same by autograd")


def _spectra_rows(name: str, size: Size, flow: Any, clock: Clock) -> Iterator[Row]:
    """Yield what a rank to 2 % and ten eigenpairs take."""
    found: dict[str, Any] = {}

    def generator() -> torch.Generator:
        return torch.Generator(flow.P.device).manual_seed(0)

    def rank() -> None:
        found["rank"] = effective_rank(flow.Phi, budget=60, generator=generator())

    def pairs() -> None:
        budget = 15 * 10 + 10  # 15 steps of ten vectors, and the residuals
        found["pairs"] = eigsh(flow.K, k=10, budget=budget, tol=1e-6, generator=generator())

    seconds = clock.seconds(rank)
    estimate = found["rank"]
    error = float(estimate.stderr) / float(estimate.value)
    note = f"{float(estimate.value):.4g}, standard error {error:.1%}, {estimate.num_matvecs} products"
    yield Row(name, str(size), "participation rank of Phi", 1e3 * seconds, note=note)
    seconds = clock.seconds(pairs)
    result = found["pairs"]
    worst = float((result.residual_norms / result.eigenvalues[0]).max())
    note = f"residuals <= {worst:.0e} of the largest, {result.num_matvecs} products, {result.method}"
    yield Row(name, str(size), "10 eigenpairs of K", 1e3 * seconds, note=note)
