from pathlib import Path

import numpy as np
import pytest

from kmtl.datasets.emotions import emotions

pytestmark = pytest.mark.both_backends

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "mulan_multi_label"
RNG = np.random.default_rng(0)
ARRAYS = {
    "X_train": RNG.normal(3, 2, (50, 4)).astype("float32"),
    "Y_train": RNG.integers(0, 2, (50, 2), "uint8"),
    "X_test": RNG.normal(3, 2, (7, 4)).astype("float32"),
    "Y_test": RNG.integers(0, 2, (7, 2), "uint8"),
    "labels": ["calm", "sad"],
    "features": ["a", "b", "c", "d"],
}


def write(folder, **changes):
    np.savez(folder / "emotions.npz", **{**ARRAYS, **changes})
    return folder


def test_songs_and_labels(tmp_path):
    data = emotions(write(tmp_path), seed=2)
    assert [len(p.x) for p in (data.train, data.validation, data.test)] == [40, 10, 7]
    both = np.concatenate([data.train.rows, data.validation.rows])
    np.testing.assert_array_equal(np.sort(both), np.arange(50))
    known = ARRAYS["X_train"][data.train.rows].astype("float64")
    for part, name in ((data.train, "train"), (data.validation, "train"), (data.test, "test")):
        assert list(part.y) == ["calm", "sad"] and part.y["sad"].dtype == "float32"
        np.testing.assert_array_equal(part.y["sad"], ARRAYS[f"Y_{name}"][part.rows, 1])
        expected = (ARRAYS[f"X_{name}"][part.rows] - known.mean(axis=0)) / known.std(axis=0)
        np.testing.assert_allclose(part.x, expected, rtol=1e-5, atol=1e-6)
    assert data.features == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"X_test": np.ones((7, 3))}, r"`X_test` must be .*Received: \(7, 3\), \(7, 2\), 4, 2"),
        ({"labels": ["calm"]}, r"`Y_train` \(M, T\) for T `labels`.*Received: .*4, 1"),
        ({"labels": ["a"] * len(ARRAYS["labels"])}, "`labels` must be distinct names. Received"),
        ({"Y_train": 2 * ARRAYS["Y_train"]}, r"`Y_train` must hold 0 and 1. Received: \[2\]"),
    ],
)
def test_wrong_files_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        emotions(write(tmp_path, **changes))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"emotions.npz, made of emotions-train.arff"):
        emotions(tmp_path)


@pytest.mark.skipif(not REAL.exists(), reason="emotions does not lie beside the repository")
def test_real_emotions():
    data = emotions(REAL)
    assert [len(p.x) for p in (data.train, data.validation, data.test)] == [313, 78, 202]
    assert data.train.x.shape[1] == len(data.features) == 72 and len(data.train.y) == 6
    sad, quiet, happy = (data.train.y[t] for t in ("sad-lonely", "quiet-still", "happy-pleased"))
    assert np.corrcoef(sad, quiet)[0, 1] > 0.3 and np.corrcoef(sad, happy)[0, 1] < -0.2
