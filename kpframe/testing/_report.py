"""What came of the checks: one result each, and the report that holds them."""

from __future__ import annotations

from typing import Any, Literal

from attrs import frozen

Verdict = Literal["passed", "failed", "not applicable", "not run"]


@frozen
class Result:
    """What came of one check.

    Attributes:
        name: the check's name.
        verdict: ``"not applicable"``: it has no meaning here; ``"not run"``: a check it builds on failed.
        error: the worst relative error over the cases.
        tolerance: the largest error that passes.
        cases: number of drawn cases.
        partners: number of cases whose partner, which must differ, was looked at.
        skipped: number of cases in which the partner was degenerate, or the check not applicable.
        message: why it failed, or was not run.
        case: the smallest failing case, as code.
        source: where the statement is written.
    """

    name: str
    verdict: Verdict
    error: float = 0.0
    tolerance: float = 0.0
    cases: int = 0
    partners: int = 0
    skipped: int = 0
    message: str = ""
    case: str = ""
    source: str = ""


@frozen
class Report:
    """The results of all checks on one thing.

    Attributes:
        kind, label: what was checked.
        results: one for each check, in the order in which they ran.
    """

    kind: str
    label: str
    results: tuple[Result, ...]

    @property
    def passed(self) -> bool:
        """Whether no check failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[Result, ...]:
        """The results of the checks that failed."""
        return tuple(result for result in self.results if result.verdict == "failed")

    def __getitem__(self, name: str) -> Result:
        """Return the result of a check by name."""
        return next(result for result in self.results if result.name == name)

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain data, for JSON."""
        return {
            "kind": self.kind,
            "label": self.label,
            "passed": self.passed,
            "checks": [
                {
                    "name": r.name,
                    "verdict": r.verdict,
                    "error": r.error if r.error < float("inf") else None,
                    "tolerance": r.tolerance,
                    "cases": r.cases,
                    "partners": r.partners,
                    "skipped": r.skipped,
                    "message": r.message,
                    "case": r.case,
                    "source": r.source,
                }
                for r in self.results
            ],
        }

    def __str__(self) -> str:
        """Return a table of plain text, with the smallest failing cases below it."""
        width = max((len(r.name) for r in self.results), default=0)
        lines = [f"{self.kind} {self.label}: {'all checks passed' if self.passed else 'FAILED'}"]
        lines += [
            f"  {r.name:<{width}}  {r.verdict:<14}  {r.error:9.2g}  {r.cases:4} cases" for r in self.results
        ]
        for r in self.failures:
            lines += ["", r.message, f"  smallest failing case: {r.case or '(none was drawn)'}"]
        return "\n".join(lines)
