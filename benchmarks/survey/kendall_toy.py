"""Two regressions with noise of known size: `python -m benchmarks.survey.kendall_toy`.

The toy that A. Kendall and Y. Gal show uncertainty weighting on: it is to find the standard
deviations of the noise, 10 and 1. Writes `kendall_toy.json`, `.md` and `.png`.
"""

import keras
import numpy as np
from absl import app, flags

import kmtl
from benchmarks.survey.records import measure, save, table
from kmtl.ops.figures import new_figure

_OUTPUT = flags.DEFINE_string("output", "docs/results/survey", "Folder for the results.")
_SEEDS = flags.DEFINE_integer("seeds", 3, "Number of seeds.", lower_bound=1)

ROWS, UNITS, EPOCHS, BATCH, RATE = 100, 1_024, 600, 20, 5e-3  # far enough for the deviations
NOISE = {"first": 10.0, "second": 1.0}
COLUMNS = {
    "first": ("deviation of first, true 10", 1, 2),
    "second": ("deviation of second, true 1", 1, 3),
    "first_drawn": ("noise drawn, first", 1, 2),
    "second_drawn": ("noise drawn, second", 1, 3),
    "minutes": ("minutes", 1, 1),
}


def main(argv) -> None:
    del argv
    histories = []
    rows = measure({"uncertainty weighting": lambda seed: run(seed, histories)}, _SEEDS.value)
    record = {
        "command": f"python -m benchmarks.survey.kendall_toy --seeds={_SEEDS.value}",
        "setting": f"{ROWS} samples of x ~ N(0, 1), first = 2 x + 8 + N(0, 10^2), second = 3 x + 3 "
        f"+ N(0, 1); a layer of {UNITS:,} ReLU units for both; {EPOCHS} epochs of Adam {RATE}, "
        f"batches of {BATCH}; {_SEEDS.value} seeds",
        "rows": rows,
        "histories": histories,
    }
    folder = save(_OUTPUT.value, "kendall_toy", record, page(record))
    picture(histories).savefig(folder / "kendall_toy.png", dpi=120)


def run(seed: int, histories: list) -> dict:
    """Task -> learned deviation after the last epoch."""
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(ROWS, 1)).astype("float32")
    noise = {task: deviation * rng.normal(size=x.shape) for task, deviation in NOISE.items()}
    y = {"first": 2.0 * x + 8.0 + noise["first"], "second": 3.0 * x + 3.0 + noise["second"]}
    heads = {task: keras.layers.Dense(1) for task in NOISE}
    trunk = keras.layers.Dense(UNITS, activation="relu")
    model = kmtl.models.HardSharing(trunk, heads, inputs=(1,))
    model.compile(
        keras.optimizers.Adam(RATE), "mse", weighting=kmtl.weighting.UncertaintyWeighting()
    )
    history = model.fit(x, y, batch_size=BATCH, epochs=EPOCHS, verbose=0).history
    deviations = {task: np.sqrt(history[f"{task}_variance"]).round(4).tolist() for task in NOISE}
    histories.append({task: values[::10] for task, values in deviations.items()})
    drawn = {f"{task}_drawn": values.std() for task, values in noise.items()}
    return {**{task: values[-1] for task, values in deviations.items()}, **drawn}


def page(record) -> str:
    return f"""# Deviations that uncertainty weighting learns

{record["setting"]}.

{table(record["rows"], COLUMNS)}

![learned deviations during training](kendall_toy.png)

The true deviations are those of the noise; what {ROWS} samples of it have differs from seed to
seed, and a network that fits the noise leaves less. Gal's notebook ends at 8.65 and 0.925.

Made by `{record["command"]}`.
"""


def picture(histories):
    figure = new_figure(6.0, 3.2)
    axes = figure.subplots()
    for task, color in zip(NOISE, ("tab:blue", "tab:orange"), strict=True):
        for i, run_ in enumerate(histories):
            label = f"{task}, learned" if i == 0 else None
            axes.plot(np.arange(len(run_[task])) * 10, run_[task], color=color, label=label)
        axes.axhline(NOISE[task], color=color, linestyle=":", label=f"{task}, true")
    axes.set_yscale("log")
    axes.set_xlabel("epoch")
    axes.set_ylabel("standard deviation")
    axes.legend()
    return figure


if __name__ == "__main__":
    app.run(main)
