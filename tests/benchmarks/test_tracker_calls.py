"""What a tracker costs where it records nothing: ``pytest tests/benchmarks --slow --benchmark-only``.

The figure that counts, ``empty_calls`` in the extra information, is the ratio to a call of an empty Python
function in the same process. No test here fails on a time.
"""

from __future__ import annotations

from itertools import count
from timeit import repeat

import pytest
import torch

from kpframe.study import Tracker

pytestmark = pytest.mark.slow
CALLS = 10_000


@pytest.mark.parametrize("loss", [None, 0.5, torch.tensor(0.5)], ids=["no loss", "number", "tensor"])
def test_a_step_that_is_not_recorded(benchmark, tmp_path, loss) -> None:
    def nothing(step: int, loss: object = None) -> None:
        pass

    module, inputs = torch.nn.RNNCell(2, 4), torch.randn(3, 5, 2)
    options = {"quantities": ["parameters"], "schedule": [0], "quiet": True}
    steps = count(1)
    with Tracker(module, inputs, output=tmp_path, **options) as track:
        track(0)
        many = benchmark.pedantic(
            repeat, (lambda: [track(next(steps), loss) for _ in range(CALLS)],), {"number": 1, "repeat": 5}
        )
    skipped, empty = (
        min(many),
        min(repeat(lambda: [nothing(next(steps), loss) for _ in range(CALLS)], number=1, repeat=5)),
    )
    benchmark.extra_info["empty_calls"] = skipped / empty
    benchmark.extra_info["microseconds"] = 1e6 * skipped / CALLS
    assert track.steps == (0,)
