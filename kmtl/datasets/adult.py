"""Adult: who earns much, and who never married."""

import os

import numpy as np

from kmtl.datasets.splits import Splits, find_file, held_out
from kmtl.datasets.tables import encode, read_table

FILE = "adult.csv"
ORIGIN = "made of adult.data and adult.test of the UCI repository, one after another"
NUMERIC = ("age", "education_num", "capital_gain", "capital_loss", "hours_per_week")
CATEGORICAL = ("workclass", "occupation", "race", "sex", "native_country")
LABELS = {"income": ("<=50K", ">50K"), "split": ("train", "test")}
NEVER = "Never-married"


def adult(folder: str | os.PathLike, seed: int = 0) -> Splits:
    """48842 people of a census, two yes-or-no tasks: "income" and "never_married".

    A small benchmark for mixtures of experts: two tasks on the same people, of which 24 % earn
    more than 50000 dollars a year and 33 % never married. Gradient boosting has an area under
    the curve of .897 and .889 on the test part.

    The data are not part of kmtl. Columns that tell a label are left out: `marital_status`,
    `relationship` (husband, wife), also `fnlwgt`, a weight of the survey, and `education`, which
    `education_num` says as a number. Test people are the official ones; validation is a tenth of
    the official training people.

    Args:
        folder: Folder with the file `adult.csv` or `adult.csv.gz`: a line of names (those of the
            documentation with `_` for `-`, then `income` and `split`, `train` or `test`), then
            one line for each person, `?` for what is not known.
        seed: Of the choice of validation people. Defaults to `0`.

    Returns:
        An object with `train`, `validation` and `test`, each with
        `x`, float32 of shape `(N, D)`: five numbers standardised by the training people, then a
        column for each word of the others, `?` included;
        `y`, a dict of `"income"` and `"never_married"` to float32 labels 0 or 1, `(N,)`, and
        `rows`, the people's lines in the file; and with `features`, the names of the columns.

    Raises:
        FileNotFoundError: If the file is not in the folder.
        ValueError: If `folder` is no path, or the file is broken, lacks a column or holds other
            values.

    Example:

    >>> import os, tempfile
    >>> import kmtl
    >>> names = "age,workclass,education_num,marital_status,occupation,race,sex,capital_gain,"
    >>> names += "capital_loss,hours_per_week,native_country,income,split\\n"
    >>> line = "39,Private,13,Never-married,Sales,White,Male,2174,0,40,Cuba,<=50K,"
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     with open(os.path.join(folder, "adult.csv"), "w") as file:
    ...         _ = file.write(names + (line + "train\\n") * 10 + (line + "test\\n") * 2)
    ...     data = kmtl.datasets.adult(folder)  # name the folder of the real file instead
    >>> print(data.train.x.shape, data.test.y["income"], data.test.y["never_married"])
    (9, 10) [0. 0.] [1. 1.]

    Differences from the paper: Ma et al. have these two tasks on the larger Census-Income (KDD)
    data, of 299285 people and other columns, so that their numbers are not comparable.

    References:

    - R. Kohavi (1996), "Scaling Up the Accuracy of Naive-Bayes Classifiers: a Decision-Tree
      Hybrid", KDD.
    - J. Ma, Z. Zhao, X. Yi, J. Chen, L. Hong, E. H. Chi (2018), "Modeling Task Relationships in
      Multi-task Learning with Multi-gate Mixture-of-Experts", KDD, section 6.
    """
    needed = (*NUMERIC, *CATEGORICAL, "marital_status", *LABELS)
    table = read_table(find_file(folder, FILE, ORIGIN), needed)
    for column, allowed in LABELS.items():
        if others := sorted(set(np.unique(table[column]).tolist()) - set(allowed)):
            raise ValueError(f"Column {column} must hold {allowed}. Received: {others}")
    train, test = (np.flatnonzero(table["split"] == part) for part in LABELS["split"])
    kept, validation = held_out(len(train), 0.1, seed)
    y = {
        "income": (table["income"] == ">50K").astype("float32"),
        "never_married": (table["marital_status"] == NEVER).astype("float32"),
    }
    return encode(table, NUMERIC, CATEGORICAL, [train[kept], train[validation], test], y)
