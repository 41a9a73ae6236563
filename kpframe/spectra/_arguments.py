"""Checks of the arguments that all estimators share."""

from __future__ import annotations

import math

import torch

from kpframe.errors import ArgumentError, SpaceMismatchError, closest, mismatch, shown, whole
from kpframe.flow._flow import Flow
from kpframe.flow._step_jacobian import StepJacobian
from kpframe.operators import Operator
from kpframe.spectra._numerics.matvecs import Matvecs
from kpframe.spectra._numerics.probes import random_rows

#: How far the budget may grow, as a multiple of ``budget``, when ``rtol`` asks for more.
GROWTH = 16


def check_operator(op: object, argument: str = "op") -> None:
    """Raise unless ``op`` is an operator."""
    if not isinstance(op, Operator):
        raise ArgumentError(mismatch(argument, "an Operator", shown(op)) + _remedy(op))


def _remedy(given: object) -> str:
    """Return how an operator is got from what was given in its place."""
    if isinstance(given, Flow):
        return "; give one of the flow's operators, such as flow.Phi"
    if isinstance(given, torch.nn.Module):
        return "; linearize(model, x) returns a flow with operators such as flow.Phi"
    if isinstance(given, torch.Tensor) or hasattr(given, "__array__"):
        return "; MatrixOperator(matrix) makes one of a tensor"
    return ""


def check_step_jacobian(A: object) -> None:
    """Raise unless ``A`` is a step Jacobian."""
    if not isinstance(A, StepJacobian):
        remedy = "; give flow.A" if isinstance(A, Flow) else "; linearize(model, x).A is one"
        raise ArgumentError(mismatch("A", "a StepJacobian", shown(A)) + remedy)


def check_square(op: Operator, what: str) -> None:
    """Raise unless ``op`` maps a space to itself."""
    check_operator(op)
    if not op.square:
        raise SpaceMismatchError(
            f"{what} of {op!r}: expected a square operator, "
            f"got one that maps ({op.domain}) to ({op.codomain})"
        )


def probe_symmetry(op: Operator, matvec: Matvecs, generator: torch.Generator) -> None:
    """Compare <A x, y> with <x, A y> for two random vectors."""
    pair = random_rows(op, 2, generator)
    images, space = matvec(pair), op.domain
    both = space.inner(images, pair)
    forward, backward = float(both[0, 1]), float(both[1, 0])
    lengths = space.norms(images) * space.norms(pair.flip(0))
    check_symmetric(op, abs(forward - backward), float(lengths.sum()))


def check_symmetric(op: Operator, difference: float, scale: float) -> None:
    """Raise when ``difference`` is more than rounding of ``scale``."""
    if difference > torch.finfo(op.dtype).eps ** (2 / 3) * scale:
        raise ArgumentError(
            mismatch("op", "a self-adjoint operator", f"{op!r}, which differs from its adjoint")
            + "; svd takes any operator"
        )


def check_count(value: object, argument: str, minimum: int = 1) -> int:
    """Return a whole number that is at least ``minimum``."""
    return whole(value, argument, minimum)


def check_budget(budget: object, max_budget: object, minimum: int = 1) -> tuple[int, int]:
    """Return the budget and how far it may grow, both counted in operator products."""
    first = check_count(budget, "budget", minimum)
    return first, GROWTH * first if max_budget is None else check_count(max_budget, "max_budget", first)


def check_positive(value: object, argument: str) -> float:
    """Return a finite real number > 0 as a float."""
    good = isinstance(value, int | float) and not isinstance(value, bool)
    if not good or not math.isfinite(value) or value <= 0:  # type: ignore[arg-type, operator]
        raise ArgumentError(mismatch(argument, "a finite number > 0", repr(value)))
    return float(value)  # type: ignore[arg-type]


def check_rtol(rtol: object) -> float | None:
    """Return the relative tolerance as a float, or None."""
    return None if rtol is None else check_positive(rtol, "rtol")


def check_name(name: object, known: tuple[str, ...], argument: str) -> str:
    """Return ``name`` when it is one of ``known``."""
    if not isinstance(name, str) or name not in known:
        raise ArgumentError(
            mismatch(argument, f"one of {', '.join(known)}", repr(name)) + closest(str(name), known)
        )
    return name


def check_rank(k: object, op: Operator) -> int:
    """Return the number of eigenpairs or singular triplets, at most the smaller dimension of ``op``."""
    number = check_count(k, "k")
    dimension = min(op.domain.dimension, op.codomain.dimension)
    if number > dimension:
        raise ArgumentError(mismatch("k", f"at most {dimension}, the dimension of {op!r}", number))
    return number
