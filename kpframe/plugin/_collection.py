"""The plugins that a manager has read so far, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Self

from attrs import define, evolve, field

from kpframe.errors import PluginError, say
from kpframe.plugin._core import core
from kpframe.plugin._discovery import Copy
from kpframe.plugin._environment import Choice
from kpframe.plugin._isolated import interruptible
from kpframe.plugin._loading import LoadFailure, clashes, read_plugin, same_distribution
from kpframe.plugin._problems import clash, disabling, explain, installed_twice, named, shared_module
from kpframe.plugin._specs import PluginInfo, PluginProblem


@define
class Collection:
    """Plugins and their problems, in the order in which they came.

    Raises:
        PluginError: where the choice is strict, for each problem.
        KeyboardInterrupt: at Ctrl-C while a plugin is read, naming it.
    """

    choice: Choice
    plugins: list[PluginInfo] = field(factory=list)
    problems: list[PluginProblem] = field(factory=list)
    #: id of a plugin's module: the module, and the plugin that it was first read for
    owners: dict[int, tuple[object, PluginInfo]] = field(factory=dict)

    def copy(self) -> Self:
        """Return the same plugins and problems, to add to."""
        return evolve(
            self, plugins=list(self.plugins), problems=list(self.problems), owners=dict(self.owners)
        )

    def add(self, info: PluginInfo, load: Callable[[], object]) -> PluginInfo:
        """Read a plugin and return what there is to say about it."""
        found = info if info.status == "disabled" else self._read(info, load)
        self.plugins.append(found)
        if found.status == "loaded":
            for name, owners in clashes(found.specs, (core(), *self.plugins[:-1])):
                message, ways = clash(info, name, owners)
                self._explain(info, "clash", message, first=ways)
        return found

    def remove(self, info: PluginInfo, problems: Sequence[PluginProblem]) -> None:
        """Forget a plugin, and problems with it."""
        self.plugins = [other for other in self.plugins if other is not info]
        self.problems = [one for one in self.problems if not any(one is other for other in problems)]

    def check_once(self, info: PluginInfo, copies: Sequence[Copy]) -> None:
        """Report a plugin that is installed in several versions, once."""
        told = [problem.distribution for problem in self.problems if problem.stage == "twice"]
        if info.status != "disabled" and not _has(told, info.distribution):
            said = installed_twice(info, copies)
            if said:
                self._explain(info, "twice", said[0], first=said[1])

    def report(self, problem: PluginProblem, cause: BaseException | None = None) -> None:
        """Keep a problem; where the choice is strict, raise it."""
        if self.choice.strict:
            raise PluginError(str(problem)) from cause
        self.problems.append(problem)

    def _read(self, info: PluginInfo, load: Callable[[], object]) -> PluginInfo:
        others = (core(), *self.plugins)
        own = [other for other in others if same_distribution(other.distribution, info.distribution)]
        siblings = [spec for other in own for spec in other.specs]
        leaving_out = f"to leave it out: {disabling(info, self.choice.disabled)}"
        try:
            with interruptible(f"{named(info)} was loading; {leaving_out}"):
                plugin, specs = read_plugin(load, info.distribution, siblings)
        except LoadFailure as failure:
            self._explain(info, failure.stage, say(failure.error), cause=failure.error)
            return evolve(info, status="broken")
        owner = self.owners.setdefault(id(plugin), (plugin, info))[1] if info.entry_point else info
        if not same_distribution(owner.distribution, info.distribution):
            message, remedy = shared_module(info, owner)
            self._explain(info, "shared", message, first=remedy)
            return evolve(info, status="broken")
        return evolve(info, status="loaded", specs=specs)

    def _explain(
        self, info: PluginInfo, stage: str, message: str, first: str = "", cause: BaseException | None = None
    ) -> None:
        self.report(explain(info, stage, message, self.choice.disabled, first=first, cause=cause), cause)


def _has(names: Iterable[str], name: str) -> bool:
    return any(same_distribution(name, other) for other in names)
