"""``wrap`` of ``torch.nn.RNN``, ``GRU`` and ``LSTM``: the model of their steps, with their parameters."""

from __future__ import annotations

import copy
from collections.abc import Callable

import torch
from torch.nn.functional import linear

from kpframe.errors import ArgumentError, PluginError, UnknownNameError, mismatch
from kpframe.models._autograd.linearization import recording
from kpframe.models._model import Model
from kpframe.models._wrap.purity import check_modes
from kpframe.operators._isolation import isolated
from kpframe.plugin._manager import get_manager
from kpframe.plugin._specs import ModelSpec

#: The modules that run whole sequences through layers.
LAYERS: tuple[type[torch.nn.RNNBase], ...] = (torch.nn.RNN, torch.nn.GRU, torch.nn.LSTM)
#: How far states may be from the module's, relative to the largest, in double precision.
ROUNDING = 1e-10
_PHI: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {"tanh": torch.tanh, "relu": torch.relu}


class RecurrentLayers(Model):
    """The step of ``torch.nn.RNN``, ``GRU`` or ``LSTM``, all layers, by torch's equations.

    Made by ``wrap`` where no plugin stands for the module. State, components and parameter names are those
    that such a plugin's model has.
    """

    def __init__(self, module: torch.nn.RNNBase, kind: type[torch.nn.RNNBase], start: bool) -> None:
        layers, widths = module.num_layers, {}
        for suffix in ("",) if layers == 1 else [f"_l{k}" for k in range(layers)]:
            widths[f"h{suffix}"] = module.proj_size or module.hidden_size
            if kind is torch.nn.LSTM:
                widths[f"c{suffix}"] = module.hidden_size
        super().__init__(module.input_size, widths, trainable_initial_state=start)
        self._kind, self._layers = kind.__name__, layers
        self._phi = _PHI[module.nonlinearity] if isinstance(module, torch.nn.RNN) else None
        for name, parameter in module.named_parameters(remove_duplicate=False):
            self.register_parameter(name, parameter)

    def step(self, x: torch.Tensor, h: torch.Tensor, t: torch.Tensor | None = None) -> torch.Tensor:
        """Return the next state ``[N, H]``, the layers side by side; each reads the new one below."""
        parts = list(torch.split(h, list(self.components.values()), dim=-1))
        each = len(parts) // self._layers
        new: list[torch.Tensor] = []
        for k in range(self._layers):
            new += self._layer(k, x, *parts[each * k : each * (k + 1)])
            x = new[-each]
        return torch.cat(new, dim=-1)

    def _layer(
        self, k: int, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, ...]:
        """Return the new state of layer ``k``: ``h``, of an LSTM ``h`` and ``c``, each ``[N, width]``."""
        W = {name: self._parameters.get(f"{name}_l{k}") for name in ("bias_ih", "bias_hh", "weight_hr")}
        from_input = linear(x, getattr(self, f"weight_ih_l{k}"), W["bias_ih"])
        from_state = linear(h, getattr(self, f"weight_hh_l{k}"), W["bias_hh"])
        if self._phi is not None:
            return (self._phi(from_input + from_state),)
        if c is None:
            (r_x, z_x, n_x), (r_h, z_h, n_h) = from_input.chunk(3, dim=-1), from_state.chunk(3, dim=-1)
            z = torch.sigmoid(z_x + z_h)
            return ((1 - z) * torch.tanh(n_x + torch.sigmoid(r_x + r_h) * n_h) + z * h,)
        i, f, g, o = (from_input + from_state).chunk(4, dim=-1)
        c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
        h = torch.sigmoid(o) * torch.tanh(c)
        return (h if W["weight_hr"] is None else linear(h, W["weight_hr"])), c

    def extra_repr(self) -> str:
        """Return the module that it stands for and the state, for ``repr``."""
        return f"torch.nn.{self._kind}, input_size={self.input_size}, state={self.components}"


def layers_of(module: object) -> type[torch.nn.RNNBase] | None:
    """Return which of torch's modules of layers a module is, with torch's own ``forward``, or None."""
    kind = next((kind for kind in LAYERS if isinstance(module, kind)), None)
    own = (
        kind is not None
        and getattr(type(module), "forward", None) is kind.forward
        and "forward" not in vars(module)
    )
    return kind if own else None


def wrap_layers(
    module: torch.nn.RNNBase, kind: type[torch.nn.RNNBase], *, trainable_initial_state: bool, check: bool
) -> Model:
    """Return the model of a module of layers, whose parameters it shares; see ``wrap``.

    Raises:
        ArgumentError: for a module that is bidirectional, draws at random, has hooks or other parameters than
            torch gives it, or computes otherwise.
        UnknownNameError: where several plugins stand for the module.
        PluginError: for a plugin whose model is another.
    """
    _check_module(module, kind)
    like = next(module.parameters())
    spec = _standing_for(f"{kind.__module__}.{kind.__qualname__}")
    if spec is None:
        name = ""
        model: Model = RecurrentLayers(module, kind, trainable_initial_state)
        if trainable_initial_state:
            model.h0 = torch.nn.Parameter(model.h0.detach().to(like))
    else:
        name, attributes = spec
        model = _of_plugin(name, attributes, module, kind, trainable_initial_state)
    model.train(module.training)
    if check and not like.is_meta and not _agrees(model, module):
        what = f"the states of the torch.nn.{kind.__name__} with its parameters"
        if name:
            raise PluginError(mismatch(f"model {name!r}", what, "others"))
        raise ArgumentError(mismatch("module", what, "others"))
    return model


def standing_model(module: object) -> tuple[str, dict[str, object]] | None:
    """Return the registered name and the settings of the model that stands for a module of layers.

    None where no plugin has one, and for other modules.
    """
    kind = layers_of(module)
    spec = None if kind is None else _standing_for(f"{kind.__module__}.{kind.__qualname__}")
    if spec is None:
        return None
    name, attributes = spec
    return name.partition(":")[2], {attribute: getattr(module, attribute) for attribute in attributes}


def _check_module(module: torch.nn.RNNBase, kind: type[torch.nn.RNNBase]) -> None:
    owner = f"torch.nn.{kind.__name__}"
    check_modes({kind.__name__: module})
    expected, got = "", ""
    if module.bidirectional:
        expected = "a network whose state depends on the past alone"
        got = f"a bidirectional {owner}, whose second direction begins at the end of the sequence"
    elif module._forward_hooks or module._forward_pre_hooks or module._backward_hooks:
        expected = f"a {owner} without hooks, which steps do not run"
        got = (
            "one with a hook (weight_norm, spectral_norm and prune put one there; their remove_... folds it)"
        )
    else:
        found = [name for name, _ in module.named_parameters(remove_duplicate=False)]
        if found != list(_names(module)) or next(module.buffers(), None) is not None:
            expected = f"the parameters that a {owner} has ({', '.join(_names(module))})"
            got = ", ".join([*found, *(name for name, _ in module.named_buffers())])
    if expected:
        raise ArgumentError(mismatch("module", expected, got))


def _names(module: torch.nn.RNNBase) -> tuple[str, ...]:
    kinds = ["weight_ih", "weight_hh"]
    kinds += ["bias_ih", "bias_hh"] if module.bias else []
    kinds += ["weight_hr"] if module.proj_size else []
    return tuple(f"{kind}_l{k}" for k in range(module.num_layers) for kind in kinds)


def _standing_for(foreign: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the name of the model that stands for a module, and the attributes that say its settings."""
    manager = get_manager()
    found = {
        f"{manager.plugin_of(spec).distribution}:{spec.name}": tuple(spec.wraps[foreign])
        for spec in manager.specs("model")
        if isinstance(spec, ModelSpec) and foreign in spec.wraps
    }
    if len(found) > 1:
        raise UnknownNameError(
            f"module: {len(found)} models stand for {foreign}: {', '.join(sorted(found))}; disable the "
            "distributions of all but one (KPFRAME_DISABLE_PLUGINS=...)"
        )
    return next(iter(found.items()), None)


def _of_plugin(
    name: str,
    attributes: tuple[str, ...],
    module: torch.nn.RNNBase,
    kind: type[torch.nn.RNNBase],
    trainable_initial_state: bool,
) -> Model:
    """Return a plugin's model of a module, the module's parameters in the place of its own."""
    settings = {attribute: getattr(module, attribute) for attribute in attributes}
    if trainable_initial_state:
        settings["trainable_initial_state"] = True
    like = next(module.parameters())
    drawn = [like.device] if like.is_cuda else []
    with isolated(like.device, "wrap"), torch.random.fork_rng(drawn):  # its initial weights are dropped
        model: Model = get_manager().create("model", name, settings, Model)
    model.to(like.device, like.dtype)
    theta = dict(module.named_parameters(remove_duplicate=False))
    own = {n: list(p.shape) for n, p in model.named_parameters() if n != "h0"}
    given = {n: list(p.shape) for n, p in theta.items()}
    if own != given:
        raise PluginError(
            mismatch(f"model {name!r}", f"the parameters of torch.nn.{kind.__name__}: {given}", own)
        )
    for parameter, value in theta.items():
        setattr(model, parameter, value)
    return model


def _agrees(model: Model, module: torch.nn.RNNBase) -> bool:
    """Whether a model's states are the module's on a short made-up input, in double precision."""
    like = next(module.parameters())
    with recording(like.device, "wrap"), torch.no_grad():
        ours = copy.deepcopy(model).cpu().double()
        theirs: torch.nn.Module = copy.deepcopy(module)
        theirs.cpu().double()
        x = torch.linspace(-1, 1, 6 * model.input_size, dtype=torch.float64, device="cpu")
        x = x.reshape(2, 3, model.input_size)
        trajectory = ours.rollout(x, x.new_zeros(2, model.width))
        out = theirs(x)[0] if module.batch_first else theirs(x.transpose(0, 1))[0].transpose(0, 1)
        names = list(model.components)
        last = names[-2] if isinstance(module, torch.nn.LSTM) else names[-1]
        found = trajectory.component(last)
    if found.shape != out.shape:
        return False
    size = float(out.nan_to_num(0, 0, 0).abs().max())
    return torch.allclose(found, out, rtol=0, atol=ROUNDING * size, equal_nan=True)
