"""The steps at which a training is recorded: a list, or a rule that makes one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from kpframe.errors import SettingsError, as_whole, closest, mismatch
from kpframe.study._tracking.schedule import log_steps

#: Most steps that a rule makes.
MOST = 100_000
_FORMS = "a list such as [0, 10, 100], {every = 10}, {log = 12} or {count = 60}"


def steps_of(form: Any, last: int, path: str = "steps", training: str = "the training") -> tuple[int, ...]:
    """Return the steps that a study file asks for, ascending.

    Args:
        form: a list of steps; ``{"every": n}``, 0, every n-th and the last; ``{"log": n}``, n steps of equal
            ratios from 1 on, as far as whole numbers allow, 0 among them and the last; ``{"count": n}``, n
            steps of equal distance, 0 and the last among them.
        last: the number of updates.
        path: how messages call it.
        training: how messages call what has ``last`` updates.

    Raises:
        SettingsError: one line for each thing that is wrong.
    """
    if isinstance(form, Mapping):
        return _made(form, last, path)
    check_form(form, path)
    problems, steps = [], dict[int, int]()
    for place, value in enumerate(form):
        step, where = as_whole(value), f"{path}[{place}]"
        if step is None or not 0 <= step <= last:
            expected = f"a whole number from 0 to {last}, the last step of {training}"
            problems.append(mismatch(where, expected, repr(value)))
        elif step in steps:
            problems.append(mismatch(where, f"another step than {path}[{steps[step]}]", f"{step} again"))
        else:
            steps[step] = place
    if not form:
        problems.append(mismatch(path, "at least one step", "none"))
    if problems:
        raise SettingsError("\n".join(problems))
    return tuple(sorted(steps))


def check_form(form: Any, path: str) -> None:
    """Raise ``SettingsError`` for what is neither a list nor a table."""
    if not isinstance(form, list | tuple | Mapping):
        raise SettingsError(mismatch(path, _FORMS, repr(form)))


def _made(form: Mapping[str, Any], last: int, path: str) -> tuple[int, ...]:
    """Return the steps of a rule."""
    if len(form) != 1 or next(iter(form)) not in _RULES:
        near = closest(str(next(iter(form))), _RULES) if len(form) == 1 else ""
        raise SettingsError(mismatch(path, _FORMS, f"{{{', '.join(map(str, form))}}}{near}"))
    name, value = next(iter(form.items()))
    least, most, rule = _RULES[name]
    number = as_whole(value)
    if number is None or number < least or (most and number > last + 1):
        bounds = f"a whole number >= {least}"
        if most:
            bounds = f"a whole number from {least} to {last + 1}, the number of steps that there are"
        raise SettingsError(mismatch(f"{path}.{name}", bounds, repr(value)))
    if (made := last // number + 1 if name == "every" else number) > MOST:
        raise SettingsError(mismatch(f"{path}.{name}", f"at most {MOST} steps", made))
    return rule(number, last)


def _every(distance: int, last: int) -> tuple[int, ...]:
    return tuple(sorted({*range(0, last + 1, distance), last}))


def _count(count: int, last: int) -> tuple[int, ...]:
    return tuple((2 * place * last + count - 1) // (2 * (count - 1)) for place in range(count))


#: name: (the least number, whether there are at most as many as steps, what makes the steps)
_RULES: dict[str, tuple[int, bool, Callable[[int, int], tuple[int, ...]]]] = {
    "every": (1, False, _every),
    "log": (2, True, log_steps),
    "count": (2, True, _count),
}
