"""Training steps with weighting rules over the plain joint step of the same library."""

import functools
import gc
import json
import os
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import keras
import numpy as np
from keras import ops

import kmtl
from benchmarks import memory, networks
from benchmarks.plots import ratios_over_tasks
from benchmarks.stacked_heads import BATCH, FEATURES, TRUNK
from benchmarks.timing import Comparison, after_another, compare, compare_values, interleave
from kmtl.weighting import GradientWeighting, JacobianWeighting

REPRESENTATION_TARGET = 1.1
SOLVER_MS, SOLVER_TASKS = 2.5, 32
MEMORY_TARGET, MEMORY_TASKS = 1.5, 40
TASKS = {"MLP": (2, 10, 40), "CNN": (2, 10)}
PLAIN = "plain sum"
# Small, so that the gradients stay those of an early step, and the rules' problems as hard.
LEARNING_RATE = 1e-5

ROUNDS = 300
PEER_ROUNDS = 15  # of these, with the peers, some of whose steps take seconds
SOLVER_ROUNDS = 50
MEMORY_PROCESSES = 3

PEERS = Path(".venv-peers/bin/python")
PEER_PACKAGES = ("LibMTL", "torchjd", "torch")
# By default PyTorch's threads wait for each other in busy loops. Where other processes want the
# cores too, that made steps up to twenty times slower, and it goes on after a step is done.
PEERS_ENVIRONMENT = {"OMP_WAIT_POLICY": "PASSIVE"}

TRIVIAL = "ones"
RULES = (
    TRIVIAL, "PCGrad", "MGDA", "CAGrad", "IMTLG", "NashMTL", "FairGrad", "AlignedMTL", "UPGrad",
    "DualProj", "ConFIG", "GradVac", "Krum",
)  # fmt: skip
EXACT_RULES = (TRIVIAL, "PCGrad", "MGDA")
# Panel of the picture -> the peers' names of the method.
PANELS = {
    "PCGrad": ("PCGrad",),
    "MGDA": ("MGDA",),
    "CAGrad": ("CAGrad",),
    "IMTLG": ("IMTLG", "IMTL"),
    "UPGrad": ("UPGrad",),
    "NashMTL": ("NashMTL",),
}
LINES = {
    "kmtl, representation": {"color": "#3b82f6", "lw": 2.5, "marker": "o", "ms": 4},
    "kmtl, parameters": {"color": "#3b82f6", "lw": 1.5, "marker": "o", "ms": 4, "ls": "--"},
    "LibMTL, representation": {"color": "#f59e0b", "lw": 2, "marker": "s", "ms": 4},
    "LibMTL": {"color": "#f59e0b", "lw": 1.5, "marker": "s", "ms": 4, "ls": "--"},
    "TorchJD": {"color": "#10b981", "lw": 1.5, "marker": "^", "ms": 4, "ls": "--"},
}


class Ones(GradientWeighting):
    """The plain sum as a rule by gradients: what a rule costs that has nothing to solve."""

    def solve(self, gramian, losses):
        del gramian
        return ops.ones_like(losses)


def run() -> list[Comparison]:
    import tensorflow as tf

    tf.get_logger().setLevel("ERROR")  # it takes the models' functions for one that is traced anew
    if not PEERS.exists():
        print("LibMTL and TorchJD are left out, as there is no .venv-peers: see `make peers`.")
    rows = []
    for network, all_numbers in TASKS.items():
        for num_tasks in all_numbers:
            rows += step_rows(network, num_tasks)
    return [*rows, *solver_rows(), *memory_rows()]


def step_rows(network: str, num_tasks: int) -> list[Comparison]:
    """Every method's step, in turns."""
    targets = {_representation(rule): REPRESENTATION_TARGET for rule in RULES}
    targets |= {_exact(rule): (1 + 2 * num_tasks) / 3 for rule in EXACT_RULES}
    own = {PLAIN: step_timer(network, num_tasks, None)}
    for name in targets:
        rule = make_rule(name)
        if name != _representation("Krum") or num_tasks >= rule.num_byzantine + 3:
            own[name] = step_timer(network, num_tasks, rule)
    with Peers(network, num_tasks) as peers:
        seconds = interleave({**own, **peers.timers}, PEER_ROUNDS, warmup=2)
    more = interleave(own, ROUNDS - PEER_ROUNDS)
    keras.backend.clear_session()
    gc.collect()

    case = case_of(network, num_tasks)
    others = [name for name in peers.timers if np.isfinite(seconds[name]).all()]
    rows = [compare(case, seconds, name, PLAIN, None) for name in others if name.endswith(PLAIN)]
    for name in own:
        seconds[name] = seconds[name] + more[name]
    rows += [compare(case, seconds, name, PLAIN, targets[name]) for name in own if name != PLAIN]
    for name in others:
        reference = f"{name.split()[0]} {PLAIN}"
        if name != reference and reference in others:
            rows.append(compare(case, seconds, name, reference, None))
    return rows


def step_timer(network: str, num_tasks: int, weighting) -> Callable[[], float]:
    model, data = make_model(network, num_tasks, weighting)
    model.make_train_function()
    iterator = iter(data)
    return after_another(lambda: float(model.train_function(iterator)["loss"]))


def make_model(network: str, num_tasks: int, weighting):
    """A compiled model and an endless dataset of one batch."""
    import tensorflow as tf

    keras.utils.set_random_seed(0)
    inputs = keras.Input((FEATURES,) if network == "MLP" else networks.SHAPE)
    x = inputs
    for layer in _trunk(network):
        x = layer(x)
    heads = kmtl.layers.TaskStackedDense(units=1, num_tasks=num_tasks)(x)
    tasks = [f"task_{t:02d}" for t in range(num_tasks)]
    model = kmtl.MultiTaskModel(inputs, dict(zip(tasks, heads, strict=True)))
    optimizer = keras.optimizers.Adam(LEARNING_RATE)
    model.compile(optimizer=optimizer, loss="mse", weighting=weighting)
    rng = np.random.default_rng(0)
    features = rng.normal(size=(BATCH, *inputs.shape[1:])).astype("float32")
    labels = {task: rng.normal(size=(BATCH, 1)).astype("float32") for task in tasks}
    return model, tf.data.Dataset.from_tensors((features, labels)).repeat()


def make_rule(name: str) -> GradientWeighting | None:
    """The rule for a name in the table."""
    if name == PLAIN:
        return None
    rule, scope = name.split(", ")
    cls = Ones if rule == TRIVIAL else getattr(kmtl.weighting, rule)
    return cls(scope=scope)


def solver_rows() -> list[Comparison]:
    """Every rule by gradients alone, against the time that it may take."""
    rng = np.random.default_rng(0)
    jacobian = rng.normal(size=(SOLVER_TASKS, BATCH * TRUNK[-1])).astype("float32")
    gramian = (jacobian[:, :48] @ jacobian[:, :48].T).astype("float32")
    losses = rng.uniform(0.5, 2.0, size=SOLVER_TASKS).astype("float32")
    timers = {}
    for name in kmtl.weighting.__all__:
        cls = getattr(kmtl.weighting, name)
        if not (isinstance(cls, type) and issubclass(cls, GradientWeighting)):
            continue
        if cls not in (GradientWeighting, JacobianWeighting):
            timers[name] = solver_timer(cls(), gramian, jacobian, losses)
    seconds = interleave(timers, SOLVER_ROUNDS)
    limit = f"{SOLVER_MS} ms"
    seconds[limit] = [SOLVER_MS / 1e3] * SOLVER_ROUNDS
    case = f"solver, {SOLVER_TASKS} tasks"
    return [compare(case, seconds, name, limit, 1.0) for name in timers]


def solver_timer(rule, gramian, jacobian, losses) -> Callable[[], float]:
    import tensorflow as tf

    by_jacobian = isinstance(rule, JacobianWeighting)
    solve = rule.combine if by_jacobian else rule.coefficients
    gradients = tf.constant(jacobian if by_jacobian else gramian)
    losses = tf.constant(losses)
    solve(gradients, losses)  # creates the state, which a compiled function cannot
    # As in a training step of Keras on a CPU, which uses XLA only where kmtl asks for it.
    function = tf.function(solve, jit_compile=rule.compiles, autograph=False)
    return after_another(lambda: function(gradients, losses).numpy())


def memory_rows() -> list[Comparison]:
    """The most memory that a process has held after a few steps, all that it imports included."""
    names = (PLAIN, _representation("PCGrad"), _exact("PCGrad"))
    peaks = memory.peaks(take_steps, names, MEMORY_PROCESSES)
    case = f"memory, MLP, {MEMORY_TASKS} tasks"
    return [
        compare_values(case, peaks, names[1], PLAIN, MEMORY_TARGET, "MiB"),
        compare_values(case, peaks, names[2], PLAIN, None, "MiB"),
    ]


def take_steps(name: str) -> None:
    """A few steps with the rule."""
    step = step_timer("MLP", MEMORY_TASKS, make_rule(name))
    for _ in range(5):
        step()


class Peers:
    """The process that takes the peers' steps; without `.venv-peers`, one without methods.

    Attributes:
        timers: Name -> function that takes a step and returns its seconds, NaN if it failed.
    """

    def __init__(self, network: str, num_tasks: int):
        self._command = [str(PEERS), "-m", "benchmarks.peers.steps", network, str(num_tasks)]
        self._case = case_of(network, num_tasks)
        self._process = None
        self._broken = set()
        self.timers: Mapping[str, Callable[[], float]] = {}

    def __enter__(self):
        if not PEERS.exists():
            return self
        self._process = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, **PEERS_ENVIRONMENT},
        )
        report = self._read()
        for name, reason in report["failed"].items():
            self._leave_out(name, reason)
        self.timers = {name: functools.partial(self._step, name) for name in report["ready"]}
        return self

    def __exit__(self, *_):
        if self._process is not None:
            self._process.stdin.close()
            self._process.wait()
            self._process.stdout.close()

    def _step(self, name: str) -> float:
        if name in self._broken:
            return float("nan")
        self._process.stdin.write(f"{name}\n")
        self._process.stdin.flush()
        answer = self._read()
        if isinstance(answer, float):
            return answer
        self._leave_out(name, answer)
        return float("nan")

    def _leave_out(self, name: str, reason: str) -> None:
        self._broken.add(name)
        print(f"{self._case}: {name} is left out. {reason}", flush=True)

    def _read(self):
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("The process of the peers has ended; its error is above.")
        return json.loads(line)


_VERSIONS_PROGRAM = """
import sys
from importlib import metadata
print(*map(metadata.version, sys.argv[1:]))
"""


def other_versions() -> dict[str, str]:
    """The peers' packages."""
    if not PEERS.exists():
        return {}
    done = subprocess.run(
        [str(PEERS), "-c", _VERSIONS_PROGRAM, *PEER_PACKAGES],
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return dict(zip(PEER_PACKAGES, done.stdout.split(), strict=True))


def plot(rows: Sequence[Mapping], path: Path) -> None:
    """Ratios on the MLP over the number of tasks, kmtl's and the peers'."""
    network = "MLP"
    ratios = {(row["case"], row["candidate"]): row["ratio"][1] for row in rows}
    panels = {}
    for method, peer_names in PANELS.items():
        names = {
            "kmtl, representation": [_representation(method)],
            "kmtl, parameters": [_exact(method)],
            "LibMTL, representation": [f"LibMTL {_representation(name)}" for name in peer_names],
            "LibMTL": [f"LibMTL {name}" for name in peer_names],
            "TorchJD": [f"TorchJD {name}" for name in peer_names],
        }
        panels[method] = {}
        for line, candidates in names.items():
            points = {
                num_tasks: ratios[key]
                for num_tasks in TASKS[network]
                for name in candidates
                if (key := (case_of(network, num_tasks), name)) in ratios
            }
            if points:
                panels[method][line] = points
    ratios_over_tasks(panels, LINES, TASKS[network], path)


def case_of(network: str, num_tasks: int) -> str:
    return f"{network}, {num_tasks} tasks"


def _representation(rule: str) -> str:
    return f"{rule}, representation"


def _exact(rule: str) -> str:
    return f"{rule}, parameters"


def _trunk(network: str) -> list:
    if network == "MLP":
        return [keras.layers.Dense(units, activation="relu") for units in TRUNK]
    stages = [layer for stage in networks.tower() for layer in stage]
    return [*stages, keras.layers.GlobalAveragePooling2D()]
