"""Ten detectors of digits from 1,000 images: `python -m benchmarks.survey.one_against_all`.

Each task tells one digit of MNIST from all others. Networks whose layers are factorised over the
tasks stand beside networks of their own and a shared trunk, as in Yang and Hospedales (2017).
Writes `one_against_all.json`, `.md` and `.png`.
"""

import functools

import keras
import numpy as np
from absl import app, flags
from keras import layers

import kmtl
from benchmarks.survey.records import dots, measure, table
from benchmarks.survey.settings import DATA, SEEDS, save
from kmtl.ops.figures import new_figure

_EPOCHS = flags.DEFINE_integer("epochs", 5, "Epochs of half a training.", lower_bound=1)

TASKS, SHAPE, EACH, BATCH = tuple(f"digit_{d}" for d in range(10)), (28, 28, 1), 100, 20
PARTS, FILTERS, UNITS, REL_ERROR = ("train", "test"), (16, 32), 256, 0.1
METHODS = {"LAF": "laf", "Tucker": "tucker", "TT": "tt"}
COLUMNS = {
    "parameters": ("parameters", 1, 0),
    "argmax": ("argmax error %", 100, 2),
    "binary": ("binary error %", 100, 2),
    "minutes": ("minutes", 1, 2),
}
TRAINED, RANDOM = "factorised ({}), from trained networks", "factorised ({}), random start"
PUBLISHED = 6.0  # percent; the paper's curves lie below it


def main(argv) -> None:
    del argv
    with np.load(f"{DATA.value}/mnist/mnist.npz") as file:
        images = {part: file[f"x_{part}"][..., None] / np.float32(255) for part in PARTS}
        digits = {part: file[f"y_{part}"] for part in PARTS}
    test = images["test"], digits["test"]

    @functools.lru_cache(maxsize=1)
    def train(seed):
        rows = few_of_each(digits["train"], seed)
        return images["train"][rows], digits["train"][rows]

    @functools.lru_cache(maxsize=1)  # all three factorisations of a seed begin at one place
    def trained_towers(seed):
        keras.utils.set_random_seed(seed)
        towers = {task: tower() for task in TASKS}
        fit(side_by_side(towers), train(seed), _EPOCHS.value)
        return towers

    def scored(make, epochs, seed):
        keras.utils.set_random_seed(seed)
        model = fit(make(seed), train(seed), epochs)
        return {**errors(model, test), "parameters": model.count_params()}

    def row(make, halves=2):
        return functools.partial(scored, make, halves * _EPOCHS.value)

    methods = {
        "linear, a model for each task": row(lambda seed: linear()),
        "single task (a network each)": row(lambda s: side_by_side({t: tower() for t in TASKS})),
        "hard sharing, plain sum": row(lambda seed: hard_sharing()),
    }
    for name, method in METHODS.items():
        make = functools.partial(factorized, method)
        methods[RANDOM.format(name)] = row(lambda seed, make=make: make(tower()))
        methods[TRAINED.format(name)] = row(lambda s, make=make: make(trained_towers(s)), 1)
    rows = measure(methods, SEEDS.value)
    for values in rows.values():
        if len(set(values["parameters"])) == 1:  # ranks may differ from seed to seed
            values["parameters"] = values["parameters"][:1]
    record = {
        "command": f"python -m benchmarks.survey.one_against_all --seeds={SEEDS.value} "
        f"--epochs={_EPOCHS.value}",
        "setting": f"{EACH} images of each digit, drawn anew for each seed, and 10,000 test "
        f"images; convolutions of {FILTERS[0]} filters of 5 x 5 and {FILTERS[1]} of 4 x 4, each "
        f"with pooling, and a dense layer of {UNITS} ReLU units, half the paper's widths; hinge "
        f"losses summed, Adam at Keras's rate, {2 * _EPOCHS.value} epochs in batches of {BATCH}. "
        f"From trained networks: {_EPOCHS.value} epochs apart, then the kernels are decomposed to "
        f"a relative error of at most {REL_ERROR:g}, as in the paper, then {_EPOCHS.value} epochs "
        f"together. Random starts have the default ranks of kmtl. {SEEDS.value} seeds. Nothing "
        "was chosen by data, so no images are held out",
        "rows": rows,
    }
    folder = save("one_against_all", record, page(record))
    picture(rows).savefig(folder / "one_against_all.png", dpi=120)


def few_of_each(digits: np.ndarray, seed: int) -> np.ndarray:
    """Which images to train with."""
    rng = np.random.default_rng(seed)
    chosen = [rng.choice(np.flatnonzero(digits == d), EACH, replace=False) for d in range(10)]
    return np.concatenate(chosen)


def fit(model: keras.Model, data, epochs: int) -> keras.Model:
    images, digits = data
    model.compile("adam", loss="hinge")
    labels = {task: (digits == d).astype("float32") for d, task in enumerate(TASKS)}
    model.fit(images, labels, batch_size=BATCH, epochs=epochs, verbose=0)
    return model


def errors(model: keras.Model, data) -> dict:
    """Wrong digits where the highest score decides, and wrong signs over all tasks."""
    images, digits = data
    answer = model.predict(images, batch_size=500, verbose=0)
    scores = np.concatenate([answer[task] for task in TASKS], axis=1)
    wrong = (scores > 0) != (digits[:, None] == np.arange(len(TASKS)))
    return {"argmax": np.mean(scores.argmax(axis=1) != digits), "binary": np.mean(wrong)}


def trunk() -> list:
    return [
        layers.Conv2D(FILTERS[0], 5, activation="relu"),
        layers.MaxPooling2D(),
        layers.Conv2D(FILTERS[1], 4, activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(UNITS, activation="relu"),
    ]


def tower() -> keras.Model:
    """A detector with its score, so that the last layer is factorised as well."""
    return keras.Sequential([keras.Input(SHAPE), *trunk(), layers.Dense(1)])


def linear() -> kmtl.MultiTaskModel:
    heads = {task: layers.Dense(1) for task in TASKS}
    return kmtl.models.HardSharing(layers.Flatten(), heads, inputs=SHAPE)


def side_by_side(towers: dict) -> kmtl.MultiTaskModel:
    """Nothing is shared, so that Adam trains each tower as if it were alone."""
    x = keras.Input(SHAPE)
    return kmtl.MultiTaskModel(x, {task: towers[task](x) for task in TASKS})


def hard_sharing() -> kmtl.MultiTaskModel:
    heads = {task: layers.Dense(1) for task in TASKS}
    return kmtl.models.HardSharing(trunk(), heads, inputs=SHAPE)


def factorized(method: str, towers: keras.Model | dict) -> kmtl.MultiTaskModel:
    """From one tower as a template, or from a trained one for each task."""
    heads = {task: layers.Activation("linear") for task in TASKS}
    return kmtl.models.FactorizedNetwork(towers, heads, method=method, rel_error=REL_ERROR)


def page(record) -> str:
    rows = record["rows"]
    return f"""# Each digit against all others

{record["setting"]}.

{table(rows, COLUMNS)}

![argmax error for each seed](one_against_all.png)

Argmax: the highest of the ten scores names the digit. Binary: the sign of each score against its
task's label, over all tasks; ten detectors that always say no would have {100 / len(TASKS):g} %.
The first row from trained networks bears the time of training them.

{beside(rows)}

Made by `{record["command"]}`.
"""


def beside(rows) -> str:
    """The published figure, and how far these are from it."""
    gaps = []
    for name in [n for n in rows if n.startswith("factorised")]:
        argmax, binary = (100 * np.mean(rows[name][e]) - PUBLISHED for e in ("argmax", "binary"))
        gaps.append(f"{name}: {argmax:+.2f} and {binary:+.2f}")
    return f"""Beside it, checked in the paper's text (arXiv:1605.06391): with 1,000 training images
the three factorisations err on less than {PUBLISHED:g} %, linear multi-task learning on 9 to 14 %.
It is called a binary error, but our source does not say how it is averaged, so both are set
against {PUBLISHED:g} %, argmax and binary, in points:

{chr(10).join(f"- {gap}" for gap in gaps)}

Where a row lies above it, half the paper's widths and the short training are the likely reasons;
single-task networks of the same length of training say what can be had here without sharing."""


def picture(rows):
    """A dot for each seed."""
    figure = new_figure(8.0, 3.6)
    axes = figure.subplots()
    dots(axes, rows, "argmax", 100)
    axes.axvline(PUBLISHED, color="grey", linewidth=0.8)
    axes.set_xlabel(f"argmax error, %; dots are seeds, lines their means; grey: {PUBLISHED:g} %")
    return figure


if __name__ == "__main__":
    app.run(main)
