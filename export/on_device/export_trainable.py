"""One call from a trained model to a verified file that a device can go on training."""

import dataclasses
import json
import os
from collections.abc import Sequence
from pathlib import Path

import keras

from kmtl.export.files import check_replaceable, write_together
from kmtl.export.flatbuffers.converter import converter
from kmtl.export.flatbuffers.inspection import read_signatures
from kmtl.export.folding.fold import fold
from kmtl.export.on_device.head import head_of
from kmtl.export.on_device.signatures import trainable_flatbuffer
from kmtl.export.on_device.verify_training import STEPS, verify_training
from kmtl.export.runtime.litert_model import RUNTIMES
from kmtl.export.runtime.reference import check_finite, expected_outputs, verification_inputs
from kmtl.export.runtime.verify import THREADS, tolerance_of
from kmtl.version import __version__


@dataclasses.dataclass(frozen=True)
class TrainableResult:
    """What `export_trainable` wrote.

    Attributes:
        path: The `.tflite` file.
        metadata_path: The JSON file beside it, which describes the signatures.
        bytes: Size of the `.tflite` file.
        task: The task whose head the device can train.
        layers: Names of the layers that are trained.
        tasks: All heads' names, sorted.
        errors: Task -> `max_abs_error`, `mean_abs_error`, `relative_error` against the Keras
            model, the larger of the two runtimes'.
        training_errors: `loss_error` and `update_error` of some training steps, relative to
            the same steps in Keras.
    """

    path: Path
    metadata_path: Path
    bytes: int
    task: str
    layers: tuple[str, ...]
    tasks: tuple[str, ...]
    errors: dict[str, dict[str, float]]
    training_errors: dict[str, float]


def export_trainable(
    model: keras.Model,
    path: str | os.PathLike,
    task: str,
    layers: str | Sequence[str] | None = None,
    loss=None,
    optimizer="sgd",
    batch_size: int = 16,
    infer_batch_size: int = 1,
    representative_data=None,
) -> TrainableResult:
    """Writes a LiteRT file in which one head can be fine-tuned on the device.

    For a head that should adapt to its user, its camera or its room where the data are. The
    file is float32, holds builtin operations only, and runs on both LiteRT runtimes. Its
    signatures:

    - `infer`: the inputs by name -> all tasks by name;
    - `train`: the inputs, and labels under the task's name -> `loss`, before the step;
    - `save`: nothing -> name -> what training changes, the head's weights such as
      `"to_left/kernel"` and the optimizer's state such as `"optimizer/learning_rate"`;
    - `restore`: the same tensors -> `restored`, their number.

    What was learned lives in the interpreter; the app stores what `save` gives. All layers
    that only this task needs are trained by default; the shared ones and the other heads stay
    bit-identical. Layers run as in `predict`: without dropout, penalties, or changes to batch
    normalisation. The file gets its name only when all heads agree with the Keras model, a few
    training steps change each weight as the same steps in Keras do, and `restore` brings
    back what `save` gave.

    Args:
        model: A trained functional model with outputs `{task: tensor}`, folded or not.
        path: Where to write; must end in `.tflite`. The JSON goes beside it.
        task: The task to train.
        layers: Names of the layers to train, of `fold(model)`: for fewer than all, or where
            the gradient of one above them has no builtin form. Defaults to `None`, all with
            weights that only this task needs, without batch normalisation.
        loss: Any Keras loss. Labels are int32 class indices for sparse cross-entropy, else
            float32 of the head's shape, and none is missing. Defaults to `None`, the task's
            loss in `model.compile`.
        optimizer: A Keras optimizer or its name, with its settings. Defaults to `"sgd"`.
        batch_size: Rows of a training step. Defaults to `16`.
        infer_batch_size: Rows that `infer` computes at a time. Defaults to `1`.
        representative_data: Typical inputs to verify on, as `export_litert` takes them.
            Defaults to `None`, standard normal noise.

    Returns:
        A `TrainableResult`.

    Raises:
        ValueError: for bad arguments or data; non-finite weights; a layer, loss or optimizer
            without a builtin form, its gradient included (the message names it).
        VerificationError: if a head, or its training, is too far off.
        OSError: if the path cannot be written. In each case nothing is left half-written.

    Example:

    ```python
    kmtl.export.export_trainable(
        model, "model.tflite", "left", optimizer=keras.optimizers.SGD(0.05, momentum=0.9)
    )
    trainable = kmtl.export.load_trainable("model.tflite")
    loss = trainable.train(images, labels)          # 16 of them
    trainable.infer(images)["left"]
    ```
    """
    path = Path(path)
    if path.suffix != ".tflite":
        raise ValueError(f"`path` must end in .tflite. Received: path={str(path)!r}")
    check_replaceable(path.with_suffix(".json"))
    for name, size in (("batch_size", batch_size), ("infer_batch_size", infer_batch_size)):
        if size < 1:
            raise ValueError(f"`{name}` must be at least 1. Received: {name}={size}")
    converter.start()  # it gets ready meanwhile
    plain = fold(model)
    head = head_of(model, plain, task, layers, loss, optimizer)
    inputs = verification_inputs(plain, representative_data)
    expected = expected_outputs(model, plain, inputs)
    check_finite(expected)
    content = trainable_flatbuffer(plain, head, batch_size, infer_batch_size)
    errors, training_errors = verify_training(
        content, plain, head, batch_size, inputs, expected, tolerance_of("float32")
    )
    result = TrainableResult(
        path=path,
        metadata_path=path.with_suffix(".json"),
        bytes=len(content),
        task=task,
        layers=head.layers,
        tasks=tuple(sorted(errors)),
        errors=errors,
        training_errors=training_errors,
    )
    text = _describe(content, plain.name, head, result)
    write_together({path: content, result.metadata_path: text.encode()})
    return result


def _describe(content, name, head, result) -> str:
    """The text of the JSON file."""

    def tensors(infos):
        return {n: {"shape": list(i.shape), "dtype": i.dtype} for n, i in infos.items()}

    metadata = {
        "model": name,
        "kmtl_version": __version__,
        "bytes": result.bytes,
        "task": head.task,
        "trained_layers": list(head.layers),
        "loss": {
            "name": getattr(getattr(head.loss, "fn", None), "__name__", head.loss.name),
            "from_logits": head.loss.get_config().get("from_logits"),
            "reduction": head.loss.reduction,
        },
        "optimizer": keras.optimizers.serialize(head.optimizer),
        "signatures": {
            key: {"inputs": tensors(found.inputs), "outputs": tensors(found.outputs)}
            for key, found in read_signatures(content, str(result.path)).items()
        },
        "tasks": {task: {"errors": errors} for task, errors in result.errors.items()},
        "training_errors": result.training_errors,
        "verified": {"runtimes": list(RUNTIMES), "threads": list(THREADS), "steps": STEPS},
    }
    return json.dumps(metadata, indent=2, default=str) + "\n"
