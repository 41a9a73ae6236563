"""The theorem of weight sites, looked up in numbers: for which models K is a Gram matrix.

If parameters enter a neuron only through ``u = W z + b``, then ``J = D (z (x) I)`` and

    K[(n, e), (m, f)] = D[n, e] G[n, m] D[m, f] for e, f of one neuron, 0 for different neurons,

with n, m over trials and steps, D the gain and ``G = Z Z^T + c 1 1^T`` the Gram matrix of what the site
reads, the same for all neurons. A vanilla RNN and a Hodgkin-Huxley network of excitatory synapses are of
this form alike. Gates add a G for each gain, which leaves K diagonal over neurons; what mixes neurons
within a step (projections, a reset before the product) breaks that too.

Here nothing is asserted from a list: K is written out from automatic differentiation at a random
trajectory, and the two statements are measured on its entries.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from typing import Any, Literal

import torch
from attrs import NOTHING, frozen

from kpframe.errors import KpframeError, StabilityWarning
from kpframe.models._model import Model
from kpframe.models._sites.model import SiteModel
from kpframe.plugin._settings import NoSettings, SettingInfo, describe
from kpframe.testing._cases import FlowCase
from kpframe.testing._choices import smallest_settings
from kpframe.testing._problem import Problem
from kpframe.testing._residual import CheckFailure
from kpframe.testing._sources import find_spec, source_of
from kpframe.testing._values import values

Verdict = Literal["Gram matrix of site inputs", "neuron-diagonal", "neither"]

TOLERANCE = 1e-12
TRIALS, STEPS, UNITS = 2, 4, 4


@frozen
class WeightSites:
    """What was measured of one model.

    Attributes:
        model, settings: what was built.
        between: largest entry of K between different neurons, relative to the largest entry.
        unshared: how far K is from one Gram matrix shared by all neurons, relative.
        undeclared: how far that Gram matrix is from the one of the inputs that the model's sites declare;
            None for a model that declares none, with several kinds of gains, or with made weights.
        verdict: the theorem's case.
    """

    model: str
    settings: Mapping[str, Any]
    between: float
    unshared: float
    undeclared: float | None
    verdict: Verdict

    def to_dict(self) -> dict[str, Any]:
        """Return plain data, for JSON."""
        return {
            "model": self.model,
            "settings": dict(self.settings),
            "between_neurons": self.between,
            "from_one_gram_matrix": self.unshared,
            "from_declared_inputs": self.undeclared,
            "verdict": self.verdict,
        }


def weight_sites(name: str, settings: Mapping[str, Any] | None = None) -> WeightSites:
    """Return what holds of the registered model ``name`` with ``settings``, sizes small where not given.

    Raises:
        CheckFailure, KpframeError: when the model cannot be built or run.
    """
    case = _case(name, dict(settings or {}))
    problem = _problem(case)
    K = problem.twin.K.to_dense()
    K = K / K.abs().amax()
    rows = problem.space.shape[0] * problem.space.shape[1]
    blocks = K.reshape(rows, -1, rows, K.shape[0] // rows).permute(1, 3, 0, 2)  # [e, f, n, m]
    neuron = _neurons(problem.model, case.settings)
    same = neuron.unsqueeze(1) == neuron
    between = float(blocks[~same].abs().amax()) if bool((~same).any()) else 0.0
    unshared, kernel = _from_one_gram(blocks, same)
    undeclared = _from_inputs(problem.model, problem.flow, kernel)
    verdict: Verdict = "neither"
    if between <= TOLERANCE:
        # a Gram matrix of one constant input could be part of the gains, so it shows nothing
        declared = _rank(kernel) > 1 if undeclared is None else undeclared <= TOLERANCE
        gram = unshared <= TOLERANCE and declared
        verdict = "Gram matrix of site inputs" if gram else "neuron-diagonal"
    return WeightSites(name, dict(settings or {}), between, unshared, undeclared, verdict)


def survey(name: str) -> Iterator[WeightSites]:
    """Yield what holds of a model with its defaults, then with each setting changed alone.

    Settings that do not build alone, because they need others beside them, are left out.
    """
    yield weight_sites(name)
    spec = find_spec("model", name)
    if spec is None:
        return
    for info in describe(spec.settings or NoSettings):
        for value in _alternatives(info):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", StabilityWarning)  # four steps do not blow up
                try:
                    found = weight_sites(name, {info.name: value})
                except (KpframeError, CheckFailure):
                    continue  # for this survey a combination that is refused says nothing about K
            yield found


def _case(name: str, settings: dict[str, Any]) -> FlowCase:
    reference = source_of(name).reference
    chosen = smallest_settings("model", reference)
    chosen |= {size: UNITS for size in ("input_size", "hidden_size") if size in chosen}
    return FlowCase(reference, chosen | settings, batch=TRIALS, seed=7)


def _problem(case: FlowCase) -> Problem:
    """Return a model on random inputs, from its own initial state moved at random.

    Units, so that no neuron or step is special: a tenth of a state that is not zero, else 0.1.
    """
    model = case.build_model()
    x = values((TRIALS, model.steps or STEPS, model.input_size), case.seed)
    start = model.initial_state(TRIALS).detach().to(x)
    moved = start + 0.1 * values(start.shape, case.seed + 1) * start.abs().clamp(min=1)
    return Problem(model, x, moved, None, case.seed)


def _neurons(model: Model, settings: Mapping[str, Any]) -> torch.Tensor:  # [H]
    """Return the neuron of each entry of the state: components hold neuron after neuron, evenly.

    Layers of a stack are neurons of their own. A component that no whole number of entries a neuron fills
    counts on its own.
    """
    units = int(settings.get("hidden_size", min(model.components.values())))
    stages = model.stages if isinstance(model, SiteModel) else ()
    layer = {output: i for i, stage in enumerate(stages) for output in stage.outputs}
    neurons = []
    for place, (name, width) in enumerate(model.components.items()):
        group = layer.get(name, 0)
        if width % units:
            units_here, group = width, len(stages) + place + 1
        else:
            units_here = units
        neurons.append(torch.arange(width) // (width // units_here) + 1000 * group)
    return torch.cat(neurons)


def _from_one_gram(blocks: torch.Tensor, same: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Return how far K is from ``D G D`` with one G, and the G of the entry that moves most.

    Gains and signs drop out of ``K_ef[n,m]^2 G[n,n] G[m,m] = G[n,m]^2 K_ee[n,n] K_ff[m,m]``.
    """
    own = blocks.diagonal(dim1=0, dim2=1).permute(2, 0, 1)  # [e, n, m]
    size = own.diagonal(dim1=1, dim2=2)  # [e, n]
    kernel = own[int(size.amin(dim=1).argmax())]
    scale = kernel.diagonal()
    ours = blocks.square() * (scale.unsqueeze(1) * scale)
    theirs = kernel.square() * size[:, None, :, None] * size[None, :, None, :]
    apart = (ours - theirs)[same].abs().amax()
    return float(apart / theirs[same].abs().amax()), kernel


def _rank(kernel: torch.Tensor) -> int:
    return int(torch.linalg.matrix_rank(kernel, rtol=TOLERANCE, hermitian=True))


def _from_inputs(model: Model, flow: Any, kernel: torch.Tensor) -> float | None:
    """Return how far a shared Gram matrix is from that of the inputs which the sites declare."""
    gains = getattr(flow.J, "gains", None)
    if not isinstance(model, SiteModel) or gains is None:
        return None
    sites = [placed for placed in gains.sites if placed.learned]
    if len({placed.site.targets for placed in sites}) != 1 or any(placed.chain for placed in sites):
        return None
    gram = torch.zeros_like(kernel)
    for placed in sites:
        if placed.z is not None and placed.made_of:
            z = placed.z.transpose(0, 1).flatten(0, 1)
            gram = gram + z @ z.T
        if placed.bias is not None:
            gram = gram + 1
    own, scale = kernel.diagonal(), gram.diagonal()
    ours = kernel.square() * (scale.unsqueeze(1) * scale)
    theirs = gram.square() * (own.unsqueeze(1) * own)
    return float((ours - theirs).abs().amax() / theirs.abs().amax())


def _alternatives(info: SettingInfo) -> list[Any]:
    """Return other values of an optional setting: other choices, the other bool, another number."""
    if info.default is NOTHING or info.name == "seed":
        return []
    if info.choices:
        return [choice for choice in info.choices if choice != info.default]
    if isinstance(info.default, bool):
        return [not info.default]
    if info.type.startswith("int"):
        return [1 if info.default is None else info.default + 1]
    if info.type.startswith("float") and info.default in (None, 0.0, 1.0):
        return [0.5]
    return []
