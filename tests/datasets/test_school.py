from pathlib import Path

import numpy as np
import pytest

from kmtl.datasets.school import school

pytestmark = pytest.mark.both_backends

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "school"
RNG = np.random.default_rng(0)
ARRAYS = {
    "X": RNG.integers(0, 90, (60, 28), "int8"),
    "y": RNG.random(60, "float32"),
    "task": RNG.permutation(np.repeat([0, 1, 2], [4, 16, 40])),
}


def write(folder, **changes):
    np.savez(folder / "school.npz", **{**ARRAYS, **changes})
    return folder


@pytest.mark.parametrize("seed", [0, 3])
def test_every_school_is_split(tmp_path, seed):
    data = school(write(tmp_path), seed)
    parts = (data.train, data.validation, data.test)
    np.testing.assert_array_equal(
        [np.bincount(p.school) for p in parts], [[2, 10, 24], [1, 2, 6], [1, 4, 10]]
    )
    np.testing.assert_array_equal(np.sort(np.concatenate([p.rows for p in parts])), np.arange(60))
    for part in parts:
        np.testing.assert_array_equal(part.school, ARRAYS["task"][part.rows])
        assert list(part.y) == ["school_000", "school_001", "school_002"]
        for i, scores in enumerate(part.y.values()):
            own = part.school == i
            np.testing.assert_array_equal(scores[own], ARRAYS["y"][part.rows[own]])
            assert np.isnan(scores[~own]).all() and scores.dtype == "float32"


def test_columns_are_scaled_by_the_training_pupils(tmp_path):
    data = school(write(tmp_path))
    assert len(data.features) == 27
    x = ARRAYS["X"][:, :27].astype("float64")
    mean, deviation = x[data.train.rows].mean(axis=0), x[data.train.rows].std(axis=0)
    for part in (data.train, data.validation, data.test):
        np.testing.assert_allclose(part.x, (x[part.rows] - mean) / deviation, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"X": np.ones((60, 27))}, r"`X` must be of shape \(M, 28\).*Received: .*\(60, 27\)"),
        ({"task": ARRAYS["task"] + 1}, "from 0 on, .*Received: 3 numbers from 1 to 3, 4 times"),
        ({"task": np.repeat([0, 1], [57, 3])}, "at least 4 pupils each.* 3 times at least"),
    ],
)
def test_wrong_files_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        school(write(tmp_path, **changes))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="school.npz, made of school.mat of MALSAR"):
        school(tmp_path)


@pytest.mark.skipif(not REAL.exists(), reason="the School data do not lie beside the repository")
def test_real_school():
    data = school(REAL)
    parts = (data.train, data.validation, data.test)
    assert sum(len(p.x) for p in parts) == 15362 and len(data.train.y) == 139
    pupils = sum(np.bincount(p.school) for p in parts)
    assert pupils.min() == 22 and pupils.max() == 251
    assert min(np.bincount(p.school).min() for p in parts) >= 3
    scores = [np.nansum(list(p.y.values()), axis=0) for p in parts]
    assert (scores[0] > 0).all()
    weights = np.linalg.lstsq(data.train.x, scores[0] - scores[0].mean(), rcond=None)[0]
    errors = data.test.x @ weights + scores[0].mean() - scores[2]
    # Pooled ridge regression has 10.43 +- 0.06 on ten random quarters.
    assert np.sqrt(np.mean(errors**2)) == pytest.approx(10.43, abs=0.2)
