"""The toy models, trials and dense references that these tests share."""

from ..toy_flows import lab as lab  # noqa: TID252
from ..toy_flows import structured as structured  # noqa: TID252
from ..toy_flows import toy as toy  # noqa: TID252
