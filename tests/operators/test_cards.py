"""What operators show in a notebook, read back from the HTML."""

from __future__ import annotations

from html.parser import HTMLParser

import pytest
import torch

from kpframe import DiagonalOperator, MatrixOperator, Space
from kpframe.operators._cards import byte_text, card, work


class Rows(HTMLParser):
    """The caption and the cells of a table, row by row."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.caption, self.rows, self._in = "", [], ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list) -> None:
        self._in = tag
        if tag == "tr":
            self.rows.append([])
        elif tag in ("td", "th"):
            self.rows[-1].append("")

    def handle_data(self, data: str) -> None:
        if self._in == "caption":
            self.caption += data
        else:
            self.rows[-1][-1] += data

    @property
    def named(self) -> dict[str, str]:
        return dict(self.rows)


def matrix(name: str, rows: int, columns: int) -> MatrixOperator:
    made = MatrixOperator(
        torch.ones(rows, columns, dtype=torch.float64), Space.of(x=columns), Space.of(y=rows)
    )
    made.name = name
    return made


@pytest.fixture
def B() -> MatrixOperator:
    return matrix("B", 2, 3)


def test_a_card_names_the_formula_the_spaces_and_the_cost(B: MatrixOperator) -> None:
    table = Rows((B.T @ B)._repr_html_())
    assert table.caption == "B* B"
    assert table.named == {
        "on": "x=3 (3 numbers)",
        "known to be": "self-adjoint, positive",
        "a product": "takes B, B*",
        "memory": "24 bytes a vector",
        "numbers": "float64 on cpu",
    }
    table = Rows(B._repr_html_())
    assert table.named["from"] == "x=3 (3 numbers)"
    assert table.named["to"] == "y=2 (2 numbers)"
    assert table.named["memory"] == "24 bytes a vector it is given, 16 bytes one that it returns"
    assert "a product" not in table.named
    assert "known to be" not in table.named


def test_work_counts_what_an_operator_is_made_of(B: MatrixOperator) -> None:
    assert dict(work(2.0 * (B.T @ B) + B.T @ B)) == {"B": 2, "B*": 2}
    assert dict(work((B.T @ B @ B.T).T)) == {"B": 2, "B*": 1}
    scaled = DiagonalOperator(torch.ones(2, 3), Space.of(batch=2, hidden=3), name="D")
    assert dict(work(scaled.mean("batch"))) == {"D": 1}
    assert dict(work(scaled.partial_trace("hidden"))) == {"D": 1}  # its entries never meet
    full = MatrixOperator(torch.randn(6, 6), scaled.domain, scaled.domain)
    full.name = "M"
    assert dict(work(full.partial_trace("hidden"))) == {"M": 3}
    assert dict(work(full.partial_trace("hidden", "batch"))) == {"M": 6}
    assert dict(work(full.block_diagonal("batch").T @ full)) == {"M": 3}


def test_work_is_what_a_product_really_asks_for() -> None:
    class Counted(MatrixOperator):
        products = 0

        def _apply(self, q: torch.Tensor) -> torch.Tensor:
            probes = q.shape[: q.ndim - 2]
            type(self).products += probes.numel()
            return super()._apply(q)

    space = Space.of(batch=2, hidden=3)
    leaf = Counted(torch.randn(6, 6), space, space)
    made = (leaf @ leaf + 3 * leaf).partial_trace("hidden")
    made(torch.ones(2))
    assert sum(work(made).values()) == Counted.products == 9


def test_names_are_text_in_html() -> None:
    named = matrix("<script>B & C</script>", 2, 2)
    assert "<script>" not in named._repr_html_()
    assert Rows(named._repr_html_()).caption == "<script>B & C</script>"
    assert Rows(card("<b>", [("<i>", "&amp;"), ("empty", "")])).rows == [["<i>", "&amp;"]]


def test_a_card_asks_for_no_product() -> None:
    class Dear(DiagonalOperator):
        def _apply(self, q: torch.Tensor) -> torch.Tensor:
            raise AssertionError("a product for a look at it")

        def block_labels(self) -> torch.Tensor:
            raise AssertionError("blocks may be found by products")

    made = Dear(torch.ones(2, 3), Space.of(batch=2, hidden=3))
    table = Rows((made @ made).partial_trace("hidden")._repr_html_())
    assert table.named["a product"].startswith("takes at most 2 × ")


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 bytes"), (1023, "1023 bytes"), (1024, "1 KiB"), (3 * 2**19, "1.5 MiB"), (2**31, "2 GiB")],
)
def test_bytes_are_told_in_units(count: int, text: str) -> None:
    assert byte_text(count) == text
