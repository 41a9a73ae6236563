"""Backward passes that autograd cannot differentiate again, or that are not linear: right, or refused."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel

from kpframe import Model, Site, SiteModel, Update, linearize, wrap
from kpframe.errors import UnsupportedError

F64 = torch.float64
METHODS = ("auto", "dense", "graph", "autograd")
TWICE = r"^model: expected a step whose backward pass autograd can differentiate once more \(J d is taken "
LINEAR = r"^model: expected a step whose backward pass is linear \(c times the cotangent gives c times the "


class Tanh(torch.autograd.Function):
    """The right derivative, in operations that autograd differentiates again."""

    @staticmethod
    def forward(ctx, u):
        y = torch.tanh(u)
        ctx.save_for_backward(y)
        return y

    @staticmethod
    def backward(ctx, g):
        return g * (1 - ctx.saved_tensors[0] ** 2)


class Once(Tanh):
    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return Tanh.backward(ctx, g)


class Quiet(Tanh):
    @staticmethod
    def backward(ctx, g):
        with torch.no_grad():
            return Tanh.backward(ctx, g)


class Cut(Tanh):
    @staticmethod
    def backward(ctx, g):
        return Tanh.backward(ctx, g.detach())


class Numpy(Tanh):
    @staticmethod
    def backward(ctx, g):
        return torch.from_numpy(g.detach().numpy() * (1 - ctx.saved_tensors[0].detach().numpy() ** 2))


class NumpyOf(Tanh):
    @staticmethod
    def backward(ctx, g):
        return torch.from_numpy(g.numpy() * (1 - ctx.saved_tensors[0].numpy() ** 2))


class Half(Tanh):
    """Half of the derivative is lost when it is taken again."""

    @staticmethod
    def backward(ctx, g):
        return Tanh.backward(ctx, 0.5 * g.detach() + 0.5 * g)


class Clips(Tanh):
    @staticmethod
    def backward(ctx, g):
        return Tanh.backward(ctx, g).clamp(-10, 10)


class Surrogate(torch.autograd.Function):
    """A spike whose derivative is a smooth one's."""

    @staticmethod
    def forward(ctx, u):
        ctx.save_for_backward(u)
        return (u > 0).to(u)

    @staticmethod
    def backward(ctx, g):
        return g / (1 + ctx.saved_tensors[0].abs()) ** 2


class One(nn.Module):
    """``h' = act(w h + u x)`` with w = 0.5 and u = 1."""

    input_size = hidden_size = 1

    def __init__(self, act) -> None:
        super().__init__()
        self.w, self.u = (nn.Parameter(torch.tensor([[v]], dtype=F64)) for v in (0.5, 1.0))
        self.act = act

    def forward(self, x, h):
        return self.act(h @ self.w + x @ self.u)


class Cell(nn.Module):
    """A recurrent cell that ends in ``use``."""

    input_size = 2

    def __init__(self, use, hidden: int = 3) -> None:
        super().__init__()
        self.core, self.use, self.hidden_size = nn.RNNCell(2, hidden), use, hidden

    def forward(self, x, h):
        return self.use(self.core(x, h))


def drawn(*shape: int, seed: int = 0, dtype=F64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def close(actual: torch.Tensor, expected: torch.Tensor, rtol: float = 1e-12) -> None:
    assert actual.shape == expected.shape
    assert float(expected.norm()) > 0
    assert float((actual - expected).norm()) <= rtol * float(expected.norm())


def same_operators(one, other, x, rtol: float = 1e-12) -> None:
    q = drawn(2, *x.shape[:2], one.width).to(x)
    for method in METHODS:
        flow, twin = linearize(one, x, method=method), linearize(other, x, method=method)
        for name in ("A", "P", "K", "Phi"):
            close(getattr(flow, name)(q), getattr(twin, name)(q), rtol)
            close(getattr(flow, name).T(q), getattr(twin, name).T(q), rtol)


def test_the_numbers_of_a_differentiable_backward() -> None:
    right = (1 - math.tanh(1) ** 2) ** 2
    assert right == pytest.approx(0.176378, abs=1e-6)
    x = torch.ones(1, 1, 1, dtype=F64)
    for method in METHODS:
        for act in (torch.tanh, Tanh.apply):
            assert linearize(wrap(One(act)), x, method=method).Phi.to_dense().item() == pytest.approx(right)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("function", [Once, Quiet, Cut, Numpy, NumpyOf, Half])
@pytest.mark.rows(4)
def test_a_backward_that_cannot_be_differentiated_again(function, method) -> None:
    dtype = F64 if method == "auto" else torch.float32
    remedy = f"write the backward of {function.__name__} in differentiable torch operations, without once_"
    with pytest.raises(UnsupportedError, match=TWICE + f".*; {remedy}"):
        linearize(wrap(One(function.apply)).to(dtype), torch.ones(1, 1, 1, dtype=dtype), method=method)
    with pytest.raises(UnsupportedError, match=TWICE):
        linearize(wrap(Cell(function.apply, 20)).to(dtype), drawn(2, 4, 2, dtype=dtype), method=method)
    linearize(wrap(Cell(Tanh.apply, 20)).to(dtype), drawn(2, 4, 2, dtype=dtype), method=method)


def test_what_is_lost_is_said() -> None:
    for function, lost in ((Once, "all"), (Half, "a part")):
        with pytest.raises(UnsupportedError, match=f"got one that loses {lost} of J d there; write the back"):
            linearize(wrap(One(function.apply)), torch.ones(1, 1, 1, dtype=F64))


@pytest.mark.parametrize("method", METHODS)
def test_a_fault_in_one_of_many_units_and_parameters_is_seen(method) -> None:
    torch.manual_seed(0)

    def last(h):
        return torch.cat([h[:, :-1], Once.apply(h[:, -1:])], 1)

    for dtype in (torch.float32, F64):
        with pytest.raises(UnsupportedError, match=TWICE + ".*Once"):
            linearize(wrap(Cell(last, 30)).to(dtype), drawn(2, 4, 2, dtype=dtype), method=method)

    class Bias(Cell):
        def __init__(self, size: float) -> None:
            super().__init__(None, 30)
            self.tiny, self.size = nn.Parameter(torch.zeros(1)), size

        def forward(self, x, h):
            return self.core(x, h) + self.size * Once.apply(self.tiny)

    for size, dtype in ((0.1, torch.float32), (1e-4, F64)):
        with pytest.raises(UnsupportedError, match=TWICE + ".*Once"):
            linearize(wrap(Bias(size)).to(dtype), drawn(2, 4, 2, dtype=dtype), method=method)


@pytest.mark.parametrize("seed", [132, 157, 373])
def test_a_fault_is_seen_where_what_is_lost_happens_to_cancel(seed) -> None:
    """With these weights the part of one unit in ``<J d, r>`` vanishes for the gradient itself as d."""
    torch.manual_seed(seed)
    x = drawn(2, 4, 2, dtype=torch.float32)

    def last(function):
        return lambda h: torch.cat([h[:, :-1], function.apply(h[:, -1:])], 1)

    cell = Cell(last(Once), 30).float()
    with pytest.raises(UnsupportedError, match=TWICE + ".*Once"):
        linearize(wrap(cell), x, method="autograd")
    cell.use = last(Tanh)
    linearize(wrap(cell), x, method="autograd")


@pytest.mark.parametrize("function", [Once, Clips])
def test_a_fault_of_single_steps_is_seen_with_the_first_product(function) -> None:
    """The rows that are looked at first are of other steps."""

    class Late(Model):
        time_varying = True

        def __init__(self, width: int) -> None:
            super().__init__(2, {"h": width})
            self.w = nn.Parameter(0.5 * torch.eye(width, dtype=F64))

        def step(self, x, h, t=None):
            u = h @ self.w + x.sum(1, keepdim=True)
            return torch.where((t == 2).unsqueeze(1), function.apply(u), torch.tanh(u))

    x = drawn(3, 8, 2)
    for width, method in ((3, "dense"), (20, "graph")):
        flow = linearize(Late(width), x, method=method)
        with pytest.raises(UnsupportedError, match=TWICE if function is Once else LINEAR):
            flow.Phi(drawn(3, 8, width))
        with pytest.raises(UnsupportedError, match=TWICE if function is Once else LINEAR):
            flow.K(drawn(3, 8, width))  # and again


def hook(change):
    """Return a function that puts a hook on a tensor that has a graph."""

    def use(h: torch.Tensor) -> torch.Tensor:
        if h.requires_grad:
            h.register_hook(change)
        return h

    return use


clamp = hook(lambda g: g.clamp(-1, 1))
normalize = hook(lambda g: g / (g.norm() + 1e-3))
rectify = hook(torch.relu)
rounded = hook(lambda g: g + (g.round(decimals=3) - g).detach())
half = hook(lambda g: 0.5 * g)


class Halved(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(h):
        return h.clone()

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, g):
        return 0.5 * g


@pytest.mark.parametrize("use", [clamp, normalize, rectify, rounded, Clips.apply])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.rows(2)
def test_a_backward_that_is_not_linear(use, method) -> None:
    for dtype in (torch.float32, F64):
        message = LINEAR + ".* clips, rounds or normalizes; do that to the"
        if use is rounded and dtype == torch.float32:  # too little for one test, not for the other
            message = TWICE
        with pytest.raises(UnsupportedError, match=message):
            linearize(wrap(Cell(use)).to(dtype), drawn(2, 4, 2, dtype=dtype), method=method)


def test_a_linear_hook_is_honoured() -> None:
    torch.manual_seed(0)
    ours, theirs, plain = Cell(half).double(), Cell(Halved.apply).double(), Cell(nn.Identity()).double()
    for other in (theirs, plain):
        other.load_state_dict(ours.state_dict())
    x = drawn(2, 4, 2)
    same_operators(wrap(ours), wrap(theirs), x)
    q = drawn(2, 4, 3)
    assert float((linearize(wrap(ours), x).Phi(q) - linearize(wrap(plain), x).Phi(q)).norm()) > 0.1
    model = wrap(ours)
    states = model.rollout(x).states
    states.backward(q)
    gradient = torch.cat([p.grad.reshape(-1) for p in model.trainable().values()])
    flow = linearize(model, x)
    close(flow.J.T(flow.P.T(q)), gradient)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.rows(2)
def test_derivatives_that_lose_digits_with_the_scale_are_no_fault(dtype) -> None:
    """That of a matrix exponential takes the exponential of a matrix in which the cotangent is a block."""
    x = drawn(2, 4, 2).to(dtype)
    for size in (0.1, 1.0, 3.0):
        for method in METHODS:
            flow = linearize(wrap(Turned(size).to(dtype)), x, method=method)
            assert float(flow.Phi(torch.ones(flow.Phi.domain.shape, dtype=dtype)).norm()) > 0


class Turned(nn.Module):
    """A recurrent cell whose weights are a rotation."""

    input_size, hidden_size = 2, 3

    def __init__(self, size: float) -> None:
        super().__init__()
        self.w, self.u, self.size = nn.Parameter(drawn(3, 3)), nn.Parameter(drawn(3, 2, seed=1)), size

    def forward(self, x, h):
        return torch.tanh(h @ torch.linalg.matrix_exp(self.size * (self.w - self.w.T)) + x @ self.u.T)


@pytest.mark.parametrize("method", METHODS)
def test_products_know_no_scale_where_a_derivative_does(method) -> None:
    """That of a matrix exponential loses its digits with entries of 1e90, ``K(c q) / c`` does not."""
    model = wrap(Turned(1.0).double())
    flow = linearize(model, drawn(2, 4, 2), method=method)
    q, d = drawn(2, 4, 3), drawn(flow.J.domain.size)
    for scale in (1e-120, 1e90):
        close(flow.J.T(scale * q) / scale, flow.J.T(q))
        close(flow.J(scale * d) / scale, flow.J(d))
        close(flow.K(scale * q) / scale, flow.K(q))
    turn = torch.linalg.matrix_exp(model.cell.w.requires_grad_())
    raw = [torch.autograd.grad(turn, model.cell.w, c * torch.ones_like(turn), retain_graph=True)[0] / c
           for c in (1.0, 1e90)]  # fmt: skip
    assert float((raw[1] - raw[0]).norm()) > 1e-6 * float(raw[0].norm())  # torch's own do know it


class Unit(nn.Module):
    """``h' = act(w / |w| h + u x)``: the length of w is idle, and so is w of one unit."""

    input_size = 2

    def __init__(self, act, hidden: int, seed: int = 0) -> None:
        super().__init__()
        self.w, self.u = nn.Parameter(drawn(hidden, hidden, seed=seed)), nn.Parameter(drawn(hidden, 2))
        self.act, self.hidden_size = act, hidden

    def forward(self, x, h):
        return self.act(h @ (self.w / self.w.norm(dim=1, keepdim=True)).T + x @ self.u.T)


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.rows(2)
def test_gradients_that_are_rounding_are_no_fault(dtype, alone) -> None:
    """Nor do they hide one: what the other parameters lose is still seen."""
    x, d, eps = drawn(2, 5, 2).to(dtype), drawn(1 if alone else 3).to(dtype), torch.finfo(dtype).eps
    for seed in range(12):  # some of them round to zero
        cell = Unit(torch.tanh, 1, seed).to(dtype)
        cell.u.requires_grad_(not alone)
        moved = linearize(wrap(cell), x, method="graph").J(d)
        if alone:
            assert float(moved.norm()) < 100 * eps / float(cell.w.detach().abs())
        else:
            cell.w.requires_grad_(False)
            close(moved, linearize(wrap(cell), x, method="graph").J(d[1:]), 100 * eps)
    for hidden in (1, 2):
        with pytest.raises(UnsupportedError, match=TWICE):
            linearize(wrap(Unit(Once.apply, hidden).to(dtype)), x, method="graph")


def test_surrogate_gradients_are_honoured() -> None:
    torch.manual_seed(0)
    cell = Cell(lambda h: 0.9 * h + Surrogate.apply(h)).double()
    model, x, q = wrap(cell), drawn(2, 6, 2), drawn(2, 6, 3)
    model.rollout(x).states.backward(q)
    gradient = torch.cat([p.grad.reshape(-1) for p in model.trainable().values()])
    for method in METHODS:
        flow = linearize(model, x, method=method)
        close(flow.J.T(flow.P.T(q)), gradient)
        G = flow.P @ flow.J
        close((G @ G.T).to_dense(), flow.Phi.to_dense())


class Made(SiteModel):
    """An RNN whose recurrent matrix is made of a parameter by ``make``."""

    def __init__(self, make, hidden: int = 3) -> None:
        sites = [
            Site("win", "input", ("u",)),
            Site("wrec", "h", ("u",), parameters=("core",)),
        ]
        super().__init__(2, hidden, ("h",), sites)
        self.make = make
        self.win = nn.Parameter(drawn(hidden, 2))
        self.core = nn.Parameter(0.4 * drawn(hidden, hidden, seed=1))

    def site_weight(self, name):
        return self.make(self.core) if name == "wrec" else super().site_weight(name)

    def combine(self, u, h, t=None):
        return {"h": torch.tanh(u["u"])}


@pytest.mark.parametrize(
    ("make", "message"), [(Once.apply, TWICE), (Numpy.apply, TWICE), (lambda w: clamp(1 * w), LINEAR)]
)
@pytest.mark.rows(3)
def test_weights_made_of_parameters(make, message) -> None:
    x, q = drawn(2, 4, 2), drawn(2, 4, 3)
    for product in (lambda flow: flow.J.T(q), lambda flow: flow.K(q), lambda flow: flow.Phi(q)):
        with pytest.raises(UnsupportedError, match=message):
            product(linearize(Made(make), x))
    same_operators(Made(Tanh.apply), Made(torch.tanh), x)


def test_what_is_pointwise_must_be_linear_too() -> None:
    """The gains of weight sites come from one reverse pass, which a hook would change."""

    class Hooked(Made):
        def combine(self, u, h, t=None):
            return {"h": self.use(torch.tanh(u["u"]))}

    model = Hooked(torch.tanh)
    for use in (clamp, rectify):
        model.use = use
        with pytest.raises(UnsupportedError, match=LINEAR):
            linearize(model, drawn(2, 4, 2))
    model.use = nn.Identity()
    linearize(model, drawn(2, 4, 2))


# -- modules ------------------------------------------------------------------------------------------------


class Solves(nn.Module):
    """A cell that integrates an equation over a unit of time."""

    input_size, hidden_size = 2, 3

    def __init__(self, solve, **options) -> None:
        super().__init__()
        self.net, self.inputs, self.solve, self.options = nn.Linear(3, 3), nn.Linear(2, 3), solve, options
        self.field = Field(self.net)

    def forward(self, x, h):
        times = torch.tensor([0.0, 1.0], dtype=h.dtype)
        return self.solve(self.field, h + self.inputs(x), times, **self.options)[-1]


class Field(nn.Module):
    def __init__(self, net) -> None:
        super().__init__()
        self.net = net

    def forward(self, t, h):
        return torch.tanh(self.net(h)) - h


@pytest.mark.parametrize(
    "options", [pytest.param({}, marks=pytest.mark.slow), {"method": "rk4", "options": {"step_size": 0.25}}]
)
def test_adjoint_solvers_are_refused_and_solvers_are_not(options) -> None:
    torchdiffeq = pytest.importorskip("torchdiffeq")
    torch.manual_seed(0)
    cell = Solves(torchdiffeq.odeint_adjoint, **options).double()
    x, q = drawn(2, 3, 2), drawn(2, 3, 3)
    with pytest.raises(UnsupportedError, match=r"\(torchdiffeq: odeint instead of odeint_adjoint\)$"):
        linearize(wrap(cell), x)
    cell.solve = torchdiffeq.odeint
    model = wrap(cell)
    model.rollout(x).states.backward(q)
    gradient = torch.cat([p.grad.reshape(-1) for p in model.trainable().values()])
    flow = linearize(model, x)
    close(flow.J.T(flow.P.T(q)), gradient, 1e-6)  # an adaptive solver's steps depend on all rows
    close((flow.P @ flow.J @ flow.J.T @ flow.P.T)(q), flow.Phi(q), 1e-10)


class Attends(nn.Module):
    """Slots of a memory ``[3, 4]`` that attend to one another and to the input."""

    input_size = 2

    def __init__(self, attend) -> None:
        super().__init__()
        self.inputs, self.mix, self.attend = nn.Linear(2, 4), nn.Linear(4, 12), attend

    def forward(self, x, M):
        q, k, v = self.mix(torch.cat([M, self.inputs(x)[:, None]], 1))[:, None].chunk(3, -1)
        return torch.tanh(self.attend(q, k, v)[:, 0, :3])


def by_hand(q, k, v):
    return torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), -1) @ v


def fused(q, k, v):
    return nn.functional.scaled_dot_product_attention(q, k, v)


def insists(q, k, v):
    with sdpa_kernel(SDPBackend.FLASH_ATTENTION):
        return fused(q, k, v)


def test_attention() -> None:
    torch.manual_seed(0)
    ours, theirs, third = (Attends(attend).double() for attend in (fused, by_hand, insists))
    for other in (theirs, third):
        other.load_state_dict(ours.state_dict())
    ours, theirs, third = (wrap(cell, state={"M": (3, 4)}) for cell in (ours, theirs, third))
    x = drawn(2, 4, 2)
    same_operators(ours, theirs, x, 1e-10)
    with pytest.raises(
        UnsupportedError, match=TWICE + r".*attention.*; compute it under .*sdpa_kernel\(SDPBack"
    ):
        linearize(third, x)


@pytest.mark.parametrize("training", [True, False])
def test_multihead_attention(training) -> None:
    class Heads(nn.Module):
        input_size = 2

        def __init__(self) -> None:
            super().__init__()
            self.heads, self.inputs = nn.MultiheadAttention(4, 2, batch_first=True), nn.Linear(2, 4)

        def forward(self, x, M):
            every = torch.cat([M, self.inputs(x)[:, None]], 1)
            return torch.tanh(self.heads(M, every, every, need_weights=self.weights)[0])

    torch.manual_seed(0)
    ours = Heads().double().train(training)
    ours.weights = False  # the fused kernel
    model, x, q = wrap(ours, state={"M": (3, 4)}), drawn(2, 3, 2), drawn(2, 3, 12)
    found = {method: linearize(model, x, method=method).Phi(q) for method in METHODS}
    ours.weights = True  # plain operations
    for method in METHODS:
        close(found[method], linearize(model, x, method=method).Phi(q), 1e-10)


def test_distances_of_torch_are_refused() -> None:
    class Far(nn.Module):
        input_size, hidden_size = 2, 4

        def __init__(self, distance) -> None:
            super().__init__()
            self.places, self.inputs = nn.Parameter(drawn(4, 4)), nn.Parameter(drawn(4, 2, seed=1))
            self.distance = distance

        def forward(self, x, h):
            return torch.exp(-self.distance(h + x @ self.inputs.T, self.places))

    x = drawn(2, 4, 2)
    with pytest.raises(UnsupportedError, match=TWICE + ".*_cdist_backward.*; write the distances with other"):
        linearize(wrap(Far(torch.cdist)), x)
    with pytest.raises(UnsupportedError, match=TWICE):
        linearize(wrap(Far(torch.cdist)), x, method="graph")
    linearize(wrap(Far(lambda a, b: (a[:, None] - b[None]).norm(dim=-1))), x)


@pytest.mark.slow
def test_compiled_cells() -> None:
    torch.manual_seed(0)
    cell, x, q = nn.GRUCell(2, 3).double(), drawn(2, 4, 2), drawn(2, 4, 3)
    compiled = wrap(torch.compile(cell, backend="aot_eager"), input_size=2, state=3)
    close(linearize(compiled, x).Phi(q), linearize(wrap(cell), x).Phi(q), 1e-10)


# -- hooks of modules ---------------------------------------------------------------------------------------


def hooked(kind: str, change) -> nn.Module:
    torch.manual_seed(0)
    cell = Cell(nn.Identity()).double()
    getattr(cell.core, kind)(change)
    return cell


@pytest.mark.filterwarnings("ignore:Full backward hook is firing")  # where no input of a module has a graph
def test_hooks_of_modules_that_only_look_or_are_linear() -> None:
    x, q = drawn(2, 4, 2), drawn(2, 4, 3)

    def look(module, given, taken):
        assert taken[0] is not None

    def scale(module, taken):
        return tuple(None if g is None else 0.5 * g for g in taken)

    plain = Cell(nn.Identity()).double()
    for kind, change in (("register_full_backward_hook", look), ("register_full_backward_pre_hook", scale)):
        model = wrap(hooked(kind, change))
        plain.load_state_dict(model.cell.state_dict())
        model.rollout(x).states.backward(q)
        gradient = torch.cat([p.grad.reshape(-1) for p in model.trainable().values()])
        for method in METHODS:
            flow = linearize(model, x, method=method)
            close(flow.J.T(flow.P.T(q)), gradient)
            close((flow.P @ flow.J @ flow.J.T @ flow.P.T)(q), flow.Phi(q))
        gap = float((flow.Phi(q) - linearize(wrap(plain), x).Phi(q)).norm())
        assert (gap > 0.1) == (change is scale)


def test_hooks_of_modules_that_clip_are_refused() -> None:
    def clip(module, taken):
        return tuple(None if g is None else g.clamp(-1, 1) for g in taken)

    for method in METHODS:
        with pytest.raises(UnsupportedError, match=LINEAR):
            linearize(wrap(hooked("register_full_backward_pre_hook", clip)), drawn(2, 4, 2), method=method)


def test_a_gradient_is_checked_like_the_operators() -> None:
    model, err = wrap(Cell(clamp)), drawn(2, 4, 3, dtype=torch.float32)
    with pytest.raises(UnsupportedError, match=LINEAR):
        Update.exact(linearize(model, drawn(2, 4, 2, dtype=torch.float32))).operator(err)
