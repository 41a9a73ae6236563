"""The operator identities on A, P, J and K of a model's flow: what a structured override must keep."""

from __future__ import annotations

import torch

from kpframe.operators._base import Operator
from kpframe.testing._cases import FlowCase
from kpframe.testing._identity import identity
from kpframe.testing._problem import Problem
from kpframe.testing._residual import NotApplicable, Residual, compare, contrast, require, worst
from kpframe.testing.identities import operators

_SOURCE = "docs/mathematics.md: identities, operators"


def flow_operators(problem: Problem) -> dict[str, Operator]:
    """Return A, P, J, K and Phi by name; J only where something trains."""
    flow = problem.flow
    found: dict[str, Operator] = {"A": flow.A, "P": flow.P, "K": flow.K, "Phi": flow.Phi}
    if flow.J.domain.size:
        found["J"] = flow.J
    return found


def _negated(op: Operator) -> Residual | None:
    dense = op.to_dense()
    return contrast(dense, -dense)


def needs_parameters(problem: Problem) -> None:
    """Raise ``NotApplicable`` for a model in which nothing learns."""
    if not problem.flow.J.domain.size:
        raise NotApplicable("the model has no trainable parameter")


@identity("model", source=_SOURCE, look="step_adjoint of the step Jacobian: it must be the transpose of step")
def adjoint_of_A(case: FlowCase) -> Residual:
    """``<A q, r> = <q, A* r>``."""
    return operators.adjoint(case.problem.flow.A, case.problem.vector, "A")


@adjoint_of_A.differs
def _not_A(case: FlowCase) -> Residual | None:
    return _negated(case.problem.flow.A)


@identity(
    "model",
    source=_SOURCE,
    look="_apply_adjoint of the propagator (a scan backward, with A_t* of the later step), and step_adjoint",
)
def adjoint_of_P(case: FlowCase) -> Residual:
    """``<P q, r> = <q, P* r>``."""
    return operators.adjoint(case.problem.flow.P, case.problem.vector, "P")


@adjoint_of_P.differs
def _not_P(case: FlowCase) -> Residual | None:
    return _negated(case.problem.flow.P)


@identity("model", source=_SOURCE, look="_apply_adjoint of the parameter Jacobian")
def adjoint_of_J(case: FlowCase) -> Residual:
    """``<J q, r> = <q, J* r>``."""
    needs_parameters(case.problem)
    return operators.adjoint(case.problem.flow.J, case.problem.vector, "J")


@adjoint_of_J.differs
def _not_J(case: FlowCase) -> Residual | None:
    return _negated(case.problem.flow.J)


@identity("model", source=_SOURCE, look="_apply and _apply_adjoint of the parameter operator")
def adjoint_of_K(case: FlowCase) -> Residual:
    """``<K q, r> = <q, K r>``: the parameter operator is symmetric."""
    needs_parameters(case.problem)
    return operators.adjoint(case.problem.flow.K, case.problem.vector, "K")


@adjoint_of_K.differs
def _not_K(case: FlowCase) -> Residual | None:
    return _negated(case.problem.flow.K)


@identity(
    "model",
    source=_SOURCE,
    look="constants added in _apply of A, P, J or K, and clamps or thresholds on the argument",
)
def operators_are_linear(case: FlowCase) -> Residual:
    """A, P, J, K and Phi are linear, not affine."""
    problem = case.problem
    return worst(*(operators.linear(op, problem.vector, n) for n, op in flow_operators(problem).items()))


@operators_are_linear.differs
def _affine(case: FlowCase) -> Residual | None:
    P, q = case.problem.flow.P, case.problem.vector(case.problem.space)
    return contrast(P(2 * q), P(q))


@identity(
    "model",
    source=_SOURCE,
    look="indices counted from the front (q[0], dim=1) in products: probe dimensions come first",
)
def probes_of_flow_batched(case: FlowCase) -> Residual:
    """Probes carried through A, P, J, K and their adjoints in one call equal the probes one by one."""
    problem = case.problem
    return worst(*(operators.probes(op, problem.vector, n) for n, op in flow_operators(problem).items()))


@probes_of_flow_batched.differs
def _probes_swapped(case: FlowCase) -> Residual | None:
    out = case.problem.flow.P(case.problem.vector(case.problem.space, 3, (2,)))
    return contrast(out, out.flip(0))


@identity("model", source=_SOURCE, look="in-place operations in _apply, and products kept between calls")
def products_of_flow_are_pure(case: FlowCase) -> Residual:
    """Products of A, P, J and K change no argument, return no view of one, and repeat."""
    problem = case.problem
    return worst(*(operators.pure(op, problem.vector, n) for n, op in flow_operators(problem).items()))


@identity(
    "model",
    source=_SOURCE,
    look="tensors made in the structured operators: give them the dtype of the trajectory's states",
)
def flow_dtype_kept(case: FlowCase) -> Residual:
    """In float32 every operator of the flow takes and gives float32, and agrees with float64."""
    double, single = case.problem, case.single()
    found = []
    pairs = zip(flow_operators(double).items(), flow_operators(single).values(), strict=True)
    for (name, op), other in pairs:
        require(
            other.dtype == torch.float32,
            f"{name} of a float32 model: expected torch.float32, got {other.dtype}",
        )
        q = double.vector(op.domain, 6)
        out = other(q.float())
        require(
            out.dtype == torch.float32, f"{name} of a float32 vector: expected torch.float32, got {out.dtype}"
        )
        if case.kind == "normal":
            scale = float(op.to_dense().norm() * q.norm())
            found.append(
                compare(out.double(), op(q), f"{name} in float32", tolerance=1e-2, scale=scale, floor=1.0)
            )
    return worst(*found) if found else Residual(0.0, 1e-2)
