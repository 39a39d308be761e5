"""What the overlaid-digit data sets share: splitting the sources, pairing them, overlaying them."""

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

TASKS = ("left", "right")

# The sources are always split in the same way, whatever the user's seed: a model tuned under one
# seed never meets a test digit that another seed had put into training.
SPLIT_SEED = 0


@dataclasses.dataclass(frozen=True, eq=False)
class Split:
    """Images, labels and origin of one split.

    Attributes:
        x: float32 array in [0, 1] of shape `(N, height, width, 1)`.
        y: dict, task name to int32 labels of shape `(N,)`.
        sources: dict, task name to the indices of shape `(N,)` of the single-digit images used.
    """

    x: np.ndarray
    y: dict[str, np.ndarray]
    sources: dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True, eq=False)
class Splits:
    """The `Split` to fit, the one to choose with and the one to report."""

    train: Split
    validation: Split
    test: Split


def check_counts(**counts: int) -> None:
    """Raises a `ValueError` that names the first count below 1."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"`{name}` must be at least 1. Received: {name}={count}")


def generators(seed: int) -> list[np.random.Generator]:
    """One generator each for train, validation and test, so that no size changes another split."""
    return [np.random.default_rng(child) for child in np.random.SeedSequence(seed).spawn(3)]


def split_sources(labels: np.ndarray, fractions: Sequence[float]) -> list[np.ndarray]:
    """Splits the indices of `labels` into disjoint parts, class by class.

    Args:
        labels: int array of shape `(N,)`.
        fractions: share of each class that goes to each part; they sum to 1.

    Returns:
        One index array per fraction.
    """
    rng = np.random.default_rng(SPLIT_SEED)
    by_class = []
    for label in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == label))
        # Floor leaves the last part at least one member where there are two or more.
        cuts = np.floor(np.cumsum(fractions[:-1]) * len(members)).astype(int)
        by_class.append(np.split(members, cuts))
    return [np.concatenate(part) for part in zip(*by_class, strict=True)]


def make_split(
    images: np.ndarray,
    labels: np.ndarray,
    candidates: np.ndarray,
    num_pairs: int,
    rng: np.random.Generator,
    render: Callable[[np.ndarray, np.ndarray], np.ndarray],
) -> Split:
    """Pairs the images named by `candidates` at random and renders each pair.

    Args:
        images: single digits, shape `(S, height, width)`.
        labels: their classes, shape `(S,)`.
        candidates: indices into `images` that this split may use.
        num_pairs: number of pairs to make.
        rng: source of the pairing.
        render: maps left and right digits to the float32 images of the pairs, without channel.

    Returns:
        The finished `Split`.
    """
    sources = {task: _cycle(candidates, num_pairs, rng) for task in TASKS}
    x = render(*(images[sources[task]] for task in TASKS))
    y = {task: labels[index].astype("int32") for task, index in sources.items()}
    return Split(x=x[..., np.newaxis], y=y, sources=sources)


def overlay(left: np.ndarray, right: np.ndarray, offset: int) -> np.ndarray:
    """Overlaps images by pixelwise maximum: `left` at the top left, `right` at the bottom right.

    Args:
        left: array of shape `(N, height, width)`.
        right: array of the same shape.
        offset: how many pixels `right` lies below and to the right of `left`.

    Returns:
        Array of shape `(N, height + offset, width + offset)`, 0 where neither image lies.
    """
    canvas = np.pad(left, ((0, 0), (0, offset), (0, offset)))
    corner = canvas[:, offset:, offset:]
    np.maximum(corner, right, out=corner)
    return canvas


def _cycle(candidates: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draws `count` candidates, each equally often (to one), in random order."""
    rounds = -(-count // len(candidates))
    return np.concatenate([rng.permutation(candidates) for _ in range(rounds)])[:count]
