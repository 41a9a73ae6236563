"""Tables of all commands: names and numbers are whole at any width, and in a pipe a row is a line."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.cells import cell_len

import kpframe.cli
from kpframe.cli._tables import NARROW, PlainConsole, PlainTable, new_table

WIDTHS = (40, 80, 200)
RULE = 'frozen(parameters=["bias*", "weight_hh_l0"]) @ truncated_bptt(window=5)'
WHY = "rflo needs the leak around the recurrent weights of a step, which this model does not declare " * 2


def table() -> PlainTable:
    made = new_table("training", "rule", "effective rank of Phi", "reason", prose=("reason",))
    made.add_row("RNN, gain 0.5, seed 3", RULE, "6.6 ± 1.1", WHY.strip())
    made.add_row("中文", "bptt", "1.234e-05")
    return made


def check_whole(made: PlainTable, width: int | None) -> list[str]:
    """Check that each cell is in one line, and each word of text that may go on in the next one."""
    lines = list(made.lines(width))
    for row in (made.columns, *made.rows):
        for cell, prose in zip(row, made.prose, strict=True):
            for part in cell.split() if prose and width is not None else [cell]:
                assert any(part in line for line in lines), (width, part)
    return lines


@pytest.mark.parametrize("width", WIDTHS)
def test_cells_are_whole_at_any_width(width: int) -> None:
    lines = check_whole(table(), width)
    beside = any("training" in line and "reason" in line for line in lines)
    assert beside == (width == 200)  # a block for each row where columns do not fit
    longest = max(cell_len(cell) for row in table().rows for cell in row[:3])
    assert max(map(cell_len, lines)) <= max(width, longest + NARROW)
    assert any(WHY.strip() in line for line in lines) == (width == 400)
    assert all(char.isprintable() for line in lines for char in line)


def test_a_pipe_gets_a_row_a_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for columns in map(str, WIDTHS):
        monkeypatch.setenv("COLUMNS", columns)
        PlainConsole().print(table(), "x " * 500)
        head, first, second, text = capsys.readouterr().out.splitlines()
        assert head == "training\trule\teffective rank of Phi\treason"
        assert first.split("\t") == ["RNN, gain 0.5, seed 3", RULE, "6.6 ± 1.1", WHY.strip()]
        assert second == "中文\tbptt\t1.234e-05\t"
        assert text == "x " * 500


def test_a_terminal_s_width_is_followed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "40")
    PlainConsole().print(f"a line of words that ends in a name: {'n' * 50}", table())
    lines = capsys.readouterr().out.splitlines()
    assert "n" * 50 in lines
    assert lines[0] == "a line of words that ends in a name:"


def test_no_command_lays_out_tables_of_its_own() -> None:
    for path in Path(kpframe.cli.__file__).parent.glob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert "rich.table" not in text, path.name
        assert "overflow" not in text, path.name
