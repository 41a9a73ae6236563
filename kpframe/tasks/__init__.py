"""Tasks: trials to learn from."""

from kpframe.tasks._task import SPLITS, Loss, Split, Task, Trials, check_split, create_task, seeded_generator
from kpframe.tasks._trials_task import TrialsTask

__all__ = [
    "SPLITS",
    "Loss",
    "Split",
    "Task",
    "Trials",
    "TrialsTask",
    "check_split",
    "create_task",
    "seeded_generator",
]
