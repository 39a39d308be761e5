"""Which tasks to train together."""

from kmtl.grouping.select_task_groups import select_task_groups as select_task_groups
from kmtl.grouping.task_grouper import TaskGrouper as TaskGrouper
from kmtl.grouping.task_groups import TaskGroups as TaskGroups

__all__ = ["TaskGrouper", "TaskGroups", "select_task_groups"]
