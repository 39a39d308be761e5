"""Probabilities of sources: formulas by hand, and arguments that do not fit."""

import numpy as np
import pytest

from kmtl.data.sampling import probability_table

pytestmark = pytest.mark.both_backends


@pytest.mark.parametrize(
    ("sampling", "arguments", "powers"),
    [
        ("proportional", {}, [100.0, 900.0]),
        ("proportional", {"alpha": 0.5}, [10.0, 30.0]),
        ("uniform", {}, [1.0, 1.0]),
        ("round_robin", {}, [1.0, 1.0]),
        ("temperature", {"temperature": 2.0}, [10.0, 30.0]),
        ("temperature", {}, [100.0**0.2, 900.0**0.2]),
    ],
)
def test_formulas(sampling, arguments, powers):
    table = probability_table(sampling, [100, 900], **arguments)
    np.testing.assert_allclose(table, [np.divide(powers, sum(powers))], rtol=1e-12)


def test_annealed_is_stickland_s_and_murray_s():
    epochs = 25
    table = probability_table("annealed", [100, 900], anneal_epochs=epochs)
    assert table.shape == (epochs, 2)
    for e, row in enumerate(table, 1):
        alpha = 1 - 0.8 * (e - 1) / (epochs - 1)
        np.testing.assert_allclose(row[1] / row[0], 9.0**alpha, rtol=1e-12)


def test_large_powers_do_not_overflow():
    table = probability_table("proportional", [10, 10**9], alpha=100.0)
    np.testing.assert_array_equal(table, [[0.0, 1.0]])


@pytest.mark.parametrize(
    ("sampling", "arguments", "message"),
    [
        ("even", {}, "`sampling` must be one of .* sampling='even'"),
        ("uniform", {"alpha": 1.0}, "`alpha` must be left out with sampling='uniform'"),
        ("proportional", {"alpha": -1.0}, "`alpha` must be a number >= 0. Received: alpha=-1.0"),
        ("proportional", {"alpha": float("nan")}, "`alpha` must be a number >= 0"),
        ("temperature", {"temperature": 0}, "`temperature` must be a positive number"),
        ("annealed", {}, "`anneal_epochs` must be given"),
        ("annealed", {"anneal_epochs": 1}, "`anneal_epochs` must be an integer >= 2"),
        ("annealed", {"anneal_epochs": 3, "final_alpha": "0"}, "`final_alpha` must be a number"),
    ],
)
def test_bad_arguments(sampling, arguments, message):
    with pytest.raises(ValueError, match=message):
        probability_table(sampling, [1, 2], **arguments)
