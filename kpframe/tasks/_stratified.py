"""Fixed batches that hold each class, and each sub-task, as evenly as their number allows."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Hashable, Sequence

import numpy as np
import torch
from attrs import frozen

from kpframe.tasks._task import Split, Task, Trials

#: How many times as many trials are looked through for the classes of a task that has no end of trials.
POOL = 16


@frozen(eq=False)
class Batch:
    """Fixed trials, and what they hold, in words: ``"30 test trials, 3 of each of 10 classes"``."""

    trials: Trials
    text: str


def stratified(
    task: Task, count: int, *, generator: int, split: Split, dtype: torch.dtype | None = None
) -> Batch:
    """Return ``count`` trials of a split with as many of one class as of another, where there are classes.

    Classes are those of a task's ``"cross_entropy"``: the target at a trial's last scored step. Sub-tasks are
    told by the trials' coordinates that are text, such as ``task`` or ``context``. Numbers of trials differ
    by one at most between classes, and so they do between sub-tasks, but where a split has no more of one.
    With fewer trials than classes each is of another class. The trials are the first ones of each class in
    the order in which the task draws them. Where a plain draw is as even already, and where there is neither
    class nor sub-task, it is ``task.sample(count, ...)``, bit for bit.

    Args:
        task: the source of trials.
        count: number of trials.
        generator: a seed; with the task it says all that is drawn.
        split: ``"train"`` or ``"test"``.
        dtype: as of ``sample``.

    Raises:
        ArgumentError: as ``sample``.
    """
    plain = task.sample(count, generator=generator, split=split, dtype=dtype)
    names = _names(task, plain)
    if not names:
        return Batch(plain, _text(split, plain.num_trials, {}, {}))
    whole = task.num_trials(split)
    size = POOL * count if whole is None else whole
    drawn = task.sample(size, generator=generator, split=split, dtype=dtype)
    pool = {name: values for name in names if _tells_apart(values := _strata(name, drawn))}
    if not pool:
        return Batch(plain, _text(split, count, {}, {}))
    chosen = _evenly(list(zip(*pool.values(), strict=True)), count)
    own = {name: [values[place] for place in chosen] for name, values in pool.items()}
    there = {name: _strata(name, plain) for name in pool}
    if all(_sizes(there[name]) == _sizes(own[name]) for name in pool):
        return Batch(plain, _text(split, count, there, pool))
    return Batch(drawn.select(np.array(chosen)), _text(split, count, own, pool))


def _names(task: Task, trials: Trials) -> list[str]:
    """Return what trials are told apart by: ``"class"`` first, then coordinates that are text."""
    texts = [
        name
        for name, values in trials.trial.items()
        if all(isinstance(value, str) for value in np.asarray(values).tolist())
    ]
    return ["class"] * (task.loss == "cross_entropy") + texts


def _strata(name: str, trials: Trials) -> list[Hashable]:
    """Return to which class or sub-task each trial belongs; -1 is that of trials of no class."""
    if name == "class":
        steps = torch.arange(trials.scored.shape[1])
        last = torch.where(trials.scored.cpu(), steps, -1).amax(dim=1)
        found = trials.targets.cpu().gather(1, last.clamp(min=0)[:, None])[:, 0]
        found = torch.where(last < 0, -1, found)
        return [*found.tolist()]
    return [*np.asarray(trials.trial[name]).tolist()]


def _tells_apart(values: Sequence[Hashable]) -> bool:
    """Return whether these are classes: several, and not names of single trials."""
    return 1 < len(set(values)) <= max(2, len(values) // 2)


def _evenly(strata: Sequence[tuple[Hashable, ...]], count: int) -> list[int]:
    """Return the places of ``count`` of the trials, ascending: each the first of what is fewest so far."""
    waiting: dict[tuple[Hashable, ...], deque[int]] = {}
    for place, stratum in enumerate(strata):
        waiting.setdefault(stratum, deque()).append(place)
    parts: Counter[tuple[int, Hashable]] = Counter()  # (which name, value) -> trials taken
    wholes: Counter[tuple[Hashable, ...]] = Counter()

    def order(stratum: tuple[Hashable, ...]) -> tuple[int, ...]:
        return *(parts[part] for part in enumerate(stratum)), wholes[stratum], waiting[stratum][0]

    chosen: list[int] = []
    while len(chosen) < count:
        stratum = min(waiting, key=order)
        chosen.append(waiting[stratum].popleft())
        parts.update(enumerate(stratum))
        wholes[stratum] += 1
        if not waiting[stratum]:
            del waiting[stratum]
    return sorted(chosen)


def _sizes(values: Sequence[Hashable]) -> list[int]:
    return sorted(Counter(values).values())


def _text(
    split: Split,
    count: int,
    own: dict[str, list[Hashable]],
    pool: dict[str, list[Hashable]],
) -> str:
    """Return what a batch holds, in words."""
    said = [f"{count} {split} trial{'s' if count > 1 else ''}"]
    for name, values in own.items():
        sizes, every = _sizes(values), len(set(pool[name]))
        each = str(sizes[0]) if sizes[0] == sizes[-1] else f"{sizes[0]} to {sizes[-1]}"
        some = f"{len(sizes)} of the {every}" if len(sizes) < every else f"each of {every}"
        said.append(f"{each} of {some} {'classes' if name == 'class' else f'values of {name}'}")
    return ", ".join(said)
