"""The trace estimators, one file per published method.

A method is a module with ``measure(source, budget)``: it draws probes from a
``Sampler``, spends at most ``budget`` products and returns the value and its
standard error. Its name is the module's; a new file here is found by itself.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable

from kpframe.spectra._arguments import check_name
from kpframe.spectra._numerics.products import Sampler

Measure = Callable[[Sampler, int], tuple[float, float]]


def names() -> tuple[str, ...]:
    """Return the names of the methods."""
    return tuple(sorted(module.name for module in pkgutil.iter_modules(__path__)))


def load(name: str) -> Measure:
    """Return the method called ``name``; raises ``ArgumentError``."""
    check_name(name, ("auto", *names()), "method")
    measure: Measure = importlib.import_module(f"{__name__}.{name}").measure
    return measure
