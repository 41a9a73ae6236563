"""The kit on quantities: the core's pass, mutants are caught, and cases print as code."""

from __future__ import annotations

import pytest
import torch
import xarray as xr
from attrs import frozen
from hypothesis import given

from kpframe.errors import ArgumentError, PluginError
from kpframe.plugin import QuantitySpec, hookimpl, setting, temporary
from kpframe.plugin._core import core
from kpframe.study import Moment, Quantity, create_quantity
from kpframe.testing import check_quantity, parametrize_with_checks, strategies
from kpframe.testing._cases import FlowCase
from kpframe.testing._moments import QuantityCase
from kpframe.testing.identities.quantities import difference
from kpframe.testing.mutants import quantities as mutants

CASE = QuantityCase(
    "effective_rank",
    {},
    FlowCase("kpframe.testing._toys:Elman", {"input_size": 2, "hidden_size": 3}, batch=3, time=4, mask=True),
)


@parametrize_with_checks([f"quantity:{spec.name}" for spec in core().specs if spec.kind == "quantity"])
@pytest.mark.rows(24)
def test_the_core_s_quantities(check) -> None:
    check()


@frozen
class Settings:
    power: int = setting(2, ge=1, le=3)


class Speed(Quantity):
    """A figure of a plugin, with a setting."""

    def __init__(self, power: int) -> None:
        self.power = power

    def measure(self, moment: Moment) -> xr.Dataset:
        value = float(moment.operators["Phi"].to_dense().norm()) ** self.power
        return xr.Dataset({"speed": ((), value, {"long_name": "speed", "units": "1"})})


class Plugin:
    @hookimpl
    def kpframe_quantities(self):
        yield QuantitySpec("speed", f"{__name__}:Speed", settings=Settings)
        yield QuantitySpec("odd", f"{__name__}:Settings")


@pytest.mark.slow
def test_a_plugin_s_quantity_is_checked_by_name_and_is_what_it_says() -> None:
    with temporary(Plugin()):
        report = check_quantity("speed", examples=4)
        assert report.passed, str(report)
        assert report["figures_are_a_function_of_the_network"].partners == 4
        assert create_quantity("speed", power=3).power == 3
        with pytest.raises(PluginError, match=r"expected a kpframe\.study\.Quantity, got Settings"):
            create_quantity("odd")
    report = check_quantity(mutants.Reseeding, examples=4)
    assert [result.name for result in report.failures] == ["measuring_changes_nothing"]
    with pytest.raises(ArgumentError, match="expected a quantity, got a reducer"):
        check_quantity("reducer:mean")


def test_a_case_is_a_network_at_a_step_and_prints_as_code() -> None:
    assert eval(repr(CASE), {"QuantityCase": QuantityCase, "FlowCase": FlowCase}) == CASE
    moment = CASE.moment(step=2)
    assert (moment.step, moment.first.step, moment.previous.step) == (2, 0, 1)
    assert moment.first.previous is None
    weights = [m.model.weight_hh_l0 for m in (moment, moment.first, CASE.moment(step=0))]
    assert torch.equal(weights[1], weights[2])
    assert not torch.equal(weights[0], weights[1])
    padded = CASE.trials(padding=9.0)
    assert bool((padded.inputs[~padded.mask] == 9).all())
    assert not padded.mask.all()
    assert torch.equal(padded.inputs[padded.mask], CASE.trials().inputs[padded.mask])


@given(strategies.quantities("spectrum"))
def test_drawn_cases_have_settings(case: QuantityCase) -> None:
    assert set(case.settings) <= {"k", "tolerance"}
    assert case.moment().operators["K"].domain.size >= 4


def test_differences_are_said() -> None:
    quantity = CASE.build()
    one, other = (quantity.measure(CASE.moment(salt=salt)) for salt in (0, 1000))
    assert difference(one, one.copy(deep=True)) == ""
    assert difference(one, other).startswith("effective_rank: expected [")
    assert difference(one, one.drop_vars("state_dimension")) == "['state_dimension'] are in one of them only"
    assert "expected {'operator': 3}, got {'operator': 2}" in difference(one.isel(operator=[0, 1]), one)
