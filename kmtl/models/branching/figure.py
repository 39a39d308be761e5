"""The picture of a tree of branches."""

from kmtl.models.branching.tree import BranchTree
from kmtl.ops.figures import new_figure


def plot_tree(tree: BranchTree):
    """Stages as rows of boxes, the input at the bottom, and a task at each tip.

    Returns:
        A `matplotlib.figure.Figure`.

    Raises:
        ImportError: if matplotlib is not installed.
    """
    figure = new_figure(1.5 + 1.3 * len(tree.tasks), 1.5 + 0.8 * len(tree.stages))
    axes = figure.subplots()
    order = _tips(tree, 0, tree.tasks)
    x_of = {task: i for i, task in enumerate(order)}
    top = len(tree.stages)
    box = {"boxstyle": "round", "facecolor": "white", "edgecolor": "black"}
    centre = (len(order) - 1) / 2
    below = {task: (centre, -1) for task in order}
    axes.text(centre, -1, "input", ha="center", va="center", bbox=box, zorder=2)
    for row, branches in enumerate(tree.stages):
        for branch in branches:
            x = sum(x_of[task] for task in branch.tasks) / len(branch.tasks)
            axes.plot(*zip(below[branch.tasks[0]], (x, row), strict=True), color="grey", zorder=1)
            axes.text(x, row, branch.name, ha="center", va="center", bbox=box, zorder=2)
            below |= dict.fromkeys(branch.tasks, (x, row))
    for task, x in x_of.items():
        axes.plot(*zip(below[task], (x, top), strict=True), color="grey", zorder=1)
        axes.text(x, top, task, ha="center", va="center", bbox={**box, "facecolor": "lightgrey"})
    axes.set(xlim=(-0.7, len(order) - 0.3), ylim=(-1.5, top + 0.5), title="Branches of tasks")
    axes.set_axis_off()
    return figure


def _tips(tree, stage, tasks):
    """Tasks from left to right so that no branches cross."""
    if stage == len(tree.stages):
        return list(tasks)
    return [
        tip
        for branch in tree.children(stage, tasks)
        for tip in _tips(tree, stage + 1, branch.tasks)
    ]
