from pathlib import Path

import numpy as np
import pytest

from kmtl.datasets.adult import CATEGORICAL, NUMERIC, adult

pytestmark = pytest.mark.both_backends

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "adult"
NAMES = (*NUMERIC, *CATEGORICAL, "marital_status", "income", "split")
LINES = [
    [*(str(10 * i + j) for j in range(5)), *f"{'abc'[i % 3]} b ? d e".split()]
    + ["Never-married" if i % 4 == 0 else "Divorced", ">50K" if i % 5 == 0 else "<=50K", "train"]
    for i in range(20)
]
TEST = ["9", "9", "9", "9", "9", *"z b ? d e".split(), "Widowed", ">50K", "test"]


def write(folder, lines=(*LINES, TEST), names=NAMES):
    text = "\n".join(",".join(line) for line in (names, *lines))
    (folder / "adult.csv").write_text(text + "\n")
    return folder


def test_people_and_labels(tmp_path):
    data = adult(write(tmp_path))
    assert [len(p.x) for p in (data.train, data.validation, data.test)] == [18, 2, 1]
    assert data.test.rows.tolist() == [20]
    for part in (data.train, data.validation):
        np.testing.assert_array_equal(part.y["income"], part.rows % 5 == 0)
        np.testing.assert_array_equal(part.y["never_married"], part.rows % 4 == 0)
        assert part.y["income"].dtype == part.x.dtype == "float32"
    both = np.concatenate([data.train.rows, data.validation.rows])
    np.testing.assert_array_equal(np.sort(both), np.arange(20))


def test_numbers_are_scaled_and_words_are_columns(tmp_path):
    data = adult(write(tmp_path))
    assert data.features[4:8] == (
        "hours_per_week",
        "workclass=a",
        "workclass=b",
        "workclass=c",
    )
    assert "race=?" in data.features and len(data.features) == 5 + 3 + 4
    ages = 10.0 * data.train.rows
    np.testing.assert_allclose(
        data.train.x[:, 0], (ages - ages.mean()) / ages.std(), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(data.test.x[0, 0], (9 - ages.mean()) / ages.std(), rtol=1e-5)
    np.testing.assert_array_equal(data.train.x[:, 5:8], np.eye(3)[data.train.rows % 3])
    np.testing.assert_array_equal(data.test.x[0, 5:], [0, 0, 0, 1, 1, 1, 1])  # z is not known


def test_what_tells_a_label_is_no_input():
    assert not {"marital_status", "relationship", "income", "fnlwgt"} & {*NUMERIC, *CATEGORICAL}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"names": ("years", *NAMES[1:])}, r"must have the columns age, .*none of \['age'\]"),
        ({"lines": [LINES[0], LINES[1][:-1]]}, "must have 13 fields. Received: 12 in line 3"),
        ({"lines": [["x", *LINES[0][1:]], *LINES]}, "Column age must hold numbers. .*'x'"),
        ({"lines": [[*TEST[:-2], ">50K.", "test"]]}, r"Column income .* Received: \['>50K.'\]"),
        ({"lines": [[*TEST[:-1], "dev"]]}, r"Column split must hold .* Received: \['dev'\]"),
    ],
)
def test_wrong_files_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        adult(write(tmp_path, **changes))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"adult.csv or adult.csv.gz, made of adult.data"):
        adult(tmp_path)


def test_empty_files_and_no_paths(tmp_path):
    (tmp_path / "adult.csv").touch()
    with pytest.raises(ValueError, match="must have the columns age, "):
        adult(tmp_path)
    with pytest.raises(ValueError, match="`folder` must be the path of .*Received: folder=None"):
        adult(None)


@pytest.mark.skipif(not REAL.exists(), reason="Adult does not lie beside the repository")
def test_real_adult():
    data = adult(REAL)
    assert [len(p.x) for p in (data.train, data.validation, data.test)] == [29305, 3256, 16281]
    known = np.concatenate([data.train.y["income"], data.validation.y["income"]])
    assert (known.sum(), data.test.y["income"].sum()) == (7841, 3846)
    assert data.train.y["never_married"].mean() == pytest.approx(0.33, abs=0.01)
    assert data.train.x.shape[1] == len(data.features) and not np.isnan(data.train.x).any()
    for column in CATEGORICAL:
        own = [i for i, name in enumerate(data.features) if name.startswith(f"{column}=")]
        np.testing.assert_array_equal(data.train.x[:, own].sum(axis=1), 1)
