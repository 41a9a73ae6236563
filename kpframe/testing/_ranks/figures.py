"""Figures of a case: computed on ranks, put together, and held against those of one process.

The function of a check yields them from a ``View``: it runs once on all trials in this process, once on each
rank, and once on each rank's trials alone, which must differ where ranks have anything to exchange.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
from attrs import frozen
from torch.utils._python_dispatch import TorchDispatchMode

from kpframe.errors import KpframeError, UnsupportedError, say
from kpframe.operators._spaces import BATCH, Space
from kpframe.testing._ranks.cases import RanksCase, View
from kpframe.testing._ranks.pool import RanksFailure, on_ranks
from kpframe.testing._residual import CheckFailure, NotApplicable, Residual, compare, worst
from kpframe.testing._values import seeded

#: Relative difference that passes, in float64: sums over trials in another order, nothing else.
TOLERANCE = 1e-12

#: Norm below which a figure is taken for zero.
FLOOR = 1e-200

#: Seconds for a case on ranks, and for the others when one has failed.
TIMEOUT, GRACE = 120, 5

#: Most lines of a rank's traceback, or of where it was, in a message.
LINES = 6


@frozen
class Figure:
    """A figure by its name.

    Attributes:
        name: what it is.
        value: a tensor ``[..., *space]``, of this process's trials where the space has them.
        space: of the last dimensions; None where they are none of a space.
        tolerance: the largest relative difference that passes.
    """

    name: str
    value: torch.Tensor
    space: Space | None = None
    tolerance: float = TOLERANCE

    @property
    def trials(self) -> int | None:
        """The dimension of the trials, counted from the last; None where each rank has all of it."""
        return self.space.dim(BATCH) if self.space is not None and BATCH in self.space else None


#: What a check computes of a view.
Figures = Callable[[View], Iterator[Figure]]

#: What a rank answers: the figures by name, with the dimension of trials; or an error's class and message.
Answer = tuple[dict[str, tuple[torch.Tensor, int | None]], str, str]


def of_ranks(figures: Figures, case: RanksCase) -> Residual:
    """Return how far figures on ranks are from those of one process.

    Raises:
        CheckFailure: when they cannot be compared, a rank fails, or ranks have not the same.
        NotApplicable: for what one process refuses, or all ranks as they share trials.
    """
    try:
        expected = {figure.name: figure for figure in figures(case.whole)}
    except UnsupportedError as error:
        raise NotApplicable(str(error)) from error
    answers = answers_of(figures, case)
    residuals = []
    for name, figure in expected.items():
        what = f"{name} on {case.ranks} ranks of {' + '.join(map(str, case.shares))} trials"
        found = _joined(what, [answer[name] for answer in answers])
        spaces = () if figure.space is None else (figure.space,)
        residuals.append(
            compare(
                found,
                figure.value.detach(),
                what,
                tolerance=figure.tolerance,
                floor=FLOOR,
                spaces=spaces,
            )
        )
    return worst(*residuals)


def alone(figures: Figures, case: RanksCase) -> Residual | None:
    """Return how far figures are from those of ranks that exchange nothing; None where nothing tells."""
    views = [View(case, rank) for rank in range(case.ranks)]
    parts = [list(figures(view)) for view in views]
    residuals = []
    for place, whole in enumerate(figures(case.whole)):
        mine = [(part[place].value.detach(), whole.trials) for part in parts]
        residuals.append(_apart([*mine], whole.value.detach()))
    return max(residuals, key=lambda r: r.value) if any(not r.ok for r in residuals) else None


def exchanged(figures: Figures, case: RanksCase) -> Residual | None:
    """Return how far figures are from those with the trials of the ranks in another order."""
    residuals = []
    for figure in figures(case.whole):
        if figure.trials is not None:
            whole = figure.value.detach()
            parts = list(torch.split(whole, list(case.shares), dim=figure.trials))
            residuals.append(_apart([(part, figure.trials) for part in reversed(parts)], whole))
    return max(residuals, key=lambda r: r.value) if any(not r.ok for r in residuals) else None


def _apart(parts: list[tuple[torch.Tensor, int | None]], whole: torch.Tensor) -> Residual:
    dim = parts[0][1]
    found = parts[0][0] if dim is None else torch.cat([part for part, _ in parts], dim=dim)
    if found.shape != whole.shape:
        return Residual(float("inf"))
    return compare(found, whole, "", tolerance=1e-6, floor=FLOOR)


def answers_of(figures: Figures, case: RanksCase) -> list[dict[str, tuple[torch.Tensor, int | None]]]:
    """Return what each rank says; raises like ``of_ranks``."""
    try:
        found: list[Answer] = on_ranks(
            case.ranks, answer, figures, case.sent(), timeout=TIMEOUT, grace=GRACE, files=case.files()
        )
    except RanksFailure as failure:
        raise LostRanks(_told(failure.texts)) from failure
    errors = {f"{kind}: {text}" for _, kind, text in found}
    if errors == {": "}:
        return [answer for answer, _, _ in found]
    kinds = {kind for _, kind, _ in found}
    if len(errors) == 1 and kinds == {UnsupportedError.__name__}:
        raise NotApplicable(f"it is refused where ranks share trials: {found[0][2]}")
    if len(errors) == 1 and kinds == {CheckFailure.__name__}:
        raise CheckFailure(found[0][2])
    told = [
        f"rank {rank} {f'raised {kind}: {text}' if kind else 'raised nothing'}"
        for rank, (_, kind, text) in enumerate(found)
    ]
    if len(errors) == 1:
        told = [f"all ranks raised {found[0][1]}: {found[0][2]}"]
    raise CheckFailure(f"{'; '.join(told)}; one process raises nothing")


class LostRanks(CheckFailure):
    """A rank failed for itself, so that the others waited in vain; not looked for in smaller cases."""


def _told(texts: dict[int, str]) -> str:
    """Return which rank failed, and in what; and where the others were."""
    order = sorted(texts, key=lambda rank: (texts[rank].startswith("still at work"), rank))
    parts = []
    for place, rank in enumerate(order):
        lines = texts[rank].rstrip().splitlines()
        late = lines[0].startswith("still at work")
        if late:
            where = next((line.strip() for line in lines[2:] if "torch" not in line), "")
            waited = "waited for it" if place else f"gave no answer within {TIMEOUT} s"
            parts.append(f"rank {rank} {waited}{f' ({where})' if where else ''}")
        else:
            parts.append(f"rank {rank} failed: {lines[-1]}" + (_frames(lines) if place == 0 else ""))
    return "; ".join(parts)


def _frames(lines: list[str]) -> str:
    """Return the innermost lines of a traceback, below one another."""
    kept = [line for line in lines[:-1] if line.startswith("  ") and line.strip("~^ ")]
    return "".join(f"\n    {line.strip()}" for line in kept[-LINES:]) + ("\n  " if kept else "")


def answer(group: Any, figures: Figures, case: RanksCase) -> Answer:
    """Return the figures of a rank; runs there."""
    from torch import distributed

    view = View(case, distributed.get_rank(group), group)
    try:
        with seeded(case.flow.seed):
            found = {f.name: (f.value.detach().clone(), f.trials) for f in figures(view)}
    except KpframeError as error:  # of all ranks, where it is as it should be
        return {}, type(error).__name__, say(error)
    return found, "", ""


def _joined(what: str, parts: list[tuple[torch.Tensor, int | None]]) -> torch.Tensor:
    """Return a figure of all trials from those of ranks; what all have must be the same bits."""
    first, dim = parts[0]
    if dim is not None:
        return torch.cat([part for part, _ in parts], dim=dim)
    for rank, (part, _) in enumerate(parts):
        if part.shape != first.shape or part.dtype != first.dtype or not _same_bits(part, first):
            raise CheckFailure(
                f"{what}: expected the same on all ranks, got another one on rank {rank} than on rank 0 "
                f"(difference {_difference(part, first):.2g})"
            )
    return first


def _same_bits(one: torch.Tensor, other: torch.Tensor) -> bool:
    return torch.equal(torch.nan_to_num(one), torch.nan_to_num(other))


def _difference(one: torch.Tensor, other: torch.Tensor) -> float:
    return float((one - other).abs().max()) if one.shape == other.shape and one.numel() else float("inf")


class Collectives(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what this process gives to others meanwhile, however it is asked for.

    Attributes:
        found: each collective's name and how many numbers it has.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.found: list[tuple[str, int]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace in ("c10d", "_c10d_functional"):
            name = func._schema.name.rpartition("::")[2].strip("_")
            self.found.append((name, sum(map(_numbers, args))))
        return func(*args, **(kwargs or {}))


def _numbers(value: object) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel()
    return sum(map(_numbers, value)) if isinstance(value, list | tuple) else 0
