"""Every head keeps its budget in the file, and the layers that cost it are found."""

import json
import math

import keras
import numpy as np
import pytest
from keras import layers

import kmtl
from kmtl.export import autotune, export_litert, inspect_litert, load_litert
from kmtl.export.flatbuffers.operations import Operation
from kmtl.export.folding.fold import fold
from kmtl.export.litert import post_training as post_training_module
from kmtl.export.litert.post_training import PostTraining
from kmtl.export.quantization.recipes import OVERRIDES, assign
from kmtl.export.tuning import evaluate as evaluate_module
from kmtl.export.tuning.evaluate import Evaluation, Exhausted
from kmtl.export.tuning.judge import Judge, check_directions, loss, share, unit_of
from kmtl.export.tuning.mixes import Unit, find_units, spell
from kmtl.export.tuning.search import Search

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.export is for the TensorFlow backend", allow_module_level=True)

pytestmark = pytest.mark.slow

RNG = np.random.default_rng(0)
X = RNG.normal(size=(300, 12)).astype("float32")
METRICS = {"zeta": "sparse_categorical_accuracy", "alpha": "mae", "mid": "categorical_accuracy"}
BUDGET = {"zeta": 1.0, "alpha": 2.0, "mid": 0.5}


@pytest.fixture(scope="module", autouse=True)
def convert_once():
    """Converting takes a second; a model of the same name gives the same flatbuffer."""
    convert, known = post_training_module.to_flatbuffer, {}

    def cached(plain, batch_size):
        key = (plain.name, batch_size)
        if key not in known:
            known[key] = convert(plain, batch_size)
        return known[key]

    post_training_module.to_flatbuffer = cached
    yield
    post_training_module.to_flatbuffer = convert


def build(edit=lambda model: None):
    """Heads with two metrics of classes and one of errors; `mid` is also a layer's name."""
    keras.utils.set_random_seed(4)
    x = keras.Input((12,), name="features")
    h = layers.Dense(48, activation="relu", name="first")(x)
    h = layers.Dense(48, activation="relu", name="second")(h)
    zeta = layers.Dense(5, activation="softmax", name="z_out")(
        layers.Dense(40, activation="relu", name="z")(h)
    )
    alpha = layers.Dense(1, name="a_out")(h)
    mid = layers.Dense(2, name="mid")(layers.Dense(24, activation="tanh", name="m")(h))
    heads = {"zeta": zeta, "alpha": alpha, "mid": mid}
    model = kmtl.MultiTaskModel(x, heads, name=edit.__name__.strip("<>"))
    edit(model)
    return model


def labels_of(model, x=X):
    """What the model says itself, so that float32 is right and each loss is the file's own."""
    y = model.predict(x, verbose=0)
    noise = np.random.default_rng(1).normal(size=(len(x), 1))
    return {
        "zeta": y["zeta"].argmax(axis=-1),
        "alpha": y["alpha"] + 0.5 * y["alpha"].std() * noise,
        "mid": keras.utils.to_categorical(y["mid"].argmax(axis=-1), 2),
    }


def losses_of(path, reference, y):
    """Task -> loss, computed here from the files' answers."""
    answers, exact = load_litert(path)(X), load_litert(reference)(X)

    def right(outputs, labels):
        return 100 * np.mean(outputs.argmax(axis=-1) == labels)

    def error(outputs):
        return np.abs(outputs - y["alpha"]).mean()

    mid = y["mid"].argmax(axis=-1)
    return {
        "zeta": right(exact["zeta"], y["zeta"]) - right(answers["zeta"], y["zeta"]),
        "alpha": 100 * (error(answers["alpha"]) / error(exact["alpha"]) - 1),
        "mid": right(exact["mid"], mid) - right(answers["mid"], mid),
    }


@pytest.fixture(scope="module")
def model():
    return build()


@pytest.fixture(scope="module")
def y(model):
    return labels_of(model)


@pytest.fixture(scope="module")
def folder(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("autotune")
    export_litert(model, folder / "float32.tflite")
    return folder


@pytest.fixture(scope="module")
def made(model, y, folder):
    lines = []
    found = autotune(model, folder / "m.tflite", X, y, METRICS, BUDGET, progress=lines.append)
    return found, lines


def test_every_head_keeps_its_budget_in_the_file(made, y, folder):
    found, _ = made
    measured = losses_of(found.path, folder / "float32.tflite", y)
    for task, most in BUDGET.items():
        assert found.losses[task] == pytest.approx(measured[task], abs=0.002), task
        assert measured[task] <= most + 0.002
    assert found.units == {"zeta": "points", "alpha": "%", "mid": "points"}
    assert found.chosen.overrides  # this budget asks for a mix


def test_the_file_is_the_smallest_that_was_measured(made):
    found, lines = made
    within = [e for e in found.evaluations if e.within_budget]
    assert found.export.bytes == found.path.stat().st_size == found.chosen.bytes
    assert found.chosen.bytes == min(e.bytes for e in within)
    alone = [e.bytes for e in within if not e.overrides]
    assert found.chosen.bytes < min(alone)
    asked = json.loads(found.path.with_suffix(".json").read_text())
    assert asked["overrides"] == found.export.overrides == found.chosen.overrides
    assert asked["quantization"] == found.chosen.quantization
    assert found.complete
    # Each file is measured and told of once.
    types = {(e.quantization, *sorted(e.overrides.items())) for e in found.evaluations}
    assert len(types) == len(found.evaluations) == sum(" of at most 200: " in x for x in lines)
    assert [e.quantization for e in found.evaluations[: len(OVERRIDES)]] == list(OVERRIDES)


def test_the_table_and_the_plot_show_it(made, tmp_path):
    found, _ = made
    text = str(found)
    assert text == found.table()
    for e in found.evaluations:
        if not (e.overrides or e.refused):
            assert f"| {e.quantization} | {e.bytes:,} |" in text
    chosen = ", ".join([found.chosen.quantization, *map("=".join, found.chosen.overrides.items())])
    assert f"| **{chosen}** | {found.chosen.bytes:,} |" in text
    assert f"{len(found.evaluations)} files measured." in text
    for layer, kinds in found.sensitivity.items():
        for kind, lost in kinds.items():
            assert f"| {layer} | {kind} | {lost['alpha']:.4g} |" in text
    found.plot(tmp_path / "p.svg")
    picture = (tmp_path / "p.svg").read_text()
    assert picture.startswith("<?xml") and "<!-- written -->" in picture
    assert "<!-- weight_only_int4 -->" in picture
    with pytest.raises(ValueError, match=r"end in one of .*Received: .*p.gif"):
        found.plot(tmp_path / "p.gif")


def test_a_budget_of_zero_loses_nothing(model, y, folder, tmp_path):
    found = autotune(model, tmp_path / "m.tflite", X, y, METRICS, 0)
    measured = losses_of(found.path, folder / "float32.tflite", y)
    assert all(value <= 1e-4 for value in measured.values()), measured
    assert all(value <= 0 for value in found.losses.values())


def test_without_limits_the_smallest_type_wins_at_once(model, y, tmp_path):
    path = tmp_path / "m.tflite"
    found = autotune(model, path, X, y, METRICS, math.inf, batch_size=None)
    assert len(found.evaluations) == len(OVERRIDES) and found.sensitivity == {}
    assert found.chosen.bytes == min(e.bytes for e in found.evaluations if not e.refused)
    assert load_litert(path).batch_size is None


def outlier_weight(model):
    """A weight that sets the step of `second` and that nothing comes through."""
    first, second = model.get_layer("first"), model.get_layer("second")
    kernel, bias = first.get_weights()
    kernel[:, 0] = 0
    first.set_weights([kernel, bias])
    kernel, bias = second.get_weights()
    kernel[0] = 60.0
    second.set_weights([kernel, bias])


def test_exactly_the_layer_with_an_outlier_stays_in_float(tmp_path):
    model = build(outlier_weight)
    types = ["dynamic_int8", "int8", "float16"]
    found = autotune(model, tmp_path / "m.tflite", X, labels_of(model), METRICS, 3.0, types=types)
    assert found.export.overrides == {"second": "float16"}
    assert found.export.quantization in ("dynamic_int8", "int8")
    assert [e.within_budget for e in found.evaluations[:4]] == [True, False, False, True]
    worst = {
        layer: max(lost["zeta"] for lost in kinds.values())
        for layer, kinds in found.sensitivity.items()
    }
    assert max(worst, key=worst.get) == "second" and worst["second"] > 10
    assert inspect_litert(found.path).weight_bytes["FLOAT16"] == 2 * 48 * 48


def outlier_range(model):
    """A feature of `first` with large values, which `second` does not use."""
    first, second = model.get_layer("first"), model.get_layer("second")
    kernel, bias = first.get_weights()
    kernel[:, 0] = 300.0
    first.set_weights([kernel, bias])
    kernel, bias = second.get_weights()
    kernel[0] = 0
    second.set_weights([kernel, bias])


def test_both_ends_of_a_wide_range_are_raised(tmp_path):
    model = build(outlier_range)
    found = autotune(
        model, tmp_path / "m.tflite", X, labels_of(model), METRICS, 5.0,
        types=["int8", "float32"], representative_data=X[:200],
    )  # fmt: skip
    kinds = {name: found.export.overrides.get(name, found.export.quantization)
             for name in ("first", "second", "z", "z_out", "a_out", "m")}  # fmt: skip
    raised = {name for name, kind in kinds.items() if kind == "float32"}
    assert raised - {"a_out"} == {"first", "second"}  # with 48 weights, scales are no saving
    assert {e.within_budget for e in found.evaluations if e.overrides == {"first": "float32",
            "second": "float32"}} == {True}  # fmt: skip
    reference = export_litert(model, tmp_path / "r.tflite").path
    measured = losses_of(found.path, reference, labels_of(model))
    assert all(value <= 5.002 for value in measured.values())


def test_a_type_that_not_every_layer_has_is_used_where_there_is_one(tmp_path):
    x = keras.Input((4, 4, 3), name="image")
    h = layers.Conv2D(16, 3, padding="same", activation="relu", name="stem")(x)
    up = layers.Conv2DTranspose(16, 2, strides=2, activation="relu", name="up")(h)
    heads = {
        "zeta": layers.Dense(3, name="z")(layers.GlobalAveragePooling2D()(up)),
        "alpha": layers.Dense(3, name="a")(layers.Flatten()(h)),
    }
    model = kmtl.MultiTaskModel(x, heads, name="upsampling")
    data = RNG.normal(size=(40, 4, 4, 3)).astype("float32")
    y = {t: np.argmax(v, axis=-1) for t, v in model.predict(data, verbose=0).items()}
    found = autotune(
        model, tmp_path / "m.tflite", data, y, "sparse_categorical_accuracy", 100,
        types=["dynamic_int4", "dynamic_int8"],
    )  # fmt: skip
    assert "TRANSPOSE_CONV in layer up" in found.evaluations[1].refused
    asked = {name: found.export.overrides.get(name, found.export.quantization)
             for name in ("stem", "up", "z", "a")}  # fmt: skip
    assert asked == {"stem": "dynamic_int4", "up": "dynamic_int8", "z": "dynamic_int4",
                     "a": "dynamic_int4"}  # fmt: skip
    assert "No file of one type:\n\n- dynamic_int4: " in str(found)


def test_evaluations_are_bounded(model, y, made, tmp_path, monkeypatch):
    runs = []
    measure = evaluate_module.Evaluator._measure
    monkeypatch.setattr(
        evaluate_module.Evaluator, "_measure", lambda *a: runs.append(a) or measure(*a)
    )
    most = len(OVERRIDES) + 4
    found = autotune(model, tmp_path / "m.tflite", X, y, METRICS, BUDGET, max_evaluations=most)
    assert len(runs) == len(found.evaluations) <= most < len(made[0].evaluations)
    assert not found.complete and "cut short" in str(found)
    assert found.chosen.within_budget


def test_latencies_of_the_last_files_are_compared_in_turns(model, y, tmp_path, monkeypatch):
    alone = iter(np.repeat([1.0, 0.5, 0.8], evaluate_module.ROUNDS))

    def timed(runners, inputs, **_):
        assert all(len(arrays["features"]) == 1 for arrays in inputs.values())
        if "file" in runners:
            return {"float32": 2.0, "file": 2.0 * next(alone)}
        return {"float32": 1.0, "0": 0.7, "1": 0.6, "2": 0.9}

    monkeypatch.setattr(evaluate_module, "median_latencies", timed)
    found = autotune(
        model, tmp_path / "m.tflite", X, y, METRICS, math.inf, target="latency",
        types=["int8", "dynamic_int8", "float32"],
    )  # fmt: skip
    # Times of a busy moment are put right by the float32 file's, which has 1 ms at the start.
    assert [e.latency_ms for e in found.evaluations] == [1.0, 0.5, 0.8]
    assert found.chosen.quantization == "dynamic_int8"  # the second fastest, till the last turns
    assert "| bytes | ms |" in str(found)


def test_the_fastest_file_keeps_the_budgets(model, y, folder, tmp_path):
    found = autotune(
        model, tmp_path / "m.tflite", X, y, METRICS, BUDGET, target="latency",
        types=["int8", "float32"],
    )  # fmt: skip
    measured = losses_of(found.path, folder / "float32.tflite", y)
    assert all(measured[task] <= most + 0.002 for task, most in BUDGET.items())
    assert all(e.latency_ms > 0 for e in found.evaluations)
    found.plot(tmp_path / "p.png")


def test_the_worse_runtime_counts(model, y, tmp_path, monkeypatch):
    class Differs(evaluate_module.LiteRTModel):
        def __init__(self, content, runtime):
            super().__init__(content, runtime)
            self.is_wrong = runtime == "compiled_model" and len(content) < 20_000

        def __call__(self, inputs):
            answers = super().__call__(inputs)
            return answers | {"zeta": answers["zeta"][:, ::-1]} if self.is_wrong else answers

    monkeypatch.setattr(evaluate_module, "LiteRTModel", Differs)
    types = ["int8", "float32"]
    found = autotune(model, tmp_path / "m.tflite", X, y, METRICS, 10, types=types)
    assert found.evaluations[1].losses["zeta"] > 10  # int8; 1.3 on the interpreter
    assert found.chosen.quantization == "float32"


def test_no_file_within_budget_is_an_error(model, y, tmp_path):
    with pytest.raises(ValueError, match=r"as 'float32' does. Received.*in int4 .*loses .* of 0"):
        autotune(model, tmp_path / "m.tflite", X, y, METRICS, 0, types=["int4"])
    assert not list(tmp_path.iterdir())


# Layers and how they are asked for.


@pytest.fixture(scope="module")
def source(model):
    return PostTraining(fold(model), {"features": X[:64]}, 1)


def test_units_are_the_layers_with_weights(model, source):
    units = find_units(source.content, source.operations, fold(model))
    names = {unit.name: (unit.weights, unit.followers) for unit in units}
    assert [unit.name for unit in units][:2] == ["second", "z"]
    assert names == {
        "first": (12 * 48 + 48, ()),
        "second": (48 * 48 + 48, ()),
        "z": (48 * 40 + 40, ()),
        "z_out": (40 * 5 + 5, ()),
        "a_out": (49, ()),
        "m": (48 * 24 + 24, ()),
        "mid": (24 * 2 + 2, ()),
    }


@pytest.mark.parametrize("low", ["int8", "dynamic_int4"])
def test_each_mix_is_asked_for_as_meant(model, source, low):
    units = find_units(source.content, source.operations, fold(model))
    for raised in units:
        kinds = ["float32" if unit is raised else low for unit in units]
        quantization, overrides = spell(source.operations, units, kinds)
        types = assign(source.operations, quantization, overrides)
        for op, kind in zip(source.operations, types, strict=True):
            assert (kind == "float32") == (raised.name in op.layers), (raised, op)
        assert quantization == low
        # `mid` means the head, whose other layer then needs a word of its own.
        assert overrides == {raised.name: "float32"} | ({"m": low} if raised.name == "mid" else {})


def test_what_has_no_weights_goes_with_the_layer_before_it():
    operations = [
        Operation("FULLY_CONNECTED", ("1",), ("d",), ("a", "b")),
        Operation("MEAN", ("2",), ("pool",), ("a", "b")),
        Operation("FULLY_CONNECTED", ("3",), ("e",), ("b",)),
    ]
    units = [Unit("d", frozenset("ab"), 1, ("pool",)), Unit("e", frozenset("b"), 1)]
    assert spell(operations, units, ["int8x16", "int8"]) == ("int8x16", {"e": "int8"})
    assert spell(operations, units[::-1], ["int8", "int8x16"])[1] == {
        "d": "int8x16", "pool": "int8x16"
    }  # fmt: skip
    mixed = spell(operations, units[::-1], ["dynamic_int8", "float16"])
    assert mixed == ("dynamic_int8", {"d": "float16"})  # makes no difference to `pool`


# The search alone, on losses that add up.


def search_on(seed, most=10_000):
    rng = np.random.default_rng(seed)
    number = int(rng.integers(1, 9))
    names = [f"u{i}" for i in range(number)]
    operations = [Operation("FULLY_CONNECTED", (n,), (n,), ("a", "b")) for n in names]
    weights = np.sort(rng.integers(1, 1000, number))[::-1]
    bits = {"float32": 32, "float16": 16, "int8": 8, "int4": 4}
    harm = {kind: rng.exponential(3 * 4.0 ** (-b / 8), (number, 2)) for kind, b in bits.items()}
    harm["float32"] *= 0
    budget = dict(zip("ab", rng.exponential(0.5, 2), strict=True))
    judge = Judge.__new__(Judge)
    judge.budget = budget
    known = {}

    class Evaluate:
        left = property(lambda self: most - len(known))
        evaluations = property(lambda self: tuple(known.values()))

        def __call__(self, quantization, overrides):
            kinds = tuple(assign(operations, quantization, overrides))
            if kinds not in known:
                if not self.left:
                    raise Exhausted
                lost = sum(harm[kind][i] for i, kind in enumerate(kinds))
                losses = dict(zip("ab", lost, strict=True))
                size = int(sum(w * bits[k] for w, k in zip(weights, kinds, strict=True)))
                known[kinds] = Evaluation(
                    quantization, overrides, size, None, {}, losses, judge.keeps(losses)
                )
            return known[kinds]

    evaluate = Evaluate()
    evaluate("float32", {})
    units = [Unit(n, frozenset("ab"), int(w)) for n, w in zip(names, weights, strict=True)]
    search = Search(evaluate, judge, units, operations, list(bits), lambda e: e.bytes)
    return search, search.run(), known


def test_the_search_is_never_worse_than_one_type():
    better = 0
    for seed in range(60):
        search, within, known = search_on(seed)
        alone = [e.bytes for e in within if not e.overrides]
        assert within[0].within_budget and within[0].bytes <= min(alone)
        assert within[0].bytes == min(e.bytes for e in known.values() if e.within_budget)
        assert search.complete
        better += within[0].bytes < 0.9 * min(alone)
    assert better >= 20  # a mix often saves a tenth or more


def test_the_search_ends_with_its_evaluations():
    cut = 0
    for seed in range(20):
        search, within, known = search_on(seed, most=9)
        assert len(known) <= 9 and within[0].within_budget
        cut += not search.complete
    assert cut > 5


# Losses and arguments.


@pytest.mark.parametrize(
    ("score", "reference", "higher", "lost", "unit"),
    [
        (0.897, 0.9, True, 0.3, "points"),
        (0.91, 0.9, True, -1.0, "points"),
        (-0.5, -0.25, True, 25.0, "points"),  # R2
        (30.0, 40.0, True, 25.0, "%"),  # PSNR in dB
        (0.21, 0.2, False, 5.0, "%"),
        (0.19, 0.2, False, -5.0, "%"),
        (0.1, 0.0, False, math.inf, "%"),
        (0.0, 0.0, False, 0.0, "%"),
        (math.nan, 0.9, True, math.nan, "points"),
    ],
)
def test_losses(score, reference, higher, lost, unit):
    assert loss(score, reference, higher) == pytest.approx(lost, nan_ok=True)
    assert unit_of(reference, higher) == unit


def test_shares_and_excess():
    budget = {"zeta": 2.0, "alpha": 0.0, "mid": math.inf}
    assert share({"zeta": 1.0, "alpha": -1.0, "mid": 50.0}, budget) == 0.5
    assert share({"zeta": -1.0, "alpha": 0.1, "mid": 0.0}, budget) == math.inf
    judge = Judge.__new__(Judge)
    judge.budget = budget
    assert judge.excess({"zeta": 3.0, "alpha": 0.0, "mid": math.inf}) == {"zeta": 1.0}
    assert judge.excess({"zeta": 0.0, "alpha": 0.0, "mid": math.nan}) == {"mid": math.inf}
    assert not judge.keeps({"zeta": 0.0, "alpha": 0.0, "mid": math.nan})


def test_directions_are_keras_s_or_given():
    metrics = {
        "zeta": keras.metrics.get("mae"),
        "alpha": keras.metrics.MeanIoU(2),
        "mid": keras.metrics.MeanMetricWrapper(lambda y, p: p, name="mine"),
    }
    found = check_directions({"mid": False}, metrics)
    assert found == {"zeta": False, "alpha": True, "mid": False}
    assert check_directions({"mid": True, "zeta": True}, metrics)["zeta"] is True
    with pytest.raises(ValueError, match=r"direction of metrics.*Received: nothing for mine of"):
        check_directions(None, metrics)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "m.bin"}, r"`path` must end in .tflite"),
        ({"target": "size"}, r"`target` must be one of .*Received: target='size'"),
        ({"types": ["int3"]}, r"`types` must be a list of some of.*int3"),
        ({"types": "int8"}, r"`types` must be a list"),
        ({"types": []}, r"`types` must be a list"),
        ({"types": ["int8_io"]}, r"`types` must be a list"),
        ({"batch_size": 0}, r"batch_size=0"),
        ({"max_evaluations": 3}, r"at least 10, one for float32 and.*max_evaluations=3"),
        ({"budget": {"zeta": 1, "mid": 1}}, r"`budget` must.*missing \['alpha'\], unknown \[\]"),
        ({"budget": BUDGET | {"beta": 1}}, r"`budget` must.*missing \[\], unknown \['beta'\]"),
        ({"budget": -0.1}, r"`budget` must be at least 0.*Received: -0.1 for 'alpha'"),
        ({"budget": BUDGET | {"mid": math.nan}}, r"at least 0.*Received: nan for 'mid'"),
        ({"budget": BUDGET | {"mid": "1"}}, r"at least 0.*Received: '1' for 'mid'"),
        ({"labels": {"zeta": np.zeros(300)}}, r"every head.*none for \['alpha', 'mid'\]"),
        ({"labels": None}, r"every head.*none for \['alpha', 'mid', 'zeta'\]"),
        ({"labels": dict.fromkeys(METRICS, np.zeros(3))}, r"as many rows as `data`, 300"),
        ({"metrics": None}, r"must be given together. Received: labels only"),
        ({"metrics": "no_metric"}, r"names that Keras knows.*'no_metric'"),
        ({"metrics": {"zeta": "mae"}}, r"`metrics` must be of the heads that have labels"),
        ({"higher_is_better": {"beta": True}}, r"`higher_is_better` must give heads"),
        ({"higher_is_better": {"mid": "up"}}, r"`higher_is_better` must give heads.*'up'"),
        ({"data": X[:, :5]}, r"'features' must have the shape"),
        ({"data": X * np.nan}, r"'features' must be finite"),
    ],
)
def test_bad_input(model, y, tmp_path, change, message):
    arguments = {"path": "m.tflite", "data": X, "labels": y, "metrics": METRICS, "budget": BUDGET}
    arguments |= change
    with pytest.raises(ValueError, match=message):
        autotune(model, **(arguments | {"path": tmp_path / arguments["path"]}))
    assert not list(tmp_path.iterdir())


def test_a_metric_that_does_not_suit_its_head(model, y, tmp_path):
    metrics = METRICS | {"zeta": "mae"}
    message = r"must take.*absolute_error, labels of shape \(300,\), outputs .*\(300, 5\)"
    with pytest.raises(ValueError, match=message):
        autotune(model, tmp_path / "m.tflite", X, y, metrics, BUDGET)
    assert not list(tmp_path.iterdir())


def test_a_metric_without_a_value_is_an_error(model, y, tmp_path):
    with pytest.raises(ValueError, match=r"must be finite.*is nan for 'alpha'"):
        bad = y | {"alpha": np.full((300, 1), np.nan)}
        autotune(model, tmp_path / "m.tflite", X, bad, METRICS, BUDGET)
    assert not list(tmp_path.iterdir())
