"""Figures as they are written: laid out once, with nothing cut off, texts that other programs can edit."""

from __future__ import annotations

import io
import re

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.image import imread

from kpframe import plot
from kpframe.study._plot.look import MARGIN, as_wide, laid_out, on, pdf, svg
from kpframe.study._plot.ticks import finish, whole

from .data import recorded

LONG = "a label of a network that is longer than any panel is wide, and then some more of it, again and again"
#: Figures with legends below, notes, colour bars and titles.
FIGURES = ("losses", pytest.param("alignment_maps", marks=pytest.mark.slow), "contributions_by_time")


def figure_of(name: str, label: str = "RNN") -> Figure:
    data = recorded(networks=[label], gains=[0.5, 1.0], width=2, updates=20)
    return as_wide(on(getattr(plot, name)(data)))


def ink_within(figure: Figure, margin: float) -> bool:
    """Return whether anything is drawn so near to the edges of a figure as it is written [inch]."""
    file, dpi = io.BytesIO(), 72  # that of the layout
    figure.savefig(file, format="png", bbox_inches=laid_out(figure), dpi=dpi)
    file.seek(0)
    pixels = imread(file)[..., :3].min(-1)
    edge = int(dpi * margin)
    pixels[edge:-edge, edge:-edge] = 1.0
    return bool((pixels < 1).any())


@pytest.mark.parametrize("name", FIGURES)
@pytest.mark.rows(2)
def test_nothing_is_cut_off(name: str) -> None:
    figure = figure_of(name, LONG)
    assert not ink_within(figure, 0.6 * MARGIN)
    assert ink_within(figure, 4 * MARGIN)  # and no more is around it than has to be


def test_a_figure_is_drawn_once_where_it_was_drawn_twice(monkeypatch) -> None:
    drawn: list[Artist] = []
    before = Figure.draw

    def draw(self: Figure, renderer) -> None:
        drawn.append(self)
        before(self, renderer)

    monkeypatch.setattr(Figure, "draw", draw)
    svg(figure_of("losses"))
    assert len(drawn) == 1
    figure_of("losses").savefig(io.StringIO(), format="svg", bbox_inches="tight")
    assert len(drawn) == 3


def test_panels_stand_where_a_layout_at_each_writing_puts_them() -> None:
    once, twice = figure_of("contributions_by_time"), figure_of("contributions_by_time")
    at_first = [panel.get_position().bounds for panel in once.axes]
    laid_out(once)
    twice.savefig(io.StringIO(), format="svg", bbox_inches="tight")
    places = [panel.get_position().bounds for panel in once.axes]
    assert places == [panel.get_position().bounds for panel in twice.axes]
    assert np.abs(np.subtract(places, at_first)).max() > 0.01
    laid_out(once)
    assert [panel.get_position().bounds for panel in once.axes] == places  # and stay there


def test_text_stays_text_in_files() -> None:
    figure = on(plot.scores(recorded(networks=["$x_1$ <b>", "_c"])))
    text = svg(figure)
    assert re.search(r">\s*(<tspan[^>]*>)?updates made", text)
    assert "$x_1$ &lt;b&gt;" in text
    assert "<b>" not in text
    # characters as TrueType, which can be edited, searched and sent to journals, not as drawings (Type 3)
    written = pdf(figure)
    assert b"/FontFile2" in written
    assert b"/Type3" not in written
    with rc_context({"pdf.fonttype": 3}):
        file = io.BytesIO()
        figure.savefig(file, format="pdf")
    assert b"/Type3" in file.getvalue()


def test_panels_that_share_an_axis_keep_its_limits() -> None:
    """Ticks of the first are those of the second, too, which must not take them for whole numbers."""
    grid = Figure().subplots(1, 2, sharey=True)
    for panel in grid:
        panel.plot([0, 30], [0.2, 0.4])
        panel.set_ylim(0.1, 0.5)
        whole(panel.xaxis)
        panel.set_xlim(0, 1)
    finish(grid)
    assert [panel.get_ylim() for panel in grid] == [(0.1, 0.5), (0.1, 0.5)]
    assert [panel.get_xlim() for panel in grid] == [(-1.2, 1.2), (-1.2, 1.2)]  # of three whole numbers
