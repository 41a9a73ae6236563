"""The conformance kit on the feedforward models, in every form that changes the mathematics."""

from __future__ import annotations

import pytest
from attrs import frozen
from kpframe_feedforward import ACTIVATIONS, MLPSettings

from kpframe.plugin import ModelSpec, setting
from kpframe.testing import parametrize_with_checks


@frozen
class SeveralLayers(MLPSettings):
    """The settings of ``mlp`` with two layers or more: checks compare steps with one another."""

    depth: int = setting(2, ge=2)


@frozen
class SmallAttention:
    """The settings of ``attention`` that change its mathematics, in sizes that are quickly written out."""

    input_size: int = setting(ge=1)
    tokens: int = setting(ge=1, le=2)
    hidden_size: int = setting(ge=2, le=3)
    mlp_size: int = setting(ge=1, le=2)
    heads: int = setting(1, ge=1)
    activation: str = setting("gelu", choices=ACTIVATIONS)
    causal: bool = setting(True)


MODELS = [
    ModelSpec(name="mlp", factory="kpframe_feedforward.mlp:MLP", settings=SeveralLayers),
    ModelSpec(name="attention", factory="kpframe_feedforward.attention:Attention", settings=SmallAttention),
]


@parametrize_with_checks(MODELS)
@pytest.mark.rows(20)
def test_conformance(check) -> None:
    check()
