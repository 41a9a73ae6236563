"""The contract of a model's ``step``: it can be built, has the right shapes and dtypes, and is pure."""

from __future__ import annotations

import torch

from kpframe.errors import KpframeError, say
from kpframe.models._linearize import linearize
from kpframe.models._model import Model
from kpframe.operators._finite import check_finite
from kpframe.testing._cases import FlowCase
from kpframe.testing._choices import smallest_settings
from kpframe.testing._identity import identity
from kpframe.testing._problem import Problem
from kpframe.testing._residual import CheckFailure, Residual, compare, contrast, require, worst
from kpframe.testing._sources import create, show
from kpframe.testing._values import seeded, values

_SOURCE = "docs/plugins.md: the contract of step"


@identity(
    "model",
    source="docs/plugins.md: settings",
    look="the spec's factory ('package.module:Class'), its settings class, and __init__, which takes them",
    gate=True,
)
def factory_builds(case: FlowCase) -> Residual:
    """The factory exists, takes its settings and returns a Model, twice the same one for one seed."""
    label = show(case.model)
    try:
        create("model", case.model, smallest_settings("model", case.model))
        model = case.build_model()
        with seeded(case.seed):
            again = create("model", case.model, case.settings)
    except KpframeError as error:
        raise error if isinstance(error, CheckFailure) else CheckFailure(f"{label}: {say(error)}") from error
    for name, size in case.settings.items():
        if name == "input_size":
            require(
                model.signal_size == size,
                f"{label}: input_size={size} was asked for, got {model.signal_size}",
            )
    one, two = ({n: tuple(p.shape) for n, p in m.named_parameters()} for m in (model, again))
    require(
        one == two, f"{label}: built twice with the same settings, its parameters differ: {one} and {two}"
    )
    for name, parameter in model.named_parameters():
        require(
            parameter.is_floating_point() and bool(torch.isfinite(parameter).all()),
            f"{label}: parameter {name}: expected finite real numbers, got {parameter.dtype}",
        )
    return Residual(0.0)


@identity(
    "model",
    source=_SOURCE,
    look="the last line of step(): it must return [N, H] for inputs [N, I] and states [N, H]",
    gate=True,
)
def state_shape(case: FlowCase) -> Residual:
    """``step`` maps ``[N, I], [N, H]`` to ``[N, H]``, and ``initial_state(batch)`` is ``[batch, H]``."""
    model = case.build_model()
    name = type(model).__name__
    for rows in (1, 3):
        problem, x, h = _rows(model, rows, case.seed)
        out = problem.step(x, h, 0)
        got = f"shape {list(out.shape)}" if isinstance(out, torch.Tensor) else type(out).__name__
        expected = [rows, model.width]
        require(
            isinstance(out, torch.Tensor) and list(out.shape) == expected,
            f"{name}.step(x {list(x.shape)}, h {list(h.shape)}): expected shape {expected}, got {got}",
        )
        start = model.initial_state(rows)
        require(
            isinstance(start, torch.Tensor) and list(start.shape) == expected,
            f"{name}.initial_state({rows}): expected shape {expected}, got {getattr(start, 'shape', start)}",
        )
    return Residual(0.0)


@identity(
    "model",
    source=_SOURCE,
    look="in-place operations on h or x (+=, *=, clamp_, masked_fill_) and attributes that step() assigns",
)
def step_is_pure(case: FlowCase) -> Residual:
    """``step`` changes neither its arguments nor the module, and the same call gives the same state twice."""
    model = case.build_model()
    name = type(model).__name__
    problem, x, h = _rows(model, 2, case.seed)
    _, other_x, other_h = _rows(model, 2, case.seed + 7)
    kept = {key: value.clone() for key, value in model.state_dict().items()}
    x0, h0 = x.clone(), h.clone()
    with torch.no_grad():
        first = problem.step(x, h, 0).clone()
        check_finite(first, f"{name}.step")  # a case that leaves the finite numbers is drawn again
        require(
            torch.equal(h, h0), f"{name}.step changed its argument h; write h = h + ... rather than h += ..."
        )
        require(torch.equal(x, x0), f"{name}.step changed its argument x; work on a copy")
        problem.step(other_x, other_h, 0 if model.steps == 1 else 1)
        again = problem.step(x0, h0, 0)
    for key, value in model.state_dict().items():
        require(torch.equal(value, kept[key]), f"{name}.step changed the module's tensor {key!r}")
    return compare(
        again,
        first,
        f"{name}.step called again with the same arguments (it depends on hidden state or chance)",
        tolerance=0.0,
    )


@step_is_pure.differs
def _other_arguments(case: FlowCase) -> Residual | None:
    model = case.build_model()
    with torch.no_grad():
        states = [problem.step(x, h, 0) for problem, x, h in (_rows(model, 2, case.seed + i) for i in (0, 7))]
    return contrast(*states)


@identity(
    "model",
    source=_SOURCE,
    look="tensors made inside step() or initial_state(): give them dtype=h.dtype, or make them buffers",
    gate=True,
)
def dtype_kept(case: FlowCase) -> Residual:
    """float32 and float64 models return states of their own dtype, and the two agree."""
    states = []
    for dtype in (torch.float64, torch.float32):
        model = case.build_model(dtype)
        problem, x, h = _rows(model, 2, case.seed, dtype)
        out, start = problem.step(x, h, 0), model.initial_state(2)
        name = type(model).__name__
        require(out.dtype == dtype, f"{name}.step: expected dtype {dtype} of its arguments, got {out.dtype}")
        own = model._like() is not None
        require(
            start.dtype == dtype or not own,
            f"{name}.initial_state: expected dtype {dtype} of the parameters, got {start.dtype}",
        )
        check_finite(out.detach(), f"{name}.step")
        states.append(out.detach().double())
    return compare(states[1], states[0], "step in float32 against float64", tolerance=1e-3, floor=1.0)


@identity(
    "model",
    source=_SOURCE,
    look="torch.rand*, dropout or time.time() inside step(); noise is passed in as input and frozen",
)
def deterministic(case: FlowCase) -> Residual:
    """Two linearizations of one model are equal to the last bit, and no random number is used up."""
    problem = case.build()
    before = torch.random.get_rng_state()
    first, second = problem.flow, linearize(problem.model, problem.x, problem.h0, problem.mask)
    used = not torch.equal(before, torch.random.get_rng_state())
    states = compare(
        second.trajectory.states, first.trajectory.states, "states of a second roll-out", tolerance=0.0
    )
    require(not used, f"{type(problem.model).__name__}: the roll-out uses torch's random generator")
    q = problem.vector(problem.space)
    return worst(states, compare(second.Phi(q), first.Phi(q), "Phi q the second time", tolerance=1e-12))


@identity(
    "model",
    source=_SOURCE,
    look="reductions over dim 0 in step() (mean, batch_norm, softmax(0)) and rows that are mixed up",
)
def rows_are_independent(case: FlowCase) -> Residual:
    """A row's next state does not depend on which other rows are in the batch."""
    model = case.build_model()
    problem, x, h = _rows(model, 3, case.seed)
    with torch.no_grad():
        together = problem.step(x, h, 0)
        alone = torch.cat([problem.step(x[i : i + 1], h[i : i + 1], 0) for i in range(3)])
    return compare(together, alone, "step of 3 rows together against one by one")


@rows_are_independent.differs
def _scaled(case: FlowCase) -> Residual | None:
    problem, x, h = _rows(case.build_model(), 3, case.seed)
    with torch.no_grad():
        out = problem.step(x, h, 0)
    return contrast(1.1 * out, out)


def _rows(
    model: Model, rows: int, seed: int, dtype: torch.dtype = torch.float64
) -> tuple[Problem, torch.Tensor, torch.Tensor]:
    """Return normal inputs and states of N rows."""
    x = values((rows, model.input_size), seed + 201, "normal", dtype)
    h = values((rows, model.width), seed + 202, "normal", dtype)
    return Problem(model, x.unsqueeze(1), None, None, seed), x, h
