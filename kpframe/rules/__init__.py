"""Learning rules as compositions of operators: what a rule changes in ``g = M J* P* E Err``."""

from kpframe.rules._rule import MAX_OUTCOMES, LearningRule, StochasticRule, by_name, create_rule, gradient_of
from kpframe.rules._update import Update

__all__ = [
    "MAX_OUTCOMES",
    "LearningRule",
    "StochasticRule",
    "Update",
    "by_name",
    "create_rule",
    "gradient_of",
]
