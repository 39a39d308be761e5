"""Interleaved timing: on a shared machine only ratios within one run mean anything."""

import dataclasses
import random
import time
from collections.abc import Callable, Mapping, Sequence

import numpy as np

UNITS = ("ms", "MiB")


@dataclasses.dataclass(frozen=True)
class Comparison:
    """One row of a benchmark: a candidate's time, or memory, over a reference's.

    Attributes:
        case: What was measured.
        candidate: Name of the candidate.
        reference: Name of the reference.
        candidate_values: First quartile, median and third quartile of the candidate's.
        reference_values: The same for the reference.
        ratio: Quartiles of the ratio within a round, so that slow spells cancel out.
        rounds: Number of rounds.
        target: Largest median ratio that is accepted, or None for a row that only informs.
        unit: Of the values, one of `UNITS`.
    """

    case: str
    candidate: str
    reference: str
    candidate_values: tuple[float, float, float]
    reference_values: tuple[float, float, float]
    ratio: tuple[float, float, float]
    rounds: int
    target: float | None
    unit: str = "ms"

    @property
    def verdict(self) -> str:
        if self.target is None:
            return "-"
        return "met" if self.ratio[1] <= self.target else "missed"


def stopwatch(run: Callable[[], object], calls: int = 1) -> Callable[[], float]:
    """A function that calls `run` `calls` times and returns the seconds of one call."""

    def seconds():
        start = time.perf_counter()
        for _ in range(calls):
            run()
        return (time.perf_counter() - start) / calls

    return seconds


def after_another(step: Callable[[], object]) -> Callable[[], float]:
    """A timer of one step that follows another, which brings its data back into the caches."""

    def seconds():
        step()
        return stopwatch(step)()

    return seconds


def interleave(
    timers: Mapping[str, Callable[[], float]], rounds: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Runs every timer once a round, so that all meet the same load.

    Args:
        timers: Name -> function that does its work and returns its seconds.
        rounds: Rounds that count.
        warmup: Rounds before them that do not.

    Returns:
        Name -> seconds, one for each round.
    """
    seconds = {name: [] for name in timers}
    shuffle = random.Random(0)
    for i in range(warmup + rounds):
        # In a new order: what came before, a neighbour or itself, decides what is in the cache.
        for name in shuffle.sample(list(timers), len(timers)):
            elapsed = timers[name]()
            if i >= warmup:
                seconds[name].append(elapsed)
    return seconds


def compare(
    case: str,
    seconds: Mapping[str, Sequence[float]],
    candidate: str,
    reference: str,
    target: float | None,
) -> Comparison:
    """The row for two of the timers of `interleave`."""
    both = {name: np.asarray(seconds[name]) * 1e3 for name in (candidate, reference)}
    return compare_values(case, both, candidate, reference, target, "ms")


def compare_values(
    case: str,
    values: Mapping[str, Sequence[float]],
    candidate: str,
    reference: str,
    target: float | None,
    unit: str,
) -> Comparison:
    """The row for two lists of values, one value for each round."""
    ours, theirs = np.asarray(values[candidate]), np.asarray(values[reference])
    return Comparison(
        case=case,
        candidate=candidate,
        reference=reference,
        candidate_values=_quartiles(ours),
        reference_values=_quartiles(theirs),
        ratio=_quartiles(ours / theirs),
        rounds=len(ours),
        target=target,
        unit=unit,
    )


def _quartiles(values) -> tuple[float, float, float]:
    return tuple(float(f"{q:.4g}") for q in np.percentile(values, [25, 50, 75]))
