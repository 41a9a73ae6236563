"""Learning rules beside the exact gradient."""

from kpframe.rules._comparison import UpdateComparison, compare_update

__all__ = ["UpdateComparison", "compare_update"]
