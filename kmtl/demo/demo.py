"""The demo from beginning to end."""

import os
import tempfile
import time
from pathlib import Path

from kmtl.export.reporting.figures import check_packages

EXTRAS = ("sklearn", "matplotlib", "jinja2", "tqdm")

# Written last, and removed before anything else is replaced: a report never describes other
# files than those it lies beside.
REPORTS = ("report.json", "report.html")


def run_demo(output: str | os.PathLike, seeds: int | None = None, quick: bool = False) -> dict:
    """Trains baselines and networks, deploys the best on validation images, and reports.

    Args:
        output: The folder to write. Files of an earlier run are replaced, others left alone.
        seeds: Trainings of each network. Defaults to `None`: 3, or 1 where `quick`.
        quick: One epoch on few images, to see that everything works. Defaults to `False`.

    Returns:
        What `report.json` holds.

    Raises:
        ValueError: if `seeds` is below 1.
        ImportError: if a package of the extra "demo" is missing.
        OSError: if `output` cannot be written.
    """
    if seeds is not None and seeds < 1:
        raise ValueError(f"`seeds` must be at least 1. Received: seeds={seeds}")
    check_packages("The demo", "demo", EXTRAS)
    output = Path(output)
    output.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".part-", dir=output) as folder:
        report = _write_all(Path(folder), output, seeds, quick)
        for name in REPORTS:
            (output / name).unlink(missing_ok=True)
        written = [path.name for path in Path(folder).iterdir()]
        for name in sorted(written, key=lambda name: name in REPORTS):
            os.replace(Path(folder) / name, output / name)
    return report


def _write_all(folder, output, seeds, quick) -> dict:
    """Writes every file of the demo into `folder`; `output` is the name shown for it."""
    import keras
    from tqdm import tqdm

    from kmtl.datasets import multi_digits
    from kmtl.demo import deploy, report, results, train

    start = time.time()
    if quick:
        plan = train.Plan(
            seeds=seeds or 1, epochs=1, num_train=1000, num_validation=200, num_test=200
        )
    else:
        plan = train.Plan(seeds=seeds or 3)
    data = multi_digits(plan.num_train, plan.num_validation, plan.num_test)
    strategy = train.make_strategy()
    with tqdm(total=plan.trainings * plan.epochs, unit="epoch") as progress:
        runs = train.train_all(plan, data, strategy, progress)
    trained = time.time()
    best = results.choose(runs)
    print(f"Deploying {best.network}, seed {best.seed}, chosen on the validation images ...")
    best.model.save(folder / "model.keras")
    model = keras.saving.load_model(folder / "model.keras")  # free of the replicas
    files = deploy.deploy(model, folder, data)
    report.write_test_data(folder / "test.npz", data.test)
    seconds = {"training": trained - start, "deployment": time.time() - trained}
    summary = results.summarize(plan, runs, best, files, seconds, strategy.num_replicas_in_sync)
    report.write(folder, summary, runs, files, data.test)
    print(results.as_text(summary))
    print(f"\n{output / 'report.html'}")
    return summary
