from pathlib import Path

import numpy as np
import pytest

from kmtl.datasets.usps import usps

pytestmark = pytest.mark.both_backends

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "usps"
RNG = np.random.default_rng(0)
ARRAYS = {
    "x_train": RNG.random((40, 16, 16), "float32"),
    "y_train": RNG.integers(0, 10, 40, "uint8"),
    "x_test": RNG.random((6, 16, 16), "float32"),
    "y_test": RNG.integers(0, 10, 6, "uint8"),
}


def write(folder, **changes):
    arrays = {**ARRAYS, **changes}
    np.savez(folder / "usps.npz", **{k: v for k, v in arrays.items() if v is not None})
    return folder


@pytest.mark.parametrize("seed", [0, 3])
def test_every_image_is_in_one_part(tmp_path, seed):
    data = usps(write(tmp_path), seed)
    assert [len(p.x) for p in (data.train, data.validation, data.test)] == [36, 4, 6]
    both = np.concatenate([data.train.rows, data.validation.rows])
    np.testing.assert_array_equal(np.sort(both), np.arange(40))
    for part, name in ((data.train, "train"), (data.validation, "train"), (data.test, "test")):
        np.testing.assert_array_equal(part.x[..., 0], ARRAYS[f"x_{name}"][part.rows])
        np.testing.assert_array_equal(part.y["digit"], ARRAYS[f"y_{name}"][part.rows])
        assert part.x.dtype == "float32" and part.y["digit"].dtype == "int32"
    chosen = np.sort(np.random.RandomState(seed).permutation(40)[:4])
    np.testing.assert_array_equal(data.validation.rows, chosen)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"y_test": None}, "must hold the arrays x_train, .*Received: x_train, y_train, x_test"),
        ({"x_test": np.zeros((6, 8, 8))}, r"`x_test` must be .*Received: \(6, 8, 8\), \(6,\)"),
        ({"x_train": 255 * ARRAYS["x_train"]}, "`x_train` must be between 0 and 1. Received: "),
        ({"y_train": np.arange(40)}, "`y_train` must hold digits. Received: .10, 11"),
    ],
)
def test_wrong_files_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        usps(write(tmp_path, **changes))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="the file usps.npz, with the arrays of the files"):
        usps(tmp_path)
    with pytest.raises(ValueError, match="`folder` must be the path of .*Received: folder=None"):
        usps(None)


@pytest.mark.skipif(not REAL.exists(), reason="USPS does not lie beside the repository")
def test_real_usps():
    data = usps(REAL)
    # How often each digit is in the data of The Elements of Statistical Learning.
    train = np.concatenate([data.train.y["digit"], data.validation.y["digit"]])
    counts = [1194, 1005, 731, 658, 652, 556, 664, 645, 542, 644]
    np.testing.assert_array_equal(np.bincount(train), counts)
    counts = [359, 264, 198, 166, 200, 160, 170, 147, 166, 177]
    np.testing.assert_array_equal(np.bincount(data.test.y["digit"]), counts)
