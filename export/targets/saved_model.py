"""One call from a trained model to a verified SavedModel, for servers and Cloud TPUs."""

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

import keras

from kmtl.export.compare import compare
from kmtl.export.files import replaced_folder
from kmtl.export.flatbuffers.convert import SIGNATURE
from kmtl.export.folding.fold import fold
from kmtl.export.runtime.reference import expected_outputs, verification_inputs
from kmtl.export.targets.bfloat16 import to_bfloat16
from kmtl.export.targets.serving import part_of, require_tensorflow_backend, save, serve, trace

# Largest accepted relative error of a head. bfloat16 keeps 8 significant bits, so that each
# layer rounds by up to 0.4 %; a lost, swapped or garbled head has about 1.
TOLERANCES = {"cpu": 1e-5, "tpu": 0.05}
# TFLite's converter drops all signatures but this one, so that no task can have its name.
_DROPS_OTHERS = "serve"
_PARTS = {"saved_model.pb", "fingerprint.pb", "variables", "assets", "assets.extra"}


@dataclasses.dataclass(frozen=True)
class SavedModelResult:
    """What `export_saved_model` wrote.

    Attributes:
        path: The SavedModel's folder.
        target: `"cpu"` or `"tpu"`.
        signatures: `serving_default`, with all heads, and one for each task.
        tasks: The heads' names, sorted.
        bytes: Size of all files.
        errors: Task -> `max_abs_error`, `mean_abs_error`, `relative_error` against the Keras
            model, the larger of the task's own signature and of the common one.
    """

    path: Path
    target: str
    signatures: tuple[str, ...]
    tasks: tuple[str, ...]
    bytes: int
    errors: dict[str, dict[str, float]]


def export_saved_model(
    model: keras.Model,
    path: str | os.PathLike,
    target: str = "cpu",
    tasks: str | Sequence[str] | None = None,
    batch_size: int | None = None,
    representative_data=None,
    tolerance: float | None = None,
) -> SavedModelResult:
    """Folds a model, writes it as a SavedModel, serves it and compares it head by head.

    For TensorFlow Serving and other servers, and with `target="tpu"` for Cloud TPUs: then all
    shapes are static, layers compute in bfloat16 between float32 inputs and heads, and every
    signature is compiled by XLA, which is proved here, on the CPU.

    The signature `serving_default` gives all heads; each task has one of its own name, which
    asks for the inputs and computes the part that this task needs. All share their weights,
    which are stored once. The folder gets its name only when it has been loaded again, every
    signature has been served, and every head agrees with the Keras model.

    Args:
        model: A trained functional model with outputs `{task: tensor}`, folded or not.
        path: The folder to write: a new one, or a SavedModel, which is replaced.
        target: `"cpu"` or `"tpu"`. Defaults to `"cpu"`.
        tasks: The tasks to export. Defaults to `None`, all that are not only for training.
        batch_size: Rows computed at a time. Defaults to `None`, any number; `"tpu"` needs a
            number.
        representative_data: Array, or dict of input name -> array, with typical inputs to
            verify on. Defaults to `None`, standard normal noise.
        tolerance: Largest accepted relative error of a head. Defaults to `None`: 1e-5 for
            `"cpu"`, 0.05 for `"tpu"`, which catches broken heads.

    Returns:
        A `SavedModelResult`.

    Raises:
        ValueError: for bad arguments or data, non-finite weights, or an operation that XLA
            cannot compile (the message names the layer).
        VerificationError: if a head is too far off.
        OSError: if the path cannot be written. In each case an earlier folder is untouched.

    Example:

    ```python
    result = kmtl.export.export_saved_model(model, "model", target="tpu", batch_size=8)
    served = tf.saved_model.load("model").signatures["left"]
    served(images=tf.zeros((8, 32, 32, 3)))["left"]
    ```
    """
    path = Path(path)
    _check_arguments(path, target, batch_size, tolerance)
    require_tensorflow_backend("A SavedModel")
    plain = fold(model, tasks)
    _check_names(plain)
    _check_inputs(plain, target, representative_data)
    inputs = verification_inputs(plain, representative_data)
    expected = expected_outputs(model, plain, inputs)
    served = to_bfloat16(plain) if target == "tpu" else plain
    parts = {SIGNATURE: served, **{task: part_of(served, task) for task in served.output}}
    functions = {
        key: trace(part, batch_size, compiled=target == "tpu") for key, part in parts.items()
    }
    tolerance = TOLERANCES[target] if tolerance is None else tolerance
    with replaced_folder(path) as folder:
        save(served, functions, folder)
        errors = {task: {} for task in sorted(expected)}
        for key, answers in serve(folder, parts, inputs, batch_size):
            wanted = expected if key == SIGNATURE else {key: expected[key]}
            measured = compare(answers, wanted, tolerance, f"signature {key!r}")
            for task, values in measured.items():
                for name, value in values.items():
                    errors[task][name] = max(errors[task].get(name, 0.0), value)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    return SavedModelResult(
        path=path,
        target=target,
        signatures=tuple(parts),
        tasks=tuple(errors),
        bytes=size,
        errors=errors,
    )


def _check_arguments(path, target, batch_size, tolerance):
    if target not in TOLERANCES:
        raise ValueError(f"`target` must be one of {[*TOLERANCES]}. Received: target={target!r}")
    if batch_size is None and target == "tpu":
        raise ValueError(
            "`batch_size` must be given for target='tpu', whose shapes are static. Received: None"
        )
    if batch_size is not None and batch_size < 1:
        raise ValueError(f"`batch_size` must be at least 1. Received: batch_size={batch_size}")
    if tolerance is not None and not tolerance > 0:
        raise ValueError(f"`tolerance` must be positive. Received: tolerance={tolerance}")
    if path.is_symlink() or path.exists():
        held = {x.name for x in path.iterdir()} if path.is_dir() else set()
        if path.is_symlink() or "saved_model.pb" not in held or held - _PARTS:
            raise ValueError(
                "`path` must be new, or a folder that holds a SavedModel and nothing else: it is "
                f"replaced as a whole. Received: path={str(path)!r}"
            )


def _check_names(plain):
    reserved = sorted({SIGNATURE, _DROPS_OTHERS} & set(plain.output))
    if reserved:
        raise ValueError(
            f"Tasks must not be called {SIGNATURE!r} or {_DROPS_OTHERS!r}: each gives its name to "
            f"a signature, where these have a meaning. Received: {', '.join(reserved)}"
        )


def _check_inputs(plain, target, data):
    for x in plain.inputs:
        if x.dtype == "string":
            raise ValueError(
                "Inputs must be numbers; look strings up before the model. "
                f"Received: input {x.name!r} of type string"
            )
        if None in x.shape[1:] and (target == "tpu" or data is None):
            rule = (
                "All shapes must be static for target='tpu'"
                if target == "tpu"
                else "`representative_data` must be given for inputs of any length"
            )
            raise ValueError(f"{rule}. Received: input {x.name!r} of shape {x.shape}")
