"""Networks of kmtl, and the same ones as one would write them by hand in plain Keras."""

import keras
import numpy as np
from keras import layers

import kmtl
from kmtl.models import CrossStitchNetwork, FactorizedNetwork, HardSharing, SluiceNetwork

TASKS = ("left", "right")
SHAPE = (28, 28, 1)
DEPTH = 3
FILTERS = 32
LEVELS = [{"shared_experts": 2, "task_experts": 2, "units": units} for units in (64, 32)]


def tower(rename=str) -> list[list]:
    """The stages of every network here; `rename` makes the layers' names."""

    def stage(k):
        name = rename(f"conv_{k}")
        conv = layers.Conv2D(FILTERS, 3, padding="same", activation="relu", name=name)
        return [conv, layers.MaxPooling2D(name=rename(f"pool_{k}"))]

    return [stage(k) for k in range(DEPTH)]


def head(task) -> list:
    return [layers.GlobalAveragePooling2D(), layers.Dense(10, name=f"{task}_head")]


def hard_sharing():
    trunk = [layer for stage in tower() for layer in stage]
    return HardSharing(trunk, {task: head(task) for task in TASKS}, inputs=SHAPE)


def hard_sharing_by_hand(model) -> keras.Model:
    x = inputs = keras.Input(SHAPE)
    for stage in tower():
        x = _apply(stage, x)
    return keras.Model(inputs, {task: _apply(head(task), x) for task in TASKS})


def factorized():
    heads = {task: head(task) for task in TASKS}
    return FactorizedNetwork(tower(), heads, rank=4, inputs=SHAPE)


def factorized_by_hand(model) -> keras.Model:
    inputs, outputs = keras.Input(SHAPE), {}
    for t, task in enumerate(TASKS):
        x = inputs
        for stage in tower(lambda name, t=t: f"{name}_task_{t}"):
            x = _apply(stage, x)
        outputs[task] = _apply(head(task), x)
    return keras.Model(inputs, outputs)


def cross_stitch():
    heads = {task: head(task) for task in TASKS}
    return CrossStitchNetwork(tower(), heads, inputs=SHAPE)


def cross_stitch_by_hand(model) -> keras.Model:
    inputs = keras.Input(SHAPE)
    x = y = inputs
    for k, (left, right) in enumerate(_two_towers()):
        x, y = _apply(left, x), _apply(right, y)
        a = np.array(model.get_layer(f"cross_stitch_{k}").alpha)
        x, y = x * a[0, 0] + y * a[0, 1], x * a[1, 0] + y * a[1, 1]
    return keras.Model(inputs, {"left": _apply(head("left"), x), "right": _apply(head("right"), y)})


def sluice():
    heads = {task: head(task)[1] for task in TASKS}
    return SluiceNetwork(tower(), heads, readout=layers.GlobalAveragePooling2D, inputs=SHAPE)


def sluice_by_hand(model) -> keras.Model:
    inputs = keras.Input(SHAPE)
    x = y = inputs
    stages = {task: [] for task in TASKS}
    for k, (left, right) in enumerate(_two_towers()):
        x, y = _apply(left, x), _apply(right, y)
        half = FILTERS // 2
        parts = [x[..., :half], x[..., half:], y[..., :half], y[..., half:]]
        a = np.array(model.get_layer(f"sluice_unit_{k}").alpha)
        mixed = [_weighted_sum(parts, row) for row in a]
        x = keras.ops.concatenate(mixed[:2], axis=-1)
        y = keras.ops.concatenate(mixed[2:], axis=-1)
        for task, features in zip(TASKS, (x, y), strict=True):
            stages[task].append(layers.GlobalAveragePooling2D()(features))
    outputs = {}
    for task in TASKS:
        beta = np.array(model.get_layer(f"{task}_layer_stitch").beta)
        outputs[task] = head(task)[1](_weighted_sum(stages[task], beta))
    return keras.Model(inputs, outputs)


def ple():
    inputs = keras.Input(SHAPE)
    mixed = kmtl.layers.PLE(LEVELS, len(TASKS), name="ple")(layers.Flatten()(inputs))
    return kmtl.MultiTaskModel(
        inputs,
        {
            task: layers.Dense(10, name=f"{task}_head")(x)
            for task, x in zip(TASKS, mixed, strict=True)
        },
    )


def ple_by_hand(model) -> keras.Model:
    """Named as `fold` names the same layers: experts of left, of right, then the shared ones."""
    inputs = keras.Input(SHAPE)
    left = right = shared = layers.Flatten()(inputs)
    for depth, level in enumerate(LEVELS):
        name, last = f"ple_level_{depth}", depth == len(LEVELS) - 1
        reads = [left, left, right, right, shared, shared]
        experts = [
            layers.Dense(level["units"], activation="relu", name=f"{name}_experts_0_task_{i}")(x)
            for i, x in enumerate(reads)
        ]

        def mixture(chosen, gate, x, name=name):
            dense = layers.Dense(len(chosen), "softmax", False, name=f"{name}_gates_of_{gate}")
            stack = keras.ops.stack(chosen, axis=1)
            return keras.ops.sum(dense(x)[:, :, None] * stack, axis=1)

        new_left = mixture(experts[:2] + experts[4:], "4_task_0", left)
        new_right = mixture(experts[2:], "4_task_1", right)
        shared = None if last else mixture(experts, "6_task_0", shared)
        left, right = new_left, new_right
    outputs = {"left": left, "right": right}
    return keras.Model(
        inputs, {task: layers.Dense(10, name=f"{task}_head")(x) for task, x in outputs.items()}
    )


def _two_towers():
    towers = [tower(lambda name, task=task: f"{task}_{name}") for task in TASKS]
    return zip(*towers, strict=True)


def _apply(stage, x):
    for layer in stage:
        x = layer(x)
    return x


def _weighted_sum(tensors, weights):
    total = tensors[0] * weights[0]
    for x, weight in zip(tensors[1:], weights[1:], strict=True):
        total = total + x * weight
    return total


PAIRS = {
    "hard sharing": (hard_sharing, hard_sharing_by_hand),
    "cross-stitch": (cross_stitch, cross_stitch_by_hand),
    "sluice": (sluice, sluice_by_hand),
    "factorised": (factorized, factorized_by_hand),
    "PLE": (ple, ple_by_hand),
}
