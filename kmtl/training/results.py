"""What a model achieves on the test split, as a table and as JSON."""

import json
from collections.abc import Collection, Mapping, Sequence


def by_task(
    logs: Mapping[str, float], tasks: Sequence[str], unlabelled: Collection[str] = ()
) -> dict:
    """`{"loss": ..., "tasks": {task: {metric: value}}}` of what `evaluate` returned.

    Args:
        logs: What it returned.
        tasks: The model's.
        unlabelled: Those that were not measured, as there was no label. Defaults to none.
    """
    if len(tasks) == 1:
        return {"loss": logs["loss"], "tasks": {tasks[0]: dict(logs)}}
    found = {task: {} for task in sorted(tasks)}
    for name, value in logs.items():
        # Of two tasks "a" and "a_b", "a_b_loss" is the longer one's.
        owners = [task for task in tasks if name.startswith(f"{task}_")]
        if owners:
            task = max(owners, key=len)
            found[task][name.removeprefix(f"{task}_")] = value
    measured = {task: values for task, values in found.items() if task not in unlabelled}
    return {"loss": logs["loss"], "tasks": measured}


def as_text(results: Mapping) -> str:
    """A line for each task."""
    width = max(map(len, results["tasks"]))
    lines = [f"test loss {results['loss']:.4g}"]
    for task, values in results["tasks"].items():
        shown = "  ".join(f"{name} {value:.4f}" for name, value in values.items())
        lines.append(f"  {task:{width}}  {shown}")
    return "\n".join(lines)


def as_json(results: Mapping) -> bytes:
    """The contents of the results' file."""
    return (json.dumps(results, indent=2) + "\n").encode()
