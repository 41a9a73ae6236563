"""Learning rules as compositions of operators: what a rule changes in ``g = M J* P* E Err``."""

from kpframe.rules._parse import parse_rule
from kpframe.rules._rule import LearningRule, StochasticRule, create_rule
from kpframe.rules._update import Update

__all__ = ["LearningRule", "StochasticRule", "Update", "create_rule", "parse_rule"]
