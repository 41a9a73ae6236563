"""Whether what a study names is there: found out before anything is computed."""

from __future__ import annotations

from kpframe.errors import UnknownNameError
from kpframe.plugin import get_manager
from kpframe.plugin._discovery import normalized
from kpframe.study._config import StudySettings


def check_plugins(study: StudySettings) -> None:
    """Raise unless plugins offer the task, the networks and the rules of a study.

    Raises:
        UnknownNameError: naming the distributions to install, where the study says which it needs.
    """
    manager = get_manager()
    wanted = [
        ("task", study.task),
        *(("model", network.name) for network in study.networks),
        *(("rule", rule.name) for rule in study.rules),
    ]
    for kind, name in wanted:
        try:
            manager.find(kind, name)
        except UnknownNameError as error:
            installed = {normalized(info.distribution) for info in manager.plugins}
            missing = [name for name in study.plugins if normalized(name) not in installed]
            if not missing:  # they are disabled or broken, which the error says
                raise
            raise UnknownNameError(
                f"no {kind} {name!r}: this study needs {', '.join(missing)}, not installed here: "
                f"pip install {' '.join(missing)}"
            ) from error
