"""Labels of networks and rules: any readable text, and a short name for files that follows from it."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from hashlib import sha256

from kpframe.errors import SettingsError, mismatch

#: Most characters of a label that a file's name keeps.
LENGTH = 60


def check_labels(labels: Iterable[str], owner: str) -> None:
    """Raise ``SettingsError`` for labels that are given twice, blank, or hold what cannot be shown."""
    seen = list(labels)
    for label in seen:
        if problem := label_problem(label):
            raise SettingsError(mismatch(f"{owner}: label", problem, repr(label)))
    if twice := [label for label, count in Counter(seen).items() if count > 1]:
        raise SettingsError(
            mismatch(f"{owner}: label", "another one for each", f"{twice[0]!r} more than once")
        )


def label_problem(label: object) -> str:
    """Return what was expected of a label that cannot be shown; empty for one that can."""
    good = isinstance(label, str) and label.strip() and label.isprintable()
    return "" if good else "printable text on one line"


def file_names(labels: Iterable[str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Return a name for the file of each label: letters, digits and ``_.=-``, at most 69 of them.

    A label that is no such name, or is another's or one that is ``taken`` but for upper and lower case, gets
    a mark of its own at the end. It depends on the label alone, so that runs of more rules keep their names.
    """
    return marked_names({label: label for label in labels}, taken)


def marked_names(texts: Mapping[str, str], taken: Iterable[str] = ()) -> dict[str, str]:
    """Return the same as ``file_names`` for things that have a readable text.

    Args:
        texts: what identifies a thing, from which its mark follows -> the text.
        taken: names that others have.
    """
    found = {identity: _plain(text) for identity, text in texts.items()}
    used = Counter(name.casefold() for name in (*found.values(), *taken))
    return {
        identity: name
        if name == texts[identity] and used[name.casefold()] == 1
        else f"{name}-{_mark(identity)}"
        for identity, name in found.items()
    }


def _plain(label: str) -> str:
    return re.sub(r"[^A-Za-z0-9_.=-]+", "-", label)[:LENGTH].strip("-.") or "label"


def _mark(label: str) -> str:
    return sha256(label.encode("utf-8", errors="surrogatepass")).hexdigest()[:8]
