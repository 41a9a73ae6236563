"""The recurrence ``y_t = s_t + A_t y_{t-1}`` over matrices, in O(log T) batched products.

Two steps make one of the same kind. With ``t = 2 c + 1``::

    y_{2c+1} = (s_{2c+1} + A_{2c+1} s_{2c}) + (A_{2c+1} A_{2c}) y_{2c-1}

is the recurrence of the odd steps alone, half as long. Once it is solved, even steps are a product away::

    y_{2c} = s_{2c} + A_{2c} y_{2c-1}

So a product goes up the tree, adding to odd steps, and down again, adding to even ones (Blelloch 1990; for
recurrences in networks Martin & Cundy 2018, with matrices Lim et al. 2024). The matrices of each level do
not depend on the sources: they are composed once. The adjoint is the same tree read backward.

**Rounding.** Whatever the brackets, the error of a product of matrices is bounded by the product of their
moduli, ``|A_n| ... |A_1| |s|``. But where few steps nearly cancel, what they leave stays small in a scan; a
product of many steps that was rounded before it met them misses that by eps times its largest entry. So no
level is composed in which an entry exceeds ``growth``; the steps that are left are scanned.
"""

from __future__ import annotations

import torch
from attrs import frozen


@frozen(eq=False)
class Tree:
    """The products of steps that a scan needs.

    Attributes:
        levels: for each, the matrices of its odd steps and of its even steps but the first,
            ``[n // 2, H, H]`` and ``[(n - 1) // 2, H, H]``.
        top: the matrices of what is scanned one after the other, ``[n, H, H]``.
    """

    levels: tuple[tuple[torch.Tensor, torch.Tensor], ...]
    top: torch.Tensor

    @property
    def depth(self) -> int:
        """How many batched products follow one after the other in a scan."""
        return 2 * len(self.levels) + len(self.top) - 1


def compose(blocks: torch.Tensor, growth: float) -> Tree:
    """Return the tree over steps ``blocks`` ``[N, H, H]``, the first of which is not used.

    It goes on to the last level, or to the one before an entry exceeds ``growth`` or overflows.
    """
    levels = []
    while len(blocks) > 1:
        odd = blocks[1::2]
        longer = odd @ blocks[: 2 * len(odd) : 2]
        largest = longer.abs().amax()
        if not bool(largest <= growth):  # NaN is not
            break
        # below the least normal number products have no digits left, and take a hundred times as long
        longer = torch.nn.functional.hardshrink(longer, torch.finfo(longer.dtype).tiny)
        levels.append((odd.contiguous(), blocks[2::2].contiguous()))
        blocks = longer
    return Tree(tuple(levels), blocks.contiguous())


def scan(tree: Tree, rows: torch.Tensor) -> torch.Tensor:  # [N, K, H]
    """Turn sources, K rows a step, into the scan in place, and return it."""
    steps = [rows]
    for odd, _ in tree.levels:  # up: what two steps send
        now = steps[-1]
        _add(now[1::2], now[: 2 * len(odd) : 2], odd.mT)
        steps.append(now[1::2])
    for t in range(1, len(tree.top)):
        steps[-1][t].addmm_(steps[-1][t - 1], tree.top[t].mT)
    for (_, even), now in zip(reversed(tree.levels), reversed(steps[:-1]), strict=True):  # down: between them
        _add(now[2::2], now[1 : 2 * len(even) : 2], even.mT)
    return rows


def scan_adjoint(tree: Tree, rows: torch.Tensor) -> torch.Tensor:  # [N, K, H]
    """Turn rows into the adjoint scan, ``y_t = s_t + A_{t+1}* y_{t+1}``, in place, and return it."""
    steps = [rows]
    for _, even in tree.levels:
        now = steps[-1]
        _add(now[1 : 2 * len(even) : 2], now[2::2], even)
        steps.append(now[1::2])
    for t in range(len(tree.top) - 1, 0, -1):
        steps[-1][t - 1].addmm_(steps[-1][t], tree.top[t])
    for (odd, _), now in zip(reversed(tree.levels), reversed(steps[:-1]), strict=True):
        _add(now[: 2 * len(odd) : 2], now[1::2], odd)
    return rows


def _add(out: torch.Tensor, rows: torch.Tensor, matrices: torch.Tensor) -> None:
    """Add to each step its rows times its matrix."""
    # into fresh memory: a library's batched product, where one into every other step is a loop over steps
    out += torch.bmm(rows, matrices)
