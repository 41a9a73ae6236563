"""Pages of commands: their options are those that there are, and their lines and examples are as they say."""

from __future__ import annotations

import itertools
import re
import runpy
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
MADE = runpy.run_path(str(ROOT / "docs" / "tables" / "commands.py"))
#: Pages with lines for a shell.
SHELL = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md")), *ROOT.glob("plugins/*/README.md")]
#: Pages whose examples train nothing.
QUICK = ["plugins", "show", "new-plugin"]


def text_of(name: str) -> str:
    text: str = MADE["page"](name).read_text(encoding="utf-8")
    return text


def test_every_command_has_a_page_with_its_options() -> None:
    assert sorted(MADE["PAGES"]) == sorted(MADE["COMMANDS"])
    assert sorted(path.stem for path in MADE["FOLDER"].glob("*.md")) == sorted([*MADE["PAGES"], "index"])
    for name in [*MADE["PAGES"], "index"]:
        assert text_of(name) == MADE["with_options"](text_of(name), name), "run: docs/tables/commands.py"
    changed = text_of("show").replace("kpframe show [OPTIONS] NAME", "kpframe show NAME")
    assert MADE["with_options"](changed, "show") == text_of("show") != changed


def test_every_page_shows_its_command_and_what_it_said() -> None:
    for name in MADE["PAGES"]:
        blocks = MADE["EXAMPLE"].findall(text_of(name))
        assert any(f"$ kpframe {name}" in block for block in blocks), name
        assert all(len(block.splitlines()) > 1 for block in blocks), name
        assert "/tmp/" not in "".join(blocks), name


def rerun(names: list[str], folder: Path) -> None:
    for name, text in MADE["run"](names, folder):
        now, kept = (MADE["compared"](one, name) for one in (text, text_of(name)))
        assert now == kept, f"if this is as it should be, run: python docs/tables/commands.py {name}"


def test_quick_examples_say_the_same_again(tmp_path: Path) -> None:
    rerun(QUICK, tmp_path)


@pytest.mark.slow
def test_all_other_examples_say_the_same_again(tmp_path: Path) -> None:
    rerun([name for name in MADE["PAGES"] if name not in QUICK], tmp_path)


def test_what_may_vary_is_left_out_and_nothing_else() -> None:
    def lines(text: str, name: str = "run") -> list[str]:
        found: list[str] = MADE["compared"](f"```console\n{text}\n```\n", name)
        return found

    assert lines("loss 0.25  (3 min 4 s), 12.5 MB") == lines("loss 0.25 (350 ms), 9 kB")
    assert lines("on 1    on 2\n1.2 ms  9 us") == lines("on 1  on 2\n3 s  1 ms")
    assert lines("run 0123456789abcdef of 2026-11-29T18:01:49+00:00") == lines(
        "run fedcba9876543210 of 2027-01-01T00:00:00+00:00"
    )
    assert lines("passed  2.1e-16  1e-09") == lines("passed  0.0e+00  1e-09")
    assert lines("passed  2.1e-16") != lines("passed  2.1e-07")
    assert lines("loss 0.25") != lines("loss 0.26")
    assert lines("rank 8.38 +- 0.3") != lines("rank 8.39 +- 0.3")
    assert lines("Phi  1.70  0.26", "bench") == lines("Phi  2.31  0.31", "bench")


def test_a_failing_command_shows_its_error(tmp_path: Path) -> None:
    (tmp_path / "work").mkdir()
    page = '```toml title="a.toml"\nx = 1\n```\n\n```console\n$ cat a.toml\n$ kpframe show none\n```\n'
    text = MADE["with_output"](page, tmp_path / "work")
    assert "\n$ cat a.toml\nx = 1\n$ kpframe show none\nError: " in text
    assert re.search(r"Error: .*none", text)


def test_each_line_for_a_shell_can_be_read() -> None:
    texts = [re.findall(r"```(?:sh|bash)\n(.*?)```", path.read_text("utf-8"), re.DOTALL) for path in SHELL]
    lines = [
        line
        for text in itertools.chain.from_iterable(texts)
        for line in text.replace("\\\n", " ").splitlines()
        if line.startswith("kpframe ")
    ]
    assert len(lines) >= 25
    assert {line: wrong for line in lines if (wrong := MADE["unknown_in"](line)) is not None} == {}


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("kpframe rnu study.toml", "no command rnu"),
        ("kpframe run study.toml --fast", "No such option '--fast'."),
        ("kpframe run study.toml --quick  # a quick form", None),
    ],
)
def test_lines_that_cannot_be_read_are_seen(line: str, wrong: str | None) -> None:
    assert MADE["unknown_in"](line) == wrong
