"""The pages of all commands in a real browser: narrow and wide, light and dark, printed, by keyboard."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import kpframe
from kpframe.cli import _app as app
from kpframe.study._report.run import write_run_report

from ..study.pages.browser import (  # noqa: TID252
    NARROW,
    WIDE,
    browser,
    check_accessible,
    check_colours,
    check_keyboard,
    check_layout,
    check_links,
    opened,
)

pytestmark = pytest.mark.slow

STUDY = """
title = "Small networks"
seeds = 2
[task]
name = "memory_pro"
fixation = 1
stimulus = 1
memory = 2
response = 2
grace = 0
[[network]]
name = "rnn"
label = "RNN <b>"
hidden_size = 4
[[rule]]
name = "truncated_bptt"
label = "two steps, $x$"
window = 2
[training]
steps = 3
batch_size = 3
[measure]
steps = [0, 1, 3]
trials = 3
budget = 12
[[quantity]]
name = "scores"
[[quantity]]
name = "effective_rank"
[[quantity]]
name = "spectrum"
k = 3
[[quantity]]
name = "time_kernel"
[[quantity]]
name = "rules"
[sweep]
"network.gain" = [0.5, 1.5]
"""
TASK = [f"--task-set={pair}" for pair in ("fixation=1", "stimulus=1", "memory=1", "response=2", "grace=0")]
PAGES = ("demo", "run", "train", "compare", "analyze", "track", "runs")


@pytest.fixture(scope="module")
def pages(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """The page of each command, of small runs."""
    folder, threads = tmp_path_factory.mktemp("pages"), torch.get_num_threads()
    (folder / "small.toml").write_text(STUDY, encoding="utf-8")
    found = {name: folder / name / "report.html" for name in PAGES}
    found |= {"train": folder / "train" / "training.html", "compare": folder / "compare" / "comparison.html"}
    assert app.run(["demo", "--quick", "--output", str(folder / "demo")]) == 0
    assert app.run(["run", str(folder / "small.toml"), "--output", str(folder / "run")]) == 0
    model = ["--model=rnn", "--set=hidden_size=4", "--task=memory_pro", *TASK]
    small = ["--steps=3", "--batch-size=3", "--trials=3", "--budget=16"]
    rules = ["--rule=bptt", "--rule=rflo"]
    assert app.run(["train", *rules, *model, *small, f"--output={folder / 'train'}"]) == 0
    checkpoint = folder / "train" / "checkpoints" / "rnn-bptt-000003.safetensors"
    compared = ["--rules", "bptt;rflo", "--trials=3", "--budget=16", f"--output={folder / 'compare'}"]
    assert app.run(["compare", str(checkpoint), *compared]) == 0
    assert app.run(["analyze", str(folder / "run"), f"--output={folder / 'analyze'}"]) == 0
    network = torch.nn.GRU(2, 3, batch_first=True)
    inputs = torch.randn(3, 4, 2, generator=torch.Generator().manual_seed(0))
    with kpframe.study.Tracker(network, inputs, output=folder / "track", budget=12) as track:
        for step in range(3):
            track(step, 1.0 / (1 + step))
    write_run_report(folder / "track", files=True)
    found["runs"] = folder / "runs.html"
    runs = [str(folder / name) for name in ("run", "track")]
    assert app.run(["report", *runs, "--output", str(found["runs"])]) == 0
    torch.set_num_threads(threads)
    return found


@pytest.fixture(scope="module")
def running() -> Iterator[Any]:
    with browser() as found:
        yield found


#: A sheet of A4, at 96 dots an inch.
PAPER = {"width": 794, "height": 1123}


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [NARROW, WIDE])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_works(running: Any, pages: dict[str, Path], name: str, width: int, scheme: str) -> None:
    path = pages[name]
    assert "<script" not in path.read_text(encoding="utf-8")
    with opened(running, path, width, scheme) as page:
        check_keyboard(page)
        check_layout(page)
        check_colours(page, scheme)
        assert check_links(page, path.parent) > 5
        check_accessible(page)
        page.emulate_media(media="print")
        page.set_viewport_size(PAPER)
        check_layout(page)
        assert not page.locator("nav").first.is_visible()
