"""How the pages of the survey are scored and laid out."""

import numpy as np

from benchmarks.survey.records import mean_and_sd, table
from benchmarks.survey.tagging_scores import chunk_f1, frequent_tags, scores, spans
from kmtl.datasets.sentences import Sentences


def test_chunks_are_read_as_conlleval_reads_them():
    found = spans(["B-NP", "I-NP", "B-NP", "O", "I-VP", "I-PP"])
    assert found == {(0, 2, "NP"), (2, 3, "NP"), (4, 5, "VP"), (5, 6, "PP")}
    assert spans(["O", "O"]) == set()


def test_f1_counts_whole_chunks():
    truth, guess = [["B-NP", "I-NP", "B-VP"]], [["B-NP", "B-NP", "B-VP"]]
    assert chunk_f1(truth, guess) == 2 * 1 / (2 + 3)
    assert chunk_f1(truth, truth) == 1.0
    assert chunk_f1([["O"]], [["O"]]) == 0.0


def test_padding_does_not_count():
    tags = {"pos": ("A", "B"), "chunk": ("B-NP", "I-NP")}
    truths = {"pos": np.array([[0, 1, -1]]), "chunk": np.array([[0, 1, -1]])}
    guesses = {"pos": np.array([[0, 0, 1]]), "chunk": np.array([[0, 1, 0]])}
    assert scores(guesses, truths, tags) == {"pos": 0.5, "chunk": 1.0}


def test_frequent_tags_know_each_key_and_fall_back_to_the_usual():
    def part(words, labels):
        return Sentences(np.zeros((1, 4)), {"pos": np.array([labels])}, [words], np.arange(1))

    train = part(["a", "a", "a", "b"], [0, 0, 1, 1])
    test = part(["a", "b", "new"], [1, 1, 0, -1])
    guess = frequent_tags([train], test, "pos", lambda p: p.words[0])
    assert guess.tolist() == [[0, 1, 0, -1]]


def test_tables_hold_means_and_deviations_of_seeds():
    assert mean_and_sd([0.5], 1) == "0.5"
    assert mean_and_sd([1.0, 3.0], 2) == "2.00 ± 1.41"
    rows = {"ours": {"accuracy": [0.5, 0.7], "minutes": [1.0, 1.0]}, "plain": {"accuracy": [0.4]}}
    columns = {"accuracy": ("accuracy %", 100, 1), "minutes": ("minutes", 1, 0)}
    assert table(rows, columns).splitlines() == [
        "| | accuracy % | minutes |",
        "|---|---|---|",
        "| ours | 60.0 ± 14.1 | 1 ± 0 |",
        "| plain | 40.0 |  |",
    ]
