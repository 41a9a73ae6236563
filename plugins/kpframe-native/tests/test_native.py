"""The compiled propagator against the scan by torch: every kind of step, every share of the work."""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import kpframe_native.library
import kpframe_native.parameter_operator
import kpframe_native.propagator
import pytest
import torch
from kpframe_native.parameter_operator import NativeParameterOperator
from kpframe_native.propagator import NativePropagator

from kpframe import Model, create_model, create_rule, linearize
from kpframe.errors import UnsupportedError
from kpframe.flow import ScanPropagator
from kpframe.testing import parametrize_with_checks

CELLS = {
    "rnn": {},
    "relu": {"name": "rnn", "nonlinearity": "relu"},
    "current": {"name": "rnn", "form": "current", "alpha": 0.3},
    "gru": {},
    "lstm": {},
    "hh": {},
}
#: Trials, steps, units, probes: a single entry, one row for all threads, ends of tiles and of panels.
SIZES = [(1, 1, 1, 1), (1, 6, 5, 1), (2, 7, 16, 1), (3, 5, 19, 4), (7, 9, 33, 2), (13, 4, 40, 1)]


@parametrize_with_checks(["propagator:native", "parameter_operator:native"])
def test_conformance(check) -> None:
    check()


def model_of(kind: str, units: int, dtype: torch.dtype = torch.float64) -> Model:
    settings = dict(CELLS[kind])
    name = settings.pop("name", kind)
    return create_model(name, input_size=3, hidden_size=units, seed=0, **settings).to(dtype)


@pytest.mark.parametrize("vector", [16, 32, 64])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", CELLS)
def test_products(randn, close, threads, monkeypatch, kind, dtype, vector) -> None:
    """Each cell, number of threads and width of registers; with padded steps and more probes than trials."""
    if kpframe_native.library.library().kpn_vector_bytes(vector) != vector:
        pytest.skip(f"this processor has no registers of {vector} bytes")
    monkeypatch.setattr(kpframe_native.propagator, "vector_bytes", lambda: vector)
    monkeypatch.setattr(kpframe_native.propagator, "STEP_WORK", 1)  # small steps are shared, too
    for trials, steps, units, probes in SIZES:
        mask = torch.arange(steps) < torch.arange(1, trials + 1)[:, None] % steps + 1
        x = randn(1, trials, steps, 3, dtype=dtype)
        flow = linearize(model_of(kind, units, dtype), x, mask=mask)
        plain = ScanPropagator(flow.A)
        q = randn(2, probes, *flow.P.domain.shape, dtype=dtype)
        for number in (1, 2, 3):
            threads(number)
            P = NativePropagator(flow.A)
            close(P(q), plain(q))
            close(P.T(q), plain.T(q))
            close(P(q[0]), plain(q[0]))
        if steps > 1:
            assert float((P(q) - q).norm()) > 1e-3 * float(q.norm())
            assert float((P(q) - P.T(q)).norm()) > 1e-3 * float(q.norm())


@pytest.mark.parametrize("vector", [16, 32, 64])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("kind", [kind for kind in CELLS if kind != "hh"])
def test_products_with_K(randn, close, threads, monkeypatch, kind, dtype, vector) -> None:
    """From tensors of either layout, of all parameters and of some, with one bias and with two."""
    if kpframe_native.library.library().kpn_vector_bytes(vector) != vector:
        pytest.skip(f"this processor has no registers of {vector} bytes")
    monkeypatch.setattr(kpframe_native.parameter_operator, "vector_bytes", lambda: vector)
    monkeypatch.setattr(kpframe_native.parameter_operator, "WORK", 1)
    for trials, steps, units, probes in [*SIZES, (40, 30, 3, 2)]:
        mask = torch.arange(steps) < torch.arange(1, trials + 1)[:, None] % steps + 1
        flow = linearize(
            model_of(kind, units, dtype),
            randn(1, trials, steps, 3, dtype=dtype),
            mask=mask,
            parameter_operator="gram",
        )
        q = randn(2, probes, *flow.P.domain.shape, dtype=dtype)
        turned = q.movedim(-2, 0).contiguous().movedim(0, -2)  # as a scan leaves it
        for number in (1, 2, 3):
            threads(number)
            K = NativeParameterOperator(flow.J)
            close(K(q), flow.K(q))
            close(K(turned), flow.K(q))
            close(K(q[0]), flow.K(q[0]))
            with monkeypatch.context() as patch:  # threads share the columns of what the weights move by
                patch.setattr(kpframe_native.parameter_operator, "OWN_WEIGHTS", 0)
                close(K(q), flow.K(q))
            for names in (["weight_hh*"], ["weight_hh*", "bias_ih*"], ["bias*"]):
                if any(part.name.startswith("bias") for part in flow.J.domain["parameter"].parts):
                    close(K.restrict(names)(q), flow.K.restrict(names)(q))
                    if trials > 1:
                        assert float((K.restrict(names)(q) - K(q)).norm()) > 1e-6 * float(K(q).norm())
        doubled = K.metric + K.metric
        close(K.with_metric(doubled)(q), 2 * flow.K(q))


def test_auto_takes_it(randn, close) -> None:
    model, x = model_of("gru", 6), randn(0, 4, 8, 3)
    flow, plain = linearize(model, x), linearize(model, x, propagator="scan")
    assert flow.P.method == "native"
    assert flow.P.why == "kpframe-native:native is installed and prefers this step Jacobian"
    assert (flow.K.method, plain.K.method) == ("native", "sites")
    assert torch.equal(flow.K.block_labels(), plain.K.block_labels())
    assert (plain.P.method, linearize(model, x, parameter_operator="gram").K.method) == ("sites", "sites")
    q = randn(1, 3, *flow.P.domain.shape)
    close(flow.Phi(q), plain.Phi(q), 1e-13)
    assert float((flow.Phi(q) - flow.K(q)).norm()) > 0.01 * float(flow.K(q).norm())
    assert linearize(model, x, method="autograd").P.method == "autograd"
    assert linearize(create_model("lru", input_size=3, hidden_size=4).double(), x).P.method != "native"


def test_rules_keep_it(randn, close) -> None:
    model, x = model_of("rnn", 7), randn(0, 3, 9, 3)
    flow, plain = linearize(model, x), linearize(model, x, propagator="scan")
    q = randn(1, 2, *flow.P.domain.shape)
    chunks = flow.P.chunked(4)
    assert isinstance(chunks, NativePropagator)
    close(chunks(q), plain.P.chunked(4)(q))
    close(chunks.T(q), plain.P.chunked(4).T(q))
    assert float((chunks(q) - flow.P(q)).norm()) > 1e-3 * float(q.norm())
    for rule in (create_rule("eprop"), create_rule("rflo"), create_rule("snap1")):
        close(rule.flow_operator(flow)(q), rule.flow_operator(plain)(q), 1e-13)


def test_what_it_does_not_fit(randn) -> None:
    x = randn(0, 2, 5, 3)
    wrapped = linearize(model_of("gru", 4), x, method="autograd")
    with pytest.raises(UnsupportedError, match=r"not known as weights between pointwise gains"):
        wrapped.with_propagator("native")
    two_stages = create_model("gru", input_size=3, hidden_size=4, reset="before").double()
    assert linearize(two_stages, x).P.method == "sites"


def test_a_library_that_was_not_built(randn, monkeypatch, tmp_path) -> None:
    flow = linearize(model_of("rnn", 4), randn(0, 2, 5, 3), propagator="scan")
    monkeypatch.setattr(kpframe_native.library, "__file__", str(tmp_path / "library.py"))
    kpframe_native.library.library.cache_clear()
    try:
        assert NativePropagator.fits(flow.A) == (
            "kpframe-native: expected its compiled library beside its Python files, got none; install it "
            "with pip install kpframe-native where there is a C++ compiler"
        )
    finally:
        kpframe_native.library.library.cache_clear()


def test_copies_and_threads_of_the_caller(randn, close) -> None:
    flow = linearize(model_of("lstm", 9), randn(0, 5, 11, 3))
    q = randn(1, 8, *flow.P.domain.shape)
    expected = ScanPropagator(flow.A)(q)
    close(flow.P(q), expected)
    close(pickle.loads(pickle.dumps(flow.P))(q), expected)
    close(pickle.loads(pickle.dumps(flow.K))(q), flow.K(q))
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(flow.P, [q] * 16):
            close(found, expected)


def test_one_thread_stays_one_thread() -> None:
    tasks = Path("/proc/self/task")
    if not tasks.exists():
        pytest.skip("the system does not list the threads of a process")
    code = (
        "import torch; torch.set_num_threads({}); import os, kpframe;"
        "m = kpframe.create_model('rnn', input_size=3, hidden_size=64);"
        "f = kpframe.linearize(m, torch.randn(50, 9, 3));"
        "q = torch.randn(f.P.domain.shape); assert f.P.method == 'native';"
        "n = len(os.listdir('/proc/self/task')); f.P._apply(q); print(len(os.listdir('/proc/self/task')) - n)"
    )
    grown = [
        int(subprocess.check_output([sys.executable, "-c", code.format(number)], text=True))
        for number in (1, 3)
    ]
    assert grown[0] == 0
    assert grown[1] <= 2


def test_turned_off(randn) -> None:
    code = (
        "import torch, kpframe;"
        "m = kpframe.create_model('rnn', input_size=3, hidden_size=4);"
        "print(kpframe.linearize(m, torch.randn(2, 3, 3)).P.method)"
    )
    for disabled, method in (("", "native"), ("kpframe-native", "sites")):
        environment = {**os.environ, "KPFRAME_DISABLE_PLUGINS": disabled}
        found = subprocess.check_output([sys.executable, "-c", code], text=True, env=environment)
        assert found.strip() == method
