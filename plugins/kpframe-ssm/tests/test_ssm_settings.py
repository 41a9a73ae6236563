"""Settings: seeds, kinds, defaults, refusals; what a warning says."""

from __future__ import annotations

import pytest
import torch
from kpframe_ssm.kinds import ssm

from kpframe import create_model, linearize
from kpframe.errors import ArgumentError, NonFiniteError, SettingsError, StabilityWarning
from kpframe.plugin import get_manager

NAMES = ("lti", "s4d", "s5", "lru", "mamba")


def same(one: torch.nn.Module, other: torch.nn.Module) -> list[bool]:
    theirs = other.state_dict()
    return [torch.equal(value, theirs[name]) for name, value in one.state_dict().items()]


@pytest.mark.parametrize("name", NAMES)
def test_seed(name) -> None:
    settings = {"input_size": 3, "hidden_size": 4}
    torch.manual_seed(0)
    before = torch.get_rng_state()
    one = create_model(name, **settings, seed=7)
    assert torch.equal(torch.get_rng_state(), before)
    assert all(same(one, create_model(name, **settings, seed=7)))
    assert not all(same(one, create_model(name, **settings, seed=8)))
    drawn = create_model(name, **settings)
    assert not torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(0)
    assert all(same(drawn, create_model(name, **settings)))


@pytest.mark.parametrize("name", NAMES)
def test_defaults_are_the_settings_class(name) -> None:
    """A model made by its class has the defaults that ``kpframe show`` lists."""
    direct = get_manager().find("model", name)
    module, _, cls = direct.factory.partition(":")
    made = getattr(__import__(module, fromlist=[cls]), cls)(3, 4, seed=0)
    listed = create_model(name, input_size=3, hidden_size=4, seed=0)
    assert type(made) is type(listed)
    assert all(same(made, listed))
    for key, value in vars(listed).items():
        if isinstance(value, bool | int | float | str | dict) and not key.startswith("_"):
            assert getattr(made, key) == value, key


@pytest.mark.parametrize("name", NAMES)
def test_parameters_have_the_default_dtype(name) -> None:
    model = create_model(name, input_size=3, hidden_size=4)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.rollout(torch.zeros(1, 2, 3)).states.dtype == torch.float32
    previous = torch.get_default_dtype()
    try:
        torch.set_default_dtype(torch.float64)
        assert {p.dtype for p in create_model(name, input_size=3, hidden_size=4).parameters()} == {
            torch.float64
        }
    finally:
        torch.set_default_dtype(previous)


@pytest.mark.parametrize("kind", NAMES)
def test_ssm_is_its_kind(kind) -> None:
    shared = {"input_size": 3, "hidden_size": 4, "seed": 5, "trainable_initial_state": True}
    model = create_model("ssm", kind=kind, **shared)
    twin = create_model(kind, **shared)
    assert type(model) is type(twin)
    assert all(same(model, twin))
    assert "h0" in model.trainable()
    assert torch.equal(model.h0.detach(), torch.zeros(model.width))
    assert type(create_model("ssm", input_size=3, hidden_size=4)).__name__ == "LRU"


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("lti", {"spectral_radius": 1.0}, "spectral_radius: expected .* >= 0 and < 1, got 1"),
        ("lti", {"hidden_size": 0}, "hidden_size: expected .* >= 1, got 0"),
        ("s4d", {"state_size": 0}, "state_size: expected .* >= 1, got 0"),
        ("s4d", {"init": "leg"}, "init: expected one of .* did you mean 'legs'"),
        ("s4d", {"dt_min": 0}, "dt_min: expected .* > 0 and < inf, got 0"),
        ("s5", {"discretisation": "euler"}, "discretisation: expected one of 'zoh', 'bilinear'"),
        ("lru", {"r_max": 1.1}, "r_max: expected .* >= 0 and <= 1, got 1.1"),
        ("lru", {"scan": "fast"}, "scan: expected one of 'auto', 'sequential', 'chunked', 'fft'"),
        ("mamba", {"scan": "fft"}, "scan: expected one of 'auto', 'sequential', 'chunked'"),
        ("mamba", {"d_state": 4}, "d_state: expected one of its settings .*state_size"),
        (
            "ssm",
            {"kind": "s6"},
            "kind: expected one of .* got 's6'",
        ),
    ],
)
def test_refused_settings(name, settings, message) -> None:
    with pytest.raises(SettingsError, match=message):
        create_model(name, **{"input_size": 3, "hidden_size": 4} | settings)


def test_the_factory_itself_refuses_too() -> None:
    with pytest.raises(ArgumentError, match=r"ssm: kind: expected one of .*'lru', 'mamba', got 's6'"):
        ssm(1, 1, kind="s6")


def test_unstable_settings_warn_and_blow_up_where_they_are_said_to() -> None:
    """The warning comes at construction; a roll-out that leaves the finite numbers is an error."""
    with pytest.warns(StabilityWarning, match="S4D: expected modes with Re A < 0"):
        model = create_model("s4d", input_size=2, hidden_size=2, constrained=False, real=50.0, dt_min=0.1)
    with pytest.raises(NonFiniteError, match=r"roll-out: expected finite numbers, got .* first at step"):
        linearize(model, torch.ones(1, 60, 2))
    assert linearize(model, torch.ones(1, 2, 2)).trajectory.states.isfinite().all()


@pytest.mark.parametrize("name", NAMES)
def test_bad_inputs_are_named(name) -> None:
    model = create_model(name, input_size=3, hidden_size=4)
    with pytest.raises(ArgumentError, match=r"x: expected shape \[batch, time, input=3\]"):
        model.rollout(torch.zeros(1, 2, 2))
    with pytest.raises(ArgumentError, match="h0: expected shape"):
        model.rollout(torch.zeros(1, 2, 3), torch.zeros(1, 1))
    with pytest.raises(NonFiniteError, match="x: expected finite numbers"):
        model.rollout(torch.full((1, 2, 3), float("nan")))
    padded = torch.zeros(1, 3, 3)
    padded[0, 2] = float("nan")
    mask = torch.tensor([[True, True, False]])
    assert model.rollout(padded, None, mask).states.isfinite().all()
