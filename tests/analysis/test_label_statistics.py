import numpy as np
import pytest

from kmtl.analysis import label_statistics

pytestmark = pytest.mark.both_backends


@pytest.mark.parametrize("count", [2, 3, 10])
def test_uniform_labels_have_the_largest_entropy(count):
    statistics = label_statistics(np.tile(np.arange(count), 7))
    assert statistics["entropy"] == pytest.approx(np.log(count))
    assert statistics["normalized_entropy"] == pytest.approx(1.0)
    assert statistics["most_frequent"] == pytest.approx(1 / count)
    assert np.isnan(statistics["kurtosis"])
    uneven = label_statistics([*range(count), 0])
    assert uneven["entropy"] < statistics["entropy"]


def test_by_hand():
    # Shares 1/4, 1/4, 1/2. Counts 2, 2, 4 deviate by -2/3, -2/3, 4/3: 1.5 - 3.
    statistics = label_statistics([[0, 0, 1, 1], [2, 2, 2, 2]])
    assert statistics == pytest.approx(
        {
            "count": 8.0,
            "num_labels": 3.0,
            "entropy": 1.5 * np.log(2),
            "normalized_entropy": 1.5 * np.log(2) / np.log(3),
            "kurtosis": -1.5,
            "most_frequent": 0.5,
        }
    )


def test_one_dominant_label_has_a_high_kurtosis():
    dominant = label_statistics(np.repeat(np.arange(10), [1000] + [5] * 9))
    # One of K counts stands out: (K**2 - 3 K + 3) / (K - 1) - 3.
    assert dominant["kurtosis"] == pytest.approx(73 / 9 - 3)
    spread = label_statistics(np.repeat(np.arange(10), np.arange(100, 110)))
    assert dominant["kurtosis"] > 0 > spread["kurtosis"]
    assert dominant["normalized_entropy"] < 0.3 < spread["normalized_entropy"]


def test_single_label():
    statistics = label_statistics([4, 4, 4])
    assert str(statistics["entropy"]) == str(statistics["normalized_entropy"]) == "0.0"
    assert (statistics["num_labels"], statistics["most_frequent"]) == (1.0, 1.0)


def test_regression_by_hand():
    # Deviations -1.5, -0.5, 0.5, 1.5 times 0.5: variance 1.25 / 4, fourth moment 2.5625 / 16.
    statistics = label_statistics([0.5, 1.0, 1.5, 2.0])
    assert statistics == pytest.approx(
        {"count": 4.0, "mean": 1.25, "variance": 0.3125, "kurtosis": 2.5625 / 1.25**2 - 3}
    )


def test_regression_of_a_normal_distribution():
    y = np.random.default_rng(0).normal(2.0, 3.0, size=(200, 500))
    statistics = label_statistics(y)
    assert statistics["variance"] == pytest.approx(9.0, rel=0.03)
    # Standard error sqrt(24 / 100_000) = 0.015.
    assert statistics["kurtosis"] == pytest.approx(0.0, abs=0.05)


def test_kinds_of_labels():
    expected = label_statistics([0, 1, 1])
    assert label_statistics([False, True, True]) == expected
    assert label_statistics(["O", "B", "B"]) == expected
    assert label_statistics(np.array([0.0, 1.0, 1.0], "float32")) == expected
    assert label_statistics(np.array([[[7]], [[9]], [[9]]], "uint8")) == expected


def test_missing_labels_are_left_out():
    expected = label_statistics([0, 1, 1])
    assert label_statistics([0, 1, -1, 1, -1], missing=-1) == expected
    assert label_statistics([0.0, np.nan, 1.0, 1.0], missing=float("nan")) == expected
    assert label_statistics(["O", "B", "?", "B"], missing="?") == expected
    assert label_statistics([0.5, np.nan, 1.5], missing=np.nan)["mean"] == 1.0


@pytest.mark.parametrize(
    ("y", "missing"), [([], None), ([-1, -1], -1), ([0.0, np.nan], None), ([0.5, np.inf], np.nan)]
)
def test_errors(y, missing):
    with pytest.raises(ValueError, match="`y` must have labels, and all but the missing ones"):
        label_statistics(y, missing)


@pytest.mark.parametrize(
    ("y", "message"),
    [
        (None, r"only numbers or only strings. Received: labels of types \['NoneType'\]"),
        ({"a": [1, 2]}, r"Received: labels of types \['dict'\]"),
        (["B", None], r"Received: labels of types \['NoneType', 'str'\]"),
        ([[1], [1, 2]], "`y` must have rows of one length. Received: .*inhomogeneous"),
    ],
)
def test_what_is_no_array_of_labels(y, message):
    with pytest.raises(ValueError, match=message):
        label_statistics(y)


def test_arrays_of_objects():
    labels = np.array(["O", None, "B", "B"], object)
    assert label_statistics(labels[[0, 2, 3]]) == label_statistics([0, 1, 1])
    assert label_statistics(np.array([b"O", b"B", b"B"], object)) == label_statistics([0, 1, 1])
    assert label_statistics(np.array([0, 1, 1], object)) == label_statistics([0, 1, 1])
