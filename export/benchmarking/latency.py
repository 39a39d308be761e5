"""Timing calls of loaded LiteRT files."""

import time
from collections.abc import Mapping

import numpy as np

from kmtl.export.runtime.litert_model import LiteRTModel


def seconds_of_calls(
    runner: LiteRTModel, inputs: Mapping[str, np.ndarray], warmup: int, runs: int
) -> list[float]:
    """The duration of each of `runs` calls after `warmup` others."""
    seconds = []
    for call in range(warmup + runs):
        start = time.perf_counter()
        runner.run_once(inputs)
        if call >= warmup:
            seconds.append(time.perf_counter() - start)
    return seconds


def median_latencies(
    runners: Mapping[str, LiteRTModel],
    inputs: Mapping[str, Mapping[str, np.ndarray]],
    rounds: int = 10,
    warmup: int = 20,
    runs: int = 100,
) -> dict[str, float]:
    """Median milliseconds of a call, for files that are to be compared.

    The files take turns, so that a busy moment hits them all.

    Args:
        runners: Name -> loaded file.
        inputs: Name -> its inputs, of exactly `batch_size` rows.
        rounds: Turns of each file. Defaults to `10`.
        warmup: Calls at the start of each turn that do not count. Defaults to `20`.
        runs: Calls of a turn that count. Defaults to `100`.
    """
    seconds = {name: [] for name in runners}
    for _ in range(rounds):
        for name, runner in runners.items():
            seconds[name] += seconds_of_calls(runner, inputs[name], warmup, runs)
    return {name: 1e3 * float(np.median(values)) for name, values in seconds.items()}


def first_rows(runner: LiteRTModel, inputs=None) -> dict[str, np.ndarray]:
    """What `runner.run_once` takes: as many rows as the file computes at a time, or one.

    Args:
        runner: A loaded file.
        inputs: Array (one input) or dict of input name -> array; few rows are repeated.
            Defaults to `None`: noise, and zeros for integers.
    """
    size = runner.batch_size or 1
    if inputs is not None:
        arrays = runner.in_file_types(inputs)
        return {name: a[np.arange(size) % len(a)] for name, a in arrays.items()}
    rng = np.random.default_rng(0)
    arrays = {}
    for name, info in runner.input_details.items():
        shape = (size, *info.shape[1:])
        is_real = np.dtype(info.dtype).kind == "f"
        values = rng.normal(size=shape) if is_real else np.zeros(shape)
        arrays[name] = values.astype(info.dtype)
    return arrays
