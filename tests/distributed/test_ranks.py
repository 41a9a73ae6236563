"""The pool of ranks that the other tests here run on."""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from torch import distributed

from .ranks import on_ranks


def total(group: Any, value: float) -> tuple[int, float]:
    number = torch.tensor([value * (1 + distributed.get_rank(group))])
    distributed.all_reduce(number, group=group)
    return os.getpid(), float(number)


def failing(group: Any) -> None:
    if distributed.get_rank(group) == 1:
        raise KeyError("ours")
    total(group, 1.0)


def dying(group: Any) -> None:
    if distributed.get_rank(group) == 0:
        os._exit(7)


def test_ranks_live_on_and_are_made_anew_after_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kpframe.testing._ranks.pool.GRACE", 1)
    first = on_ranks(2, total, 2.0)
    assert [value for _, value in first] == [6.0, 6.0]
    three = on_ranks(3, total, 1.0)
    assert [value for _, value in three] == [6.0] * 3
    assert [pid for pid, _ in three[:2]] == [pid for pid, _ in first]
    with pytest.raises(
        AssertionError, match=r"rank 0:\nstill at work:\n[^$]*in total(.|\n)*rank 1:(.|\n)*ours"
    ):
        on_ranks(2, failing)
    again = on_ranks(2, total, 2.0)
    assert [value for _, value in again] == [6.0, 6.0]
    assert not {pid for pid, _ in again} & {pid for pid, _ in three}
    with pytest.raises(AssertionError, match=r"rank 0:\nended with exit code 7"):
        on_ranks(1, dying)
