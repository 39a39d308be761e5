from pathlib import Path

import numpy as np
import pytest

from kmtl.datasets.ud_english_ewt import ud_english_ewt

pytestmark = pytest.mark.both_backends

REAL = Path(__file__).resolve().parents[3] / "shared" / "data" / "ud_english_ewt"
LINES = """# sent_id = 1
1-2 don't _ _ _ _ _ _ _ _
1 do do AUX VB _ 3 aux _ _
2 n't not PART RB _ 3 advmod _ _
3 go go VERB VB _ 0 root _ _
3.1 home home NOUN NN _ _ _ 3:obl _

1 go go VERB VB _ 0 root _ _
"""


def write(folder, **texts):
    for part in ("train", "dev", "test"):
        text = texts.get(part, LINES)
        (folder / f"en_ewt-ud-{part}.conllu").write_text(
            "\n".join("\t".join(s.split()) if s[:1].isdigit() else s for s in text.split("\n"))
        )
    return folder


def test_words_tags_and_parents(tmp_path):
    data = ud_english_ewt(write(tmp_path, dev="1 stay stay VERB VB _ 0 root _ _\n"))
    assert data.vocabulary == ("", "[UNK]", "go", "do", "n't")
    np.testing.assert_array_equal(data.train.x, [[3, 4, 2], [2, 0, 0]])
    np.testing.assert_array_equal(data.train.y["head"], [[3, 3, 0], [0, -1, -1]])
    assert data.train.y["head"].dtype == "int32"
    np.testing.assert_array_equal(data.train.y["upos"], [[0, 1, 2], [2, -1, -1]])
    assert data.tags == {
        "upos": ("AUX", "PART", "VERB"),
        "xpos": ("RB", "VB"),
        "deprel": ("advmod", "aux", "root"),
    }
    np.testing.assert_array_equal(data.validation.x, [[1, 0, 0]])
    np.testing.assert_array_equal(data.test.rows, [0, 1])


def test_parents_that_were_cut_off_are_no_labels(tmp_path):
    data = ud_english_ewt(write(tmp_path), steps=2)
    np.testing.assert_array_equal(data.train.y["head"], [[-1, -1], [0, -1]])
    np.testing.assert_array_equal(data.train.y["upos"], [[0, 1], [2, -1]])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1 go go VERB\n", "must have 10 fields. Received: 4 in line 1 of en_ewt-ud-train"),
        ("1 go go VERB VB _ 2 root _ _\n", "Received: parent 2 in the sentence before line"),
        ("2 go go VERB VB _ 0 root _ _\n", "Received: other numbers in the sentence"),
        ("# text\n", "en_ewt-ud-train.conllu must hold sentences"),
    ],
)
def test_wrong_files_are_refused(tmp_path, text, message):
    with pytest.raises(ValueError, match=message):
        ud_english_ewt(write(tmp_path, train=text))


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"en_ewt-ud-train.conllu .*UniversalDependencies"):
        ud_english_ewt(tmp_path)


def accuracy_of_most_frequent_tags(data, task):
    counts = np.zeros((len(data.vocabulary), len(data.tags[task])), int)
    there = data.train.x > 0
    np.add.at(counts, (data.train.x[there], data.train.y[task][there]), 1)
    best = np.where(counts.any(axis=1), counts.argmax(axis=1), counts.sum(axis=0).argmax())
    there = data.test.x > 0
    return (best[data.test.x[there]] == data.test.y[task][there]).mean()


@pytest.mark.skipif(not REAL.exists(), reason="UD English EWT does not lie beside the repository")
def test_real_ud_english_ewt():
    data = ud_english_ewt(REAL)
    parts = (data.train, data.validation, data.test)
    assert [len(p.x) for p in parts] == [12544, 2001, 2077]  # the release's stats.xml
    assert [(p.x > 0).sum() for p in parts] == [204577, 25147, 25094]
    assert [len(tags) for tags in data.tags.values()] == [17, 49, 51]
    for part in parts:
        assert ((part.y["head"] == 0).sum(axis=1) == 1).all()
        root = part.y["deprel"] == data.tags["deprel"].index("root")
        np.testing.assert_array_equal(part.y["head"] == 0, root)
    assert accuracy_of_most_frequent_tags(data, "upos") == pytest.approx(0.862, abs=1e-3)
