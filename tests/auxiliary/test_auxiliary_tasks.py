import keras
import numpy as np
import pytest

import kmtl
import kmtl.export
from kmtl.auxiliary import AuxiliaryTask, AuxiliaryTasks
from tests.auxiliary.small import RNG, X, Y, small_model

pytestmark = pytest.mark.both_backends

NOISY = {"area": RNG.normal(size=(24, 2)).astype("float32")}


def area(**kwargs):
    settings = {"targets": lambda x, y: x[:, :2] * x[:, 1:3], "loss": "mse", "features": "trunk"}
    return AuxiliaryTask("area", **{"head": keras.layers.Dense(2), **settings, **kwargs})


def trained(task, weighting=None, epochs=2, dropout=0.0, **compiling):
    model = small_model(dropout)
    helpers = AuxiliaryTasks([task])
    both = helpers.attach(model)
    arguments = helpers.compile_arguments({"price": "mse"}, weighting=weighting, **compiling)
    both.compile(keras.optimizers.Adam(0.05), **arguments)
    history = both.fit(
        *helpers.add_targets((X, Y)), batch_size=12, epochs=epochs, shuffle=False, verbose=0
    )
    return model, both, history.history


def test_weight_0_trains_the_main_model_bit_for_bit():
    model, _, history = trained(area(weight=0.0), dropout=0.3)
    alone = small_model(dropout=0.3)
    alone = kmtl.MultiTaskModel(alone.input, alone.output)
    alone.compile(keras.optimizers.Adam(0.05), loss={"price": "mse"})
    alone.fit(X, Y, batch_size=12, epochs=2, shuffle=False, verbose=0)
    for ours, theirs in zip(model.get_weights(), alone.get_weights(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    helped, _, _ = trained(area(weight=0.5), dropout=0.3)
    assert any(
        (a != b).any() for a, b in zip(helped.get_weights(), alone.get_weights(), strict=True)
    )
    assert history["loss"] == history["price_loss"]


def test_a_scheduled_weight_fades_out():
    fading = keras.optimizers.schedules.PolynomialDecay(0.5, 2, 0.0)  # two steps: one epoch
    _, _, history = trained(area(weight=fading), loss_weights={"price": 2.0})
    assert history["area_weight"] == [0.375, 0.0] and history["price_weight"] == [2.0, 2.0]
    np.testing.assert_allclose(history["loss"][1], 2.0 * history["price_loss"][1], rtol=1e-6)


def test_loss_is_the_weighted_sum():
    _, _, history = trained(area(weight=0.25), loss_weights={"price": 2.0}, epochs=1)
    expected = 2.0 * history["price_loss"][0] + 0.25 * history["area_loss"][0]
    np.testing.assert_allclose(history["loss"][0], expected, rtol=1e-6)


def test_folded_model_is_the_main_one():
    model, both, _ = trained(area())
    plain = kmtl.export.fold(both)
    assert list(plain.output) == ["price"]
    assert plain.count_params() == model.count_params() < both.count_params()
    np.testing.assert_allclose(plain.predict(X, verbose=0)["price"], model(X)["price"], rtol=1e-5)
    assert list(kmtl.export.fold(both, "area").output) == ["area"]


@pytest.mark.parametrize("weighting", ["uncertainty", "pcgrad"])
def test_weightings_by_losses_and_by_gradients(weighting):
    before = small_model().get_weights()
    model, both, history = trained(area(weight=0.1), weighting)
    assert set(both.trained_tasks) == {"area", "price"}
    assert all(np.isfinite(history["loss"])) and history["price_loss"][1] < history["price_loss"][0]
    assert all((a != b).any() for a, b in zip(model.get_weights(), before, strict=True))


def test_named_labels_are_the_helper_s_alone():
    helpers = AuxiliaryTasks([area(targets="floor_plan")])
    x, y = helpers.add_targets((X, {**Y, "floor_plan": NOISY["area"]}))
    assert sorted(y) == ["area", "price"]
    np.testing.assert_array_equal(y["area"], NOISY["area"])
    with pytest.raises(ValueError, match="must hold 'floor_plan', for the auxiliary task 'area'"):
        helpers.add_targets((X, Y))


def test_sample_weights_and_a_single_unnamed_output():
    x = keras.Input((4,))
    h = keras.layers.Dense(3, name="trunk")(x)
    helpers = AuxiliaryTasks([area(metrics="mae", missing=-1.0)], main="price")
    both = helpers.attach(keras.Model(x, keras.layers.Dense(1)(h)))
    assert both.task_names == ["area", "price"]
    data = helpers.add_targets((X, Y["price"], np.ones(24)))
    assert len(data) == 3 and sorted(data[1]) == ["area", "price"]
    arguments = helpers.compile_arguments("mse", metrics="mae", loss_weights=3.0, missing=-2.0)
    assert arguments["loss_weights"] == {"price": 3.0, "area": 1.0}
    assert arguments["missing"] == {"price": -2.0, "area": -1.0}
    both.compile("sgd", **arguments)
    x, y, sample_weight = data
    assert "area_mae" in both.fit(x, y, sample_weight=sample_weight, verbose=0).history


def test_a_sequential_model():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, name="trunk")])
    both = AuxiliaryTasks([area()], main="price").attach(model)
    assert both.output["price"].shape == (None, 3) and both.output["area"].shape == (None, 2)


def test_layers_with_several_outputs_are_read_by_a_tensor():
    xs = [keras.Input((4,)), keras.Input((4,))]
    stitched = kmtl.layers.CrossStitch(name="trunk")(xs)
    model = keras.Model(xs, {"price": keras.layers.Dense(1)(stitched[0])})
    with pytest.raises(ValueError, match="'trunk', with 2 outputs"):
        AuxiliaryTasks([area()]).attach(model)
    both = AuxiliaryTasks([area(features=stitched[1])]).attach(model)
    assert both.output["area"].shape == (None, 2)


def test_a_rule_takes_the_place_of_schedules():
    schedule = keras.optimizers.schedules.ExponentialDecay(0.3, 10, 0.5)
    arguments = AuxiliaryTasks([area(weight=schedule)]).compile_arguments(
        {"price": "mse"}, weighting="pcgrad"
    )
    assert "loss_weights" not in arguments and arguments["weighting"] == "pcgrad"


def test_heads_keep_their_type_in_mixed_precision():
    policy = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        helpers = AuxiliaryTasks([area(head=keras.layers.Dense(2, dtype="float32"))])
        assert helpers.attach(small_model()).output["area"].dtype == "float32"
    finally:
        keras.config.set_dtype_policy(policy)


def test_saved_and_loaded(tmp_path):
    _, both, _ = trained(area())
    both.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    for task, answer in both.predict(X, verbose=0).items():
        np.testing.assert_array_equal(again.predict(X, verbose=0)[task], answer)
    assert list(kmtl.export.fold(again).output) == ["price"]


def test_errors():
    for name in ("", None):
        with pytest.raises(ValueError, match="`name` must be the name of a task"):
            AuxiliaryTask(name, "area", keras.layers.Dense(1), "mse", "trunk")
    for weight in (-1.0, float("inf"), "much"):
        with pytest.raises(ValueError, match=r"`weight` must be at least 0.*Received: weight="):
            area(weight=weight)
    with pytest.raises(ValueError, match="`features` must name a layer of .*features='trank'"):
        AuxiliaryTasks([area(features="trank")]).attach(small_model())
    for tasks in ([], [area(), area()], area()):
        with pytest.raises(ValueError, match="each output must have a name of its own"):
            AuxiliaryTasks(tasks)
    price = AuxiliaryTask("price", "price", keras.layers.Dense(1), "mse", "trunk")
    with pytest.raises(ValueError, match=r"new to the model. Received: \['price'\]"):
        AuxiliaryTasks([price]).attach(small_model())
    x = keras.Input((4,))
    unnamed = keras.Model(x, keras.layers.Dense(1, name="trunk")(x))
    with pytest.raises(ValueError, match="whose name is `main`. Received: 1 without names"):
        AuxiliaryTasks([area()]).attach(unnamed)
    helpers = AuxiliaryTasks([area()])
    unbuilt = keras.Sequential([keras.layers.Dense(3, name="trunk")])
    with pytest.raises(ValueError, match="`model` must be functional and built"):
        helpers.attach(unbuilt)
    with pytest.raises(ValueError, match="`loss` must be a dict of main task"):
        helpers.compile_arguments("mse")
    with pytest.raises(ValueError, match=r"Received: metrics of \['area'\]"):
        helpers.compile_arguments({"price": "mse"}, metrics={"area": "mae"})
    with pytest.raises(ValueError, match="`loss_weights` cannot be used together"):
        helpers.compile_arguments({"price": "mse"}, loss_weights={"price": 1}, weighting="pcgrad")
    with pytest.raises(ValueError, match="`data` must be a tuple"):
        helpers.add_targets(X)
    with pytest.raises(ValueError, match="The labels must be a dict"):
        helpers.add_targets((X, Y["price"]))


def test_a_constant_target_is_named():
    helpers = AuxiliaryTasks([area(targets=lambda x, y: np.full(len(x), 3.0))])
    with pytest.raises(ValueError, match="Received: only 3.0 for 'area', in 24 rows"):
        helpers.add_targets((X, Y))
    assert (helpers.add_targets((X, Y), training=False)[1]["area"] == 3.0).all()
    hidden = np.where(np.arange(24) < 12, np.nan, 3.0)
    helpers = AuxiliaryTasks([area(targets=lambda x, y: hidden, missing=np.nan)])
    with pytest.raises(ValueError, match="only 3.0 for 'area'"):
        helpers.add_targets((X, Y))
