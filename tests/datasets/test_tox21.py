import io
from pathlib import Path

import numpy as np
import pytest

import kmtl
from kmtl.datasets.tox21 import FILE

pytestmark = pytest.mark.both_backends

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "tox21"
RNG = np.random.default_rng(0)
BITS = RNG.integers(0, 2, (50, 1024), "uint8")
LABELS = RNG.integers(-1, 2, (50, 3), "int8")
SCAFFOLD = RNG.permutation(np.repeat([0, 1, 2], [40, 5, 5]))


def write(folder, **changes):
    arrays = {
        "X_packed": np.packbits(BITS, axis=1),
        "Y": LABELS,
        "scaffold_split": SCAFFOLD,
        "tasks": ["a", "b", "c"],
        "row": np.arange(50) + 100,
        **changes,
    }
    np.savez(folder / FILE, **{key: value for key, value in arrays.items() if value is not None})
    return folder


@pytest.mark.parametrize(("split", "seed"), [("random", 0), ("random", 3), ("scaffold", 0)])
def test_every_molecule_is_in_one_split_with_its_labels(tmp_path, split, seed):
    data = kmtl.datasets.tox21(write(tmp_path), split, seed)
    parts = [data.train, data.validation, data.test]
    assert [len(part.x) for part in parts] == [40, 5, 5]
    assert sorted(np.concatenate([part.rows for part in parts])) == list(range(100, 150))
    for number, part in enumerate(parts):
        places = part.rows - 100
        assert part.x.dtype == "float32" and list(part.y) == ["a", "b", "c"]
        np.testing.assert_array_equal(part.x, BITS[places])
        for t, y in enumerate(part.y.values()):
            assert y.dtype == "float32"
            np.testing.assert_array_equal(np.nan_to_num(y, nan=-1), LABELS[places, t])
        if split == "scaffold":
            assert (SCAFFOLD[places] == number).all()
    if split == "random":
        order = np.random.RandomState(seed).permutation(50)
        np.testing.assert_array_equal(data.validation.rows - 100, order[40:45])


def test_missing_file_and_split_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=rf"{FILE}.*deepchem/deepchem.*Received: folder="):
        kmtl.datasets.tox21(tmp_path)
    with pytest.raises(ValueError, match="`split` must be one of.*Received: split='index'"):
        kmtl.datasets.tox21(write(tmp_path), "index")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"row": None}, "must hold the arrays X_packed, Y, .*Received: X_packed, Y, scaf"),
        ({"X_packed": BITS}, r"`X_packed` must be uint8 of shape.*Received: uint8 \[\(50, 1024\)"),
        ({"tasks": ["a", "b"]}, r"for T `tasks`.*Received: .*\(50, 3\).*2 tasks"),
        ({"tasks": ["a", "a", "b"]}, r"`tasks` must be distinct.*Received: \['a', 'a', 'b'\]"),
        ({"Y": LABELS + 1}, r"`Y` must hold \(-1, 0, 1\). Received: \[2\] in Y"),
        ({"scaffold_split": SCAFFOLD - 1}, r"must hold \(0, 1, 2\). Received: \[-1\]"),
    ],
)
def test_wrong_files_are_refused(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        kmtl.datasets.tox21(write(tmp_path, **changes))


def test_broken_files_are_named(tmp_path):
    whole = (write(tmp_path) / FILE).read_bytes()
    single = io.BytesIO()
    np.save(single, LABELS)
    for content in (
        whole[:-50],
        b"",
        whole.replace(LABELS.tobytes(), bytes(150)),
        single.getvalue(),
    ):
        (tmp_path / FILE).write_bytes(content)
        with pytest.raises(ValueError, match=f"{FILE} must be a whole file of arrays.*Received"):
            kmtl.datasets.tox21(tmp_path)


@pytest.mark.skipif(not REAL.exists(), reason="Tox21 does not lie beside the repository")
def test_real_tox21():
    data = kmtl.datasets.tox21(REAL, "scaffold")
    assert [len(part.x) for part in (data.train, data.validation, data.test)] == [6404, 801, 801]
    assert len(data.train.y) == 12
    labels = np.stack(list(data.train.y.values()), axis=1)
    assert 0.1 < np.isnan(labels).mean() < 0.25
    rare = np.nanmean(labels, axis=0)
    assert 0.02 < rare.min() and rare.max() < 0.2
