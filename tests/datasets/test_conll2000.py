import gzip
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from kmtl.datasets.conll2000 import conll2000

pytestmark = pytest.mark.both_backends

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "conll2000"
TRAIN = "He PRP B-NP\nsaw VBD B-VP\n\n" + "the DT B-NP\ndog NN I-NP\nsaw VBD B-VP\n. . O\n\n" * 19
TEST = "cats NNS B-NP\nsaw VBD B-VP\n\n\nit PRP B-LST"


def write(folder, train=TRAIN, test=TEST):
    (folder / "train.txt").write_text(train)
    with gzip.open(folder / "test.txt.gz", "wt") as file:
        file.write(test)
    return folder


def test_words_and_tags_become_numbers(tmp_path):
    data = conll2000(write(tmp_path))
    # saw 18 times in train (of 20 sentences 2 are held out), then by the alphabet.
    assert data.vocabulary == ("", "[UNK]", "saw", ".", "dog", "the", "He")
    assert data.tags == {
        "pos": (".", "DT", "NN", "NNS", "PRP", "VBD"),
        "chunk": ("B-LST", "B-NP", "B-VP", "I-NP", "O"),
    }
    assert [len(p.x) for p in (data.train, data.validation, data.test)] == [18, 2, 2]
    assert data.train.x.dtype == "int32" and data.train.y["pos"].dtype == "int32"
    np.testing.assert_array_equal(data.train.x[:2], [[6, 2, 0, 0], [5, 4, 2, 3]])
    np.testing.assert_array_equal(data.train.y["pos"][:2], [[4, 5, -1, -1], [1, 2, 5, 0]])
    np.testing.assert_array_equal(data.train.y["chunk"][:2], [[1, 2, -1, -1], [1, 3, 2, 4]])
    np.testing.assert_array_equal(data.test.x, [[1, 2, 0, 0], [1, 0, 0, 0]])
    assert data.test.words == [["cats", "saw"], ["it"]]


def test_validation_is_the_end_of_the_training_file(tmp_path):
    data = conll2000(write(tmp_path))
    np.testing.assert_array_equal(data.train.rows, np.arange(18))
    np.testing.assert_array_equal(data.validation.rows, [18, 19])


def test_rare_words_and_long_sentences(tmp_path):
    data = conll2000(write(tmp_path), steps=3, min_count=2)
    assert "He" not in data.vocabulary
    np.testing.assert_array_equal(data.train.x[:2], [[1, 2, 0], [5, 4, 2]])
    assert data.train.words[1] == ["the", "dog", "saw", "."]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("He PRP\n", r"`word POS chunk`.*Received: 'He PRP' in line 1 of train.txt"),
        ("He PRP B-NP\nsaw VBD VP\n", "Received: 'saw VBD VP' in line 2"),
        ("\n", "train.txt must hold sentences"),
    ],
)
def test_wrong_files_are_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        conll2000(write(tmp_path, train=text))


def test_errors(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"file train.txt or train.txt.gz, of the CoNLL-20"):
        conll2000(tmp_path)
    write(tmp_path)
    with pytest.raises(ValueError, match="`steps` must be at least 1. Received: steps=0"):
        conll2000(tmp_path, steps=0)
    with pytest.raises(ValueError, match="`min_count` must be at least 1. Received: min_count=0"):
        conll2000(tmp_path, min_count=0)


def test_broken_files_are_named(tmp_path):
    packed = (write(tmp_path) / "test.txt.gz").read_bytes()
    for content in (packed[:-12], b"no gzip", packed[:30] + b"????" + packed[34:]):
        (tmp_path / "test.txt.gz").write_bytes(content)
        with pytest.raises(ValueError, match="test.txt.gz must be a whole file of text in UTF-8"):
            conll2000(tmp_path)
    (tmp_path / "train.txt").write_bytes(b"caf\xe9 NN B-NP\n")
    with pytest.raises(
        ValueError, match="train.txt must be a whole file of text.*Received: .*codec"
    ):
        conll2000(tmp_path)


def chunks(tags):
    """(start, end, kind) of each chunk."""
    found, start = set(), None
    for i, tag in enumerate([*tags, "O"]):
        if start is not None and tag != f"I-{tags[start][2:]}":
            found.add((start, i, tags[start][2:]))
            start = None
        if tag != "O" and start is None:
            start = i
    return found


@pytest.mark.skipif(not REAL.exists(), reason="CoNLL-2000 does not lie beside the repository")
def test_real_conll2000_has_the_published_baseline():
    data = conll2000(REAL)
    known = [data.train, data.validation]
    assert [len(p.x) for p in (*known, data.test)] == [8043, 893, 2012]
    assert sum((p.y["pos"] >= 0).sum() for p in known) == 211727
    assert (data.test.y["chunk"] >= 0).sum() == 47377
    assert [len(tags) for tags in data.tags.values()] == [44, 23]
    for part in (*known, data.test):
        np.testing.assert_array_equal(part.x > 0, part.y["pos"] >= 0)
        np.testing.assert_array_equal(part.x > 0, part.y["chunk"] >= 0)
    counts = {}
    for part in known:
        there = part.x > 0
        for pos, chunk in zip(part.y["pos"][there], part.y["chunk"][there], strict=True):
            counts.setdefault(int(pos), Counter())[data.tags["chunk"][chunk]] += 1
    best = {pos: counter.most_common(1)[0][0] for pos, counter in counts.items()}
    right = guessed = true = 0
    for pos, chunk in zip(data.test.y["pos"], data.test.y["chunk"], strict=True):
        a = chunks([best[int(i)] for i in pos if i >= 0])
        b = chunks([data.tags["chunk"][i] for i in chunk if i >= 0])
        right, guessed, true = right + len(a & b), guessed + len(a), true + len(b)
    assert round(200 * right / (guessed + true), 2) == 77.07  # Tjong Kim Sang and Buchholz, 2000
