"""Mixtures of experts on tables of people: `python -m benchmarks.survey.tables`.

Adult (income, never married) and student performance (two final grades) with single-task networks,
a shared layer, MMoE and PLE, each with and without helper tasks. Early stopping looks at validation
data, nothing else is chosen. Writes `tables.json`, `.md` and `.png`.
"""

import functools
import itertools
from typing import NamedTuple

import keras
import numpy as np
from absl import app
from keras import layers
from sklearn.linear_model import LogisticRegression, RidgeCV
from sklearn.metrics import roc_auc_score

import kmtl
from benchmarks.survey.records import dots, measure, table
from benchmarks.survey.settings import DATA, SEEDS, save
from kmtl.ops.figures import new_figure

UNITS, TOWER, EXPERTS, RATE = 128, 16, 8, 1e-3
NAN = float("nan")  # the grade of a pupil in the other subject
ALPHAS = (1.0, 10.0, 30.0, 100.0, 300.0)
LINEAR, SINGLE, SHARED = "linear models", "single-task networks", "shared layer (plain sum)"
KINDS, HELPED = (SINGLE, SHARED, "MMoE", "PLE"), " + helpers"
COLUMNS = {"delta": ("gain over single-task %", 100, 2), "parameters": ("parameters", 1, 0)}
TITLES = {
    "income": ("income, AUC %", 100, 2),
    "never_married": ("never married, AUC %", 100, 2),
    "mat_G3": ("mathematics, RMSE", 1, 3),
    "por_G3": ("Portuguese, RMSE", 1, 3),
}


class Study(NamedTuple):
    """A data set, and what differs between the two."""

    folder: str  # of the data, and the name of the function in kmtl.datasets
    helpers: dict[str, tuple[str, ...]]  # main task -> labels of other tasks, or features
    grades: bool  # whether labels are numbers, and not yes or no
    batch: int
    epochs: int
    patience: int

    def __str__(self):
        return f"Batches of {self.batch}, at most {self.epochs} epochs, patience {self.patience}"


HOURS = {"income": ("hours_per_week",), "never_married": ("hours_per_week",)}
EARLIER = {"mat_G3": ("mat_G1", "mat_G2"), "por_G3": ("por_G1", "por_G2")}
ADULT = Study("adult", HOURS, grades=False, batch=512, epochs=30, patience=3)
STUDENT = Study("student_performance", EARLIER, grades=True, batch=64, epochs=200, patience=15)


def main(argv) -> None:
    del argv
    record = {
        "command": f"python -m benchmarks.survey.tables --seeds={SEEDS.value}",
        "setting": f"Means and deviations over {SEEDS.value} seeds, of the networks and of the "
        f"choice of validation rows; nothing was tuned. A shared layer has {UNITS} ReLU units, "
        f"the networks of single tasks have a share of that each, MMoE {EXPERTS} experts of "
        f"{UNITS // EXPERTS} units, PLE as many at its first level and then one for each task and "
        f"one for all. Every task has a tower of {TOWER} units; Adam with rate {RATE:g}; stopped "
        "by the validation losses of the main tasks. Helpers have weight 1, as in Caruana (1997), "
        "and in mixtures a gate of their own",
        "rows": {study.folder: run(study) for study in (ADULT, STUDENT)},
    }
    folder = save("tables", record, page(record))
    picture(record["rows"]).savefig(folder / "tables.png", dpi=120)


def run(study: Study) -> dict:
    """Rows over seeds, with the mean gain over single-task networks."""
    read, folder = getattr(kmtl.datasets, study.folder), f"{DATA.value}/{study.folder}"
    load = functools.cache(lambda seed: read(folder, seed))
    methods = {LINEAR: lambda seed: linear(study, load(seed))}
    for kind, helped in itertools.product(KINDS, (False, True)):
        methods[kind + HELPED * helped] = functools.partial(networks, study, load, kind, helped)
    rows = measure(methods, SEEDS.value)
    alone = {task: rows[SINGLE][task] for task in study.helpers}
    for row in rows.values():
        found = {task: row[task] for task in study.helpers}
        gain = kmtl.metrics.delta_m(found, alone, higher_is_better=not study.grades)
        row["delta"] = list(gain.per_seed)
    return rows


def linear(study: Study, data) -> dict:
    """Ridge regressions, of the strength that is best in leaving one out, or logistic ones."""
    found, x = {}, data.train.x
    for task in study.helpers:
        y = data.train.y[task]
        model = RidgeCV(ALPHAS) if study.grades else LogisticRegression(max_iter=1000)
        model.fit(x[~np.isnan(y)], y[~np.isnan(y)])
        ask = model.predict if study.grades else model.decision_function
        found[task] = score(study, data.test.y[task], ask(data.test.x))
    return found


def score(study: Study, y, answer) -> float:
    return np.sqrt(np.nanmean((y - answer) ** 2)) if study.grades else roc_auc_score(y, answer)


def networks(study: Study, load, kind: str, helped: bool, seed: int) -> dict:
    """Test scores of one network for all tasks, or of one for each."""
    keras.utils.set_random_seed(seed)
    mains = list(study.helpers)
    groups = [[task] for task in mains] if kind == SINGLE else [mains]
    found = [train(study, load(seed), kind, g, helped, UNITS // len(groups)) for g in groups]
    scores = {task: value for scores, _ in found for task, value in scores.items()}
    return {**scores, "parameters": sum(parameters for _, parameters in found)}


def train(study: Study, data, kind: str, mains: list[str], helped: bool, units: int) -> tuple:
    """Test scores by task, and how many parameters were trained."""
    extra = sorted({h for task in mains for h in study.helpers[task]}) if helped else []
    columns = {name: data.features.index(name) for name in extra if name in data.features}
    # Grades are learned standardised by the training rows.
    y = {task: data.train.y[task] for task in [*mains, *extra] if task not in columns}
    scale = {t: (np.nanmean(y[t]), np.nanstd(y[t])) if study.grades else (0.0, 1.0) for t in y}
    parts = [
        (part.x, {t: (part.y[t] - mean) / deviation for t, (mean, deviation) in scale.items()})
        for part in (data.train, data.validation, data.test)
    ]
    x = keras.Input((len(data.features) - len(columns),))
    streams = mixed(kind, x, [*mains, *extra], units)
    activation, loss = ("linear", "mse") if study.grades else ("sigmoid", "binary_crossentropy")
    model = kmtl.MultiTaskModel(x, {task: head(activation)(streams[task]) for task in mains})
    arguments = {"loss": dict.fromkeys(mains, loss), "missing": dict.fromkeys(mains, NAN)}
    if helped:
        helpers = kmtl.auxiliary.AuxiliaryTasks([helper(n, columns, streams[n]) for n in extra])
        model = helpers.attach(model)
        parts = [helpers.add_targets(part, training=not n) for n, part in enumerate(parts)]
        arguments = helpers.compile_arguments(**arguments)
    model.compile(keras.optimizers.Adam(RATE), **arguments)
    sizes = {"batch_size": study.batch, "validation_batch_size": 4096, "epochs": study.epochs}
    stop = StopByMainTasks(mains, study.patience)
    model.fit(*parts[0], **sizes, validation_data=parts[1], callbacks=[stop], verbose=0)
    found, answers = {}, model.predict(parts[2][0], batch_size=4096, verbose=0)
    for task in mains:
        answer = scale[task][0] + scale[task][1] * answers[task][:, 0]
        found[task] = score(study, data.test.y[task], answer)
    return found, model.count_params()


def mixed(kind: str, x, tasks: list[str], units: int) -> dict:
    """What the tower of each task reads; mixtures split the units among their experts."""
    small = units // EXPERTS
    if kind == "MMoE":
        streams = kmtl.layers.MMoE(EXPERTS, small, len(tasks))(x)
    elif kind == "PLE":
        own = max(1, EXPERTS // 2 // len(tasks))  # about half of the first experts are shared
        first = {"shared_experts": EXPERTS - own * len(tasks), "task_experts": own, "units": small}
        second = {"shared_experts": 1, "task_experts": 1, "units": small}
        streams = kmtl.layers.PLE([first, second], len(tasks))(x)
    else:
        streams = [layers.Dense(units, activation="relu")(x)] * len(tasks)
    return dict(zip(tasks, streams, strict=True))


def head(activation: str) -> keras.Sequential:
    return keras.Sequential([layers.Dense(TOWER, "relu"), layers.Dense(1, activation)])


def helper(name: str, columns: dict, stream) -> kmtl.auxiliary.AuxiliaryTask:
    """A feature that is predicted and no longer read, or a label that only training has."""
    if name in columns:
        return kmtl.auxiliary.InputsAsOutputs(name, [columns[name]], head("linear"), stream)
    return kmtl.auxiliary.AuxiliaryTask(name, name, head("linear"), "mse", stream, missing=NAN)


class StopByMainTasks(keras.callbacks.EarlyStopping):
    """Early stopping that does not look at the losses of helper tasks."""

    def __init__(self, mains: list[str], patience: int):
        super().__init__(patience=patience, mode="min", restore_best_weights=True)
        self._mains = mains

    def get_monitor_value(self, logs):  # of a model of one task they hold its loss only
        return sum(logs.get(f"val_{task}_loss", logs["val_loss"]) for task in self._mains)


def page(record) -> str:
    (adult, student), titles = record["rows"].values(), list(TITLES.items())
    return f"""# Adult and student performance: mixtures of experts and helper tasks

{record["setting"]}.

## Adult

{ADULT}. The helper is hours of work a week, which those rows predict and do not read.

{table(adult, dict(titles[:2]) | COLUMNS)}

{beside(adult, "gradient boosting", {"income": 0.8969, "never_married": 0.8885})} The boosting was
computed for this data set, with the official split; where networks are below it, likely because
trees cut skewed numbers such as capital gains at any place. Figures of MMoE and PLE on these data
are not known to us: Ma et al. (2018) have both tasks on the larger Census-Income data.

## Student performance

{STUDENT}. Final grades are the tasks and the two earlier ones of each subject the helpers.

{table(student, dict(titles[2:]) | COLUMNS)}

{beside(student, "random forests", {"mat_G3": 3.90, "por_G3": 2.67})} The forests are recalled, not
checked, from Cortez and Silva (2008), setup C, by cross-validation, which learns from 90 % of the
reports, not 60 %: a likely reason where networks are behind. So computed for this data set, ridge
regressions have 4.389 and 2.763, the mean 4.592 and 3.233. Each seed tests on other pupils.

![test scores by method](tables.png)

Made by `{record["command"]}`.
"""


def beside(rows, source: str, published: dict) -> str:
    """How far networks are from a published score."""
    texts = []
    for task, value in published.items():
        title, factor, digits = TITLES[task]
        gaps = {kind: factor * (np.mean(rows[kind][task]) - value) for kind in KINDS}
        named = ", ".join(f"{kind} {gap:+.{digits}f}" for kind, gap in gaps.items())
        texts.append(f"{title}: {source} {factor * value:.{digits}f}; difference to it: {named}.")
    return " ".join(texts)


def picture(rows):
    figure = new_figure(11.0, 6.0)
    panels = [(own, task) for own in rows.values() for task in TITLES if task in own[LINEAR]]
    for axes, (own, task) in zip(figure.subplots(2, 2).flat, panels, strict=True):
        dots(axes, own, task, TITLES[task][1])
        axes.set_xlabel(TITLES[task][0])
    return figure


if __name__ == "__main__":
    app.run(main)
