"""What a training run leaves behind: results, the model, exported files."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import keras

from kmtl.export import export_litert
from kmtl.export.files import write_together
from kmtl.training import results
from kmtl.training.building.workers import Cluster, on_first_worker
from kmtl.training.configuration.schema import Config


def write_all(
    model,
    config: Config,
    data,
    measure: Callable[[], dict] | None,
    strategy,
    cluster: Cluster | None,
    say,
) -> None:
    """Saves, measures and exports, in this order, as the latter two may fail; all must call it.

    Every worker saves, as some variables are sums over what each of them holds.

    Args:
        model: The trained model.
        config: The configuration.
        data: What `kmtl.training.loading.data.load` returned.
        measure: Returns what `kmtl.training.results.by_task` does, or None; all call it.
        strategy: Where the model was trained.
        cluster: The workers.
        say: Shows a text.
    """
    first = cluster is None or cluster.index == 0
    target = None if config.model is None or not first else Path(config.model)
    # Beside the model, so that it can be renamed into its place.
    beside = None if target is None else target.parent
    with tempfile.TemporaryDirectory(prefix=".part-", dir=beside) as folder:
        part = saved = Path(folder) / "model.keras"
        if config.model is not None or config.export:
            model.save(part)

        def place():
            nonlocal saved
            if target is not None:
                os.replace(part, target)
                saved = target
                say(str(target))

        on_first_worker(strategy, cluster, place)
        found = None if measure is None else measure()

        def write():
            if found is not None:
                say(results.as_text(found))
                if config.results is not None:
                    write_together({Path(config.results): results.as_json(found)})
                    say(config.results)
            if config.export:
                _export(keras.saving.load_model(saved, compile=False), config, data, say)

        on_first_worker(strategy, cluster, write)


def _export(model, config, data, say):
    """Of the saved model, which is free of the replicas."""
    for export in config.export:
        arguments = export.model_dump(exclude={"path"})
        written = export_litert(
            model, export.path, representative_data=data.mixture.dataset(), **arguments
        )
        worst = max(error["relative_error"] for error in written.errors.values())
        say(
            f"{written.path}  {written.bytes:,} bytes, {written.quantization}, "
            f"largest relative error {worst:.3g}"
        )
