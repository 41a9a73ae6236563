"""How many probes go together into one product; docs/performance.md has the measurements."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kpframe.spaces import TIME, Space

if TYPE_CHECKING:
    from kpframe.operators.base import Operator

#: Bytes of probes and products in one call of a loop over many: what a cache holds; more is slower.
CHUNK_BYTES = 4 * 2**20

#: Bytes of states and preactivations in one stretch of steps of K; larger ones need fewer, wider products.
STRETCH_BYTES = 16 * 2**20

#: Bytes on the way of one product, beyond which every vector costs fresh pages of memory; vectors a probe.
CHUNK_LIMIT, WORKING_VECTORS = 192 * 2**20, 3

#: Bytes of one step of all probes, below which a scan takes as long for fewer: each step's dispatch.
STEP_BYTES = 16 * 2**10

#: Bytes on the way of one product that filling the steps may take.
CEILING = 2**30


def chunk_size(operator: Operator, limit: int, held: int = 1) -> int:
    """Return how many probes (at most ``limit``) to send at once; ``held`` vectors ride on each."""
    each = held * _bytes(operator)
    return max(1, min(limit, max(CHUNK_BYTES // max(each, 1), _filling(operator, each))))


def working_bytes(operator: Operator) -> int:
    """Return about how many bytes each probe needs on the way of a product."""
    return WORKING_VECTORS * _bytes(operator)


def together(operator: Operator, count: int) -> int:
    """Return how many of ``count`` probes to send at once, in even shares."""
    each = working_bytes(operator)
    most = max(1, CHUNK_LIMIT // each, _filling(operator, each))
    shares = -(-count // most)
    return -(-count // shares)


def _filling(operator: Operator, each: int) -> int:
    """Return how many probes fill a step, within the ceiling for ``each``."""
    space: Space = operator.domain
    steps = space[TIME].size if TIME in space else 0
    row = space.size * operator.dtype.itemsize // steps if steps else STEP_BYTES
    return min(STEP_BYTES // max(row, 1), CEILING // max(each, 1))


def _bytes(operator: Operator) -> int:
    return (operator.domain.size + operator.codomain.size) * operator.dtype.itemsize
