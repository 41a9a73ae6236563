"""The conformance kit: what every model, rule, reducer, form of P or K and quantity must satisfy, as tests.

In a plugin's test file::

    from kpframe.testing import parametrize_with_checks

    @parametrize_with_checks(["kuramoto"])
    def test_conformance(check):
        check()

``check_model``, ``check_rule``, ``check_reducer``, ``check_propagator``, ``check_parameter_operator`` and
``check_quantity`` return a ``Report`` instead, ``check_on_ranks`` that of flows whose trials ranks share;
``strategies`` draws cases, ``identities`` states what must hold,
``mutants`` holds wrong implementations that the checks catch; ``Elman``, ``Gated`` and ``Plain`` are
small models to test rules on that need no plugin; ``weight_sites`` measures of which form K is.
Needs ``kpframe[test]``.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from kpframe.errors import MissingDependencyError

_HOME = {
    "CheckFailure": "_residual",
    "Elman": "_toys",
    "Gated": "_toys",
    "Plain": "_toys",
    "Report": "_report",
    "check_model": "_checks",
    "check_on_ranks": "_checks",
    "check_parameter_operator": "_checks",
    "check_propagator": "_checks",
    "check_quantity": "_checks",
    "check_reducer": "_checks",
    "check_rule": "_checks",
    "parametrize_with_checks": "_parametrize",
    "weight_sites": "_weight_sites",
}

__all__ = [
    "CheckFailure",
    "Elman",
    "Gated",
    "Plain",
    "Report",
    "check_model",
    "check_on_ranks",
    "check_parameter_operator",
    "check_propagator",
    "check_quantity",
    "check_reducer",
    "check_rule",
    "identities",
    "mutants",
    "parametrize_with_checks",
    "strategies",
    "weight_sites",
]

if TYPE_CHECKING:
    from kpframe.testing import identities, mutants, strategies
    from kpframe.testing._checks import (
        check_model,
        check_on_ranks,
        check_parameter_operator,
        check_propagator,
        check_quantity,
        check_reducer,
        check_rule,
    )
    from kpframe.testing._parametrize import parametrize_with_checks
    from kpframe.testing._report import Report
    from kpframe.testing._residual import CheckFailure
    from kpframe.testing._toys import Elman, Gated, Plain
    from kpframe.testing._weight_sites import weight_sites


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module 'kpframe.testing' has no attribute {name!r}")
    try:
        module = import_module(f"kpframe.testing.{_HOME.get(name, name)}")
    except ModuleNotFoundError as error:
        if error.name not in ("hypothesis", "pytest"):
            raise
        raise MissingDependencyError(
            f"kpframe.testing needs {error.name}, which is not installed: pip install 'kpframe[test]'"
        ) from error
    value: object = getattr(module, name) if name in _HOME else module
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
