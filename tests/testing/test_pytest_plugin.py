"""The options that the pytest plugin adds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

TESTS = """
import pytest

@pytest.mark.slow
@pytest.mark.parametrize("case", range(20))
def test_slow(case): pass

def test_fast(): pass
"""


def collected(folder: Path, *options: str) -> tuple[int, set[str]]:
    (folder / "test_made_up.py").write_text(TESTS, encoding="utf-8")
    run = subprocess.run(
        [
            sys.executable,
            "-m",
            "pytest",
            "--collect-only",
            "-q",
            "-p",
            "kpframe.testing.pytest_plugin",
            *options,
        ],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    return run.returncode, {
        line for line in (run.stdout + run.stderr).splitlines() if "::" in line or "--slow" in line
    }


def test_parts_of_the_slow_tests_are_all_of_them(tmp_path: Path) -> None:
    parts = [collected(tmp_path, "--slow-part", f"{i}/2")[1] for i in (1, 2)]
    assert min(map(len, parts)) >= 4
    assert not parts[0] & parts[1]
    assert parts[0] | parts[1] == {f"test_made_up.py::test_slow[{case}]" for case in range(20)}


def test_a_part_that_does_not_exist_is_refused(tmp_path: Path) -> None:
    code, lines = collected(tmp_path, "--slow-part", "3/2")
    assert code == 4
    assert any("--slow-part: expected I/N with 1 <= I <= N, got '3/2'" in line for line in lines)
