"""How likely each source is, epoch by epoch."""

import math
from collections.abc import Sequence

import numpy as np

# Name -> the arguments that it takes, with their defaults; None: there is none.
SAMPLINGS = {
    "proportional": {"alpha": 1.0},
    "uniform": {},
    "temperature": {"temperature": 5.0},
    "annealed": {"anneal_epochs": None, "final_alpha": 0.2},
    "round_robin": {},
}


def probability_table(sampling: str, sizes: Sequence[int], **arguments) -> np.ndarray:
    """The probabilities of all sources, one row an epoch; the last row is for all later ones.

    Args:
        sampling: A key of `SAMPLINGS`.
        sizes: Number of examples of each source.
        **arguments: `alpha`, `temperature`, `anneal_epochs` and `final_alpha`; None: not given.

    Returns:
        float64 array of shape `(epochs, sources)`.

    Raises:
        ValueError: for an unknown sampling, and for arguments that it does not take or that are
            out of range.
    """
    if sampling not in SAMPLINGS:
        raise ValueError(
            f"`sampling` must be one of {sorted(SAMPLINGS)}. Received: sampling={sampling!r}"
        )
    taken = SAMPLINGS[sampling]
    given = {name: value for name, value in arguments.items() if value is not None}
    for name, value in given.items():
        if name not in taken:
            raise ValueError(
                f"`{name}` must be left out with sampling={sampling!r}, which does not use it. "
                f"Received: {name}={value}"
            )
        _check(name, value)
    return _powers(sizes, _exponents(sampling, {**taken, **given}))


def _exponents(sampling, values):
    """The power of its size that each source is likely by, for each epoch."""
    if sampling == "proportional":
        return [values["alpha"]]
    if sampling == "temperature":
        return [1 / values["temperature"]]
    if sampling == "annealed":
        if values["anneal_epochs"] is None:
            raise ValueError(
                '`anneal_epochs` must be given with sampling="annealed". '
                "Received: anneal_epochs=None"
            )
        return np.linspace(1.0, values["final_alpha"], values["anneal_epochs"])
    return [0.0]


def _powers(sizes, exponents):
    logs = np.log(np.asarray(sizes, "float64"))
    # Sizes over the largest one cannot overflow.
    powers = np.exp(np.outer(exponents, logs - logs.max()))
    return powers / powers.sum(axis=1, keepdims=True)


def _check(name, value):
    number = isinstance(value, (int, float, np.number)) and math.isfinite(value)
    if name == "anneal_epochs":
        if not isinstance(value, (int, np.integer)) or value < 2:
            raise ValueError(f"`{name}` must be an integer >= 2. Received: {name}={value}")
    elif name == "temperature":
        if not number or value <= 0:
            raise ValueError(f"`{name}` must be a positive number. Received: {name}={value}")
    elif not number or value < 0:
        raise ValueError(f"`{name}` must be a number >= 0. Received: {name}={value}")
