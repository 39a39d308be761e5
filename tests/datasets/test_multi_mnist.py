from pathlib import Path

import keras
import numpy as np
import pytest

from kmtl.datasets import multi_mnist
from kmtl.datasets.overlay import overlay

pytestmark = pytest.mark.both_backends

MNIST = Path(__file__).resolve().parents[3] / "shared" / "data" / "mnist" / "mnist.npz"


def flat_digits(size=120, first=0):
    """`size` even images of brightness 25 times the digit, and the digits, counted from `first`."""
    digits = ((np.arange(size) + first) % 10).astype("uint8")
    return np.ones((size, 28, 28), "uint8") * 25 * digits[:, None, None], digits


def write(path, **changes):
    x_train, y_train = flat_digits()
    x_test, y_test = flat_digits(40, first=3)
    arrays = {"x_train": x_train, "y_train": y_train, "x_test": x_test, "y_test": y_test, **changes}
    np.savez(path, **{key: value for key, value in arrays.items() if value is not None})
    return path


@pytest.fixture
def npz(tmp_path):
    return write(tmp_path / "mnist.npz")


@pytest.mark.parametrize("name, size", [("train", 1100), ("validation", 60), ("test", 50)])
def test_pixels_by_hand(npz, name, size):
    # 1100 training pairs: more than one rendering batch holds.
    split = getattr(multi_mnist(npz, 1100, 60, 50), name)
    assert split.x.shape == (size, 28, 28, 1)
    assert (split.x.dtype, split.y["left"].dtype) == ("float32", "int32")
    left, right = (25 * split.y[task] / 255 for task in ("left", "right"))
    # Output pixel i lies at (i + 1/2) 36/28 - 1/2 of the canvas; left covers 0 to 27, right 8 to
    # 35. 0 -> 0.14, 6 -> 7 6/7, 21 -> 27 1/7, 27 -> 34.86.
    close = {"rtol": 0, "atol": 1e-6}
    np.testing.assert_allclose(split.x[:, 0, 0, 0], left, **close)
    np.testing.assert_allclose(split.x[:, 27, 27, 0], right, **close)
    np.testing.assert_allclose(split.x[:, 0, 27, 0], 0, **close)
    np.testing.assert_allclose(split.x[:, 27, 0, 0], 0, **close)
    np.testing.assert_allclose(split.x[:, 14, 14, 0], np.maximum(left, right), **close)
    np.testing.assert_allclose(split.x[:, 0, 21, 0], left * 6 / 7, **close)
    np.testing.assert_allclose(
        split.x[:, 6, 14, 0], left / 7 + np.maximum(left, right) * 6 / 7, **close
    )


def test_sources_are_disjoint_stratified_and_labelled(npz):
    data = multi_mnist(npz, 300, 60, 50)
    (_, y_train), (_, y_test) = flat_digits(), flat_digits(40, first=3)
    labels = {"train": y_train, "validation": y_train, "test": y_test}
    sources = {}
    for name, y in labels.items():
        split = getattr(data, name)
        for task in ("left", "right"):
            np.testing.assert_array_equal(split.y[task], y[split.sources[task]])
        sources[name] = np.union1d(split.sources["left"], split.sources["right"])
    assert not np.intersect1d(sources["train"], sources["validation"]).size
    # 12 training images of each digit: 10 to train, 2 to validate.
    assert np.bincount(labels["train"][sources["train"]]).tolist() == [10] * 10
    assert np.bincount(labels["train"][sources["validation"]]).tolist() == [2] * 10
    np.testing.assert_array_equal(sources["test"], np.arange(40))
    assert np.bincount(data.train.y["left"]).tolist() == [30] * 10


def test_seed_decides(npz):
    first, again, other = (multi_mnist(npz, 50, 50, 50, seed=seed) for seed in (3, 3, 4))
    for name in ("train", "validation", "test"):
        x = getattr(first, name).x
        np.testing.assert_array_equal(x, getattr(again, name).x)
        assert (x != getattr(other, name).x).any()


def test_without_path_keras_supplies_the_images(npz, monkeypatch):
    # Stands in for the download only.
    mnist = flat_digits(), flat_digits(40, first=3)
    monkeypatch.setattr(keras.datasets.mnist, "load_data", lambda: mnist)
    np.testing.assert_array_equal(
        multi_mnist(num_train=9, num_validation=9, num_test=9).test.x,
        multi_mnist(npz, num_train=9, num_validation=9, num_test=9).test.x,
    )


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"y_test": None}, "must hold the arrays x_train, y_train, x_test, y_test. Received"),
        ({"x_test": flat_digits(40)[0] / 255}, "Received: x_test float64"),
        ({"x_train": flat_digits(119)[0]}, r"x_train uint8 \(119, 28, 28\), y_train \(120,\)"),
        ({"x_test": flat_digits(40)[0][..., None]}, r"x_test uint8 \(40, 28, 28, 1\)"),
        ({"y_train": np.r_[np.zeros(119), 7].astype(int)}, "Received: 1 of digit 7"),
    ],
)
def test_wrong_files_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        multi_mnist(write(tmp_path / "mnist.npz", **changes))


def test_missing_file_and_counts_are_refused(npz):
    with pytest.raises(FileNotFoundError, match="`path` must name an existing .npz file. Received"):
        multi_mnist("no_such_file.npz")
    broken = npz.with_name("broken.npz")
    broken.write_bytes(npz.read_bytes()[:-50])
    with pytest.raises(ValueError, match="broken.npz must be a whole file of arrays.*Received: "):
        multi_mnist(broken)
    for name in ("num_train", "num_validation", "num_test"):
        with pytest.raises(ValueError, match=f"`{name}` must be at least 1. Received: {name}=-1"):
            multi_mnist(npz, **{name: -1})


@pytest.mark.skipif(not MNIST.exists(), reason="MNIST does not lie beside the repository")
def test_real_mnist():
    data = multi_mnist(MNIST, num_train=500, num_validation=500, num_test=500)
    with np.load(MNIST) as file:
        images = {"train": file["x_train"], "validation": file["x_train"], "test": file["x_test"]}
    for name, singles in images.items():
        split = getattr(data, name)
        left, right = (singles[split.sources[task]] for task in ("left", "right"))
        canvas = overlay(left, right, 8)[..., None].astype("float32") / 255
        resized = keras.ops.image.resize(canvas, (28, 28), data_format="channels_last")
        np.testing.assert_allclose(split.x, keras.ops.convert_to_numpy(resized), atol=1e-5)
        assert 0 <= split.x.min() and split.x.max() <= 1
        for labels in split.y.values():
            assert np.abs(np.bincount(labels, minlength=10) / len(labels) - 0.1).max() < 0.05
