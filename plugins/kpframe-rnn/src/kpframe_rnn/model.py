"""``h' = phi(W_ih x + b_ih + W_hh h + b_hh)``, its leaky forms and layers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from attrs import evolve

from kpframe import SiteModel, Trajectory
from kpframe.errors import ArgumentError, ShapeError, check_seed, closest, mismatch
from kpframe.models import normal_, uniform_
from kpframe.plugin import takes_settings
from kpframe.tasks import seeded_generator
from kpframe_rnn import NoisyRNNSettings, RNNSettings
from kpframe_rnn.connectivity import RECTIFIERS, Connectivity, check_mask
from kpframe_rnn.layers import declare, names, shapes
from kpframe_rnn.noise import Noise

_PHI = {"tanh": torch.tanh, "relu": torch.relu}


class RNN(SiteModel):
    """The vanilla recurrent network and two leaky forms, with ``a = dt / tau``.

    ====================  ======================================================
    ``form="vanilla"``    ``h' = phi(W_ih x + b_ih + W_hh h + b_hh)``
    ``form="rate"``       ``h' = (1-a) h + a phi(W_ih x + b_ih + W_hh h + b_hh)``
    ``form="current"``    ``h' = (1-a) h + a (W_ih x + b_ih + W_hh phi(h) + b_hh)``
    ====================  ======================================================

    The vanilla form is ``torch.nn.RNN`` to the last bit of its definition, with its parameter names
    and shapes: ``weight_ih_l0 [H, I]``, ``weight_hh_l0 [H, H]``, ``bias_ih_l0 [H]``, ``bias_hh_l0 [H]``.
    With ``a = 1`` the rate form is the vanilla one. In the current form the state is a current and the
    rate, which a readout usually reads, is ``phi(h)``.

    **Initial weights** are uniform in +-1/sqrt(H) as in torch. With ``gain`` the recurrent ones are normal
    with standard deviation gain/sqrt(H), and gain is their spectral radius in a large network; under Dale's
    law it is exactly that. With ``input_gain`` those from the input are normal with standard deviation
    input_gain/sqrt(I), so that in a wide network inputs count as much as in a narrow one. With
    ``initial_rank`` the recurrent ones are the nearest matrix of that rank, scaled to the Frobenius norm that
    they had, and training may raise it (Liu et al. 2024, arXiv 2310.08513). A trainable ``h_0`` is the
    parameter ``h0 [num_layers * H]``.

    **Layers** are stacked as in ``torch.nn.RNN(num_layers=...)``: each reads what the layer below has just
    computed (its rate). The state's component is ``h``; those of several layers are ``h_l0, h_l1 ...``.

    **Connectivity.** The matrix that acts, ``site_weight("weight_hh_l0")``, is made in this order:

    - low rank (Mastrogiuseppe & Ostojic 2018, Neuron 99:609; Dubreuil et al. 2022, Nature Neuroscience
      25:783): ``W = m n^T / H`` of the parameters ``m_l0, n_l0 [H, rank]``, standard normal at first; with
      ``gain`` plus a random matrix ``bulk_hh_l0 [H, H]``, which is fixed unless ``train_bulk``.
    - Dale's law (Song, Yang & Wang 2016, PLoS Computational Biology 12:e1004792): the first
      ``round(excitatory_fraction H)`` units are excitatory, the others inhibitory, and
      ``W = rectifier(weight) diag(signs)``. It holds for all weights between units, those from layer to
      layer included, not for the input's. How they start: ``Connectivity.start``. ``"abs"`` passes
      every gradient on but for its sign, so no synapse is lost (only at an exact 0, where none starts,
      is the derivative 0). ``"relu"`` is the paper's: a weight that falls to 0 or below has no gradient
      any more and stays silent. ``"softplus"`` is smooth, and its weights are never zero. Only rates that
      are not negative (relu) let a unit excite, or inhibit, at all times.
    - a mask of zeros and ones, ``mask_hh_l0``: see ``set_mask``. Random ones let each unit receive from
      ``round(density n)`` of the n units that may reach it, at least one; a seed draws them apart from the
      weights.

    **Noise** (``NoisyRNN``) stands in the input: ``input_size`` signals, then columns of standard normal
    draws, which ``with_noise`` appends; so a step is a pure function and A and J are those at the given
    noise. Input noise is added to the signals, state noise to the preactivations, both times
    ``sqrt(2 / a) sigma`` in the leaky forms (Song et al. 2016; Yang et al. 2019, Nature Neuroscience
    22:297) and times ``sigma`` in the vanilla form, which has no time constant. The current of a unit that
    nothing else drives then has the variance ``2 sigma^2 / (2 - a)``: sigma^2 for small time steps.

    Attributes:
        connectivity, noise: the settings of either, checked.
        signal_size: number of signals; ``input_size`` counts all columns of the input.

    Raises:
        SettingsError: for settings that are unknown, out of bounds or do not go together.
    """

    signs: torch.Tensor

    @takes_settings(RNNSettings)
    def __init__(self, settings: RNNSettings) -> None:
        self._build(settings)

    def _build(self, settings: RNNSettings, input_noise: float = 0.0, state_noise: float = 0.0) -> None:
        c, connectivity = settings, Connectivity.of(settings)
        leak = None if c.form == "vanilla" else c.alpha
        noise = Noise(c.input_size, c.hidden_size, c.num_layers, input_noise, state_noise, leak)
        phi = _PHI[c.nonlinearity]
        self._names = names(c.num_layers)
        super().__init__(
            noise.width,
            components=[component for component, _ in self._names.values()],
            stages=declare(connectivity, noise, bias=c.bias, transform=phi if c.form == "current" else None),
            trainable_initial_state=c.trainable_initial_state,
        )
        self.form, self.alpha, self.phi = c.form, c.alpha, phi
        self.signal_size, self.connectivity, self.noise = c.input_size, connectivity, noise
        self._shapes = shapes(connectivity, noise, bias=c.bias)
        for name, shape in self._shapes.items():
            if name.startswith("bulk") and not c.train_bulk:
                self.register_buffer(name, torch.empty(shape))
            else:
                self.register_parameter(name, torch.nn.Parameter(torch.empty(shape)))
        if connectivity.dale:
            self.register_buffer("signs", connectivity.signs())
        if connectivity.sparse:
            generator = None if c.seed is None else seeded_generator(c.seed, 1)
            for k in range(c.num_layers):
                self.set_mask(connectivity.draw_mask(generator), f"weight_hh_l{k}")
        self.input_gain, self.initial_rank = c.input_gain, c.initial_rank
        self.reset_parameters(c.seed)
        connectivity.warn_if_unstable(c.nonlinearity)

    def reset_parameters(self, seed: int | None = None) -> None:
        """Draw the weights anew, to fit the masks, which stay; the initial state is set to zero."""
        generator = None if seed is None else torch.Generator().manual_seed(check_seed(seed))
        bound, gain = 1 / math.sqrt(self.units), self.connectivity.gain
        with torch.no_grad():
            if self.trainable_initial_state:
                self.h0.zero_()
            for name in self._shapes:
                tensor = self.get_parameter(name) if name in self._parameters else self.get_buffer(name)
                if name.startswith(("m_", "n_")):
                    normal_(tensor, 0, 1, generator)
                elif name.startswith(("weight_hh", "bulk_hh")) and gain is not None:
                    normal_(tensor, 0, gain * bound, generator)
                elif name == "weight_ih_l0" and self.input_gain is not None:
                    normal_(tensor, 0, self.input_gain / math.sqrt(self.signal_size), generator)
                else:
                    uniform_(tensor, -bound, bound, generator)
                if name.startswith("weight_hh") and self.initial_rank is not None:
                    tensor.copy_(_of_rank(tensor, self.initial_rank))
                if name.startswith(("weight", "bulk")):
                    tensor.copy_(self._start(name, tensor))

    def _start(self, name: str, drawn: torch.Tensor) -> torch.Tensor:
        """Return what a matrix starts from, given its drawn values."""
        layer = name.partition("_")[2]
        mask, signs = self._mask(layer), self.signs if self._obeys_dale(name) else None
        if (mask is None and signs is None) or drawn.is_meta:  # which has no values to look at
            return drawn
        return self.connectivity.start(drawn, mask, signs, recurrent=layer.startswith("hh"))

    def _mask(self, layer: str) -> torch.Tensor | None:
        """Return the mask of ``"hh_l0"``, ``"ih_l0"`` ..., None where there is none."""
        mask: torch.Tensor | None = getattr(self, f"mask_{layer}", None)
        return mask

    def _obeys_dale(self, weight: str) -> bool:
        return self.connectivity.dale and weight != "weight_ih_l0"

    def set_mask(self, mask: torch.Tensor, weight: str = "weight_hh_l0") -> None:
        """Let only some of a matrix's connections act; the others neither act nor learn.

        The mask is a buffer (``mask_hh_l0``), saved with the parameters. A network that loads such a state
        needs a mask as well: ``density=1.0`` makes one of ones. The weights stay what they are.

        Args:
            mask: zeros and ones, or bool, of the shape of the matrix: rows receive, columns send.
            weight: ``"weight_hh_l0"``, ``"weight_ih_l0"``, or those of another layer.

        Raises:
            ArgumentError: for an unknown weight, or other entries than 0 and 1.
            ShapeError: for another shape.
        """
        known = [str(site.weight) for site in self.sites if site.weight is not None]
        if weight not in known:
            raise ArgumentError(mismatch("weight", f"one of {known}", f"{weight!r}{closest(weight, known)}"))
        mask = check_mask(mask, weight, self._shapes.get(weight, (self.units, self.units)))
        like = next(self.parameters())
        self.register_buffer(weight.replace("weight", "mask"), mask.detach().to(like, copy=True))
        self.stages = tuple(
            evolve(
                stage,
                sites=[
                    evolve(site, parameters=site.parameters or weight) if site.weight == weight else site
                    for site in stage.sites
                ],
            )
            for stage in self.stages
        )

    def site_weight(self, name: str) -> torch.Tensor:
        """Return the matrix that acts: made of its factors, rectified and signed, masked; see the class."""
        layer = name.partition("_")[2]
        if name in self._shapes:
            weight = super().site_weight(name)
        else:
            factors = layer.removeprefix("hh_")
            weight = getattr(self, f"m_{factors}") @ getattr(self, f"n_{factors}").T / self.units
            bulk = f"bulk_{layer}"
            weight = weight + getattr(self, bulk) if bulk in self._shapes else weight
        if self._obeys_dale(name):
            weight = RECTIFIERS[self.connectivity.rectifier](weight) * self.signs
        mask = self._mask(layer)
        if mask is not None:
            weight = mask * weight
        if self.noise.input_noise and name == "weight_ih_l0":  # for the signals and their noise
            weight = torch.cat([weight, self.noise.scale(self.noise.input_noise) * weight], dim=1)
        return weight

    def with_noise(
        self, x: torch.Tensor, generator: torch.Generator | int | None = None
    ) -> torch.Tensor:  # [..., signal_size] -> [..., input_size]
        """Return signals with standard normal draws beside them, as many as the model's noise needs.

        See ``Noise.append`` for arguments and errors.
        """
        return self.noise.append(x, generator)

    def rollout(
        self, x: torch.Tensor, h0: torch.Tensor | None = None, mask: torch.Tensor | None = None
    ) -> Trajectory:
        """Run the model over ``x``; see ``Model.rollout``."""
        bare = isinstance(x, torch.Tensor) and x.ndim == 3 and x.shape[2] == self.signal_size
        if bare and self.signal_size != self.input_size:
            columns = f"{self.signal_size} signals and {self.input_size - self.signal_size} columns of noise"
            expected = f"{columns}, as model.with_noise(x, generator) makes them"
            raise ShapeError(mismatch("x", expected, f"shape {list(x.shape)}"))
        return super().rollout(x, h0, mask)

    def combine(
        self, u: Mapping[str, torch.Tensor], h: Mapping[str, torch.Tensor], t: torch.Tensor | None = None
    ) -> dict[str, torch.Tensor]:
        """Return a layer's next state from its summed preactivation ``u`` and its state ``h``."""
        for target in self._names:  # at each step, where a generator would cost more than all the rest
            if target in u:
                break
        name, noise = self._names[target]
        drive = u[target]
        if self.noise.state_noise:
            drive = drive + self.noise.scale(self.noise.state_noise) * u[noise]
        if self.form == "vanilla":
            return {name: self.phi(drive)}
        drive = drive if self.form == "current" else self.phi(drive)
        return {name: (1 - self.alpha) * h[name] + self.alpha * drive}


def _of_rank(drawn: torch.Tensor, rank: int) -> torch.Tensor:
    """Return the matrix of a rank nearest to one, scaled to its Frobenius norm."""
    if drawn.is_meta:  # which has no values to look at
        return drawn
    exact = drawn.double()
    left, sizes, right = torch.linalg.svd(exact)
    near: torch.Tensor = (left[:, :rank] * sizes[:rank]) @ right[:rank]
    scaled: torch.Tensor = near * (exact.norm() / near.norm())
    return scaled.to(drawn)


class NoisyRNN(RNN):
    """The network that reads ``input_size`` signals and columns of noise beside them; see ``RNN``.

    Sources: Song, Yang & Wang 2016; Yang et al. 2019.
    """

    @takes_settings(NoisyRNNSettings)
    def __init__(self, settings: NoisyRNNSettings) -> None:
        self._build(settings, settings.input_noise, settings.state_noise)
