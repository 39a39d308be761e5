import numpy as np
import pytest

from kmtl.datasets.sentences import make_vocabulary, pad, to_ids

pytestmark = pytest.mark.both_backends


def test_vocabulary_is_sorted_by_frequency_then_by_the_alphabet():
    sentences = [["b", "a", "c"], ["c", "d"], ["c", "a", "b"]]
    assert make_vocabulary(sentences) == ("", "[UNK]", "c", "a", "b", "d")
    assert make_vocabulary(sentences, min_count=2) == ("", "[UNK]", "c", "a", "b")
    assert make_vocabulary(sentences, min_count=4) == ("", "[UNK]")


def test_words_of_other_parts_are_unknown():
    vocabulary = make_vocabulary([["a", "b"]])
    assert to_ids([["b", "new"], []], vocabulary) == [[3, 1], []]


def test_rows_are_filled_and_cut_at_their_end():
    padded = pad([[5], [1, 2, 3], []], 2, value=-1)
    np.testing.assert_array_equal(padded, [[5, -1], [1, 2], [-1, -1]])
    assert padded.dtype == "int32"
