"""Two replicas, each with its own batch, against one, by method; and what a replica sends."""

import contextlib
import functools
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence

import numpy as np

import kmtl
from benchmarks.scaling_methods import (
    BYTES_TASKS,
    METHODS,
    PLAIN,
    TASKS,
    gradient_bytes,
    key,
    other_bytes,
)
from benchmarks.timing import Comparison, compare, compare_values, interleave
from benchmarks.weighting_step import solver_timer
from tests.distribution.processes import free_ports

ROUNDS = 100
SOLVER_ROUNDS = 5
MANY = 1000
SOLVER = "solver, PCGrad"
ONE = "1 replica"  # without a strategy
DEVICES = "2 logical devices, MirroredStrategy"
PROCESSES = "2 processes, MultiWorkerMirroredStrategy"
STRATEGIES = {ONE: "none", DEVICES: "mirrored", PROCESSES: "multi_worker"}
MIB = 2**20
FORMULA = "formula"


def run() -> list[Comparison]:
    """Step times of one replica and of two in turns, and bytes by the graphs of the latter."""
    with contextlib.ExitStack() as stack:
        places = {place: stack.enter_context(started(place)) for place in (ONE, DEVICES, PROCESSES)}
        timers = {
            (method, place): functools.partial(replicas.step, method)
            for method in METHODS
            for place, replicas in places.items()
        }
        seconds = interleave(timers, ROUNDS, warmup=2)
    rows = []
    for method in METHODS:
        of_method = {place: seconds[method, place] for place in places}
        for place in (DEVICES, PROCESSES):
            rows.append(compare(step_case(method), of_method, place, ONE, None))
    for place in (DEVICES, PROCESSES):
        rows += bytes_rows(place, places[place].sent)
    return [*rows, solver_row()]


def other_versions() -> dict[str, str]:
    """The cores that replicas share, as their ratios depend on them."""
    return {"cores": str(os.cpu_count())}


def bytes_rows(place: str, sent: dict) -> list[Comparison]:
    """What each method sends over the plain sum's, and, gradients left out, over the formula's."""
    rows = []
    for num_tasks in BYTES_TASKS:
        mib = {m: [sent[key(m, num_tasks)]["bytes"] / MIB] for m in METHODS}
        for method in METHODS:
            found = sent[key(method, num_tasks)]
            beside = found["bytes"] - gradient_bytes(found["parameters"])
            expected = other_bytes(method, num_tasks, found["shared"])
            values = {method: [beside / MIB], FORMULA: [expected / MIB]}
            case = beside_case(num_tasks, place)
            rows.append(compare_values(case, values, method, FORMULA, None, "MiB"))
            if method != PLAIN:
                case = sent_case(num_tasks, place)
                rows.append(compare_values(case, mib, method, PLAIN, None, "MiB"))
    return rows


def solver_row() -> Comparison:
    """PCGrad alone on the Gramian of many tasks, against few."""
    rng, timers = np.random.default_rng(0), {}
    for num_tasks in (MANY, TASKS):
        rows = rng.normal(size=(num_tasks, 48)).astype("float32")
        losses = rng.uniform(0.5, 2.0, size=num_tasks).astype("float32")
        rule = kmtl.weighting.PCGrad()
        timers[f"{num_tasks} tasks"] = solver_timer(rule, rows @ rows.T, rows, losses)
    seconds = interleave(timers, SOLVER_ROUNDS)
    return compare(SOLVER, seconds, *timers, None)


def step_case(method: str) -> str:
    return f"a batch for each replica, {TASKS} tasks, {method}"


def sent_case(num_tasks: int, place: str) -> str:
    return f"sent in a step, {num_tasks} tasks, {place}"


def beside_case(num_tasks: int, place: str) -> str:
    return f"sent beside the gradients, {num_tasks} tasks, {place}"


class Replicas:
    """Processes that take steps together.

    Attributes:
        sent: `scaling_methods.key` -> what a replica sends in a step; empty for a single one.
    """

    def __init__(self, processes: Sequence[subprocess.Popen]):
        self._processes = processes
        self.sent = self._read()[0]

    def step(self, method: str) -> float:
        """Seconds of a step, which ends when the last replica has."""
        for process in self._processes:
            process.stdin.write(f"{method}\n")
            process.stdin.flush()
        return max(self._read())

    def _read(self) -> list:
        lines = [process.stdout.readline() for process in self._processes]
        if not all(lines):
            raise RuntimeError("A process of the replicas has ended; its error is above.")
        return [json.loads(line) for line in lines]


@contextlib.contextmanager
def started(place: str) -> Iterator[Replicas]:
    """The replicas of a place; their processes end with the context."""
    addresses = [f"127.0.0.1:{port}" for port in free_ports(2 if place == PROCESSES else 1)]
    processes = []
    try:
        for index in range(len(addresses)):
            # They are CPUs also where there is a GPU, which two processes could not share.
            environment = {"CUDA_VISIBLE_DEVICES": "-1"}
            if place == PROCESSES:
                task = {"type": "worker", "index": index}
                cluster = {"cluster": {"worker": addresses}, "task": task}
                environment["TF_CONFIG"] = json.dumps(cluster)
            processes.append(
                subprocess.Popen(
                    [sys.executable, "-m", "benchmarks.scaling_worker", STRATEGIES[place]],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    text=True,
                    env={**os.environ, **environment},
                )
            )
        yield Replicas(processes)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
