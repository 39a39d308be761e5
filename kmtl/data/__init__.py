"""Training data from one or many sources, repeatable from any step on."""

from kmtl.data.task_mixture import TaskMixture as TaskMixture

__all__ = ["TaskMixture"]
