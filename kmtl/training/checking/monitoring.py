"""What early stopping looks at."""

from kmtl.models import MultiTaskModel
from kmtl.training.configuration.complaints import nearest
from kmtl.training.configuration.schema import Training
from kmtl.training.loading.data import Loaded


def stopping_arguments(model: MultiTaskModel, training: Training, data: Loaded) -> dict:
    """The arguments of Keras's callback, with a direction.

    Raises:
        ValueError: naming the key, for a monitor that will not be in the logs, has no labels to
            be measured on, or is better in a direction that only the user knows.
    """
    stopping = training.early_stopping
    key = "training.early_stopping"
    known = _names(model, "validation" in data.held_out)
    if stopping.monitor not in known:
        likely = nearest(stopping.monitor, known)
        hint = "" if likely is None else f"; the nearest is {likely}"
        raise ValueError(
            f"`{key}.monitor` must be one of the values in the logs, {', '.join(sorted(known))}"
            f"{hint}. Received: {stopping.monitor}"
        )
    task = known[stopping.monitor]
    if stopping.monitor.startswith("val_") and task in data.unlabelled["validation"]:
        raise ValueError(
            f"`{key}.monitor` must be of a task with labels in `data.validation`. "
            f"Received: {stopping.monitor}"
        )
    is_loss = stopping.monitor in ("loss", "val_loss") or stopping.monitor.endswith(f"{task}_loss")
    if stopping.mode == "auto" and not is_loss:
        raise ValueError(
            f"`{key}.mode` must be min or max where the monitor is no loss. "
            f"Received: {stopping.mode} for {stopping.monitor}"
        )
    mode = "min" if stopping.mode == "auto" else stopping.mode
    return {**stopping.model_dump(), "mode": mode}


def _names(model, validated) -> dict[str, str | None]:
    """Value in the logs -> the task that it is of, or None."""
    names = {"loss": None}
    weighed = {}  # of training steps alone
    for metric in model.metrics:
        told = dict.fromkeys(getattr(metric, "names", [metric.name]))
        (weighed if metric.name == "weighting" else names).update(told)
    for name in names:
        owners = [task for task in model.task_names if name.startswith(f"{task}_")]
        # Of two tasks "a" and "a_b", "a_b_loss" is the longer one's.
        names[name] = max(owners, key=len, default=None)
    if len(model.task_names) == 1:
        names = dict.fromkeys(names, model.task_names[0])
    held_out = {f"val_{name}": task for name, task in names.items()} if validated else {}
    return {**weighed, **names, **held_out}
