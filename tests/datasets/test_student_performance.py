from pathlib import Path

import numpy as np
import pytest

from kmtl.datasets.student_performance import (
    CATEGORICAL,
    GRADES,
    NUMERIC,
    PUPIL,
    student_performance,
)

pytestmark = pytest.mark.both_backends

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "student_performance"
NAMES = (*NUMERIC, *CATEGORICAL, *GRADES, "subject")


def lines():
    """20 pupils in Portuguese, the first 10 of them in mathematics, too."""
    for i in range(30):
        pupil, subject = (i, "por") if i < 20 else (i - 20, "mat")
        # How often one is absent, say, is not the same in both subjects.
        fields = [str(pupil if name in PUPIL else i % 7) for name in (*NUMERIC, *CATEGORICAL)]
        yield [*fields, str(i % 10), str(i % 15), str(i % 20), subject]


def write(folder, rows=None, names=NAMES):
    text = "\n".join(",".join(line) for line in (names, *(lines() if rows is None else rows)))
    (folder / "student_performance.csv").write_text(text)
    return folder


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_pupil_is_in_one_part_with_all_reports(tmp_path, seed):
    data = student_performance(write(tmp_path), seed)
    parts = (data.train, data.validation, data.test)
    np.testing.assert_array_equal(np.sort(np.concatenate([p.rows for p in parts])), np.arange(30))
    pupils = [{row % 20 for row in p.rows.tolist()} for p in parts]
    assert [len(found) for found in pupils] == [12, 4, 4]
    assert not pupils[0] & pupils[1] and not pupils[2] & (pupils[0] | pupils[1])


def test_grades_of_each_subject(tmp_path):
    data = student_performance(write(tmp_path))
    for part in (data.train, data.validation, data.test):
        assert list(part.y) == [f"{s}_{g}" for s in ("mat", "por") for g in GRADES]
        maths = part.rows >= 20
        for subject, own in (("mat", maths), ("por", ~maths)):
            for grade, size in zip(GRADES, (10, 15, 20), strict=True):
                labels = part.y[f"{subject}_{grade}"]
                np.testing.assert_array_equal(labels[own], part.rows[own] % size)
                assert np.isnan(labels[~own]).all() and labels.dtype == "float32"


def test_grades_are_no_inputs(tmp_path):
    data = student_performance(write(tmp_path))
    assert not any(name.split("=")[0] in (*GRADES, "subject") for name in data.features)
    np.testing.assert_allclose(data.train.x[:, : len(NUMERIC)].mean(axis=0), 0, atol=1e-6)


def test_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match="student_performance.csv or .*student-mat.csv"):
        student_performance(tmp_path)
    rows = [[*line[:-1], "art"] for line in lines()]
    with pytest.raises(ValueError, match=r"Column subject must hold .* Received: \['art'\]"):
        student_performance(write(tmp_path, rows))
    with pytest.raises(ValueError, match=r"must have the columns .* none of \['age'\]"):
        student_performance(write(tmp_path, names=("years", *NAMES[1:])))


@pytest.mark.skipif(not REAL.exists(), reason="the data do not lie beside the repository")
def test_real_student_performance():
    data = student_performance(REAL)
    parts = (data.train, data.validation, data.test)
    # Cortez and Silva, 2008: 395 and 649 reports; errors of the mean alone 4.59 and 3.23.
    for subject, reports, error in (("mat", 395, 4.59), ("por", 649, 3.23)):
        grades = np.concatenate([p.y[f"{subject}_G3"] for p in parts])
        assert (~np.isnan(grades)).sum() == reports
        assert np.nanstd(grades) == pytest.approx(error, abs=0.02)
        assert np.nanmin(grades) >= 0 and np.nanmax(grades) <= 20
