import keras
import numpy as np
import pytest

from kmtl.auxiliary.frequency_bins import FrequencyBinTask
from tests.auxiliary import texts

pytestmark = pytest.mark.both_backends

COUNTS = [50, 1, 9, 10, 99, 100, 3, 0, 12, 5, 120, 7]


def frequency(weight=1.0, **kwargs):
    return FrequencyBinTask(
        "frequency", **{"counts": COUNTS, "features": "both", **kwargs}, weight=weight
    )


@pytest.mark.parametrize(
    ("base", "counts", "bins"),
    [
        # Whole powers are the first of their bin; log(1000, 10) of floats is below 3.
        (10, [0, 1, 9, 10, 99, 100, 999, 1000, 10**6], [-1, 0, 0, 1, 1, 2, 2, 3, 6]),
        (2, [0, 1, 2, 3, 4, 7, 8], [-1, 0, 1, 1, 2, 2, 3]),
        (np.e, [0, 1, 2, 3, 7, 8, 20, 21], [-1, 0, 0, 1, 1, 2, 2, 3]),
    ],
)
def test_bins(base, counts, bins):
    task = FrequencyBinTask("frequency", counts, "both", base)
    ids = np.arange(len(counts))[None]
    np.testing.assert_array_equal(task.targets(ids, {})["frequency"], [bins])
    assert task.num_bins == max(bins) + 1


def test_padding_has_no_label_however_often_it_was_counted():
    np.testing.assert_array_equal(
        frequency().targets(np.array([[10, 7, 0], [5, 3, 6]]), {})["frequency"],
        [[2, -1, -1], [2, 1, 0]],
    )
    shifted = frequency(padding=1, words="ids").targets({"ids": np.array([[0, 1, 2]])}, {})
    np.testing.assert_array_equal(shifted["frequency"], [[1, -1, 0]])


def test_loss_is_the_mean_over_counted_words():
    helpers, both, arguments = texts.attach([frequency(0.2)], texts.tagger()[0])
    x, y = helpers.add_targets((texts.X, texts.Y))
    both.compile(keras.optimizers.SGD(0.0), **arguments)
    logs = both.evaluate(x, y, batch_size=8, verbose=0, return_dict=True)
    assert (y["frequency"] >= 0).sum() == ((x > 0) & (x != 7)).sum()
    expected = texts.crossentropy_of_present(
        y["frequency"], both.predict(x, verbose=0)["frequency"]
    )
    np.testing.assert_allclose(logs["frequency_loss"], expected, rtol=1e-5)
    total = logs["pos_loss"] + 0.2 * logs["frequency_loss"]
    np.testing.assert_allclose(logs["loss"], total, rtol=1e-5)


def test_weight_0_trains_the_main_model_bit_for_bit():
    texts.check_weight_0_trains_as_alone(lambda backward, weight: frequency(weight))


def test_no_trace_in_what_is_exported():
    texts.check_nothing_is_exported(frequency(), texts.tagger()[0])


def test_errors():
    for base in (1, 0.5):
        with pytest.raises(ValueError, match="`base` must be above 1. Received: base="):
            frequency(base=base)
    for counts in ([-1, 2, 30], [0.5, 2, 30], [[1, 30]]):
        with pytest.raises(ValueError, match="`counts` must hold a whole number of at least 0"):
            frequency(counts=counts)
    for counts in ([0, 1, 9], [100, 1, 0], []):
        with pytest.raises(ValueError, match="`counts` must fall into two bins or more"):
            frequency(counts=counts)
    with pytest.raises(ValueError, match="from 0 to 11. Received: 1 to 12 for 'frequency'"):
        frequency().targets(np.array([[1, 12]]), {})
