"""Student performance: three grades each in mathematics and Portuguese."""

import os

import numpy as np

from kmtl.datasets.splits import Splits, find_file
from kmtl.datasets.tables import encode, numbers, read_table

FILE = "student_performance.csv"
ORIGIN = "student-mat.csv and student-por.csv of the UCI repository with a column subject"
NUMERIC = (
    *("age", "Medu", "Fedu", "traveltime", "studytime", "failures", "famrel", "freetime"),
    *("goout", "Dalc", "Walc", "health", "absences"),
)
CATEGORICAL = (
    *("school", "sex", "address", "famsize", "Pstatus", "Mjob", "Fjob", "reason", "guardian"),
    *("schoolsup", "famsup", "paid", "activities", "nursery", "higher", "internet", "romantic"),
)
# What the data's authors recognise a pupil by.
PUPIL = (
    *("school", "sex", "age", "address", "famsize", "Pstatus", "Medu", "Fedu", "Mjob", "Fjob"),
    *("reason", "nursery", "internet"),
)
SUBJECTS = ("mat", "por")
GRADES = ("G1", "G2", "G3")
SHARES = (0.6, 0.8)  # where validation and test begin


def student_performance(folder: str | os.PathLike, seed: int = 0) -> Splits:
    """1044 reports of pupils: the tasks are three grades in each of two subjects.

    A small set for helper tasks: the final grade (`"mat_G3"`, `"por_G3"`) is what is wanted, the
    two before it are known only in training and are outputs, not inputs; the other subject is a
    related task. Without earlier grades ridge regression has a root mean squared error of 4.39
    (mathematics) and 2.76 (Portuguese) for the final grade; the mean alone 4.59 and 3.23.

    The data are not part of kmtl. 382 pupils are in both subjects: all reports of a pupil are in
    one part, 60, 20 and 20 percent of the pupils.

    Args:
        folder: Folder with the file `student_performance.csv` or `student_performance.csv.gz`:
            the columns of `student-mat.csv` and `student-por.csv`, with commas, and `subject`,
            `mat` or `por`.
        seed: Of the choice of pupils. Defaults to `0`.

    Returns:
        An object with `train`, `validation` and `test`, each with
        `x`, float32 of shape `(N, D)`: 13 numbers standardised by the training reports, then a
        column for each word of the other 17;
        `y`, a dict of `"mat_G1"`, ..., `"por_G3"` to float32 grades 0 to 20, `(N,)`, NaN for the
        other subject: use `missing=nan` in `compile`; and
        `rows`, the reports' lines in the file; and with `features`, the names of the columns.

    Raises:
        FileNotFoundError: If the file is not in the folder.
        ValueError: If `folder` is no path, or the file is broken, lacks a column or holds other
            values.

    Example:

    >>> import os, tempfile
    >>> import kmtl
    >>> from kmtl.datasets.student_performance import CATEGORICAL, GRADES, NUMERIC
    >>> names = [*NUMERIC, *CATEGORICAL, *GRADES, "subject"]
    >>> lines = [[str(i)] * 30 + ["8", "9", "10", "por"] for i in range(10)]
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with open(os.path.join(folder, "student_performance.csv"), "w") as file:
    ...         _ = file.write("\\n".join(map(",".join, [names, *lines])))
    ...     data = kmtl.datasets.student_performance(folder)  # name the real folder instead
    >>> print(data.train.x.shape, data.test.y["por_G3"], data.test.y["mat_G3"])
    (6, 115) [10. 10.] [nan nan]

    Differences from the paper: it models the subjects apart, with and without the earlier grades
    as inputs, by cross-validation.

    Reference: P. Cortez, A. Silva (2008), "Using Data Mining to Predict Secondary School Student
    Performance", FUBUTEC.
    """
    needed = (*NUMERIC, *CATEGORICAL, *GRADES, "subject")
    table = read_table(find_file(folder, FILE, ORIGIN), needed)
    if others := sorted(set(np.unique(table["subject"]).tolist()) - set(SUBJECTS)):
        raise ValueError(f"Column subject must hold {SUBJECTS}. Received: {others}")
    y = {
        f"{subject}_{grade}": np.where(table["subject"] == subject, numbers(table, grade), np.nan)
        for subject in SUBJECTS
        for grade in GRADES
    }
    keys = np.stack([table[column] for column in PUPIL], axis=1)
    pupils, pupil_of = np.unique(keys, axis=0, return_inverse=True)
    order = np.random.RandomState(seed).permutation(len(pupils))
    cuts = np.split(order, [int(share * len(pupils)) for share in SHARES])
    parts = [np.flatnonzero(np.isin(pupil_of, chosen)) for chosen in cuts]
    y = {task: labels.astype("float32") for task, labels in y.items()}
    return encode(table, NUMERIC, CATEGORICAL, parts, y)
