"""Settings of both models: what they build, at which values it starts, and what is refused."""

from __future__ import annotations

import pytest
import torch
from kpframe_hh.hodgkin_huxley import HodgkinHuxley
from kpframe_hh.morris_lecar import MorrisLecar

from kpframe import create_model, create_rule, linearize
from kpframe.errors import ArgumentError, NonFiniteError, SettingsError, StabilityWarning


def shapes(model) -> dict[str, tuple[int, ...]]:
    return {name: tuple(p.shape) for name, p in model.named_parameters()}


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"input_size": 2}, {"weight_ih": (4, 2), "weight_excitatory": (4, 4)}),
        ({"input_size": 4}, {"weight_excitatory": (4, 4)}),
        ({"input_size": 4, "bias": True}, {"bias_ih": (4,), "weight_excitatory": (4, 4)}),
        ({"input_size": 4, "input_weights": True}, {"weight_ih": (4, 4), "weight_excitatory": (4, 4)}),
        (
            {"input_size": 4, "inhibitory_fraction": 0.25},
            {"weight_excitatory": (4, 3), "weight_inhibitory": (4, 1)},
        ),
        ({"input_size": 4, "inhibitory_fraction": 0.1}, {"weight_excitatory": (4, 4)}),
        ({"input_size": 4, "inhibitory_fraction": 1.0}, {"weight_inhibitory": (4, 4)}),
        ({"input_size": 4, "reversals": ((-80.0,) * 4,) * 4}, {"weight_synapses": (4, 4)}),
        (
            {"input_size": 4, "trainable_conductances": ("g_k", "g_l")},
            {"weight_excitatory": (4, 4), "g_k": (4,), "g_l": (4,)},
        ),
        ({"input_size": 4, "trainable_initial_state": True}, {"h0": (20,), "weight_excitatory": (4, 4)}),
    ],
)
def test_parameters(settings, expected) -> None:
    assert shapes(create_model("hh", hidden_size=4, **settings)) == expected


def test_components() -> None:
    hh, ml = (create_model(name, input_size=1, hidden_size=4) for name in ("hh", "morris_lecar"))
    assert hh.components == {"V": 4, "m": 4, "h": 4, "n": 4, "s": 4}
    assert ml.components == {"V": 4, "w": 4, "s": 4}


@pytest.mark.parametrize("name", ["hh", "morris_lecar"])
def test_initial_weights(name) -> None:
    settings = {"input_size": 5, "hidden_size": 200, "inhibitory_fraction": 0.2, "g_synapse": 3.0, "seed": 0}
    model = create_model(name, input_gain=7.0, **settings)
    weights = torch.cat([model.weight_excitatory, model.weight_inhibitory], dim=1).detach()
    assert 0 < float(weights.min()) < float(weights.max()) <= 2 * 3.0 / 200
    assert float(weights.sum(dim=1).mean()) == pytest.approx(3.0, rel=0.01)
    assert float(model.weight_ih.detach().std()) * 5**0.5 == pytest.approx(7.0, rel=0.05)


def test_nonnegative_conductances_stay_so() -> None:
    settings = {"input_size": 3, "hidden_size": 3, "seed": 0, "trainable_conductances": ("g_na", "g_l")}
    plain, positive = (
        create_model("hh", nonnegative=choice, autapses=True, **settings).double() for choice in (False, True)
    )
    torch.testing.assert_close(
        positive.site_weight("weight_excitatory"), plain.weight_excitatory, rtol=1e-5, atol=0
    )
    x = 10 * torch.ones(1, 40, 3, dtype=torch.float64)
    torch.testing.assert_close(positive.rollout(x).states, plain.rollout(x).states, rtol=1e-4, atol=1e-6)
    with torch.no_grad():
        for model in (plain, positive):
            for parameter in model.parameters():
                parameter.sub_(20)
        assert float(plain.site_weight("weight_excitatory").max()) < 0
        assert float(positive.site_weight("weight_excitatory").min()) > 0
        assert float(plain.maximal("g_l", {"g_l": plain.g_l}).max()) < 0
        assert float(positive.maximal("g_l", {"g_l": positive.g_l}).min()) > 0


@pytest.mark.parametrize(
    "settings", [{}, {"inhibitory_fraction": 0.5}, {"nonnegative": True}, {"reversals": ((-10.0,) * 4,) * 4}]
)
@pytest.mark.parametrize("name", ["hh", "morris_lecar"])
def test_no_neuron_has_a_synapse_on_itself_unless_asked_for(name, settings) -> None:
    given = {"input_size": 4, "hidden_size": 4, "seed": 0, **settings}
    plain, own = (create_model(name, autapses=choice, **given) for choice in (False, True))
    assert plain.state_dict().keys() == own.state_dict().keys()
    names = [str(site.weight) for site in plain.sites if site.recurrent]
    found, every = (torch.cat([m.site_weight(n)[:4] for n in names], dim=1).detach() for m in (plain, own))
    off = ~torch.eye(4, dtype=torch.bool)
    assert torch.equal(found[off], every[off])  # the same draws of a seed
    assert bool((found.diagonal() == 0).all())
    assert bool((every.diagonal() > 0).all())
    x = torch.full((1, 20, 4), 100.0)
    gradient = create_rule("bptt").gradient(linearize(plain, x), torch.ones(1, 20, plain.width))
    moved = torch.cat([gradient[n] for n in names], dim=1)
    assert bool((moved.diagonal() == 0).all())
    assert bool((moved[off] != 0).all())


def test_the_state_starts_at_rest() -> None:
    model = create_model("hh", input_size=2, hidden_size=2, inhibitory_fraction=0.5).double()
    V, m, h, n, s = model.initial_state(3)[1].split(2)
    for part, value in ((V, -65), (m, 0.0529), (h, 0.5961), (n, 0.3177)):
        assert part.tolist() == pytest.approx([value] * 2, abs=5e-5)
    release = torch.sigmoid(torch.tensor(-67.0 / 5)).item()
    expected = [a * release / (a * release + b) for a, b in ((1.1, 0.19), (5.0, 0.18))]
    assert s.tolist() == pytest.approx(expected, rel=1e-5)
    with torch.no_grad():
        model.weight_excitatory.zero_()
        model.weight_inhibitory.zero_()
        quiet = model.rollout(torch.zeros(1, 400, 2, dtype=torch.float64)).component("V")
    assert float((quiet + 65).abs().max()) < 0.01  # -65 mV is the resting potential, to the digits of E_l
    moved = create_model("hh", input_size=2, hidden_size=2, V_init=-60.0)
    assert float(moved.initial_state(1)[0, 0]) == -60
    trainable = create_model("hh", input_size=2, hidden_size=2, trainable_initial_state=True)
    assert torch.equal(trainable.h0.detach(), trainable.resting_state())
    with torch.no_grad():
        trainable.h0.add_(1)
    assert torch.equal(trainable.initial_state(2)[1], trainable.resting_state() + 1)


@pytest.mark.parametrize("name", ["hh", "morris_lecar"])
def test_seed(name) -> None:
    settings = {"input_size": 2, "hidden_size": 3, "inhibitory_fraction": 0.4}
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one, same, other = (create_model(name, seed=seed, **settings).state_dict() for seed in (7, 7, 8))
    assert torch.equal(torch.get_rng_state(), before)
    for parameter in ("weight_ih", "weight_excitatory", "weight_inhibitory"):
        assert torch.equal(one[parameter], same[parameter])
        assert not torch.equal(one[parameter], other[parameter])
    create_model(name, **settings)
    assert not torch.equal(torch.get_rng_state(), before)


def test_morris_lecar_constants_come_from_the_chosen_set() -> None:
    hopf, snic = (
        create_model("morris_lecar", input_size=1, hidden_size=1, excitability=e) for e in ("hopf", "snic")
    )
    chosen = ("g_ca", "V_3", "V_4", "phi")
    assert [getattr(hopf.settings, name) for name in chosen] == [4.4, 2, 30, 0.04]
    assert [getattr(snic.settings, name) for name in chosen] == [4, 12, 17.4, 1 / 15]
    changed = MorrisLecar(1, 1, excitability="snic", phi=0.23)
    assert (changed.settings.phi, changed.settings.V_3) == (0.23, 12)


@pytest.mark.parametrize(
    ("name", "settings", "limit"),
    [
        ("hh", {"dt": 0.1}, "0.064"),
        ("hh", {"temperature": 26.3}, None),
        ("hh", {"temperature": 36.3}, "0.018"),
        ("hh", {"dt": 0.1, "C": 2.0}, None),
        ("morris_lecar", {"dt": 3.0}, "2.8"),
        ("morris_lecar", {"dt": 2.5, "excitability": "homoclinic"}, "2.2"),
        ("morris_lecar", {"dt": 2.5}, None),
    ],
)
def test_unstable_steps_are_announced(name, settings, limit) -> None:
    given = {"input_size": 1, "hidden_size": 1} | settings
    create_model(name, **given)  # exponential Euler takes any step; a warning would be an error here
    if limit is None:
        create_model(name, method="forward_euler", **given)
    else:
        with pytest.warns(StabilityWarning, match=f"unstable at dt = .* ms: take less than {limit} ms"):
            create_model(name, method="forward_euler", **given)


def test_forward_euler_at_a_tenth_of_a_millisecond_says_where_it_blew_up() -> None:
    settings = {"input_size": 2, "hidden_size": 2, "dt": 0.1, "seed": 0}
    with pytest.warns(StabilityWarning, match=r"dt = 0\.1 ms"):
        model = create_model("hh", method="forward_euler", **settings)
    x = torch.zeros(2, 300, 2)
    x[1, :, 1] = 50.0  # the second neuron of the second trial
    with pytest.raises(
        NonFiniteError, match=r"roll-out: .* first at step \d+, trial 1, component '.', unit 1"
    ):
        linearize(model, x)
    states = create_model("hh", **settings).rollout(x).component("V").detach()
    assert float(states.max()) > 20
    assert bool(states.isfinite().all())


def test_a_blow_up_with_finite_numbers_is_one_too() -> None:
    model = create_model("hh", input_size=2, hidden_size=2, method="forward_euler", seed=0)
    h0 = model.initial_state(1).clone()
    assert linearize(model, torch.zeros(1, 2, 2), h0).K.method == "sites"
    h0[0, 2:4] = 10.0  # no gate is that far open
    with pytest.raises(
        NonFiniteError, match=r"voltages within 1e\+06 mV, got .* mV first at step \d, trial 0"
    ):
        linearize(model, torch.zeros(1, 3, 2), h0)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"hiden_size": 4}, "hiden_size: expected one of its settings .* did you mean 'hidden_size'"),
        ({"hidden_size": 0}, "hidden_size: expected .* >= 1, got 0"),
        ({"dt": 0}, "dt: expected .* > 0 and < inf, got 0"),
        ({"g_na": -1}, "g_na: expected .* >= 0 .* got -1"),
        ({"E_k": float("inf")}, "E_k: expected .* got inf"),
        ({"inhibitory_fraction": 1.2}, "inhibitory_fraction: expected .* <= 1, got 1.2"),
        ({"method": "exponential"}, "method: expected one of .* did you mean 'exponential_euler'"),
        (
            {"trainable_conductances": ("g_ca",)},
            "trainable_conductances: expected one of 'g_na', 'g_k', 'g_l'",
        ),
        ({"reversals": ((0.0, 0.0),)}, "reversals: expected 3 rows of 3 numbers .* got rows of lengths .2."),
        ({"input_weights": False}, "input_size: expected hidden_size=3 with input_weights=False.* got 2"),
        (
            {"g_synapse": 0, "nonnegative": True},
            "g_synapse: expected more than 0 with nonnegative=True.* got 0",
        ),
        (
            {"g_l": 0, "nonnegative": True, "trainable_conductances": ("g_l",)},
            "g_l: expected more than 0 with nonnegative=True.* got 0",
        ),
    ],
)
def test_refused_settings(settings, message) -> None:
    given = {"input_size": 2, "hidden_size": 3} | settings
    with pytest.raises((SettingsError, ArgumentError), match=message):
        create_model("hh", **given)
    with pytest.raises((SettingsError, ArgumentError), match=message):
        HodgkinHuxley(given.pop("input_size"), given.pop("hidden_size"), **given)
    assert create_model("hh", input_size=2, hidden_size=3).width == 15
