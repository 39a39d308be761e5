"""Tox21: twelve assays of toxicity with a sixth of the labels missing."""

import os

import numpy as np

from kmtl.datasets.splits import Examples, Splits, distinct_names, read_arrays

FILE = "tox21_ecfp4_1024.npz"
KEYS = ("X_packed", "Y", "scaffold_split", "tasks", "row")
ORIGIN = (
    "made from tox21.csv.gz of DeepChem's repository (deepchem/deepchem, folder datasets) as "
    "described in `kmtl.datasets.tox21`"
)
SPLITS = ("random", "scaffold")
BITS = 1024


def tox21(folder: str | os.PathLike, split: str = "random", seed: int = 0) -> Splits:
    """8006 molecules, as fingerprints of 1024 bits, in twelve assays; 17 % of labels missing.

    The small real benchmark for many tasks with missing labels and rare positives (3 to 16 %). The
    scaffold split tests on molecules built unlike those in training, and is the harder and more
    honest one; a random split leaks a little, as 183 molecules are repeated.

    The data are not part of kmtl. The file is made from DeepChem's table of the Tox21 challenge:
    the bits of ECFP4 (Morgan fingerprints of radius 2), packed by eight.

    Args:
        folder: folder with the file `tox21_ecfp4_1024.npz`, which has the arrays `X_packed`,
            uint8 of shape `(M, 128)`, for `numpy.unpackbits`; `Y`, int8 of shape `(M, T)`, 0, 1 or
            -1 for none; `scaffold_split`, `(M,)`, 0, 1 or 2 for train, validation, test; `tasks`,
            T names; and `row`, `(M,)`.
        split: `"random"`, 80, 10 and 10 percent in the order of
            `numpy.random.RandomState(seed).permutation`, or `"scaffold"`, which is fixed.
            Defaults to `"random"`.
        seed: int that decides the random split. Defaults to `0`.

    Returns:
        An object with the attributes `train`, `validation` and `test`, each with
        `x`, float32 of shape `(N, 1024)`,
        `y`, a dict of task name to float32 labels of shape `(N,)`, NaN where there is none, and
        `rows`, `(N,)`. `numpy.stack(list(y.values()), axis=1)` is the matrix for
        `kmtl.losses.MaskedMultiLabelLoss`.

    Raises:
        FileNotFoundError: If the file is not in the folder.
        ValueError: If `folder` is no path, `split` is another, or the file is broken, lacks an
            array or holds other values.

    Example:

    >>> import os, tempfile
    >>> import numpy as np
    >>> import kmtl
    >>> y = np.tile(np.array([[0, 1], [1, -1]], "int8"), (10, 1))
    >>> arrays = {"X_packed": np.zeros((20, 128), "uint8"), "Y": y, "tasks": ["NR-AR", "SR-p53"]}
    >>> arrays |= {"scaffold_split": np.arange(20) % 3, "row": np.arange(20)}
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     np.savez(os.path.join(folder, "tox21_ecfp4_1024.npz"), **arrays)
    ...     data = kmtl.datasets.tox21(folder)  # name the folder of the real file instead
    >>> print(data.train.x.shape, sorted(data.train.y))
    (16, 1024) ['NR-AR', 'SR-p53']

    Differences from the paper: DeepChem's scaffold split and featuriser differ in details, so hold
    gaps between methods against published ones, not AUCs.

    Reference:
        - Mayr, Klambauer, Unterthiner and Hochreiter, 2016, "DeepTox: Toxicity Prediction using
          Deep Learning", Frontiers in Environmental Science 3:80.
        - Wu et al., 2018, "MoleculeNet: A Benchmark for Molecular Machine Learning", Chemical
          Science 9, arXiv:1703.00564.
    """
    if split not in SPLITS:
        raise ValueError(f"`split` must be one of {SPLITS}. Received: split={split!r}")
    x, y, scaffold, tasks, rows = _read(folder)
    if split == "scaffold":
        parts = [np.flatnonzero(scaffold == part) for part in range(3)]
    else:
        order = np.random.RandomState(seed).permutation(len(x))
        parts = np.split(order, [int(0.8 * len(x)), int(0.9 * len(x))])
    return Splits(
        *(
            Examples(
                x=np.unpackbits(x[part], axis=1).astype("float32"),
                y={task: y[part, t] for t, task in enumerate(tasks)},
                rows=rows[part],
            )
            for part in parts
        )
    )


def _read(folder: str | os.PathLike) -> tuple:
    x, y, scaffold, tasks, rows = read_arrays(folder, FILE, KEYS, ORIGIN)
    shapes = [array.shape for array in (x, y, scaffold, rows)]
    if x.dtype != "uint8" or shapes != [
        (len(rows), BITS // 8),
        (len(rows), len(tasks)),
        (len(rows),),
        (len(rows),),
    ]:
        raise ValueError(
            f"`X_packed` must be uint8 of shape (M, {BITS // 8}), `Y` (M, T) for T `tasks`, "
            f"`scaffold_split` and `row` (M,). Received: {x.dtype} {shapes}, {len(tasks)} tasks"
        )
    for key, array, allowed in (("Y", y, (-1, 0, 1)), ("scaffold_split", scaffold, (0, 1, 2))):
        if others := sorted(set(np.unique(array).tolist()) - set(allowed)):
            raise ValueError(f"`{key}` must hold {allowed}. Received: {others} in {key}")
    labels = np.where(y == -1, np.nan, y).astype("float32")
    return x, labels, scaffold, distinct_names("tasks", tasks), rows
