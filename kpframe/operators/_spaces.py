"""Named axes and shapes.

A ``Space`` is an ordered set of named axes. Three are used everywhere: the state space
``(batch, time, hidden)``, the parameter space ``(parameter,)`` and the output space
``(batch, time, output)``. An axis may be laid out in named ``Part`` s: the components of a state
(``h`` and ``c`` of an LSTM) or the parameters of a model (``weight_hh_l0`` ...).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, TypeVar

from attrs import evolve, field, frozen

from kpframe.errors import (
    ArgumentError,
    AxisError,
    DeviceError,
    DtypeError,
    ShapeError,
    closest,
    mismatch,
    shown,
    whole,
)

if TYPE_CHECKING:
    import torch

    from kpframe.operators._shards import Shards

T = TypeVar("T")

#: Names of the axes that are used everywhere.
BATCH, TIME, HIDDEN, PARAMETER, OUTPUT = "batch", "time", "hidden", "parameter", "output"


@frozen
class Part:
    """A slice ``start:stop`` of an axis, called ``name``, that holds an array of ``shape``, row-major.

    A parameter that a model shares between places has further names there, ``aliases``; each of its names
    means the one parameter, all of it.
    """

    name: str
    start: int
    shape: tuple[int, ...]
    aliases: tuple[str, ...] = field(default=(), eq=False)

    @property
    def size(self) -> int:
        """Number of entries."""
        return math.prod(self.shape)

    @property
    def slice(self) -> slice:
        """Where the part lies on its axis."""
        return slice(self.start, self.start + self.size)

    @property
    def names(self) -> tuple[str, ...]:
        """Its name and its aliases."""
        return (self.name, *self.aliases)


@frozen
class Axis:
    """A named axis of ``size`` entries, laid out in ``parts`` (none: the axis has no inner names).

    Where its entries are sharded over ranks, ``size`` counts this rank's own, and ``shards`` says all. Raises
    ``AxisError`` for a ``name`` that is no string, and a ``size`` that is no whole number.
    """

    name: str
    size: int
    parts: tuple[Part, ...] = ()
    shards: Shards | None = None

    def __attrs_post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise AxisError(mismatch("name of an axis", "a string", shown(self.name)))
        size = whole(self.size, f"size of axis {self.name!r}", 0, error=AxisError)
        object.__setattr__(self, "size", size)

    @classmethod
    def of_parts(
        cls, name: str, shapes: Mapping[str, tuple[int, ...]], aliases: Mapping[str, str] | None = None
    ) -> Axis:
        """Return the axis ``name`` on which arrays of the given ``shapes`` lie one after the other.

        ``aliases`` are further names -> names of arrays. Raises ``AxisError`` for a size that is none.
        """
        others: dict[str, tuple[str, ...]] = {}
        for alias, part in (aliases or {}).items():
            others[part] = (*others.get(part, ()), alias)
        parts: list[Part] = []
        start = 0
        for part, shape in shapes.items():
            sizes = tuple(whole(size, f"size of {part!r}", 0, error=AxisError) for size in shape)
            parts.append(Part(part, start, sizes, others.get(part, ())))
            start += parts[-1].size
        return cls(name, start, tuple(parts))

    def part(self, name: str) -> Part:
        """Return the part called ``name``, an alias too; raises ``AxisError`` when there is none."""
        for part in self.parts:
            if name in part.names:
                return part
        known = [own for part in self.parts for own in part.names]
        have = ", ".join(known) if known else "no named parts"
        raise AxisError(f"axis {self.name!r} has no part {name!r} (it has {have}){closest(name, known)}")

    @property
    def total(self) -> int:
        """Number of entries on all ranks; ``size`` where the axis is not sharded."""
        return self.size if self.shards is None else self.shards.total

    @property
    def largest(self) -> int:
        """The most entries that any rank holds; ``size`` where the axis is not sharded."""
        return self.size if self.shards is None else max(self.shards.counts)

    def __str__(self) -> str:
        if self.shards is None:
            return f"{self.name}={self.size}"
        ranks = f"{self.shards.ranks} rank{'s' if self.shards.ranks > 1 else ''}"
        return f"{self.name}={self.size} of {self.total} on {ranks}"


@frozen
class Space:
    """An ordered set of named ``axes``; tensors in it have these as their last dimensions.

    Dimensions in front of the space's own are *probes*: independent vectors that are carried through
    every product in one batched call. Raises ``AxisError`` for two axes of one name or two that are sharded.

    Examples:
        >>> import kpframe
        >>> space = kpframe.Space.of(batch=2, time=5, hidden=3)
        >>> print(space)
        batch=2, time=5, hidden=3
        >>> space.without("time").shape, space.dim("time")
        ((2, 3), -2)
    """

    axes: tuple[Axis, ...]

    def __attrs_post_init__(self) -> None:
        names = [axis.name for axis in self.axes]
        for name in names:
            if names.count(name) > 1:
                raise AxisError(f"axis {name!r} appears {names.count(name)} times in one space")
        sharded = [axis.name for axis in self.axes if axis.shards is not None]
        if len(sharded) > 1:
            raise AxisError(mismatch("space", "one axis sharded over ranks", " and ".join(sharded)))

    @classmethod
    def of(cls, **sizes: int) -> Space:
        """Return the space with axes of these ``sizes``: ``Space.of(batch=2, time=5, hidden=3)``."""
        return cls(tuple(Axis(name, size) for name, size in sizes.items()))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The axes' names, in order."""
        return tuple(axis.name for axis in self.axes)

    @cached_property
    def shape(self) -> tuple[int, ...]:
        """The axes' sizes, in order."""
        return tuple(axis.size for axis in self.axes)

    @cached_property
    def size(self) -> int:
        """The number of entries of a vector here: the product of the sizes."""
        return math.prod(self.shape)

    @cached_property
    def shards(self) -> Shards | None:
        """How the space is sharded over ranks, None where each rank has all of it."""
        return next((axis.shards for axis in self.axes if axis.shards is not None), None)

    @cached_property
    def dimension(self) -> int:
        """The dimension of the space on all ranks together; ``size`` where it is not sharded."""
        return math.prod(axis.total for axis in self.axes)

    @cached_property
    def largest(self) -> int:
        """The most entries that any rank holds of a vector; ``size`` where the space is not sharded."""
        return math.prod(axis.largest for axis in self.axes)

    def sum(self, local: torch.Tensor) -> torch.Tensor:
        """Return the sum over ranks of ``local``, of any shape; as it is where the space is not sharded."""
        return local if self.shards is None else self.shards.sum(local)

    def start_sum(self, local: torch.Tensor) -> Callable[[], torch.Tensor]:
        """Start what ``sum`` does with ``local``, of any shape; returns what waits for it."""
        return (lambda: local) if self.shards is None else self.shards.start_sum(local)

    def max(self, local: torch.Tensor) -> torch.Tensor:
        """Return the entrywise maximum over ranks of ``local``, of any shape; as it is where not sharded."""
        return local if self.shards is None else self.shards.max(local)

    def any(self, value: bool) -> bool:
        """Return whether ``value`` is true on any rank."""
        return value if self.shards is None else self.shards.any(value)

    def agree(self, what: str, value: object) -> None:
        """Raise ``RankError`` on every rank unless ``value`` is the same on all; ``what`` names it."""
        if self.shards is not None:
            self.shards.agree(what, value)

    def together(self, work: Callable[[], T]) -> T:
        """Return what ``work()`` returns, unless it raises on any rank: then an error on every rank.

        For checks of what a rank's own trials are like; ranks go on together only if none stops. The work
        itself asks for no product that ranks make together.
        """
        return work() if self.shards is None else self.shards.together(work)

    def inner(self, first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:  # [j, n], [k, n] -> [j, k]
        """Return the inner products of ``first`` ``[j, n]`` and ``second`` ``[k, n]``, over all ranks."""
        return self.sum(first @ second.mT)

    def norms(self, rows: torch.Tensor) -> torch.Tensor:  # [k, n] -> [k]
        """Return the lengths ``[k]`` of flattened vectors ``rows`` ``[k, size]``, over all ranks."""
        if self.shards is None:
            norms: torch.Tensor = rows.norm(dim=1)
            return norms
        scale = self.shards.max(rows.abs().amax(1) if rows.shape[1] else rows.new_zeros(len(rows)))
        safe = scale.clamp(min=1e-300 if rows.itemsize == 8 else 1e-37)  # rows of zeros
        return safe * self.shards.sum((rows / safe[:, None]).square().sum(1)).sqrt()

    def __contains__(self, name: object) -> bool:
        return name in self.names

    def __getitem__(self, name: str) -> Axis:
        return self.axes[self.position(name)]

    def position(self, name: str) -> int:
        """Return the place of the axis called ``name``, from 0; raises ``AxisError`` for an unknown one."""
        if not isinstance(name, str):
            raise AxisError(
                f"axis: expected a name, one of {', '.join(self.names)}, got {name!r} "
                f"({type(name).__name__}); axes are always named"
            )
        if name not in self.names:
            raise AxisError(
                f"axis: expected one of {', '.join(self.names) or '(no axes)'}, got {name!r}"
                f"{closest(name, self.names)}"
            )
        return self.names.index(name)

    def dim(self, name: str) -> int:
        """Return the axis ``name`` as a negative tensor dimension, which probes do not shift."""
        return self.position(name) - len(self.axes)

    def without(self, *names: str) -> Space:
        """Return the space that is left when the axes ``names`` are gone; raises ``AxisError``."""
        dropped = {self.position(name) for name in names}
        return Space(tuple(axis for place, axis in enumerate(self.axes) if place not in dropped))

    def replace(self, name: str, axis: Axis) -> Space:
        """Return the space with ``axis`` in the place of the axis called ``name``."""
        place = self.position(name)
        return evolve(self, axes=(*self.axes[:place], axis, *self.axes[place + 1 :]))

    def check(
        self,
        tensor: torch.Tensor,
        argument: str,
        *,
        dtype: torch.dtype | None = None,
        device: torch.device | None = None,
    ) -> None:
        """Raise unless ``tensor`` is ``[..., *space]``, has ``dtype`` and lives on ``device`` (None: any).

        Raises:
            ShapeError, DtypeError, DeviceError: naming ``argument``, what was expected and what came.
        """
        check_tensor(tensor, argument)
        shape = tensor.shape
        own = tuple(shape[len(shape) - len(self.axes) :]) if len(shape) >= len(self.axes) else None
        if own != self.shape:
            raise ShapeError(mismatch(argument, f"shape [..., {self}]", f"shape {list(shape)}"))
        if dtype is not None and tensor.dtype != dtype:
            raise DtypeError(mismatch(argument, f"dtype {dtype}", f"{tensor.dtype} (nothing is cast)"))
        if device is not None and tensor.device != device:
            raise DeviceError(mismatch(argument, f"device {device}", f"{tensor.device} (nothing is moved)"))

    def __str__(self) -> str:
        return ", ".join(str(axis) for axis in self.axes)


def unflatten(rows: torch.Tensor, probes: torch.Size, space: Space) -> torch.Tensor:
    """Return flat vectors ``[*probes, n]`` of a space as ``[*probes, *space]``."""
    if len(space.axes) == 1:
        return rows
    # sizes one by one are faster than a tuple of them, but reshape does not take none at all
    return rows.reshape(*probes, *space.shape) if space.axes else rows.squeeze(-1)


def places_of(index: torch.Tensor, sizes: Sequence[int]) -> tuple[torch.Tensor, ...]:  # int64
    """Return the place along each axis of entries by their number in row-major order.

    As ``torch.unravel_index``, which imports sympy to check its arguments.
    """
    places = []
    for size in reversed(sizes):
        places.append(index % size)
        index = index // size
    return tuple(reversed(places))


def check_tensor(value: object, argument: str, *, swapped: str = "") -> None:
    """Raise ``ShapeError`` unless ``value`` is a tensor, with a remedy.

    ``swapped`` says how the arguments go where a space is the likely mistake.
    """
    if hasattr(value, "requires_grad"):  # torch is not imported here
        return
    kind = type(value)
    text = kind.__name__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    if isinstance(value, Space):
        remedy = f"; {swapped}" if swapped else ""
    else:
        remedy = "; torch.as_tensor makes one of it" if hasattr(value, "__array__") else ""
    raise ShapeError(mismatch(argument, "a torch.Tensor", text) + remedy)


def check_space(value: object, argument: str) -> None:
    """Raise ``ArgumentError`` unless ``value`` is a space, with a remedy."""
    if not isinstance(value, Space):
        raise ArgumentError(mismatch(argument, "a Space", shown(value)) + "; Space.of(hidden=3) makes one")


def tell_apart(first: Space, second: Space) -> tuple[str, str]:
    """Return two spaces as text, with the parts of their axes where the sizes alone look the same."""
    if first == second or str(first) != str(second):
        return str(first), str(second)
    one, other = (
        ", ".join(
            f"{axis} [{', '.join(part.name for part in axis.parts) or 'no parts'}]" for axis in space.axes
        )
        for space in (first, second)
    )
    return one, other


def why_apart(first: Space, second: Space) -> str:
    """Return how two spaces differ in how they are sharded, for the end of a message; empty where not."""
    one, other = first.shards, second.shards
    if one == other:
        return ""
    if one is None or other is None:
        ranks = max(0 if shards is None else shards.ranks for shards in (one, other))
        return (
            f"; {BATCH} is sharded over {ranks} ranks in one and not in the other: linearize both with "
            f"group=, or reduce over {BATCH} first (mean, sum, select({BATCH}=0))"
        )
    if one.group is not other.group:
        return f"; {BATCH} is sharded over two groups of ranks: linearize both with one group"
    shares = " and ".join(" + ".join(map(str, shards.counts)) for shards in (one, other))
    return f"; {BATCH} is sharded over {one.ranks} ranks in shares of {shares}: each rank holds other trials"


def check_axes(names: Iterable[str], *spaces: Space) -> tuple[str, ...]:
    """Return ``names`` as a tuple after checking that each is an axis of at least one of ``spaces``.

    Raises:
        AxisError: for an integer, an unknown or a repeated axis, or when no axis is named.
    """
    chosen = tuple(names)
    if not chosen:
        raise AxisError(f"axes: expected at least one of {', '.join(spaces[0].names)}, got none")
    for name in chosen:
        if chosen.count(name) > 1:
            raise AxisError(f"axes: {name!r} is named {chosen.count(name)} times")
        if not any(name in space for space in spaces if isinstance(name, str)):
            spaces[0].position(name)  # raises with the full message
    return chosen


def state_space(batch: int, time: int, components: Mapping[str, int]) -> Space:
    """Return ``(batch, time, hidden)``, on ``hidden`` the state's named ``components`` of their widths."""
    hidden = Axis.of_parts(HIDDEN, {name: (width,) for name, width in components.items()})
    return Space((Axis(BATCH, batch), Axis(TIME, time), hidden))


def parameter_space(shapes: Mapping[str, tuple[int, ...]], aliases: Mapping[str, str] | None = None) -> Space:
    """Return ``(parameter,)`` with the parameters, flattened, laid out one after the other.

    ``aliases`` are further names of shared parameters -> the name that they have in ``shapes``.
    """
    return Space((Axis.of_parts(PARAMETER, shapes, aliases),))
