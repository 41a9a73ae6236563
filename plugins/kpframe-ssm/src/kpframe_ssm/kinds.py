"""The model ``ssm``: any of the kinds by name, for studies that compare them."""

from __future__ import annotations

from attrs import asdict

from kpframe import Model
from kpframe.plugin import takes_settings
from kpframe_ssm.lru import LRU
from kpframe_ssm.lti import LTI
from kpframe_ssm.mamba import Mamba
from kpframe_ssm.s4d import S4D
from kpframe_ssm.s5 import S5
from kpframe_ssm.settings import SSMSettings

_CLASSES: dict[str, type[Model]] = {"lti": LTI, "s4d": S4D, "s5": S5, "lru": LRU, "mamba": Mamba}


@takes_settings(SSMSettings)
def ssm(settings: SSMSettings) -> Model:
    """Return a model of a kind, with the settings that all kinds share. Ours; the kinds have sources."""
    shared = asdict(settings)
    return _CLASSES[shared.pop("kind")](**shared)
