"""Every Python block of the pages runs, page by page from the first line, and prints what the page says."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from ..public_names import trespasses  # noqa: TID252

ROOT = Path(__file__).parents[2]
#: Pages whose blocks are one program each.
PROGRAMS = ["estimates", "idea", "index", "models", "rules", "theory"]
#: Those that take longer.
LONG = ["performance"]
#: Pages whose blocks are parts of files. The propagator of ``plugins`` is run by tests/testing/test_forms.py
#: and in a notebook; ``studies`` shows where lines go.
PARTS = {"plugins", "studies"}
#: The page whose program runs on two ranks.
RANKS = "distributed"
READMES = sorted(path.parent.name for path in ROOT.glob("plugins/*/README.md"))


def blocks(path: Path) -> list[str]:
    return re.findall(r"```python\n(.*?)```", path.read_text(encoding="utf-8"), re.DOTALL)


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
    found = blocks(ROOT / "docs" / f"{name}.md")
    assert sum("kpframe" in block for block in found) >= 4
    assert [name for block in found for name in trespasses(block)] == []


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
