"""The model ``ssm``: any of the kinds by name, for studies that compare them."""

from __future__ import annotations

from typing import Any

from kpframe import Model
from kpframe.errors import ArgumentError, mismatch
from kpframe_ssm.lru import LRU
from kpframe_ssm.lti import LTI
from kpframe_ssm.mamba import Mamba
from kpframe_ssm.s4d import S4D
from kpframe_ssm.s5 import S5

_CLASSES: dict[str, type[Model]] = {"lti": LTI, "s4d": S4D, "s5": S5, "lru": LRU, "mamba": Mamba}


def ssm(kind: str, **shared: Any) -> Model:
    """Return a model of a kind; see ``SSMSettings`` for what the kinds share."""
    if kind not in _CLASSES:
        raise ArgumentError(mismatch("kind", f"one of {', '.join(map(repr, _CLASSES))}", repr(kind)))
    return _CLASSES[kind](**shared)
