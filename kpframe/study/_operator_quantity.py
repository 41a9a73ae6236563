"""``OperatorQuantity``: one that is measured of each operator by itself, in any order and several at once."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import xarray as xr
from attrs import field, frozen

from kpframe.operators._base import Operator
from kpframe.spectra._numerics.probes import drawn_once
from kpframe.study._moment import Moment
from kpframe.study._quantity import Quantity
from kpframe.study._remembered import Remembered
from kpframe.study._workers import side_by_side, workers

#: Scans and the like in a product with each symbol, of P those of one; Phi is P K P*.
_COSTS = {"K": 2, "Phi": 4, "G": 2}


class OperatorQuantity(Quantity):
    """A quantity that is found of each operator by itself, and put together afterwards.

    What is found of one operator depends on nothing that is found of another, so that several quantities of
    several operators are found at once; see ``found_of``.
    """

    def among(self, moment: Moment) -> Mapping[str, Operator]:
        """Return the operators, by the names of those that are measured."""
        return moment.operators

    @abstractmethod
    def of(self, moment: Moment, place: int, operator: Operator) -> Any:
        """Return what is found of an operator.

        Args:
            moment: shared with other threads, and left as it is.
            place: of the operator among those that are measured.
            operator: in turn with other quantities that are given the same one.
        """

    @abstractmethod
    def together(self, moment: Moment, found: Sequence[Any]) -> xr.Dataset:
        """Return the data from what was found of each operator."""

    def measure(self, moment: Moment) -> xr.Dataset:
        """Return the data."""
        (found,) = found_of([(self, moment)])
        return found()


@frozen(eq=False)
class Found:
    """What was found of each operator for a quantity at a moment, or the error that it ended in."""

    quantity: OperatorQuantity
    moment: Moment
    parts: dict[int, Any] = field(factory=dict)
    errors: dict[int, Exception] = field(factory=dict)

    def __call__(self) -> xr.Dataset:
        """Return the quantity's data; raises the error of the first operator that has one."""
        if self.errors:
            raise self.errors[min(self.errors)]
        return self.quantity.together(self.moment, [self.parts[place] for place in sorted(self.parts)])

    def find(self, place: int, operator: Operator) -> None:
        """Find it of an operator; on several ranks an error is raised at once."""
        try:
            self.parts[place] = self.quantity.of(self.moment, place, operator)
        except Exception as error:  # it costs this quantity its own figures
            if self.moment.group is not None:
                raise  # ranks go on together: the next operator's products would meet those of this one
            self.errors[place] = error


def found_of(wanted: Sequence[tuple[OperatorQuantity, Moment]]) -> list[Found]:
    """Return what quantities find of operators, several at once where there are threads for it.

    Quantities that share an operator, whose products are remembered, have it one after the other in the order
    given. So figures and products do not depend on how many threads there are; see ``side_by_side``.
    """
    found = [Found(quantity, moment) for quantity, moment in wanted]
    queues: dict[object, list[tuple[Found, int, Operator]]] = {}
    costs: dict[object, int] = {}
    devices: set[str] = set()
    for number, one in enumerate(found):
        try:
            operators = one.quantity.among(one.moment)
        except Exception as error:
            one.errors[0] = error
            continue
        for place, (name, operator) in enumerate(operators.items()):
            key = id(operator) if isinstance(operator, Remembered) else (number, place)
            queues.setdefault(key, []).append((one, place, operator))
            costs[key] = sum(_COSTS.get(symbol.removesuffix("*"), 1) for symbol in name.split())
            devices.add(operator.device.type)

    def work(queue: list[tuple[Found, int, Operator]]) -> None:
        while queue:
            one, place, operator = queue.pop(0)  # what an operator remembers is let go
            one.find(place, operator)

    in_order = list(costs.values())
    longest_first = sorted(range(len(in_order)), key=lambda task: -in_order[task])
    tasks = [partial(work, queue) for queue in queues.values()]
    # ranks meet in one order
    in_turn = devices != {"cpu"} or any(moment.group is not None for _, moment in wanted)
    with drawn_once():
        side_by_side(tasks, 1 if in_turn else workers(), longest_first)
    return found
