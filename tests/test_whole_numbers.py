"""NumPy's and torch's integers are whole numbers wherever one is taken; truth values and others are not."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

import kpframe
from kpframe import Flow, Readout, create_model, linearize, wrap
from kpframe.errors import (
    ArgumentError,
    AxisError,
    KpframeError,
    NotLinearError,
    SettingsError,
    as_whole,
    check_seed,
    whole,
)
from kpframe.operators import (
    DiagonalOperator,
    FunctionOperator,
    IdentityOperator,
    MatrixOperator,
    Operator,
    OuterProductOperator,
)
from kpframe.operators._reducer import principal_components
from kpframe.operators._spaces import Axis, Space, state_space
from kpframe.plugin._settings import build_settings
from kpframe.rules._comparison import compare_update
from kpframe.rules._gradient_flow import cross_flow, loss_rate
from kpframe.spectra import (
    alignment,
    effective_rank,
    eigsh,
    frobenius_norm,
    partial_trace,
    probes,
    randomized_svd,
    spectral_density,
    svd,
    trace,
)
from kpframe.spectra._lyapunov import finite_time_exponents, lyapunov_exponents
from kpframe.study._running.training import TrainingSettings
from kpframe.tasks._task import seeded_generator

KINDS: list[Callable[[int], object]] = [
    np.int64,
    np.int32,
    np.uint8,
    np.array,
    torch.tensor,
    partial(torch.tensor, dtype=torch.int32),
]
OTHERS = [
    True,
    np.True_,
    torch.tensor(True),
    2.0,
    np.float64(2),
    torch.tensor(2.0),
    "2",
    None,
    torch.tensor([2]),
]

MATRIX = torch.diag(torch.arange(1.0, 13.0))
SPACE = Space.of(batch=2, time=3, hidden=2)
OP = MatrixOperator(MATRIX, SPACE)
ONES = torch.ones(SPACE.shape)


def text(value: object) -> str:
    """Everything that a result shows."""
    if isinstance(value, torch.Tensor):
        return str(value.tolist())
    if isinstance(value, Operator):
        return f"{value!r} {value.to_dense().tolist()}"
    parts = getattr(value, "__attrs_attrs__", None)
    return str(value) if parts is None else str([text(getattr(value, part.name)) for part in parts])


#: What shows nothing of the number, and what needs two or more.
ALIKE = {"chunk", "max_budget", "state of a wrapped cell"}
FROM_TWO = {"alignment", "partial_trace", "chunked"}

TAKEN: dict[str, Callable[[object, Flow], object]] = {
    "trace": lambda n, flow: trace(OP, budget=n),
    "max_budget": lambda n, flow: trace(OP, budget=1, rtol=0.9, max_budget=n),
    "frobenius_norm": lambda n, flow: frobenius_norm(OP, budget=n),
    "effective_rank": lambda n, flow: effective_rank(OP, budget=n),
    "alignment": lambda n, flow: alignment(OP, OP, budget=n),
    "partial_trace": lambda n, flow: partial_trace(OP, ("batch", "time"), budget=n),
    "eigsh": lambda n, flow: eigsh(OP, k=n, budget=8, block_size=n),
    "svd": lambda n, flow: svd(OP, k=n, block_size=n),
    "randomized_svd": lambda n, flow: randomized_svd(OP, k=n, power=n, oversample=n),
    "spectral_density": lambda n, flow: spectral_density(OP, budget=n, num_lanczos=n),
    "probes": lambda n, flow: probes(OP.domain, n),
    "lyapunov": lambda n, flow: lyapunov_exponents(flow.A, k=n, discard=n),
    "finite time": lambda n, flow: finite_time_exponents(flow.A, t=n, s=0),
    "transition": lambda n, flow: flow.P.transition(n, 1),
    "truncated": lambda n, flow: flow.P.truncated(n),
    "chunked": lambda n, flow: flow.P.chunked(n, 1),
    "select": lambda n, flow: OP.select(time=n),
    "select a list": lambda n, flow: OP.select(time=[0, n]),
    "select a slice": lambda n, flow: OP.select(time=slice(0, n)),
    "bin": lambda n, flow: OP.bin(time=n),
    "power": lambda n, flow: OP**n,
    "chunk": lambda n, flow: OP(torch.ones(3, 2, 3, 2), chunk=n),
    "sizes": lambda n, flow: Space.of(hidden=n),
    "axis": lambda n, flow: Axis("hidden", n),
    "state space": lambda n, flow: state_space(n, n, {"h": n}),
    "principal components": lambda n, flow: principal_components(flow.trajectory.states, n),
    "seed of a rule": lambda n, flow: kpframe.create_rule("eprop", seed=n) if plugins() else n and 2,
    "seeded generator": lambda n, flow: seeded_generator(n).initial_seed(),
    "settings": lambda n, flow: build_settings(TrainingSettings, {"steps": n}, owner="training").steps,
    "readout": lambda n, flow: [tuple(p.shape) for p in Readout(n, n, generator=n).parameters()],
    "state of a wrapped cell": lambda n, flow: wrap(torch.nn.RNNCell(3, 2), state=n).components,
}


def plugins() -> bool:
    return bool(pytest.importorskip("kpframe_rules"))


@pytest.fixture(scope="module")
def flow() -> Flow:
    torch.manual_seed(0)
    return linearize(wrap(torch.nn.RNNCell(3, 4)), torch.randn(2, 5, 3))


@pytest.mark.parametrize("name", sorted(TAKEN))
def test_every_kind_is_taken_everywhere(name: str, flow: Flow) -> None:
    """And gives what Python's own gives, to the printed formula."""
    call = TAKEN[name]
    expected = text(call(2, flow))
    if name not in ALIKE:
        assert expected != text(call(4 if name in FROM_TWO else 1, flow))
    for kind in KINDS:
        assert text(call(kind(2), flow)) == expected, kind


@pytest.mark.parametrize("name", sorted(set(TAKEN) - {"select a slice", "seed of a rule"}))
@pytest.mark.parametrize("value", [True, np.True_, torch.tensor(True), 2.5, "2.5", torch.tensor([1, 2])])
def test_what_is_none_is_refused_everywhere(name: str, value: object, flow: Flow) -> None:
    if name in ("select", "select a list") and isinstance(value, str | torch.Tensor):
        pytest.skip("a name, and several entries")
    with pytest.raises(KpframeError, match=r"expected|scales|whole|no part"):
        TAKEN[name](value, flow)


@pytest.mark.parametrize("kind", KINDS)
def test_models_take_them(kind: Callable[[int], object]) -> None:
    class Mean(kpframe.Model):
        def __init__(self, input_size: int, hidden_size: int) -> None:
            super().__init__(input_size, {"h": hidden_size})

        def step(self, x, h, t=None):
            return h + x.mean(-1, keepdim=True)

    model = Mean(kind(3), kind(4))
    assert (type(model.input_size), type(model.width), model.input_size, model.width) == (int, int, 3, 4)
    for name in ("rnn", "gru", "lstm"):
        pytest.importorskip(f"kpframe_{name}")
        model = create_model(name, input_size=kind(3), hidden_size=kind(4), num_layers=kind(2), seed=kind(7))
        other = create_model(name, input_size=3, hidden_size=4, num_layers=2, seed=7)
        direct = type(model)(kind(3), kind(4), num_layers=kind(2), seed=kind(7))
        for mine, direct_one, theirs in zip(
            model.parameters(), direct.parameters(), other.parameters(), strict=True
        ):
            assert torch.equal(mine, theirs)
            assert torch.equal(direct_one, theirs)


def test_numpy_arrays_select() -> None:
    for index in (np.array([0, 2]), [np.int64(0), 2], [torch.tensor(0), 2]):
        assert repr(OP.select(time=index)) == "M[time=[0, 2]]"
    mask = OP.select(time=np.array([True, False, True]))
    assert repr(mask) == "M[time=mask]"
    assert torch.equal(mask.to_dense(), OP.select(time=[0, 2]).to_dense())


def test_as_whole() -> None:
    for kind in KINDS:
        assert type(as_whole(kind(2))) is int
        assert as_whole(kind(2)) == 2
    assert [as_whole(value) for value in OTHERS] == [None] * len(OTHERS)
    assert as_whole(np.uint64(2**64 - 1)) == 2**64 - 1
    with pytest.raises(ArgumentError, match=r"^k: expected a whole number >= 1, got 0$"):
        whole(0, "k")
    with pytest.raises(ArgumentError, match=r"^k: expected a whole number in \[1, 3\], got 4$"):
        whole(4, "k", 1, 3)
    with pytest.raises(AxisError, match="size: expected a size"):
        whole(None, "size", expected="a size", error=AxisError)
    assert check_seed(2**63 - 1) == 2**63 - 1
    with pytest.raises(ArgumentError, match="seed: expected a whole number in"):
        check_seed(2**63)
    with pytest.raises(SettingsError, match="steps"):
        build_settings(TrainingSettings, {"steps": np.True_}, owner="training")
    with pytest.raises(NotLinearError, match="whole number"):
        _ = OP ** np.float64(2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda f: OP(np.ones((2, 3, 2))),
            "argument of M: .*torch.Tensor, got numpy.ndarray; torch",
        ),
        (lambda f: OP([1.0]), "argument of M: expected a torch.Tensor, got list"),
        (lambda f: lyapunov_exponents(f), "A: expected a StepJacobian, got .*; give flow.A"),
        (lambda f: finite_time_exponents(f), "A: expected a StepJacobian, got .*; give flow.A"),
        (lambda f: lyapunov_exponents(f.P), "A: expected a StepJacobian, got P"),
        (lambda f: trace(f), "op: expected an Operator, got Flow.*; give one of the flow's operators"),
        (lambda f: svd(f.model), "op: expected an Operator, got .*; linearize"),
        (lambda f: effective_rank(MATRIX), r"op: expected an Operator, got .*; MatrixOperator\(matrix\)"),
        (lambda f: trace(OP, generator=3), r"generator: .* in as torch.Generator\(\).manual_seed\(3\)"),
        (lambda f: lyapunov_exponents(f.A, generator=3), r"generator: .*manual_seed\(3\)"),
        (
            lambda f: DiagonalOperator(SPACE, ONES),
            "values: .* got kpframe.operators._spaces.Space; DiagonalOperator",
        ),
        (lambda f: MatrixOperator(SPACE, MATRIX), r"matrix: .*; MatrixOperator\(matrix, domain\) takes"),
        (
            lambda f: OuterProductOperator(SPACE, ONES),
            "u: expected a torch.Tensor, .*the vectors first",
        ),
        (lambda f: MatrixOperator(np.eye(2)), "matrix: .*numpy.ndarray; torch.as_tensor makes"),
        (lambda f: MatrixOperator(MATRIX, 12), r"domain: expected a Space, got 12 \(int\); Space.of"),
        (lambda f: IdentityOperator(3), "domain: expected a Space, got 3"),
        (lambda f: FunctionOperator(SPACE, SPACE, ONES, ONES), "apply: expected a function of a tensor"),
        (lambda f: loss_rate(f.model, MATRIX), "flow: expected a Flow, .*; linearize"),
        (lambda f: compare_update(f.P, MATRIX, None), "flow: expected a Flow, got P"),
        (lambda f: cross_flow(f, 3), "train: expected a Flow, got 3"),
        (lambda f: probes(3, 2), "space: expected a Space, got 3"),
    ],
)
def test_messages_name_the_remedy(call: Callable[[Flow], object], message: str, flow: Flow) -> None:
    with pytest.raises(ArgumentError, match="^" + message):
        call(flow)
