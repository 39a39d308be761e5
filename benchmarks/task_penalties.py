"""A training step with a penalty that ties 139 stacked tasks against the same step without."""

import functools

from benchmarks.stacked_heads import make_model, repeated, take_steps
from benchmarks.timing import Comparison, compare, interleave, stopwatch
from kmtl.regularizers import AcrossTasks, SoftSharing, TensorNormalPrior, TensorTraceNorm

TARGET = 1.15
TASKS = 139  # the schools of the School data
ROUNDS = 150
PLAIN = "no penalty"
PENALTIES = {
    "SoftSharing, mean": SoftSharing(),
    "SoftSharing, pairwise": SoftSharing(mode="pairwise"),
    "TensorTraceNorm, LAF": TensorTraceNorm(),
    "TensorNormalPrior": TensorNormalPrior(),
}


def run() -> list[Comparison]:
    timers = {}
    for name, penalty in {PLAIN: None, **PENALTIES}.items():
        model, x, y = make_model(TASKS)
        if penalty is not None:
            tie = AcrossTasks(penalty, layers="heads")
            model.compile(optimizer="adam", loss="mse", penalties=[tie])
        data = repeated(x, y)
        model.fit(data, steps_per_epoch=1, verbose=0)  # traces the step
        timers[name] = stopwatch(functools.partial(take_steps, model, iter(data)))
    seconds = interleave(timers, ROUNDS)
    return [compare(name, seconds, name, PLAIN, TARGET) for name in PENALTIES]
