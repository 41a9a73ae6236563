"""Tables of estimates, as text and in a notebook."""

from __future__ import annotations

import math
import re

import pytest

from kpframe import Estimate
from kpframe.errors import ArgumentError
from kpframe.spectra import EstimateTable

ESTIMATES = {"P": Estimate(12.25, 0.25, 30, "xtrace"), "K": Estimate(3, 0, 8, "exact")}


def test_it_reads_as_a_mapping() -> None:
    table = EstimateTable(ESTIMATES)
    assert dict(table) == ESTIMATES
    assert len(table) == 2
    assert table["K"].exact
    with pytest.raises(KeyError, match="Phi"):
        table["Phi"]


def test_it_prints_as_its_documentation_says() -> None:
    shown = (EstimateTable.__doc__ or "").split(">>> ")[-1].splitlines()
    printed = repr(eval(shown[0], {"EstimateTable": EstimateTable, "Estimate": Estimate}))
    assert printed.splitlines() == [line.removeprefix(" " * 8) for line in shown[1:] if line.strip()]


def test_it_shows_itself_in_a_notebook() -> None:
    html = EstimateTable({"<P>": ESTIMATES["P"]}, title="Ranks & traces")._repr_html_()
    assert "Ranks &amp; traces" in html
    assert "<P>" not in html
    assert re.findall(r"<td[^>]*>([^<]*)</td>", html) == ["12.2 ± 0.2", "11.76 to 12.74", "xtrace", "30"]


@pytest.mark.parametrize(
    ("estimate", "interval"),
    [
        (Estimate(12.25, 0.25, 30, "xtrace"), "11.76 to 12.74"),
        (Estimate(-1e-7, 3e-9, 30, "xtrace"), "-1.059e-07 to -9.412e-08"),
        (Estimate(123456.0, 1.0, 30, "xtrace"), "123454.04 to 123457.96"),
        (Estimate(5.0, math.inf, 1, "hutchinson"), "unknown"),
        (Estimate(5.0, 0.0, 4, "exact"), "exact"),
    ],
)
def test_an_estimate_shows_its_interval(estimate: Estimate, interval: str) -> None:
    html = estimate._repr_html_()
    assert f">{interval}</td>" in html
    assert estimate.method in html


def test_an_interval_keeps_the_digits_that_its_width_has() -> None:
    wide, narrow = Estimate(1000.0, 10.0, 9, "xtrace"), Estimate(1000.0, 1e-4, 9, "xtrace")
    for estimate in (wide, narrow):
        low, high = map(float, re.search(r">(\S+) to (\S+)</td>", estimate._repr_html_()).groups())
        assert high - low == pytest.approx(2 * 1.96 * estimate.stderr, rel=0.05)


@pytest.mark.parametrize("given", [None, [1], {"P": 3.0}])
def test_it_takes_estimates_only(given: object) -> None:
    with pytest.raises(ArgumentError, match="estimates"):
        EstimateTable(given)
