"""The page of a training in a real browser; those of all commands are opened among the slow tests."""

from __future__ import annotations

from pathlib import Path

from kpframe.study._report.training import write_training

from .browser import NARROW, browser, check_colours, check_keyboard, check_layout, check_links, opened
from .data import training


def test_a_page_is_readable_and_everything_on_it_works(tmp_path: Path) -> None:
    with browser() as running:
        path = write_training(training(), tmp_path / "training.html")
        (tmp_path / "training.nc").touch()
        with opened(running, path) as page:
            check_keyboard(page)
            check_layout(page)
            check_colours(page, "light")
            assert check_links(page, tmp_path) > 8
        with opened(running, path, NARROW, "dark") as page:
            check_layout(page)
            check_colours(page, "dark")
            check_links(page, tmp_path)
