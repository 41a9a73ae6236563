"""What must not change a figure, tried on every bundled model; docs/trust.md is the table of it.

``KPFRAME_WRITE_DOCS=1 python -m pytest tests/integration/test_trust.py`` writes the page anew.
"""

from __future__ import annotations

import copy
import os
import pickle
import re
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import chdir, contextmanager
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
import torch
from attrs import frozen
from torch.nn.utils import parametrizations, prune

from kpframe import Flow, MatrixOperator, Model, alignment, create_rule, effective_rank, eigsh, trace, wrap
from kpframe.errors import (
    ArgumentError,
    CheckpointError,
    DtypeError,
    KpframeError,
    NonFiniteError,
    UnsupportedError,
)
from kpframe.study._networks.checkpoint import load_into, load_weights
from kpframe.tasks._readout import Readout
from kpframe.testing._surroundings import SURROUNDINGS

from . import bundled
from .bundled import MODELS, Figures, assert_same, normal

PAGE = Path(__file__).parents[2] / "docs" / "trust.md"
F64 = torch.float64
SAME = "the same figures"
OPERATOR = "an operator"


@frozen
class Row:
    """One line of the table: what is brought, what happens, and the proof for each subject."""

    section: str
    brought: str
    happens: str
    prove: Callable[[str], None]
    subjects: Sequence[str]
    error: type[Exception] | None = None
    says: str = ""

    @property
    def shown(self) -> str:
        """What happens, for the page: an error with what it says here."""
        if self.error is None:
            return self.happens
        with pytest.raises(self.error, match=re.escape(self.says)) as raised:
            self.prove(self.subjects[0])
        return f"`{raised.type.__name__}`: {raised.value}".replace("|", "\\|")

    @property
    def on(self) -> str:
        return "all bundled models" if self.subjects is MODELS else ", ".join(self.subjects)


ROWS: list[Row] = []


def row(
    section: str,
    brought: str,
    happens: str = SAME,
    *,
    on: Sequence[str] = ("wrapped cell",),
    error: type[Exception] | None = None,
    says: str = "",
) -> Callable[[Callable[[str], None]], Callable[[str], None]]:
    def enter(prove: Callable[[str], None]) -> Callable[[str], None]:
        ROWS.append(Row(section, brought, happens, prove, on, error, says))
        return prove

    return enter


# -- what is compared ----------------------------------------------------------------------------------------


def model_of(name: str, **settings: object) -> Model:
    return bundled.model_of(name, 3, **settings).double()


def close(found: torch.Tensor, wanted: torch.Tensor, rtol: float = 1e-12) -> None:
    assert found.dtype == wanted.dtype == F64
    assert float(wanted.norm()) > 1e-12  # zero, which a lost graph gives, would not do
    assert float((found - wanted).norm()) <= rtol * float(wanted.norm())


# -- contexts ------------------------------------------------------------------------------------------------


def _surrounded(context: str) -> Callable[[str], None]:
    def prove(name: str) -> None:
        figures = Figures(model_of(name))
        wanted = figures.of(figures.flow())
        before, used = figures.flow(), figures.flow()
        figures.of(used)
        with SURROUNDINGS[context]():
            made = figures.flow()
            found = [figures.of(made), figures.of(before), figures.of(used)]
        found += [figures.of(made), figures.of(before)]  # nothing stays behind
        for each in found:
            assert_same(each, wanted, 1e-12)

    return prove


for _name in SURROUNDINGS:
    row("Around a call", f"`{_name}` around `linearize`, products, estimates and gradients", on=MODELS)(
        _surrounded(_name)
    )


# -- copies --------------------------------------------------------------------------------------------------


@row(
    "Copies", "`pickle` and `copy.deepcopy` of a flow, used or not (so joblib and multiprocessing)", on=MODELS
)
def _copies(name: str) -> None:
    figures = Figures(model_of(name))
    flow = figures.flow()
    unused = pickle.loads(pickle.dumps(flow))
    wanted = figures.of(flow)
    for copied in (unused, pickle.loads(pickle.dumps(flow)), copy.deepcopy(flow)):
        assert copied is not flow
        assert_same(figures.of(copied), wanted, 1e-12)
    close(pickle.loads(pickle.dumps(flow.Phi))(figures.q), flow.Phi(figures.q))


# -- parameters ----------------------------------------------------------------------------------------------


def _pairs(model: Model) -> list[tuple[str, str]]:
    named = list(model.named_parameters())
    return [(one, other) for (one, p), (other, q) in combinations(named, 2) if p.shape == q.shape]


#: Models with two parameters of one shape, at sizes where there are some.
TIED = tuple(name for name in MODELS if _pairs(model_of(name)))


@row(
    "Parameters",
    "one parameter at two places",
    "the figures by autograd",
    on=TIED,
)
def _tied(name: str) -> None:
    pairs = _pairs(model_of(name))
    for one, other in (pairs[0], pairs[-1]):  # test_shared_parameters.py has them all
        model, plain = model_of(name), model_of(name)
        owner, _, attribute = other.rpartition(".")
        setattr(model.get_submodule(owner), attribute, dict(model.named_parameters())[one])
        figures = Figures(model)
        states = model.rollout(figures.x).states
        theta = list(model.trainable().values())
        rows = torch.eye(states.numel(), dtype=F64).reshape(-1, *states.shape)
        found = [
            torch.autograd.grad(
                states, theta, each, retain_graph=True, allow_unused=True, materialize_grads=True
            )
            for each in rows
        ]
        G = torch.stack([torch.cat([part.flatten() for part in each]) for each in found])
        dense = figures.flow().Phi.to_dense()
        close(dense, G @ G.mT, 1e-10)
        assert len(theta) == len(plain.trainable()) - 1


# -- cells ---------------------------------------------------------------------------------------------------


def product_of(model: Model) -> torch.Tensor:
    """Return ``Phi q`` of a model of the reader's own."""
    figures = Figures(model)
    return figures.flow().Phi(figures.q)


def autograd_product(model: Model) -> torch.Tensor:
    """Return ``G G* q`` with ``G = dh/dtheta`` by one reverse pass a row of the model's own roll-out."""
    figures = Figures(model)
    states, theta = model.rollout(figures.x).states, list(model.trainable().values())
    rows = [
        torch.autograd.grad(flat, theta, retain_graph=True, allow_unused=True, materialize_grads=True)
        for flat in states.reshape(-1)
    ]
    G = torch.stack([torch.cat([part.flatten() for part in each]) for each in rows])
    return (G @ (G.mT @ figures.q.flatten())).reshape(figures.q.shape)


class Cell(torch.nn.Module):
    """``tanh(W h + U x)``: what the cells below vary."""

    input_size = hidden_size = 3

    def __init__(self) -> None:
        super().__init__()
        self.W = torch.nn.Parameter(normal(3, 3, seed=3) / 2)
        self.U = torch.nn.Parameter(normal(3, 3, seed=4) / 2)

    def drive(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        return h @ self.W.mT + x @ self.U.mT

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        return torch.tanh(self.drive(x, h))


class _Tanh(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u):
        y = torch.tanh(u)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g * (1 - ctx.saved_tensors[0] ** 2)


class Once(Cell):
    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        return _Tanh.apply(self.drive(x, h))


class Clipped(Cell):
    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        out = super().forward(x, h)
        if out.requires_grad:
            out.register_hook(lambda g: g.clamp(-0.1, 0.1))
        return out


class Keeps(Cell):
    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        self.last = super().forward(x, h)
        return self.last


class Inner(Cell):
    """A step along a gradient that it takes itself."""

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        with torch.enable_grad():
            z = h if h.requires_grad else h.detach().requires_grad_()
            energy = torch.log(torch.cosh(self.drive(x, z))).sum()
            return h - 0.3 * torch.autograd.grad(energy, z, create_graph=True)[0]


class Functional(Cell):
    """The same step along a gradient by ``torch.func``."""

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        def energy(z: torch.Tensor, v: torch.Tensor) -> torch.Tensor:
            return torch.log(torch.cosh(self.drive(v, z))).sum()

        return h - 0.3 * torch.func.vmap(torch.func.grad(energy))(h, x)


class Sparse(Cell):
    def __init__(self, layout: torch.layout = torch.sparse_coo) -> None:
        super().__init__()
        fixed = self.W.detach() * (self.W.detach().abs() > 0.3)
        del self.W
        self.register_buffer("W", fixed.to_sparse() if layout == torch.sparse_coo else fixed)

    def drive(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        return (self.W @ h.mT).mT + x @ self.U.mT


class Steps(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cells = torch.nn.ModuleList(torch.nn.RNNCell(3, 3) for _ in range(4))

    def forward(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        return self.cells[int(t[0])](x, h)


class Mixes(Cell):
    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        out = super().forward(x, h)
        return out - 1e-3 * out.mean(0)


class Listed(torch.nn.Module):
    input_size = hidden_size = 3

    def __init__(self) -> None:
        super().__init__()
        self.cells = [torch.nn.RNNCell(3, 3)]

    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        return self.cells[0](x, h)


class Attends(Cell):
    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        tokens = torch.stack([h @ self.W.mT, x @ self.U.mT], 1)[:, None]
        mixed = torch.nn.functional.scaled_dot_product_attention(tokens, tokens, tokens)
        return torch.tanh(mixed[:, 0].sum(1))


class AttendsByHand(Cell):
    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        tokens = torch.stack([h @ self.W.mT, x @ self.U.mT], 1)
        weights = torch.softmax(tokens @ tokens.mT / 3**0.5, dim=-1)
        return torch.tanh((weights @ tokens).sum(1))


class Roots(Cell):
    def forward(self, x: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
        return torch.relu(self.drive(x, h)).sqrt()


class Started(Cell):
    def __init__(self) -> None:
        super().__init__()
        self.start = torch.nn.Parameter(normal(3, seed=5))


CELLS = "Cells given to `wrap`"


@row(CELLS, "a backward that autograd cannot differentiate again (`once_differentiable`, NumPy in it)",
     error=UnsupportedError, says="whose backward pass autograd can differentiate once more")  # fmt: skip
def _once(_: str) -> None:
    product_of(wrap(Once()))


@row(CELLS, "a hook on a tensor of the step that is not linear (it clips)",
     error=UnsupportedError, says="clips, rounds or normalizes")  # fmt: skip
def _clipped(_: str) -> None:
    product_of(wrap(Clipped()))


@row(CELLS, "a hook on a parameter (`register_hook`)", error=UnsupportedError, says="hook")
def _hooked(_: str) -> None:
    cell = Cell()
    cell.W.register_hook(lambda g: g - g.diag().diag())
    product_of(wrap(cell))


def _equal(made: Callable[[], Model], right: Callable[[], Model] | None = None) -> Callable[[str], None]:
    def prove(_: str) -> None:
        wanted = autograd_product(right() if right else made())
        close(product_of(made()), wanted, 1e-10)

    return prove


def _trained(cell: torch.nn.Module) -> Model:
    """Return a cell as a model after a step of training, with what that left in it."""
    model = wrap(cell)
    model.rollout(normal(2, 4, 3)).states.sum().backward()
    model.zero_grad()
    return model


RIGHT = "the figures by autograd"
row(CELLS, "a gradient taken inside the step (`torch.autograd.grad`, `create_graph`)", RIGHT)(
    _equal(lambda: wrap(Inner()))
)
row(CELLS, "a gradient taken inside the step by `torch.func`", RIGHT)(
    _equal(lambda: wrap(Functional()), lambda: wrap(Inner()))
)
row(CELLS, "a sparse buffer", RIGHT)(_equal(lambda: wrap(Sparse()), lambda: wrap(Sparse(torch.strided))))
row(CELLS, "a cell that keeps its last activation, after a step of training", RIGHT)(
    _equal(lambda: _trained(Keeps()), lambda: wrap(Cell()))
)
row(CELLS, "a parametrised weight (`torch.nn.utils.parametrizations`), `weight_norm`, `prune`", RIGHT)(
    _equal(lambda: _trained(prune.l1_unstructured(parametrizations.weight_norm(Cell(), "W"), "U", 3)))
)
row(CELLS, "`scaled_dot_product_attention` in the step", RIGHT)(
    _equal(lambda: wrap(Attends()), lambda: wrap(AttendsByHand()))
)
row(CELLS, "an initial state that learns in the cell, `wrap(..., initial_state=...)`", RIGHT)(
    _equal(lambda: wrap(Started(), initial_state=lambda cell, batch: cell.start.expand(batch, -1)))
)


@row(CELLS, "an initial state of another copy of the cell",
     error=ArgumentError, says="learns its own parameters")  # fmt: skip
def _foreign_start(_: str) -> None:
    other = Started()
    wrap(Started(), initial_state=lambda cell, batch: other.start.expand(batch, -1))


@row(CELLS, "the cell of a step chosen by the first row's step index (`self.cells[int(t[0])]`)",
     error=ArgumentError, says="row by row")  # fmt: skip
def _first_row(_: str) -> None:
    wrap(Steps(), "x,h,t", input_size=3, state=3)


@row(CELLS, "rows that mix, if only by a thousandth", error=ArgumentError, says="row by row")
def _mixed(_: str) -> None:
    wrap(Mixes())


@row(CELLS, "cells in a plain list", error=ArgumentError, says="torch.nn.ModuleList")
def _listed(_: str) -> None:
    wrap(Listed())


@row(CELLS, "complex parameters", error=ArgumentError, says="hold its real and imaginary parts as parameters")
def _complex_parameters(_: str) -> None:
    cell = Cell()
    cell.W = torch.nn.Parameter(cell.W.detach().to(torch.complex128))
    wrap(cell)


@row(CELLS, "one parameter of another precision", error=DtypeError, says="as most parameters")
def _precisions(_: str) -> None:
    cell = Cell()
    cell.U = torch.nn.Parameter(cell.U.detach().float()[:, :1])
    wrap(cell)


@row(CELLS, "a derivative that is not finite where the state is (a root at 0)",
     error=NonFiniteError, says="first at step 0, trial 0, component 'h'")  # fmt: skip
def _roots(_: str) -> None:
    product_of(wrap(Roots()))


# -- transforms ----------------------------------------------------------------------------------------------


@row("Around a call", "`torch.func.vmap`, `jacrev`, `grad` ... of a product", on=(OPERATOR,),
     error=UnsupportedError, says="outside the transforms of torch.func")  # fmt: skip
def _transformed(_: str) -> None:
    figures = Figures(model_of("gru"))
    torch.func.jacrev(figures.flow().Phi)(figures.q)


@row("Around a call", "an argument that requires a gradient", "the same product, detached", on=(OPERATOR,))
def _differentiated(_: str) -> None:
    figures = Figures(model_of("gru"))
    Phi = figures.flow().Phi
    product = Phi(figures.q.clone().requires_grad_())
    assert not product.requires_grad
    close(product, Phi(figures.q))


# -- scale ---------------------------------------------------------------------------------------------------


@row(
    "Scale",
    "ranks, alignments and cosines of `c Phi`, c from 1e-150 to 1e150 (float32: 1e-30 to 1e25)",
    on=MODELS,
)
def _scaled(name: str) -> None:
    figures = Figures(model_of(name))
    flow = figures.flow()
    single = [MatrixOperator((op.to_dense() / op.to_dense().norm()).float()) for op in (flow.Phi, flow.K)]
    for Phi, K, scales in ((flow.Phi, flow.K, (1e-150, 1e150)), (*single, (1e-30, 1e25))):
        kinds = ("participation", "entropy")
        wanted = [effective_rank(Phi, kind=kind, budget=10**4).value for kind in kinds]
        wanted.append(alignment(Phi, K, budget=10**4).value)
        assert min(wanted[:2]) > 0.99
        for c in scales:
            found = [effective_rank(c * Phi, kind=kind, budget=10**4).value for kind in kinds]
            found.append(alignment(c * Phi, c * K, budget=10**4).value)
            assert found == pytest.approx(wanted, rel=1e-3 if Phi.dtype == torch.float32 else 1e-9)


# -- arguments -----------------------------------------------------------------------------------------------


ARGUMENTS = "Arguments"


def _matrix() -> MatrixOperator:
    return MatrixOperator(normal(4, 4))


def _cell_flow() -> Flow:
    return Figures(model_of("gru")).flow()


@row(ARGUMENTS, "NumPy's and torch's integers where a whole number is asked for", on=(OPERATOR,))
def _integers(_: str) -> None:
    flow = _cell_flow()
    pairs = eigsh(flow.Phi, k=2)
    for two in (np.int64(2), np.uint8(2), torch.tensor(2)):
        assert torch.equal(eigsh(flow.Phi, k=two).eigenvalues, pairs.eigenvalues)
        assert torch.equal(flow.P.select(time=two).to_dense(), flow.P.select(time=2).to_dense())
        assert flow.P.transition(two).t == 2


@row(
    ARGUMENTS,
    "a NumPy array as the argument of an operator",
    on=(OPERATOR,),
    error=KpframeError,
    says="torch.Tensor",
)
def _array(_: str) -> None:
    _matrix()(np.ones(4))


@row(ARGUMENTS, "a flow where an operator is meant", on=(OPERATOR,), error=ArgumentError, says="flow.Phi")
def _flow_for_operator(_: str) -> None:
    trace(_cell_flow())


@row(
    ARGUMENTS, "a seed where a generator is meant", on=(OPERATOR,), error=ArgumentError, says="manual_seed(3)"
)
def _seed(_: str) -> None:
    trace(_matrix(), budget=2, generator=3)


@row(
    ARGUMENTS,
    "a complex vector through `to_scipy()`",
    "the right product, real and imaginary part",
    on=(OPERATOR,),
)
def _complex(_: str) -> None:
    op, z = _matrix(), np.arange(4) + 1j * np.arange(4)[::-1]
    product = op.to_scipy() @ z
    assert np.linalg.norm(product - op.matrix.numpy() @ z) <= 1e-14 * np.linalg.norm(product)
    assert np.linalg.norm(product.imag) > 0.1


@row(ARGUMENTS, "a tag that is not true (`MatrixOperator(M, positive=True)`)", on=(OPERATOR,),
     error=ArgumentError, says="declared self-adjoint")  # fmt: skip
def _declared(_: str) -> None:
    MatrixOperator(normal(4, 4), positive=True)


# -- files ---------------------------------------------------------------------------------------------------


FILES, CHECKPOINT = "Checkpoints of other programs", ("a file",)


@contextmanager
def _saved(content: object, name: str = "weights.pt") -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        torch.save(content, path)
        with chdir(folder):
            yield Path(name)


@row(
    FILES,
    "`.pt`, `.pth` and Lightning's `.ckpt`, `module.` or `model.` in front of names",
    "the weights",
    on=CHECKPOINT,
)
def _foreign(_: str) -> None:
    wanted = model_of("gru").state_dict()
    contents = {
        "a.pt": wanted,
        "b.pth": {f"module.{name}": value for name, value in wanted.items()},
        "c.ckpt": {"state_dict": {f"model.{name}": value for name, value in wanted.items()}, "epoch": 3},
    }
    for name, content in contents.items():
        model = model_of("gru")
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.zero_()
        with _saved(content, name) as path:
            load_into(model, path)
        assert all(torch.equal(value, wanted[name]) for name, value in model.state_dict().items())


@row(FILES, "a file that holds more than tensors and plain values", on=CHECKPOINT,
     error=CheckpointError, says="is not unpickled")  # fmt: skip
def _objects(_: str) -> None:
    with _saved({"weights": Cell().state_dict(), "config": Path("a")}) as path:
        load_weights(path)


@row(FILES, "weights that miss, are too many or have another shape", on=CHECKPOINT,
     error=CheckpointError, says="expected nothing, got [2]")  # fmt: skip
def _misfit(_: str) -> None:
    with _saved({"weight_ih_l0": torch.zeros(2, 2), "more": torch.zeros(2)}) as path:
        load_into(model_of("gru"), path)


@row(
    FILES, "a file or a folder that is not there", on=CHECKPOINT, error=CheckpointError, says="does not exist"
)
def _missing(_: str) -> None:
    load_weights(Path("nowhere") / "weights.pt")


# -- rules ---------------------------------------------------------------------------------------------------


RULES = "Learning rules"


@row(
    RULES,
    "more outputs than units, the error at the outputs (as in training)",
    "the exact `B^T e`",
    on=("feedback_alignment",),
)
def _outputs(_: str) -> None:
    figures = Figures(model_of("rnn"))
    flow, readout = figures.flow(), Readout(3, 7, generator=0, dtype=F64)
    e = normal(2, 3, 7, seed=6)
    rule = create_rule("feedback_alignment", seed=1)
    found = rule.gradient(flow, readout=readout, output_err=e)
    B = rule.update(flow, readout).feedback
    wanted = create_rule("bptt").gradient(flow, e @ B)
    for name, value in wanted.items():
        close(found[name], value)
    assert float((B - readout.weight.detach()).norm()) > 0.1


@row(RULES, "more outputs than units, an error at the states alone", on=("feedback_alignment",),
     error=UnsupportedError, says="output_err")  # fmt: skip
def _hidden(_: str) -> None:
    figures = Figures(model_of("rnn"))
    create_rule("feedback_alignment").gradient(
        figures.flow(), figures.q, Readout(3, 7, generator=0, dtype=F64)
    )


@row(
    RULES,
    "several layers, and a trainable h_0 (e-prop)",
    "the gradient with the old state detached",
    on=("eprop",),
)
def _layers(_: str) -> None:
    model = model_of("rnn", num_layers=2, trainable_initial_state=True)
    with torch.no_grad():
        model.h0.copy_(normal(6, seed=7))
    figures = Figures(model)
    found = create_rule("eprop").gradient(figures.flow(), figures.q)
    p, h, loss = dict(model.named_parameters()), model.h0.expand(2, -1), 0.0
    for t in range(3):
        below, layers = figures.x[:, t], []
        for k, old in enumerate(h.split(3, dim=1)):
            drive = below @ p[f"weight_ih_l{k}"].mT + old.detach() @ p[f"weight_hh_l{k}"].mT
            below = torch.tanh(drive + p[f"bias_ih_l{k}"] + p[f"bias_hh_l{k}"])
            layers.append(below)
        h = torch.cat(layers, dim=1)
        loss = loss + (h * figures.q[:, t]).sum()
    loss.backward()
    for name, parameter in p.items():
        if name == "h0":  # tanh(W h) has no path around W: nothing reaches h_0
            assert parameter.grad is None
            assert not found[name].any()
        else:
            close(found[name], parameter.grad)


# -- the page ------------------------------------------------------------------------------------------------

HEAD = """# What can be trusted

The right number, or one clear error: never a third thing. This page lists what people bring to kpframe, or
have around a call, and what happens. Each line is tried by `tests/integration/test_trust.py`, which writes
this page; contexts, copies, shared parameters and scale are checks of `kpframe verify` too, so that they
hold for a model of your own. What is said of all bundled models is tried on three with every change, and on
all of them with the slow tests (`--slow`). The last tables name the tests that hold their lines.
"""

#: What has tests of its own: section, what is brought, what happens, and the test that holds it.
ELSEWHERE = (
    (
        "Layers of torch given to `wrap`",
        (
            (
                "`nn.RNN`, `nn.GRU`, `nn.LSTM`: layers, either nonlinearity, projections, no biases",
                "the module's own roll-out and gradient, with its own parameters",
                "models/test_wrap_layers.py::test_roll_out_and_gradient",
            ),
            (
                "`batch_first=False`",
                "inputs are `[batch, time, inputs]` all the same",
                "models/test_wrap_layers.py::test_inputs_are_batch_first_whatever_the_module_says",
            ),
            (
                "two directions, dropout, modules of another kind",
                "one error that says what to give",
                "models/test_wrap_layers.py::test_what_is_refused",
            ),
        ),
    ),
    (
        "Data of one's own (`Trials.from_tensors`, `TrialsTask`)",
        (
            (
                "numbers or classes, of each step or of each trial",
                "the steps that are scored are those that have a target",
                "tasks/test_own_data.py::test_classes_of_each_step_and_of_each_trial",
            ),
            (
                "trials of different lengths",
                "steps of padding are not read, whatever stands there (NaN, too)",
                "tasks/test_own_data.py::test_padding_may_hold_nan",
            ),
            (
                "arrays of NumPy, tensors of any dtype, tensors with a graph",
                "copies, each in its own dtype, without a graph",
                "tasks/test_own_data.py::test_nothing_is_shared_and_no_graph_goes_in",
            ),
            (
                "shapes, dtypes and classes that do not fit each other",
                "one error that names the argument",
                "tasks/test_own_data.py::test_what_is_refused",
            ),
        ),
    ),
    (
        "Forms of operators",
        (
            (
                "any form of P, for any model that it fits",
                "the same P, with the form named by its class or by its name",
                "flow/test_forms.py::test_P_in_every_form",
            ),
            (
                "a form that a trajectory does not fit",
                "products through the scan",
                "flow/test_forms.py::test_what_does_not_fit_goes_through_the_scan",
            ),
            (
                "forms by plugins",
                "every identity of operators, against dense references",
                "integration/test_forms.py::test_conformance",
            ),
            (
                "a form that is not there, or not for this operator",
                "one error before any work",
                "flow/test_forms.py::test_refusals",
            ),
        ),
    ),
    (
        "Settings of plugins and of studies",
        (
            (
                "values of another type, out of bounds, unknown names",
                "all that is wrong at once, each by its name",
                "plugin/test_settings.py::test_all_that_is_wrong_is_said_at_once",
            ),
            (
                "a study file with errors",
                "each by the path of its key, in the order of the file",
                "study/test_study_file.py::test_all_errors_come_at_once_in_the_order_of_the_file",
            ),
            (
                "a study that cannot be trained or measured as asked",
                "known before anything is made",
                "study/test_run_study.py::test_what_is_impossible_is_known_before_anything_is_made",
            ),
        ),
    ),
    (
        "Studies",
        (
            (
                "the figures of a training",
                "those of the same training written by hand",
                "study/test_train_cell.py::test_the_figures_are_those_of_training_by_hand",
            ),
            (
                "a run that is ended at any moment",
                "goes on to the figures of an undisturbed one, bit for bit",
                "study/test_train_cell.py::test_killed_at_each_moment",
            ),
            (
                "a folder of another run, or of a living process",
                "refused before anything is computed; nothing is lost",
                "study/test_folder.py::test_a_living_process_holds_its_folder",
            ),
            (
                "files that are damaged, or lost",
                "made anew, or named with what to do",
                "study/test_run_study.py::test_what_was_damaged_is_made_anew",
            ),
            (
                "figures that are missing in part of a run",
                "NaN, and the rest in its place",
                "study/test_merge.py::test_what_is_not_there_yet_is_nan_and_the_rest_in_its_place",
            ),
            (
                "a run that goes on under other versions",
                "a warning, and the versions in each file",
                "study/test_folder.py::test_going_on_with_other_versions_is_told",
            ),
            (
                "a training loop of one's own with a `Tracker` in it",
                "the same training, bit for bit",
                "study/test_tracker.py::test_the_training_is_the_same_bit_for_bit",
            ),
        ),
    ),
)


def page() -> str:
    lines = [HEAD]
    for section in dict.fromkeys(entry.section for entry in ROWS):
        lines += [f"\n## {section}\n", "| what is brought | what happens | tried on |", "|---|---|---|"]
        lines += [
            f"| {entry.brought} | {entry.shown} | {entry.on} |" for entry in ROWS if entry.section == section
        ]
    for section, rows in ELSEWHERE:
        lines += [f"\n## {section}\n", "| what is brought | what happens | held by |", "|---|---|---|"]
        lines += [f"| {brought} | {happens} | `tests/{test}` |" for brought, happens, test in rows]
    return "\n".join(lines) + "\n"


#: Where a row is about all models, those tried with every change; the others are with the slow tests, as the
#: conformance kit tries contexts, copies, shared parameters and scale on each model too.
FEW = ("gru", "hh")


@pytest.mark.parametrize(
    ("entry", "subject"),
    [
        pytest.param(
            e,
            s,
            id=f"{re.sub(r'[^a-zA-Z0-9]+', '-', e.brought)[:50]}-{s}",
            marks=[pytest.mark.slow] * (e.subjects in (MODELS, TIED) and s not in FEW),
        )
        for e in ROWS
        for s in e.subjects
    ],
)
def test_it_is_so(entry: Row, subject: str) -> None:
    if entry.error is None:
        entry.prove(subject)
        return
    with pytest.raises(entry.error, match=re.escape(entry.says)):
        entry.prove(subject)


def test_the_page_says_what_is_proven() -> None:
    if os.environ.get("KPFRAME_WRITE_DOCS"):
        PAGE.write_text(page(), encoding="utf-8")
    assert PAGE.read_text(encoding="utf-8") == page()


def test_the_tests_that_it_names_are_there() -> None:
    tests = Path(__file__).parents[1]
    names = [test for _, rows in ELSEWHERE for _, _, test in rows]
    assert len(set(names)) == len(names) > 20
    for name in names:
        file, _, test = name.partition("::")
        assert re.search(rf"^def {test}\(", (tests / file).read_text(encoding="utf-8"), re.MULTILINE), name
