"""The conformance kit: all settings drawn together, and the main variants one by one."""

from __future__ import annotations

import pytest
from kpframe_mpn.model import MPN

from kpframe import Model
from kpframe.testing import parametrize_with_checks

pytestmark = pytest.mark.filterwarnings("ignore::kpframe.errors.StabilityWarning")


@parametrize_with_checks(["mpn"])
@pytest.mark.rows(10)
def test_conformance(check) -> None:
    check()


def additive(input_size: int, hidden_size: int) -> Model:
    return MPN(input_size, hidden_size, form="additive", eta=0.4, trainable_initial_state=True)


def multiplicative(input_size: int, hidden_size: int) -> Model:
    return MPN(input_size, hidden_size, eta=0.4, eta_shape="matrix", lam=0.8, lam_shape="matrix")


def presynaptic(input_size: int, hidden_size: int) -> Model:
    return MPN(input_size, hidden_size, rule="presynaptic", eta_shape="pre", lam_shape="post")


def oja(input_size: int, hidden_size: int) -> Model:
    return MPN(
        input_size, hidden_size, rule="oja", eta=0.4, eta_constraint="positive", nonlinearity="sigmoid"
    )


def unit_rows(input_size: int, hidden_size: int) -> Model:
    return MPN(input_size, hidden_size, form="additive", normalization="row", trainable_initial_state=True)


def tanh_of_oja(input_size: int, hidden_size: int) -> Model:
    return MPN(input_size, hidden_size, rule="oja", normalization="tanh", eta=-0.6, eta_shape="post")


def fixed_rates(input_size: int, hidden_size: int) -> Model:
    return MPN(input_size, hidden_size, train_eta=False, train_lam=False, eta=0.4, nonlinearity="relu")


@pytest.mark.slow
@parametrize_with_checks([additive, multiplicative, presynaptic, oja, unit_rows, tanh_of_oja, fixed_rates])
def test_conformance_of_variants(check) -> None:
    check()
