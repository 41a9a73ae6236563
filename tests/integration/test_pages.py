"""Every Python block of the pages runs, page by page from the first line, and prints what the page says."""

from __future__ import annotations

import ast
import importlib
import itertools
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest

from kpframe.cli._app import cli

ROOT = Path(__file__).parents[2]
#: Pages whose blocks are one program each.
PROGRAMS = ["estimates", "idea", "index", "models", "rules", "theory"]
#: Those that take longer.
LONG = ["performance"]
#: Pages whose blocks are parts of files. The propagator of ``plugins`` is run by tests/testing/test_forms.py
#: and in a notebook; ``studies`` shows where lines go.
PARTS = {"plugins", "studies"}
#: Pages with lines for a shell.
SHELL = [ROOT / "README.md", *sorted((ROOT / "docs").glob("**/*.md")), *ROOT.glob("plugins/*/README.md")]
#: The page whose program runs on two ranks.
RANKS = "distributed"
READMES = sorted(path.parent.name for path in ROOT.glob("plugins/*/README.md"))


def blocks(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


def names_of(code: str) -> set[str]:
    """Return the dotted names of kpframe that a piece of code uses or imports."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "kpframe":
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Attribute) and (text := ast.unparse(node)).startswith("kpframe."):
            found.add(text)
    return {name for name in found if not any(other.startswith(f"{name}.") for other in found)}


def exists(name: str) -> bool:
    """Whether a dotted name is one of kpframe's, of its modules and what is in them."""
    module, *rest = name.split(".")
    found: object = importlib.import_module(module)
    for part in rest:
        if not hasattr(found, part):
            try:
                importlib.import_module(f"{found.__name__}.{part}")  # type: ignore[attr-defined]
            except (ImportError, AttributeError):
                return False
        found = getattr(found, part)
    return True


def unknown_in(line: str) -> str | None:
    """Return what is wrong with a line for a shell that calls kpframe, None where it can be read."""
    _, name, *arguments = shlex.split(line, comments=True)
    command = cli.get_command(click.Context(cli), name)
    if command is None:
        return f"no command {name}"
    try:
        command.make_parser(click.Context(command)).parse_args(arguments)
    except click.UsageError as error:
        return error.format_message()
    return None


def run(path: Path, folder: Path) -> dict:
    """Run the blocks of a page one after the other in an empty folder; return what they leave."""
    found = blocks(path)
    assert found, path
    left: dict = {"__name__": "page"}
    before = Path.cwd()
    os.chdir(folder)
    try:
        for place, block in enumerate(found, 1):
            exec(compile(block, f"{path.name}, block {place}", "exec"), left)
    finally:
        os.chdir(before)
    return left


def test_each_page_with_code_is_run_somewhere() -> None:
    with_code = {path.stem for path in (ROOT / "docs").glob("*.md") if blocks(path)}
    assert with_code == {*PROGRAMS, *LONG, *PARTS, RANKS}


@pytest.mark.parametrize("name", sorted(PARTS))
def test_parts_of_files_use_names_that_there_are(name: str) -> None:
    used = set().union(*(names_of(code) for code in blocks(ROOT / "docs" / f"{name}.md")))
    assert len(used) >= 5
    assert [one for one in sorted(used) if not exists(one)] == []


def test_each_line_for_a_shell_can_be_read() -> None:
    texts = [re.findall(r"```(?:sh|bash)\n(.*?)```", path.read_text("utf-8"), re.DOTALL) for path in SHELL]
    lines = [
        line
        for text in itertools.chain.from_iterable(texts)
        for line in text.replace("\\\n", " ").splitlines()
        if line.startswith("kpframe ")
    ]
    assert len(lines) >= 25
    assert {line: wrong for line in lines if (wrong := unknown_in(line)) is not None} == {}


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("kpframe rnu study.toml", "no command rnu"),
        ("kpframe run study.toml --fast", "No such option '--fast'."),
        ("kpframe run study.toml --quick  # a quick form", None),
    ],
)
def test_lines_that_cannot_be_read_are_seen(line: str, wrong: str | None) -> None:
    assert unknown_in(line) == wrong


def test_names_that_there_are_not_are_seen() -> None:
    used = names_of("import kpframe\nfrom kpframe.flow import Nothing\nkpframe.plot.matrix(kpframe.wrapped)")
    assert [exists(one) for one in sorted(used)] == [False, True, False]


@pytest.mark.parametrize("name", [*PROGRAMS, *(pytest.param(n, marks=pytest.mark.slow) for n in LONG)])
def test_the_blocks_of_a_page_run(name: str, tmp_path: Path) -> None:
    left = run(ROOT / "docs" / f"{name}.md", tmp_path)
    if name == "estimates":  # the figure that stands in the page's comment
        (said,) = re.findall(
            r"^rank  # (.*)$", (ROOT / "docs" / "estimates.md").read_text("utf-8"), re.MULTILINE
        )
        assert repr(left["rank"]) == said


@pytest.mark.slow
def test_the_program_for_ranks_runs_on_two(tmp_path: Path) -> None:
    (program,) = blocks(ROOT / "docs" / f"{RANKS}.md")
    (tmp_path / "ranks.py").write_text(program, encoding="utf-8")
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
        "ranks.py",
    ]
    done = subprocess.run(
        command,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    assert "batch=3 of 6 on 2 ranks" in done.stdout


def test_a_block_that_fails_is_seen(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("```python\nx = 1\n```\n\n```python\nassert x == 2\n```\n", encoding="utf-8")
    with pytest.raises(AssertionError):
        run(page, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("plugin", [name for name in READMES if name != "kpframe-native"])
def test_the_blocks_of_a_plugins_readme_run(plugin: str, tmp_path: Path) -> None:
    page = ROOT / "plugins" / plugin / "README.md"
    if not blocks(page):
        pytest.skip("no code in it")
    run(page, tmp_path)
