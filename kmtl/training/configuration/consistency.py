"""Rules over several parts of a configuration."""

from collections.abc import Iterable

from kmtl.training.configuration.complaints import nearest
from kmtl.training.configuration.schema import Config, LayeredNetwork


def check_together(config: Config) -> None:
    """Raises ValueError, naming the key, for parts that do not fit together."""
    if isinstance(config.network, LayeredNetwork):
        heads = config.network.heads
        check_names("training.losses", config.training.losses, heads, "tasks of `network.heads`")
        check_names("training.metrics", config.training.metrics, heads, "tasks of `network.heads`")
        for i, export in enumerate(config.export):
            check_names(f"export.{i}.tasks", export.tasks or (), heads, "tasks of `network.heads`")
    stopping = config.training.early_stopping
    if stopping is not None and stopping.monitor.startswith("val_"):
        if config.data.validation is None:
            raise ValueError(
                "`training.early_stopping.monitor` must be measured in training where there is no "
                f"`data.validation`. Received: {stopping.monitor}"
            )
    if config.results is not None and config.data.test is None:
        raise ValueError(
            f"`results` must come with `data.test`, on which they are measured. "
            f"Received: {config.results}"
        )
    paths = [export.path for export in config.export]
    twice = sorted({path for path in paths if paths.count(path) > 1})
    if twice:
        raise ValueError(f"`export` must write each file once. Received: {', '.join(twice)} twice")


def check_names(key: str, names: Iterable[str], known: Iterable[str], what: str) -> None:
    """Raises ValueError for names that are not known.

    Args:
        key: Where the names are in the configuration.
        names: The names.
        known: Those that there are.
        what: What these are, in the plural.
    """
    known = sorted(known)
    for name in names:
        if name not in known:
            likely = nearest(name, known)
            hint = "" if likely is None else f"; the nearest is {likely}"
            raise ValueError(
                f"`{key}` must name {what}, {', '.join(known)}{hint}. Received: {name}"
            )
