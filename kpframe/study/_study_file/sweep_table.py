"""Read ``[sweep]``: the settings that a study varies, each value checked where it will stand."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from numbers import Real
from typing import Any

from attrs import frozen

from kpframe.errors import ArgumentError, SettingsError, closest, mismatch, shown
from kpframe.plugin import Spec
from kpframe.study._record import SHARED
from kpframe.study._settings import SweepAxis
from kpframe.study._study_file.blocks import Block, lines_of
from kpframe.study._study_file.sweep import TASK, Place, parse_task, place_of

#: Names of dimensions and variables that a sweep cannot take.
RESERVED = (
    *SHARED,
    *("network", "trained_by", "seed", "cell", "quantity", "update", "k", "mode"),
    *("failure", "training_loss", "outcome", "stopped_at", "reason"),
)

#: Finds what has a name, of a part of a study and at a path; None, and a problem told, for none.
Find = Callable[[str, str, str], Spec | None]


@frozen
class Axis:
    """An axis of a sweep, as it is read: where it stands, where it leads, and the values as given."""

    key: str
    axis: SweepAxis
    place: Place
    given: tuple[Any, ...]

    def at(self, index: int) -> str:
        """Return the path of a value."""
        return f"{self.key}[{index}]"


def read_sweep(
    table: Any, networks: Sequence[str], rules: Sequence[str], problems: list[str]
) -> tuple[Axis, ...]:
    """Return the axes of a sweep; what is wrong goes to ``problems``.

    Args:
        table: path -> values, or name of a dimension -> {path, values}; or a list of {name, path, values}.
        networks, rules: the labels that there are.
        problems: lines, extended.
    """
    found: list[Axis] = []
    for key, name, path, values in _entries(table, problems):
        before = len(problems)
        try:
            place = place_of(path, networks, rules)
        except SettingsError as error:
            problems.extend(lines_of(error, key))
            continue
        name = (place.setting or path) if name is None else name
        own = _values(values, key, problems)
        if not name.isidentifier() or name in RESERVED:
            expected = "a name of letters, digits and _ for the dimension"
            remedy = "" if "[" in key else f'; write [sweep.NAME] path = "{path}" values = [...]'
            got = f"{name!r}, which results have already" if name in RESERVED else repr(name)
            problems.append(mismatch(key, expected, got) + remedy)
        for other in found:
            if other.axis.name == name:
                remedy = f'; write [sweep.NAME] path = "{path}" values = [...]'
                problems.append(mismatch(key, "a dimension of its own", f"{name!r} again") + remedy)
            elif other.place.covers(place):
                problems.append(mismatch(key, "a setting of its own", f"that of {other.key} again"))
        if len(problems) == before:
            found.append(Axis(key, SweepAxis(name, path, own), place, tuple(values)))
    return tuple(found)


def _entries(table: Any, problems: list[str]) -> Iterator[tuple[str, str | None, str, Any]]:
    """Yield key, name of the dimension, path and values of each axis."""
    rows: list[tuple[str, Any]]
    if isinstance(table, Mapping):
        rows = [(f"sweep.{_quoted(key)}", (key, value)) for key, value in _flat(table)]
    elif isinstance(table, list | tuple):
        rows = [(f"sweep[{place}]", (None, row)) for place, row in enumerate(table)]
    else:
        problems.append(mismatch("sweep", "a table of settings and their values", shown(table)))
        return
    for where, (key, row) in rows:
        if key is not None and not isinstance(row, Mapping):
            yield where, None, key, row
            continue
        known = ("path", "values") if key is not None else ("name", "path", "values")
        if not isinstance(row, Mapping):
            problems.append(mismatch(where, f"a table of {', '.join(known)}", shown(row)))
            continue
        before = len(problems)
        for name in row:
            if name not in known:
                near = closest(str(name), known)
                problems.append(
                    f"{where}.{name}: expected one of {', '.join(known)}, got an unknown key{near}"
                )
        for name in known:
            if name not in row:
                problems.append(mismatch(f"{where}.{name}", "a value", "nothing (it is required)"))
            elif name != "values" and not isinstance(row[name], str):
                problems.append(mismatch(f"{where}.{name}", "text", shown(row[name])))
        if len(problems) == before:
            yield where, row.get("name", key), row["path"], row["values"]


def _flat(table: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the keys of a sweep; ``network.gain = [1, 2]`` without quotes is tables in each other."""
    for key, value in table.items():
        path = f"{above}{key}"
        if isinstance(value, Mapping) and not {"path", "values"} & set(value) and value:
            yield from _flat(value, f"{path}.")
        else:
            yield path, value


def _quoted(key: str) -> str:
    return key if key.replace("-", "_").isidentifier() else f'"{key}"'


def _values(values: Any, key: str, problems: list[str]) -> tuple[Any, ...]:
    """Return the values of an axis, all numbers of one kind."""
    if not isinstance(values, list | tuple) or not values:
        problems.append(mismatch(key, "a list of at least one value", shown(values)))
        return ()
    kinds = {"truth values" if isinstance(v, bool) else _kind(v) for v in values}
    if None in kinds or len(kinds) > 1:
        wrong = next((i for i, v in enumerate(values) if _kind(v) is None), None)
        at = key if wrong is None else f"{key}[{wrong}]"
        expected = "numbers alone, texts alone or truth values alone"
        got = shown(list(values)) if wrong is None else shown(values[wrong])
        problems.append(mismatch(at, expected, got))
        return ()
    for index, value in enumerate(values):
        if value in values[:index]:
            problems.append(
                mismatch(f"{key}[{index}]", f"another value than {key}[{values.index(value)}]", repr(value))
            )
    if any(isinstance(value, float) for value in values):
        return tuple(map(float, values))
    return tuple(values)


def _kind(value: Any) -> str | None:
    if isinstance(value, str):
        return "texts"
    return "numbers" if isinstance(value, Real) else None


def read_task(text: Any, key: str, find: Find, problems: list[str]) -> Block | None:
    """Return the table of a task that is given as text; None, and what is wrong in ``problems``."""
    if not isinstance(text, str):
        problems.append(mismatch(key, "a task as text, flip_flop(bits=2)", shown(text)))
        return None
    try:
        name, settings = parse_task(text)
    except ArgumentError as error:
        problems.extend(lines_of(error, key))
        return None
    return Block(key, TASK, settings, find(TASK, name, key), name, TASK)


def check_sweep(axes: Sequence[Axis], blocks: Sequence[Block], find: Find, problems: list[str]) -> None:
    """Check the settings of all blocks, with the first values of the sweep in them, and then each value."""
    for axis in axes:
        for index, text in enumerate(axis.given if axis.axis.path == TASK else ()):
            if (block := read_task(text, axis.at(index), find, problems)) is not None:
                problems += block.problems()
    first: dict[str, dict[str, Any]] = {block.path: {} for block in blocks}
    led: list[tuple[Axis, Block]] = []
    for axis in axes:
        own = [block for block in blocks if _leads(axis.place, block)]
        led += [(axis, block) for block in own]
        for block in own:
            first[block.path][axis.place.setting] = axis.given[0]
    for block in blocks:
        swept = tuple(f"{block.path}.{name}: " for name in first[block.path])
        problems += [line for line in block.problems(first[block.path]) if not line.startswith(swept)]
    for axis, block in led:
        setting, names = axis.place.setting, block.names
        if names is not None and setting not in names:
            remedy = closest(setting, names)
            having = [other.label for one, other in led if one is axis and setting in (other.names or ())]
            if having:
                remedy = f"; {axis.place.part}.{having[0]}.{setting} is that of {having[0]!r} alone"
            have = ", ".join(names) or "no settings"
            problems.append(
                f"{axis.key}: expected one of the settings of {block.what} ({have}), got {setting!r}{remedy}"
            )
            continue
        for index, value in enumerate(axis.given):
            at = axis.at(index)
            for line in block.problems({**first[block.path], setting: value}, at):
                one = f"{at}: {line.removeprefix(f'{at}.{setting}: ')}"
                if line.startswith(f"{at}.{setting}: ") and one not in problems:
                    problems.append(one)


def _leads(place: Place, block: Block) -> bool:
    if (place.part == "network" and place.setting == "reads") or not place.setting:
        return False
    return place.part == block.part and place.label in (None, block.label)
