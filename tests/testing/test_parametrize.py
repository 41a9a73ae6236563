"""``@parametrize_with_checks`` in a stranger's test file, run by pytest in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import kpframe
from kpframe.errors import ArgumentError, MissingDependencyError
from kpframe.testing import parametrize_with_checks

ROOT = Path(kpframe.__file__).parents[1]
OPTIONS = ["-p", "no:cacheprovider", "-rA", "-W", "error"]


def run(tmp_path: Path, source: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "test_plugin.py").write_text(textwrap.dedent(source))
    return subprocess.run(
        [sys.executable, "-m", "pytest", *OPTIONS, *arguments, "test_plugin.py"],
        cwd=tmp_path,
        env={
            "PYTHONPATH": str(ROOT),
            "KPFRAME_PLUGINS": "",
            "KPFRAME_CHECK_EXAMPLES": "12",
            "OMP_NUM_THREADS": "1",
            "PATH": "",
        },
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.mark.slow
def test_three_lines_are_enough(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        from kpframe.testing import parametrize_with_checks
        from kpframe.testing._toys import Elman

        @parametrize_with_checks([Elman, "reducer:mean"])
        def test_conformance(check):
            check()
        """,
        "-k",
        "jacobian or linear",
    )
    assert done.returncode == 0, done.stdout
    assert "PASSED test_plugin.py::test_conformance[Elman-phi_equals_total_jacobian]" in done.stdout
    assert "PASSED test_plugin.py::test_conformance[mean-linear_in_operator]" in done.stdout


@pytest.mark.slow
def test_failures_print_the_smallest_case_and_expected_ones_must_fail(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        from kpframe.testing import parametrize_with_checks
        from kpframe.testing.mutants.flows import NotTransposed

        expected = {"adjoint_of_A": "known", "NotTransposed-adjoint_of_P": "known", "causality": "never"}

        @parametrize_with_checks([NotTransposed], expected_failures=expected)
        def test_conformance(check):
            check()
        """,
        "-k",
        "adjoint or causality or gradient",
    )
    assert done.returncode == 1
    assert "XFAIL test_plugin.py::test_conformance[NotTransposed-adjoint_of_A] - known" in done.stdout
    assert "XFAIL test_plugin.py::test_conformance[NotTransposed-adjoint_of_P] - known" in done.stdout
    assert "FAILED test_plugin.py::test_conformance[NotTransposed-causality]" in done.stdout
    assert "[XPASS(strict)] never" in done.stdout
    assert "FAILED test_plugin.py::test_conformance[NotTransposed-gradient_equals_backward]" in done.stdout
    assert "case=FlowCase(model='kpframe.testing.mutants.flows:NotTransposed'" in done.stdout
    assert "look at: adjoint_of_P and adjoint_of_J" in done.stdout


@pytest.mark.slow
def test_what_has_no_meaning_is_skipped_with_the_reason(tmp_path: Path) -> None:
    done = run(
        tmp_path,
        """
        from kpframe.testing import parametrize_with_checks
        from kpframe.testing.mutants.steps import TooWide
        from kpframe.testing._toys import Plain

        @parametrize_with_checks([Plain, TooWide])
        def test_conformance(check):
            check()
        """,
        "-k",
        "structured or state_shape",
    )
    assert done.returncode == 1
    assert "the model has no propagator() of its own" in done.stdout
    assert "not run: state_shape fails" in done.stdout
    assert "FAILED test_plugin.py::test_conformance[TooWide-state_shape]" in done.stdout


@pytest.mark.slow
def test_ranks_are_asked_for_by_an_option_and_find_the_classes_of_a_test_file(tmp_path: Path) -> None:
    source = """
        from kpframe.testing import parametrize_with_checks
        from kpframe.testing._toys import Elman

        class Mine(Elman):
            pass

        class Divides(Elman):
            def rollout(self, x, h0=None, mask=None):
                return super().rollout(x / len(x), h0, mask)

        @parametrize_with_checks([Mine, Divides])
        def test_conformance(check):
            check()
        """
    options = (
        "-p",
        "kpframe.testing.pytest_plugin",
        "--import-mode",
        "importlib",
        "-k",
        "trajectory_on or phi_on",
    )
    done = run(tmp_path, source, "--ranks", "2", *options)
    assert done.returncode == 1, done.stdout
    assert "PASSED test_plugin.py::test_conformance[Mine-trajectory_on_ranks]" in done.stdout
    assert "PASSED test_plugin.py::test_conformance[Mine-phi_on_ranks]" in done.stdout
    assert "FAILED test_plugin.py::test_conformance[Divides-trajectory_on_ranks]" in done.stdout
    assert "shares=(2, 1)" in done.stdout
    assert run(tmp_path, source, "--ranks", "1", *options).returncode == 4


def test_nothing_is_built_at_collection() -> None:
    mark = parametrize_with_checks(["no_such_model", "rule:no_such_rule"])
    ids = [parameter.id for parameter in mark.args[1]]
    assert "no_such_model-phi_equals_total_jacobian" in ids
    assert "no_such_rule-linear_in_error" in ids
    assert len(set(ids)) == len(ids)


def test_an_expected_failure_must_name_a_check() -> None:
    with pytest.raises(ArgumentError, match="expected_failures: no check 'causalty'; did you mean"):
        parametrize_with_checks(["x"], expected_failures={"causalty": "typo"})


@pytest.mark.parametrize("missing", ["hypothesis", "pytest"])
def test_a_missing_extra_is_named(missing: str) -> None:
    code = f"""
        import sys
        sys.modules[{missing!r}] = None
        import kpframe.testing
        try:
            kpframe.testing.parametrize_with_checks
        except ImportError as error:
            print(type(error).__name__, error)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT)},
    )
    expected = f"kpframe.testing needs {missing}, which is not installed: pip install 'kpframe[test]'"
    assert done.stdout.strip() == f"{MissingDependencyError.__name__} {expected}", done.stderr


def test_public_names() -> None:
    assert set(kpframe.testing.__all__) <= set(dir(kpframe.testing))
    for name in kpframe.testing.__all__:
        assert getattr(kpframe.testing, name).__doc__
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = kpframe.testing.no_such_name
