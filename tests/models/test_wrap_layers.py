"""``torch.nn.RNN``, ``GRU`` and ``LSTM`` as models: equal to torch's, by the core alone and by plugins."""

from __future__ import annotations

import copy
import pickle
from itertools import product

import pytest
import torch
from torch import nn

from kpframe import SiteModel, linearize, wrap
from kpframe.errors import ArgumentError, PluginError, UnknownNameError
from kpframe.models._wrap import layers as wrapped
from kpframe.models._wrap.layers import RecurrentLayers
from kpframe.plugin import ModelSpec, PluginManager, get_manager, hookimpl, temporary

B, T, INPUTS, UNITS = 3, 6, 2, 4
#: Every module of layers, by a name for the test's id.
FORMS = {
    f"{kind.__name__} {layers} {'bias' if bias else 'no bias'} {rest}": (
        kind,
        {"num_layers": layers, "bias": bias, **rest},
    )
    for kind, rests in {
        nn.RNN: [{"nonlinearity": "tanh"}, {"nonlinearity": "relu"}],
        nn.GRU: [{}],
        nn.LSTM: [{}, {"proj_size": 3}],
    }.items()
    for layers, bias, rest in product((1, 2, 3), (True, False), rests)
}
offered = {spec.name for spec in get_manager().specs("model") if isinstance(spec, ModelSpec) and spec.wraps}


@pytest.fixture(params=["core alone", "plugins"])
def host(request, monkeypatch) -> str:
    """The core alone, or with what is installed."""
    if request.param == "core alone":
        monkeypatch.setattr(wrapped, "get_manager", lambda: PluginManager(entry_points=list))
    elif not offered >= {"rnn", "gru", "lstm"}:
        pytest.skip("needs the bundled models")
    return request.param


def make(kind, dtype=torch.float64, seed: int = 0, **settings) -> nn.RNNBase:
    with torch.random.fork_rng([]):
        torch.manual_seed(seed)
        return kind(INPUTS, UNITS, dtype=dtype, **settings)


def draw(*shape: int, dtype=torch.float64) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(7), dtype=torch.float64).to(dtype)


def stretch(model, component: str) -> slice:
    """Return where a component lies in the state."""
    names = list(model.components)
    start = sum(model.components[name] for name in names[: names.index(component)])
    return slice(start, start + model.components[component])


def ends(model, final: torch.Tensor, name: str) -> torch.Tensor:  # [L, B, n]
    return torch.stack(
        [final[..., stretch(model, n)] for n in model.components if n.partition("_")[0] == name]
    )


def top(model) -> slice:
    return stretch(model, [name for name in model.components if name.startswith("h")][-1])


def far(first: torch.Tensor, second: torch.Tensor) -> float:
    return float((first - second).detach().norm() / second.detach().norm())


@pytest.mark.filterwarnings("ignore:LSTM with projections is not supported with oneDNN")
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("dtype", "rounding"), [(torch.float64, 1e-13), (torch.float32, 1e-5)])
@pytest.mark.rows(4)
def test_roll_out_and_gradient(host, form, dtype, rounding) -> None:
    kind, settings = FORMS[form]
    module = make(kind, dtype, batch_first=True, **settings)
    model = wrap(module)
    assert isinstance(model, RecurrentLayers if host == "core alone" else SiteModel)
    x = draw(B, T, INPUTS, dtype=dtype)
    out, final = module(x)
    trajectory = model.rollout(x)
    found = trajectory.states[..., top(model)]
    assert found.dtype == dtype
    assert far(found, out) < rounding
    assert far(found, make(kind, dtype, seed=1, batch_first=True, **settings)(x)[0]) > 1e-2
    for name, expected in zip("hc", final if kind is nn.LSTM else (final,), strict=False):
        assert far(ends(model, trajectory.final, name), expected) < rounding
    assert list(model.trainable()) == [name for name, _ in module.named_parameters()]
    assert all(p is getattr(module, name) for name, p in model.named_parameters())
    weights = draw(*out.shape, dtype=dtype)
    theirs, ours = (
        torch.cat([g.reshape(-1) for g in torch.autograd.grad((values * weights).sum(), [*theta])])
        for values, theta in ((out, module.parameters()), (found, model.trainable().values()))
    )
    assert far(ours, theirs) < 30 * rounding
    assert far(ours.flip(0), theirs) > 1e-2


@pytest.mark.parametrize("kind", wrapped.LAYERS)
def test_operators(host, kind) -> None:
    module = make(kind, num_layers=2, batch_first=True)
    model = wrap(module)
    x = draw(B, T, INPUTS)
    flow = linearize(model, x)
    err = torch.zeros_like(flow.trajectory.states)
    err[..., top(model)] = draw(B, T, UNITS)
    (module(x)[0] * err[..., top(model)]).sum().backward()
    gradient = torch.cat([p.grad.reshape(-1) for p in module.parameters()])
    assert far(flow.J.T(flow.P.T(err)), gradient) < 1e-12
    assert far(flow.J.T(err), gradient) > 1e-2
    if host == "plugins":
        assert flow.P.method == "sites"


@pytest.mark.parametrize("kind", wrapped.LAYERS)
def test_inputs_are_batch_first_whatever_the_module_says(host, kind) -> None:
    module = make(kind, batch_first=False)
    x = draw(4, 4, INPUTS)
    found = (model := wrap(module)).rollout(x).states[..., top(model)]
    assert far(found, module(x.transpose(0, 1))[0].transpose(0, 1)) < 1e-13
    assert far(found, module(x)[0]) > 1e-2


def test_parameters_are_shared(host) -> None:
    module = make(nn.GRU, num_layers=2, batch_first=True)
    module.weight_hh_l0.requires_grad_(False)
    module.weight_hh_l1 = module.weight_hh_l0
    model = wrap(module)
    assert "weight_hh_l0" not in model.trainable()
    module.weight_hh_l0.requires_grad_(True)
    assert model.shared_names() == {"weight_hh_l1": "weight_hh_l0"}
    x = draw(B, T, INPUTS)
    before = model.rollout(x).states[..., top(model)].detach()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    model.rollout(x).states.sum().backward()
    optimizer.step()
    assert far(module(x)[0], before) > 1e-2
    assert far(model.rollout(x).states[..., top(model)], module(x)[0]) < 1e-13
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert torch.equal(other.rollout(x).states, model.rollout(x).states)
        assert other.weight_ih_l0 is not module.weight_ih_l0


def test_what_wrap_leaves_alone(host) -> None:
    module = make(nn.LSTM, num_layers=2, dropout=0.5).eval()
    before, random = copy.deepcopy(module.state_dict()), torch.get_rng_state()
    model = wrap(module, trainable_initial_state=True)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    assert (next(iter(model.trainable())), model.h0.dtype, model.training) == ("h0", torch.float64, False)
    x = draw(B, T, INPUTS)
    assert (
        far(
            model.train().rollout(x).states[..., top(model)],
            module(x.mT.mT.transpose(0, 1))[0].transpose(0, 1),
        )
        < 1e-13
    )


def hooked() -> nn.Module:
    module = nn.GRU(2, 3)
    module.register_forward_pre_hook(lambda module, x: None)
    return module


def parametrised() -> nn.Module:
    return nn.utils.parametrizations.orthogonal(nn.GRU(2, 3), "weight_hh_l0")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (
            lambda: wrap(nn.GRU(2, 3, bidirectional=True)),
            r"^module: expected a network whose state depends on the past alone, got a bidirectional "
            r"torch.nn.GRU, whose second direction begins at the end of the sequence$",
        ),
        (
            lambda: wrap(nn.LSTM(2, 3, 2, dropout=0.5)),
            r"^module: expected a step .*, got LSTM, which draws at random in training mode; call ",
        ),
        (
            lambda: wrap(hooked()),
            r"^module: expected a torch.nn.GRU without hooks, .*weight_norm, .*folds it\)$",
        ),
        (
            lambda: wrap(parametrised()),
            r"^module: expected the parameters that a torch.nn.GRU has \(weight_ih_l0, .*, got .*parametriz",
        ),
        (lambda: wrap(nn.GRU(2, 3), "h,x"), r"^call: expected none beside a torch.nn.GRU, .*, got 'h,x'$"),
        (lambda: wrap(nn.GRU(2, 3), state=3), r"^state: expected none beside a torch.nn.GRU, .*, got 3$"),
        (
            lambda: wrap(nn.RNN(2, 3), returns="y,h"),
            r"^returns: expected none beside a torch.nn.RNN, which s",
        ),
        (
            lambda: wrap(nn.RNN(2, 3), initial_state=lambda module, batch: None),
            r"^initial_state: expected none beside a torch.nn.RNN, which says it itself, got <function",
        ),
    ],
)
def test_what_is_refused(host, make, message) -> None:
    with pytest.raises(ArgumentError, match=message):
        make()


class Twice(RecurrentLayers):
    """A GRU that moves twice as far."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__(nn.GRU(input_size, hidden_size), nn.GRU, False)

    def step(self, x, h, t=None):
        return 2 * super().step(x, h)


def plugin(name: str):
    """Return a plugin with one model that says that it stands for ``torch.nn.GRU``."""
    from attrs import frozen

    from kpframe.plugin import setting

    @frozen
    class Settings:
        input_size: int = setting(ge=1)
        hidden_size: int = setting(ge=1)

    class Plugin:
        @hookimpl
        def kpframe_models(self):
            names = {"torch.nn.modules.rnn.GRU": ("input_size", "hidden_size")}
            yield ModelSpec(name, f"{__name__}:Twice", settings=Settings, wraps=names)

    return Plugin()


def test_a_plugin_that_stands_for_something_else(monkeypatch) -> None:
    alone = PluginManager(entry_points=list)
    monkeypatch.setattr(wrapped, "get_manager", lambda: alone)
    with temporary(plugin("twice"), manager=alone):
        with pytest.raises(
            PluginError, match=r"^model 'temporary:twice': expected the states of the torch.nn."
        ):
            wrap(nn.GRU(2, 3))
        assert isinstance(wrap(nn.GRU(2, 3), check=False), Twice)
        with pytest.raises(
            PluginError, match=r"^model 'temporary:twice': expected the parameters of torch.nn.G"
        ):
            wrap(nn.GRU(2, 3, bias=False))
        with temporary(plugin("again"), distribution="other", manager=alone):
            told = (
                r"^module: 2 models stand for torch.nn.modules.rnn.GRU: other:again, temporary:twice; disabl"
            )
            with pytest.raises(UnknownNameError, match=told):
                wrap(nn.GRU(2, 3))


@pytest.mark.parametrize(
    ("wraps", "message"),
    [
        (["torch.nn.GRU"], r"^wraps of model 'mine': expected a mapping of 'package.module.Class' to names"),
        ({"torch.nn.GRU": "size"}, r"^wraps of model 'mine': expected a mapping"),
        (
            {"torch.nn.GRU": ("size",)},
            r"^wraps of model 'mine': expected names of its settings \[\], got \['si",
        ),
    ],
)
def test_declarations_of_the_wrong_form(wraps, message) -> None:
    with pytest.raises(PluginError, match=message):
        ModelSpec("mine", "a:b", wraps=wraps)
