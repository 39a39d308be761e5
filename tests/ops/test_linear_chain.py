import itertools
import json
from pathlib import Path

import numpy as np
import pytest
from keras import ops

from kmtl import backend
from kmtl.ops import linear_chain, viterbi_numpy
from kmtl.ops.linear_chain import log_normalizer, marginals, sequence_score, split_outputs, viterbi

pytestmark = pytest.mark.both_backends

GOLDENS = json.loads((Path(__file__).parent / "crf_goldens.json").read_text())["cases"]
NAMES = ("emissions", "transitions", "start", "end")


def random_potentials(batch, steps, tags, seed=0):
    normal = np.random.default_rng(seed).normal
    shapes = (batch, steps, tags), (tags, tags), (tags,), (tags,)
    return [normal(size=shape).astype("float32") for shape in shapes]


def numpy(*tensors):
    return [ops.convert_to_numpy(x) for x in tensors]


def run(function, *tensors, by_xla=False):
    """What a function that returns a list gives when it is compiled, as NumPy arrays."""
    tensors = [ops.convert_to_tensor(x) for x in tensors]
    return numpy(*backend.compiled(function, [], by_xla=by_xla)(*tensors)[0])


def with_gradients(function):
    """A function of potentials as one that also gives the gradients of its sum by them."""

    def both(*potentials):
        def total(tensors):
            values = function(*tensors)
            return [ops.sum(values)], values

        (value,), values, pull = backend.linearize(total, [], list(potentials))
        return [values, *pull([ops.ones_like(value)])[1]]

    return both


def enumerate_row(emissions, transitions, start, end):
    """All sequences of one row, their scores, and what each potential is used in each."""
    steps, tags = emissions.shape
    sequences = list(itertools.product(range(tags), repeat=steps))
    scores, uses = [], []
    for y in sequences:
        used = [np.zeros(x.shape) for x in (emissions, transitions, start, end)]
        used[2][y[0]] += 1
        used[3][y[-1]] += 1
        for step, tag in enumerate(y):
            used[0][step, tag] += 1
        for pair in itertools.pairwise(y):
            used[1][pair] += 1
        uses.append(used)
        potentials = emissions, transitions, start, end
        scores.append(sum(np.sum(u * x) for u, x in zip(used, potentials, strict=True)))
    return sequences, np.array(scores, "float64"), uses


@pytest.mark.parametrize("case", GOLDENS)
def test_equals_tensorflow_addons(case):
    inputs, expected = GOLDENS[case]["inputs"], GOLDENS[case]["outputs"]
    potentials = [np.array(inputs[name], "float32") for name in NAMES]
    tags, lengths = np.array(inputs["tags"]), np.array(inputs["lengths"])

    def log_likelihood(*potentials):
        score = sequence_score(*potentials, tags, lengths)
        return score - log_normalizer(*potentials, lengths)

    def everything(*potentials):
        return [
            *with_gradients(log_likelihood)(*potentials),
            log_normalizer(*potentials, lengths),
            sequence_score(*potentials, tags, lengths),
            *viterbi(*potentials, lengths),
        ]

    likelihood, *gradients, normalizer, score, best, best_score = run(everything, *potentials)
    found = {
        "log_normalizer": normalizer,
        "sequence_score": score,
        "log_likelihood": likelihood,
    }
    # Log-likelihoods are differences of numbers of this size.
    size = np.abs(expected["log_normalizer"]).max()
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-5, atol=1e-6 * size)
    # Of an empty sequence tensorflow-addons scores a tag nevertheless.
    full = lengths > 0
    np.testing.assert_allclose(best_score[full], np.array(expected["viterbi_score"])[full], 1e-5)
    assert [row[:n].tolist() for row, n in zip(best, lengths, strict=True)] == (
        expected["viterbi_tags"]
    )
    for name, gradient in zip(NAMES, gradients, strict=True):
        np.testing.assert_allclose(
            gradient, expected["gradients"][name], rtol=1e-4, atol=1e-5, err_msg=name
        )


@pytest.mark.parametrize(("steps", "tags"), [(1, 2), (1, 4), (2, 3), (4, 3), (6, 2)])
def test_equals_the_sum_over_all_sequences(steps, tags):
    lengths = np.array([*range(steps + 1), steps])
    rows = len(lengths)
    potentials = random_potentials(rows, steps, tags, seed=steps + 10 * tags)
    given = np.random.default_rng(1).integers(0, tags, size=(rows, steps))

    def everything(*potentials):
        return [
            *with_gradients(lambda *x: log_normalizer(*x, lengths))(*potentials),
            marginals(*potentials, lengths),
            sequence_score(*potentials, given, lengths),
            *viterbi(*potentials, lengths),
        ]

    total, *gradients, shares, scores, best, best_score = run(everything, *potentials)
    expected = [np.zeros(x.shape) for x in potentials]
    for row, n in enumerate(lengths):
        if n == 0:
            assert total[row] == best_score[row] == scores[row] == 0
            continue
        sequences, values, uses = enumerate_row(potentials[0][row, :n], *potentials[1:])
        np.testing.assert_allclose(total[row], np.log(np.exp(values).sum()), rtol=1e-5)
        np.testing.assert_allclose(best_score[row], values.max(), rtol=1e-5)
        assert tuple(best[row, :n]) == sequences[values.argmax()]
        np.testing.assert_allclose(
            scores[row], values[sequences.index(tuple(given[row, :n]))], rtol=1e-5, atol=1e-6
        )
        probabilities = np.exp(values) / np.exp(values).sum()
        for probability, used in zip(probabilities, uses, strict=True):
            expected[0][row, :n] += probability * used[0]
            for gradient, use in zip(expected[1:], used[1:], strict=True):
                gradient += probability * use
    np.testing.assert_allclose(shares, expected[0], rtol=1e-4, atol=1e-6)
    for gradient, value in zip(gradients, expected, strict=True):
        np.testing.assert_allclose(gradient, value, rtol=1e-4, atol=1e-6)
    padding = np.arange(steps) >= lengths[:, None]
    assert (best[padding] == -1).all() and (best[~padding] >= 0).all()
    sums = shares.sum(axis=2)
    np.testing.assert_allclose(sums[~padding], 1, rtol=1e-5)
    assert (sums[padding] == 0).all()


def test_gradient_of_a_score_is_what_it_uses():
    potentials, lengths = random_potentials(3, 4, 3), np.array([4, 2, 0])
    tags = np.array([[0, 2, 1, 1], [2, 2, 0, 0], [1, 1, 1, 1]])
    score = with_gradients(lambda *x: sequence_score(*x, tags, lengths))
    _, *gradients = run(score, *potentials)
    used = np.zeros((3, 4, 3))
    used[0, range(4), tags[0]] = 1
    used[1, range(2), tags[1, :2]] = 1
    np.testing.assert_array_equal(gradients[0], used)
    np.testing.assert_array_equal(gradients[1], [[0, 0, 1], [0, 1, 0], [0, 1, 1]])
    np.testing.assert_array_equal(gradients[2], [1, 0, 1])
    np.testing.assert_array_equal(gradients[3], [0, 1, 1])


@pytest.mark.parametrize("lengths", [None, [5, 1, 0]])
def test_compiled_by_xla_or_not_it_is_the_same(lengths):
    potentials = [ops.convert_to_tensor(x) for x in random_potentials(3, 5, 3)]
    tags = np.random.default_rng(2).integers(0, 3, size=(3, 5))

    def loss(*potentials):
        return log_normalizer(*potentials, lengths) - sequence_score(*potentials, tags, lengths)

    def everything(*potentials):
        shares = marginals(*potentials, lengths)
        return [*with_gradients(loss)(*potentials), shares, *viterbi(*potentials, lengths)]

    eager = numpy(*everything(*potentials))
    for found in (run(everything, *potentials, by_xla=by_xla) for by_xla in (False, True)):
        for a, b in zip(found, eager, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_what_is_padded_does_not_matter():
    potentials, lengths = random_potentials(3, 6, 3), np.array([4, 1, 0])
    tags = np.random.default_rng(3).integers(0, 3, size=(3, 6))
    padded = [potentials[0].copy(), *potentials[1:]]
    padded[0][np.arange(6) >= lengths[:, None]] = np.nan
    short = [potentials[0][:, :4], *potentials[1:]]

    def loss(tags):
        return lambda *x: log_normalizer(*x, lengths) - sequence_score(*x, tags, lengths)

    def everything(tags):
        def function(*potentials):
            return [*with_gradients(loss(tags))(*potentials), *viterbi(*potentials, lengths)]

        return function

    value, *gradients, best, best_score = run(everything(tags), *padded)
    expected, *others, best_short, score_short = run(everything(tags[:, :4]), *short)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    assert (gradients[0][:, 4:] == 0).all() and all(np.isfinite(g).all() for g in gradients)
    for a, b in zip([gradients[0][:, :4], *gradients[1:]], others, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(best[:, :4], best_short)
    np.testing.assert_array_equal(best_score, score_short)


def test_a_constant_on_all_emissions_adds_up_over_the_steps():
    (emissions, *others), lengths = random_potentials(4, 5, 3), np.array([5, 3, 1, 0])

    def function(emissions):
        potentials = emissions, *others
        return [log_normalizer(*potentials, lengths), marginals(*potentials, lengths)]

    total, shares = run(function, emissions)
    shifted, same = run(function, emissions + 2.5)
    np.testing.assert_allclose(shifted - total, 2.5 * lengths, rtol=1e-5)
    np.testing.assert_allclose(same, shares, rtol=1e-4, atol=1e-6)


def test_without_transitions_it_is_a_softmax_at_each_step():
    emissions = random_potentials(4, 5, 3)[0]

    def function(emissions):
        potentials = emissions, np.zeros((3, 3)), np.zeros(3), np.zeros(3)
        return [log_normalizer(*potentials), marginals(*potentials), viterbi(*potentials)[0]]

    total, shares, best = run(function, emissions)
    each = np.log(np.exp(emissions).sum(axis=2))
    np.testing.assert_allclose(total, each.sum(axis=1), rtol=1e-5)
    np.testing.assert_allclose(shares, np.exp(emissions - each[:, :, None]), rtol=1e-4)
    np.testing.assert_array_equal(best, emissions.argmax(axis=2))


def test_the_normaliser_lies_between_the_best_score_and_that_of_all_sequences():
    def function(*potentials):
        return [log_normalizer(*potentials), viterbi(*potentials)[1]]

    total, best = run(function, *random_potentials(5, 7, 4))
    assert (total > best).all() and (total < best + 7 * np.log(4)).all()
    total, best = run(function, *(1e4 * x for x in random_potentials(5, 7, 4)))
    np.testing.assert_allclose(total, best, rtol=1e-6)  # one sequence is left


def test_long_sequences_keep_their_precision():
    # Independent steps: each has the same probabilities, whatever the length and the score.
    emissions = np.broadcast_to(np.array([30.0, 31.0, 28.0], "float32"), (2, 500, 3))

    def function(emissions):
        zeros = np.zeros((3, 3)), np.zeros(3), np.zeros(3)
        total = with_gradients(lambda x: log_normalizer(x, *zeros))
        return [*total(emissions), marginals(emissions, *zeros)]

    total, gradient, shares = run(function, emissions)
    each = np.exp([30.0, 31.0, 28.0]) / np.exp([30.0, 31.0, 28.0]).sum()
    np.testing.assert_allclose(total, 500 * np.log(np.exp([30.0, 31.0, 28.0]).sum()), rtol=1e-5)
    for found in (gradient, shares):
        np.testing.assert_allclose(found, np.broadcast_to(each, found.shape), rtol=1e-5)


def test_each_row_may_have_transitions_of_its_own():
    emissions, *shared = random_potentials(3, 4, 3)
    other = random_potentials(3, 4, 3, seed=1)[1:]
    own = [np.stack([a, b, a]) for a, b in zip(shared, other, strict=True)]
    tags, lengths = np.array([[0, 1, 2, 0]] * 3), np.array([4, 3, 2])

    def everything(*potentials):
        return [
            log_normalizer(*potentials, lengths),
            sequence_score(*potentials, tags, lengths),
            marginals(*potentials, lengths),
            *viterbi(*potentials, lengths),
        ]

    first, second = (run(everything, emissions, *x) for x in (shared, other))
    for found, a, b in zip(run(everything, emissions, *own), first, second, strict=True):
        np.testing.assert_allclose(found, np.stack([a[0], b[1], a[2]]), rtol=1e-5, atol=1e-6)
        assert (a[1] != b[1]).any()


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("steps", [1, 9])
def test_numpy_finds_the_same_tags(steps, tied):
    rng = np.random.default_rng(4)
    outputs = rng.normal(size=(20, steps + 6, 4)).astype("float32")
    if tied:
        outputs = np.round(outputs)
    lengths = rng.integers(0, steps + 1, size=20)
    for n in (None, lengths):
        (tags,) = run(lambda x, n=n: [viterbi(*split_outputs(x), n)[0]], outputs)
        found = viterbi_numpy.decode(outputs, n)
        assert found.dtype == tags.dtype == np.int32
        np.testing.assert_array_equal(found, tags)


@pytest.mark.parametrize("shape", [(2, 5, 3), (2, 8), (2, 1, 7, 3)])
def test_outputs_of_another_shape_are_named(shape):
    with pytest.raises(ValueError, match="must be of shape .batch, steps . tags . 2, tags.*shape"):
        linear_chain.split_outputs(np.zeros(shape))
