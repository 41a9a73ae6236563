"""What the dynamics tests share: toy models, trials to run them on, and dense references."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

import kpframe
from kpframe import Model, Site, SiteModel
from kpframe.operators import Operator

F64 = torch.float64


def close(actual: Tensor, expected: Tensor, rtol: float = 1e-10) -> None:
    """Assert that two tensors agree, relative to the larger norm."""
    assert actual.shape == expected.shape, f"{list(actual.shape)} and {list(expected.shape)}"
    assert actual.dtype == expected.dtype
    scale = max(float(actual.norm()), float(expected.norm()))
    assert float((actual - expected).norm()) <= rtol * scale


def differ(first: Tensor, second: Tensor, rtol: float = 1e-3) -> None:
    """Assert that two tensors of one shape are far apart: the partner of every equality."""
    assert first.shape == second.shape
    assert float((first - second).norm()) > rtol * max(float(first.norm()), float(second.norm()))


class Rnn(SiteModel):
    """A tanh network; the leaky forms are ``rate`` and ``current``."""

    def __init__(self, inputs: int, hidden: int, form: str = "plain", leak: float = 0.4, **kwargs) -> None:
        transform = torch.tanh if form == "current" else None
        sites = [
            Site("weight_ih", "input", ("u",), "bias_ih"),
            Site("weight_hh", "h", ("u",), "bias_hh", transform),
        ]
        super().__init__(inputs, hidden, ("h",), sites, **kwargs)
        self.form, self.leak = form, leak
        self.weight_ih, self.bias_ih = (
            nn.Parameter(torch.empty(hidden, inputs)),
            nn.Parameter(torch.empty(hidden)),
        )
        self.weight_hh, self.bias_hh = (
            nn.Parameter(torch.empty(hidden, hidden)),
            nn.Parameter(torch.empty(hidden)),
        )

    def combine(self, u, h, t=None):
        if self.form == "plain":
            return {"h": torch.tanh(u["u"])}
        drive = u["u"] if self.form == "current" else torch.tanh(u["u"])
        return {"h": (1 - self.leak) * h["h"] + self.leak * drive}


class Gru(SiteModel):
    """The gated recurrent unit, reset after the product."""

    def __init__(self, inputs: int, hidden: int, **kwargs) -> None:
        sites = [
            Site("weight_ih", "input", ("r", "z", "nx"), "bias_ih"),
            Site("weight_hh", "h", ("r", "z", "nh"), "bias_hh"),
        ]
        super().__init__(inputs, hidden, ("h",), sites, **kwargs)
        self.weight_ih = nn.Parameter(torch.empty(3 * hidden, inputs))
        self.weight_hh = nn.Parameter(torch.empty(3 * hidden, hidden))
        self.bias_ih, self.bias_hh = (nn.Parameter(torch.empty(3 * hidden)) for _ in range(2))

    def combine(self, u, h, t=None):
        r, z = torch.sigmoid(u["r"]), torch.sigmoid(u["z"])
        n = torch.tanh(u["nx"] + r * u["nh"])
        return {"h": (1 - z) * n + z * h["h"]}


class Lstm(SiteModel):
    """Long short-term memory without peepholes; state ``h``, ``c``."""

    def __init__(self, inputs: int, hidden: int, **kwargs) -> None:
        sites = [
            Site("weight_ih", "input", ("i", "f", "g", "o"), "bias"),
            Site("weight_hh", "h", ("i", "f", "g", "o")),
        ]
        super().__init__(inputs, hidden, ("h", "c"), sites, **kwargs)
        self.weight_ih = nn.Parameter(torch.empty(4 * hidden, inputs))
        self.weight_hh = nn.Parameter(torch.empty(4 * hidden, hidden))
        self.bias = nn.Parameter(torch.empty(4 * hidden))

    def combine(self, u, h, t=None):
        c = torch.sigmoid(u["f"]) * h["c"] + torch.sigmoid(u["i"]) * torch.tanh(u["g"])
        return {"h": torch.sigmoid(u["o"]) * torch.tanh(c), "c": c}


class Extra(Rnn):
    """A trainable parameter in ``combine``, at no site: J is derived by autograd."""

    def __init__(self, inputs: int, hidden: int, **kwargs) -> None:
        super().__init__(inputs, hidden, **kwargs)
        self.gain = nn.Parameter(torch.empty(hidden))

    def combine(self, u, h, t=None):
        return {"h": h["h"] + torch.tanh(u["u"] * self.gain)}


class Clocked(Rnn):
    """Sites whose leak differs from step to step."""

    time_varying = True

    def combine(self, u, h, t=None):
        leak = 1 / (2 + t.to(u["u"].dtype)).unsqueeze(-1)
        return {"h": (1 - leak) * h["h"] + leak * torch.tanh(u["u"])}


class Plain(Model):
    """Only ``step``; units interact beyond a weight site."""

    def __init__(self, inputs: int, hidden: int, **kwargs) -> None:
        super().__init__(inputs, {"a": 1, "b": hidden - 1} if hidden > 1 else {"a": 1}, **kwargs)
        self.w, self.v = nn.Parameter(torch.empty(hidden, hidden)), nn.Parameter(torch.empty(hidden, inputs))

    def step(self, x, h, t=None):
        return 0.7 * h + 0.3 * torch.tanh((h * h.mean(-1, keepdim=True) + h) @ self.w.T + x @ self.v.T)


class Layers(Model):
    """Depth as time: another weight at every step."""

    time_varying = True

    def __init__(self, inputs: int, hidden: int, **kwargs) -> None:
        super().__init__(inputs, {"h": hidden}, **kwargs)
        self.w, self.v = (
            nn.Parameter(torch.empty(6, hidden, hidden)),
            nn.Parameter(torch.empty(hidden, inputs)),
        )

    def step(self, x, h, t=None):
        return torch.tanh((self.w[t] @ h.unsqueeze(-1)).squeeze(-1) + x @ self.v.T)


class Fixed(Model):
    """No parameter: weights in buffers."""

    def __init__(self, inputs: int, hidden: int, **kwargs) -> None:
        super().__init__(inputs, {"h": hidden}, **kwargs)
        self.register_buffer("w", torch.empty(hidden, hidden))

    def step(self, x, h, t=None):
        return torch.tanh(h @ self.w.T + x.sum(-1, keepdim=True))


class Bare(Model):
    """Neither parameters nor buffers."""

    def __init__(self, inputs: int, hidden: int, **kwargs) -> None:
        super().__init__(inputs, {"h": hidden}, **kwargs)

    def step(self, x, h, t=None):
        return torch.sin(h + x.sum(-1, keepdim=True))


def _wrapped(cell: type[nn.Module]) -> Callable[..., Model]:
    return lambda inputs, hidden, **kwargs: kpframe.wrap(cell(inputs, hidden), **kwargs)


TOYS: dict[str, Callable[..., Model]] = {
    "rnn": Rnn,
    "leaky rate": lambda i, h, **k: Rnn(i, h, "rate", **k),
    "leaky current": lambda i, h, **k: Rnn(i, h, "current", **k),
    "gru": Gru,
    "lstm": Lstm,
    "extra": Extra,
    "clocked": Clocked,
    "plain": Plain,
    "layers": Layers,
    "fixed": Fixed,
    "bare": Bare,
    "RNNCell": _wrapped(nn.RNNCell),
    "GRUCell": _wrapped(nn.GRUCell),
    "LSTMCell": _wrapped(nn.LSTMCell),
}
STRUCTURED = ("rnn", "leaky rate", "leaky current", "gru", "lstm", "clocked")


def randn(seed: int, *shape: int, dtype: torch.dtype = F64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=F64).to(dtype)


def make(name: str, seed: int = 0, inputs: int = 2, hidden: int = 3, dtype=F64, **kwargs) -> Model:
    """Return a toy model, its parameters and buffers drawn from a seed."""
    model = TOYS[name](inputs, hidden, **kwargs).to(dtype)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            tensor.copy_(0.7 * torch.randn(tensor.shape, generator=generator, dtype=F64))
    return model


def trials(model: Model, seed: int = 0, batch=2, time=4, h0=False, mask=False, dtype=F64) -> dict:
    """Return the arguments of a roll-out: ``x`` and, when asked for, ``h0`` and ``mask``."""
    out = {"x": randn(seed + 1, batch, time, model.input_size, dtype=dtype)}
    if h0:
        out["h0"] = randn(seed + 2, batch, model.width, dtype=dtype)
    if mask:
        lengths = time - torch.arange(batch) % time
        out["mask"] = torch.arange(time) < lengths[:, None]
    return out


def parameters(model: Model) -> dict[str, Tensor]:
    """Return theta under the module's own names, detached."""
    return {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}


def states(model: Model, theta: dict[str, Tensor], x: Tensor, h0=None, mask=None) -> Tensor:
    """Return the states ``[B, T, H]`` by a loop of ``step``, as a function of theta."""
    batch, time, _ = x.shape
    h = h0 if h0 is not None else theta["h0"].expand(batch, -1) if "h0" in theta else None
    h = x.new_zeros(batch, model.width) if h is None else h
    out = []
    for t in range(time):
        index = (torch.full((batch,), t),) if model.time_varying else ()
        new = torch.func.functional_call(model, theta, (x[:, t], h, *index))
        h = new if mask is None else torch.where(mask[:, t, None], new, h)
        out.append(h)
    return torch.stack(out, dim=1)


def total_jacobian(model: Model, x: Tensor, h0=None, mask=None) -> Tensor:
    """Return ``G = dh/dtheta`` ``[B T H, M]`` of the whole roll-out, by plain reverse passes."""
    theta = parameters(model)
    if not theta:
        return x.new_zeros(x.shape[0] * x.shape[1] * model.width, 0)
    jacobians = torch.autograd.functional.jacobian(
        lambda *values: states(model, dict(zip(theta, values, strict=True)), x, h0, mask).reshape(-1),
        tuple(theta.values()),
    )
    return torch.cat([j.reshape(len(j), -1) for j in jacobians], dim=1)


def step_blocks(model: Model, flow) -> Tensor:
    """Return ``A_t`` ``[B, T, H, H]`` from ``torch.func.jacrev`` of ``step``, one (b, t) at a time."""
    run, theta = flow.trajectory, parameters(model)
    batch, time, hidden = run.space.shape
    out = torch.zeros(batch, time, hidden, hidden, dtype=run.states.dtype)
    for b in range(batch):
        for t in range(time):
            index = (torch.tensor([t]),) if model.time_varying else ()

            def one(h: Tensor, b=b, t=t, index=index) -> Tensor:
                return torch.func.functional_call(model, theta, (run.inputs[b, t][None], h[None], *index))[0]

            out[b, t] = torch.func.jacrev(one)(run.previous[b, t])
    if run.mask is not None:
        out[~run.mask] = torch.eye(hidden, dtype=out.dtype)
    return out


def parameter_blocks(model: Model, flow) -> Tensor:
    """Return ``J`` ``[B T H, M]`` from ``jacrev`` of ``step`` at fixed ``h_{t-1}`` (no trainable ``h0``)."""
    run, theta = flow.trajectory, parameters(model)
    batch, time, hidden = run.space.shape
    if not theta:
        return run.states.new_zeros(run.space.size, 0)
    rows = []
    for b in range(batch):
        for t in range(time):
            index = (torch.tensor([t]),) if model.time_varying else ()
            arguments = (run.inputs[b, t][None], run.previous[b, t][None], *index)
            jacobians = torch.func.jacrev(
                lambda p, arguments=arguments: torch.func.functional_call(model, p, arguments)[0]
            )(theta)
            row = torch.cat([j.reshape(hidden, -1) for j in jacobians.values()], dim=1)
            rows.append(row if run.mask is None or run.mask[b, t] else torch.zeros_like(row))
    return torch.cat(rows)


def dense_shift(blocks: Tensor) -> Tensor:
    """Return the matrix of ``A Z`` from the blocks ``[B, T, H, H]`` of ``A``."""
    batch, time, hidden, _ = blocks.shape
    out = blocks.new_zeros(batch, time, hidden, batch, time, hidden)
    for b in range(batch):
        for t in range(1, time):
            out[b, t, :, b, t - 1] = blocks[b, t]
    return out.reshape(batch * time * hidden, -1)


def check_operator(op: Operator, seed: int = 0) -> None:
    """Assert linearity, the adjoint, probes, the dense form and the tags of any operator."""
    q, p = (randn(seed + i, 2, 3, *op.domain.shape, dtype=op.dtype) for i in (10, 11))
    r = randn(seed + 12, 2, 3, *op.codomain.shape, dtype=op.dtype)
    close(op(2 * q - p), 2 * op(q) - op(p), 1e-9)
    close(op(q), torch.stack([torch.stack([op(one) for one in row]) for row in q]))
    close(op.T(r), torch.stack([torch.stack([op.T(one) for one in row]) for row in r]))
    inner = (op(q) * r).sum() - (q * op.T(r)).sum()
    assert abs(float(inner)) <= 1e-10 * float(1 + op(q).norm() * r.norm())
    dense = op.to_dense()
    close((dense @ q.flatten(2).mT).mT, op(q).flatten(2))
    close(op.T.to_dense(), dense.T)
    kept = q.clone()
    op(q).zero_()
    assert torch.equal(q, kept)
    assert op.T.T is op
    if op.self_adjoint:
        close(dense, dense.T)
    if op.positive:
        assert torch.linalg.eigvalsh((dense + dense.T) / 2).min() >= -1e-10 * (1 + dense.norm())


@pytest.fixture(scope="session", params=sorted(TOYS))
def toy(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session", params=STRUCTURED)
def structured(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="session")
def lab() -> SimpleNamespace:
    """The functions and classes above, as attributes."""
    return SimpleNamespace(**{k: v for k, v in globals().items() if callable(v) or k == "TOYS"})
