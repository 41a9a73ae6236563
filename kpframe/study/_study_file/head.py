"""What stands above the tables of a study, title, seeds and such, and which values a study may hold."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from attrs import frozen

from kpframe.errors import as_whole, closest, mismatch, shown
from kpframe.study._disk.labels import label_problem
from kpframe.study._settings import NetworkSettings

#: Seeds are below it: random probes have a thousand numbers of their own for each.
MOST_SEEDS = 2**53
#: Trainings of a study at most, and threads of a torch operation.
MOST_CELLS, MOST_THREADS = 100_000, 1024
#: What ``[about]`` says.
ABOUT = ("question", "published")


@frozen
class Head:
    """The head of a study; an empty title where it has none."""

    title: str
    seeds: tuple[int, ...]
    dtype: str
    threads: int


def read_head(table: Mapping[str, Any], problems: list[str]) -> Head:
    """Return the head of a study; what is wrong goes to ``problems``."""
    title, dtype = table.get("title", ""), table.get("dtype", "float32")
    if "title" in table and (problem := label_problem(title)):
        problems.append(mismatch("title", problem, shown(title)))
    if dtype not in ("float32", "float64"):
        problems.append(mismatch("dtype", "'float32' or 'float64'", shown(dtype)))
    threads = as_whole(table.get("threads", 1))
    if threads is None or not 1 <= threads <= MOST_THREADS:
        problems.append(
            mismatch("threads", f"a whole number in [1, {MOST_THREADS}]", shown(table["threads"]))
        )
    return Head(str(title), _seeds(table, problems), str(dtype), threads or 1)


def read_about(table: Mapping[str, Any], problems: list[str]) -> dict[str, str]:
    """Return what ``[about]`` says of a study, by its keys; what is wrong goes to ``problems``."""
    about, found = table.get("about", {}), {}
    if not isinstance(about, Mapping):
        problems.append(mismatch("about", "a table [about]", shown(about)))
        return {}
    for key, value in about.items():
        if key not in ABOUT:
            near = closest(str(key), ABOUT)
            problems.append(mismatch(f"about.{key}", " or ".join(ABOUT), f"an unknown name{near}"))
        elif not isinstance(value, str) or not value.strip():
            problems.append(mismatch(f"about.{key}", "text", shown(value)))
        else:
            found[key] = " ".join(value.split())
    return found


def _seeds(table: Mapping[str, Any], problems: list[str]) -> tuple[int, ...]:
    first, more = table.get("seed", 0), table.get("seeds", 1)
    bounds = "a whole number in [0, 2**53)"
    if isinstance(more, list | tuple):
        if "seed" in table:
            problems.append(mismatch("seed", "nothing beside a list of seeds", shown(first)))
        if not more:
            problems.append(mismatch("seeds", "at least one seed", "none"))
        for place, seed in enumerate(more):
            if not _is_seed(seed):
                problems.append(mismatch(f"seeds[{place}]", bounds, shown(seed)))
            elif seed in more[:place]:
                problems.append(
                    mismatch(f"seeds[{place}]", "another seed than those before", f"{seed} again")
                )
        return tuple(seed for seed in more if _is_seed(seed))
    count = as_whole(more)
    if count is None or not 1 <= count <= MOST_CELLS:
        expected = f"how many (1 to {MOST_CELLS}), or a list of seeds"
        problems.append(mismatch("seeds", expected, shown(more)))
    elif not _is_seed(first) or not _is_seed(first + count - 1):
        problems.append(mismatch("seed", bounds, shown(first)))
    else:
        return tuple(range(first, first + count))
    return ()


def _is_seed(value: Any) -> bool:
    number = as_whole(value)
    return number is not None and 0 <= number < MOST_SEEDS


def seed_problems(seeds: Sequence[int], networks: Sequence[NetworkSettings]) -> list[str]:
    """Return what is wrong with networks whose weights have a seed of their own, where there are several."""
    if len(seeds) < 2:
        return []
    expected = "none where the study has several seeds, each of which draws initial weights of its own"
    return [
        mismatch(f"network[{place}].seed", expected, one.settings["seed"])
        for place, one in enumerate(networks)
        if one.settings.get("seed") is not None
    ]


def plain_problems(table: Mapping[str, Any]) -> list[str]:
    """Return what in a study neither JSON nor a comparison of two studies can hold: dates, and nan."""
    problems = []
    for path, value in _leaves(table):
        if value is not None and not isinstance(value, bool | int | float | str):
            problems.append(mismatch(path, "a number, text, a list or a table", shown(value)))
        elif isinstance(value, float) and math.isnan(value):
            problems.append(mismatch(path, "a number", "nan"))
    return problems


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Yield all plain values of a table with their paths."""
    if isinstance(value, Mapping):
        for key, part in value.items():
            yield from _leaves(part, f"{path}.{key}" if path else str(key))
    elif isinstance(value, list | tuple):
        for place, part in enumerate(value):
            yield from _leaves(part, f"{path}[{place}]")
    else:
        yield path, value
