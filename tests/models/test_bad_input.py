"""Inputs that do not fit are refused by name, with what was expected and what came."""

from __future__ import annotations

import pytest
import torch

from kpframe import Model, linearize
from kpframe.errors import ArgumentError, AxisError, DeviceError, DtypeError, NonFiniteError, ShapeError

F64 = torch.float64
X = torch.zeros(2, 4, 2, dtype=F64)
H0 = torch.zeros(2, 3, dtype=F64)
MASK = torch.ones(2, 4, dtype=torch.bool)
NAN = float("nan")


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"x": X[0]}, ShapeError, r"^x: expected shape \[batch, time, input=2\], got shape \[4, 2\]$"),
        ({"x": X[..., :1]}, ShapeError, r"^x: .*input=2\], got shape \[2, 4, 1\]$"),
        ({"x": X[None]}, ShapeError, r"^x: .*got shape \[1, 2, 4, 2\]"),
        ({"x": X.tolist()}, ShapeError, r"^x: .*got list"),
        ({"x": X[:, :0]}, ShapeError, r"^x: expected at least one trial and one step, got shape \[2, 0, 2\]"),
        ({"x": X[:0]}, ShapeError, r"^x: expected at least one trial and one step, got shape \[0, 4, 2\]"),
        (
            {"x": X.float()},
            DtypeError,
            r"^x: expected the model's dtype torch.float64, got torch.float32 \(no",
        ),
        ({"x": X.long()}, DtypeError, r"^x: expected dtype torch.float32 or torch.float64, got torch.int64"),
        ({"x": X.half()}, DtypeError, r"^x: expected dtype .*, got torch.float16"),
        (
            {"x": X.to("meta")},
            DeviceError,
            r"^x: expected the model's device cpu, got meta \(nothing is moved",
        ),
        ({"x": X + NAN}, NonFiniteError, r"^x: expected finite numbers, got nan at index \[0, 0, 0\]$"),
        ({"x": X - float("inf")}, NonFiniteError, r"^x: expected finite numbers, got -inf at index"),
        ({"h0": H0[0]}, ShapeError, r"^h0: expected shape \[batch=2, hidden=3\], got shape \[3\]$"),
        ({"h0": H0[:, :2]}, ShapeError, r"^h0: .*got shape \[2, 2\]$"),
        ({"h0": H0[:1]}, ShapeError, r"^h0: .*got shape \[1, 3\]$"),
        ({"h0": 0.0}, ShapeError, r"^h0: .*got float$"),
        ({"h0": H0.float()}, DtypeError, r"^h0: expected x's dtype torch.float64, got torch.float32"),
        ({"h0": H0 + NAN}, NonFiniteError, r"^h0: expected finite numbers, got nan at index \[0, 0\]$"),
        ({"mask": MASK[0]}, ShapeError, r"^mask: expected shape \[batch=2, time=4\], got shape \[4\]$"),
        ({"mask": MASK[:, :3]}, ShapeError, r"^mask: .*got shape \[2, 3\]$"),
        ({"mask": MASK.double()}, DtypeError, r"^mask: expected dtype torch.bool, got torch.float64$"),
        ({"mask": MASK.tolist()}, ShapeError, r"^mask: .*got list$"),
        ({"mask": MASK.to("meta")}, DeviceError, r"^mask: expected x's device cpu, got meta"),
        ({"method": "fast"}, ArgumentError, r"^method: expected one of 'auto', .*'dense', got 'fast'$"),
    ],
)
@pytest.mark.parametrize("toy_name", ["rnn", "plain"])
def test_arguments_of_linearize(lab, toy_name, change, error, message) -> None:
    model = lab.make(toy_name)
    linearize(model, X, H0, MASK)
    with pytest.raises(error, match=message):
        linearize(model, **{"x": X, "h0": H0, "mask": MASK, **change})
    if "method" not in change:
        with pytest.raises(error, match=message):
            model.rollout(**{"x": X, "h0": H0, "mask": MASK, **change})


def test_what_is_no_model(lab) -> None:
    message = r"model: expected a kpframe.Model \(kpframe.wrap makes one of a cell\), got GRUCell"
    with pytest.raises(ArgumentError, match=message):
        linearize(torch.nn.GRUCell(2, 3), X)
    with pytest.raises(TypeError, match="abstract"):
        Model(2, {"h": 3})


@pytest.mark.parametrize("value", [NAN, float("inf")])
def test_weights_that_are_not_finite_are_named(lab, toy, value) -> None:
    model = lab.make(toy)
    for name, parameter in model.named_parameters():
        kept = parameter.detach().clone()
        with torch.no_grad():
            parameter[(-1,) * parameter.ndim] = value
        place = [size - 1 for size in parameter.shape]
        with pytest.raises(NonFiniteError) as caught:
            linearize(model, X)
        assert str(caught.value) == f"parameter {name}: expected finite numbers, got {value} at index {place}"
        with torch.no_grad():
            parameter.copy_(kept)
    linearize(model, X)


def test_a_blow_up_names_step_trial_and_component(lab) -> None:
    class Cubic(Model):
        def __init__(self) -> None:
            super().__init__(1, {"v": 2, "w": 3})

        def step(self, x, h, t=None):
            return h**3 + x

    x = torch.zeros(3, 12, 1, dtype=F64)
    h0 = torch.full((3, 5), 0.5, dtype=F64)
    linearize(Cubic(), x, h0)
    h0[1, 3] = -1e4
    h0[2, 0] = 50.0  # blows up later
    with pytest.raises(NonFiniteError) as caught:
        linearize(Cubic(), x, h0)
    assert str(caught.value) == (
        "roll-out: expected finite numbers, got -inf first at step 3, trial 1, component 'w', unit 1"
    )
    states = Cubic().rollout(x, h0).states
    assert torch.isfinite(states[:, :3]).all()


def test_arguments_of_products(lab, toy) -> None:
    model = lab.make(toy)
    flow = linearize(model, X)
    width = model.width
    for op, name in ((flow.A, "A"), (flow.P, "P"), (flow.K, "K"), (flow.P.T, r"P\*")):
        expected = rf"argument of {name}: expected shape \[\.\.\., batch=2, time=4, hidden={width}\], got"
        with pytest.raises(ShapeError, match=rf"{expected} shape \[2, 4, 1\]"):
            op(X[..., :1])
        with pytest.raises(ShapeError, match=rf"{expected} shape \[4, {width}\]"):
            op(torch.zeros(4, width, dtype=F64))
        with pytest.raises(
            DtypeError, match=r"expected dtype torch.float64, got torch.float32 \(nothing is cast"
        ):
            op(torch.zeros(2, 4, width))
    with pytest.raises(ShapeError, match=r"argument of J: expected shape \[\.\.\., parameter=\d+\], got"):
        flow.J(torch.zeros(flow.J.domain.size + 1, dtype=F64))


def test_axes_of_a_flow(lab) -> None:
    model = lab.make("lstm")
    flow = linearize(model, X)
    with pytest.raises(AxisError, match=r"expected a name, one of batch, time, hidden, got 1 \(int\)"):
        flow.Phi.mean(1)
    with pytest.raises(AxisError, match="got 'tim'; did you mean 'time'"):
        flow.K.mean("tim")
    with pytest.raises(AxisError, match=r"has no part 'x' \(it has h, c\)"):
        flow.Phi.select(hidden="x")
    with pytest.raises(
        ArgumentError, match=r"J @ J: the domain of J is \(parameter=72\), the codomain of J is"
    ):
        flow.J @ flow.J


@pytest.mark.parametrize(
    ("step", "error", "message"),
    [
        (lambda x, h: h[:, :2], ShapeError, r"Bad.step: expected a state \[2, 3\], got shape \[2, 2\]"),
        (lambda x, h: (h, h), ShapeError, r"Bad.step: expected a state \[2, 3\], got tuple"),
        (lambda x, h: h.float(), DtypeError, r"Bad.step: expected dtype torch.float64, got torch.float32"),
    ],
)
def test_a_step_that_returns_something_else(step, error, message) -> None:
    class Bad(Model):
        def step(self, x, h, t=None):
            return step(x, h)

    with pytest.raises(error, match=message):
        linearize(Bad(2, {"h": 3}), X)


def test_an_initial_state_of_another_shape() -> None:
    class Bad(Model):
        def step(self, x, h, t=None):
            return h

        def initial_state(self, batch):
            return torch.zeros(batch, 7)

    with pytest.raises(
        ShapeError, match=r"Bad.initial_state\(2\): expected shape \[batch=2, hidden=3\], got"
    ):
        linearize(Bad(2, {"h": 3}), X)
