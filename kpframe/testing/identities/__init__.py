"""The identities, each a named function of a case: what each kind of thing must satisfy.

Calling one returns a ``Residual``; its ``verify(case)`` raises
``CheckFailure`` with a message that leads to the fault.
"""

from __future__ import annotations

from kpframe.testing._identity import REGISTRY, Identity, identity, identity_named
from kpframe.testing._residual import CheckFailure, NotApplicable, Residual
from kpframe.testing.identities import (
    contract,
    dynamics,
    flow,
    operators,
    parameter_operators,
    products,
    propagators,
    quantities,
    ranks,
    reducers,
    reductions,
    rules,
    structure,
    trust,
)

#: The identities of each kind, by name.
OPERATOR, MODEL, RULE, REDUCER = (REGISTRY[kind] for kind in ("operator", "model", "rule", "reducer"))
#: Those of forms of operators.
PROPAGATOR, PARAMETER_OPERATOR = REGISTRY["propagator"], REGISTRY["parameter_operator"]
#: Those of quantities.
QUANTITY = REGISTRY["quantity"]

__all__ = [
    "MODEL",
    "OPERATOR",
    "PARAMETER_OPERATOR",
    "PROPAGATOR",
    "QUANTITY",
    "REDUCER",
    "RULE",
    "CheckFailure",
    "Identity",
    "NotApplicable",
    "Residual",
    "contract",
    "dynamics",
    "flow",
    "identity",
    "identity_named",
    "operators",
    "parameter_operators",
    "products",
    "propagators",
    "quantities",
    "ranks",
    "reducers",
    "reductions",
    "rules",
    "structure",
    "trust",
]
