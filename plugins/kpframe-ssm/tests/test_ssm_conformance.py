"""The conformance kit on every kind and propagator; Hypothesis draws forms, discretisations and scans."""

from __future__ import annotations

import pytest
from attrs import frozen
from kpframe_ssm.settings import LRUSettings, LTISettings, MambaSettings, S4DSettings, S5Settings

from kpframe.plugin import ModelSpec, setting
from kpframe.testing import parametrize_with_checks


@frozen
class SmallS4D(S4DSettings):
    """As the default, with a state small enough to write every operator out."""

    state_size: int = setting(2, ge=1)


@frozen
class SmallMamba(MambaSettings):
    """As the default, with a state small enough to write every operator out."""

    state_size: int = setting(2, ge=1)
    conv_size: int = setting(3, ge=1)


SPECS = [
    ModelSpec("lti", "kpframe_ssm.lti:LTI", LTISettings),
    ModelSpec("s4d", "kpframe_ssm.s4d:S4D", SmallS4D),
    ModelSpec("s5", "kpframe_ssm.s5:S5", S5Settings),
    ModelSpec("lru", "kpframe_ssm.lru:LRU", LRUSettings),
    ModelSpec("mamba", "kpframe_ssm.mamba:Mamba", SmallMamba),
]


@parametrize_with_checks(SPECS)
@pytest.mark.rows(20)
def test_conformance(check) -> None:
    check()


@parametrize_with_checks([f"propagator:modes{form}" for form in ("", "_sequential", "_chunked", "_fft")])
@pytest.mark.rows(15)
def test_conformance_of_propagators(check) -> None:
    check()


@pytest.mark.slow
@parametrize_with_checks(["ssm"])
def test_conformance_of_whatever_the_settings_draw(check) -> None:
    check()
