import keras
import numpy as np
import pytest

from kmtl.auxiliary import AuxiliaryTasks, FocusTask

pytestmark = pytest.mark.both_backends

RNG = np.random.default_rng(0)
IMAGES = RNG.normal(size=(16, 6, 6, 1)).astype("float32")
MASKS = np.zeros((16, 6, 6, 1))
MASKS[np.arange(16), RNG.integers(0, 6, 16), RNG.integers(0, 6, 16)] = 1  # 1 of 36 places
IMAGES += 3 * MASKS.astype("float32")
LABELS = {"steering": RNG.normal(size=(16, 1)).astype("float32"), "lane": MASKS}


def focus(**kwargs):
    return FocusTask("lanes", "lane", keras.layers.Conv2D(1, 1), features="trunk", **kwargs)


def loss_of(task, labels, logits):
    return float(task.losses["lanes"](labels, logits))


def test_both_classes_count_alike():
    task = focus()
    task.fit(IMAGES, LABELS)
    assert task.share == pytest.approx(1 / 36)
    # All logits 0: log(2) at each place, times 35/36 at one place and 1/36 at 35.
    expected = np.log(2.0) * 2 * (1 / 36) * (35 / 36)
    assert loss_of(task, MASKS, np.zeros(MASKS.shape)) == pytest.approx(expected, rel=1e-5)
    inside = loss_of(task, MASKS, -5.0 * MASKS) - loss_of(task, MASKS, 0.0 * MASKS)
    outside = loss_of(task, MASKS, 5.0 * (1 - MASKS)) - loss_of(task, MASKS, 0.0 * MASKS)
    assert inside == pytest.approx(outside, rel=1e-4)


def test_a_small_region_is_found():
    keras.utils.set_random_seed(3)
    x = keras.Input((6, 6, 1))
    h = keras.layers.Conv2D(4, 1, activation="relu", name="trunk")(x)
    pooled = keras.layers.GlobalAveragePooling2D()(h)
    model = keras.Model(x, {"steering": keras.layers.Dense(1)(pooled)})
    helpers = AuxiliaryTasks([focus()])
    data = helpers.add_targets((IMAGES, LABELS))
    both = helpers.attach(model)
    both.compile(keras.optimizers.Adam(0.1), **helpers.compile_arguments({"steering": "mse"}))
    both.fit(*data, batch_size=16, epochs=40, verbose=0)
    found = both.predict(IMAGES, verbose=0)["lanes"] > 0
    assert found[MASKS == 1].mean() > 0.9 and found[MASKS == 0].mean() < 0.1


def test_places_that_are_not_known():
    hidden = np.where(np.arange(6)[:, None] < 2, -1.0, MASKS)
    task = focus(missing=-1.0)
    task.fit(IMAGES, {"lane": hidden})
    assert task.share == pytest.approx((hidden == 1).sum() / (hidden >= 0).sum())


def test_errors():
    for share in (0.0, 1.0, 2.0):
        with pytest.raises(ValueError, match="`share` must be between 0 and 1"):
            focus(share=share)
    with pytest.raises(ValueError, match="must be 1 inside and 0 outside. Received: 0.5"):
        focus().fit(IMAGES, {"lane": np.full((2, 2, 2, 1), 0.5)})
    with pytest.raises(ValueError, match="only 0.0 for 'lanes'"):
        focus().fit(IMAGES, {"lane": np.zeros((2, 2, 2, 1))})
    with pytest.raises(ValueError, match=r"must be fitted before `compile`.*\['lanes'\]"):
        AuxiliaryTasks([focus()]).compile_arguments({"steering": "mse"})
    assert focus(share=0.1).fitted
