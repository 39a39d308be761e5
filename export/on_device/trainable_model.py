"""Runs and trains a file from `export_trainable`, with LiteRT alone."""

import os
from collections.abc import Mapping

import numpy as np

from kmtl.export.flatbuffers.convert import quiet_stderr
from kmtl.export.flatbuffers.inspection import read_signatures, refuse_damage
from kmtl.export.indices import check_class_indices
from kmtl.export.runtime.litert_model import LiteRTModel

_SIGNATURES = {"infer", "restore", "save", "train"}


def load_trainable(
    path: str | os.PathLike, runtime: str = "interpreter", num_threads: int = 1
) -> "TrainableModel":
    """Loads a file from `export_trainable`, to run it and to train its head.

    It computes by LiteRT and NumPy alone and so does what an app does on a device.

    Args:
        path: The file.
        runtime: `"interpreter"` or `"compiled_model"`. Defaults to `"interpreter"`.
        num_threads: CPU threads. Defaults to `1`.

    Returns:
        A `TrainableModel`.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if it is no LiteRT model, is cut short, or cannot be trained.

    Example:

    ```python
    model = kmtl.export.load_trainable("model.tflite")
    for x, y in batches:                    # of model.train_batch_size rows
        loss = model.train(x, y)
    model.infer(x)["left"]                  # any number of rows
    np.savez("head.npz", **model.save())
    model.restore(np.load("head.npz"))      # in the next process
    ```
    """
    with open(path, "rb") as file:
        content = file.read()
    return TrainableModel(content, runtime, num_threads, source=str(path))


class TrainableModel(LiteRTModel):
    """A loaded LiteRT model with a head that can be trained; see `load_trainable`.

    The file itself never changes: what was learned lives in this object, and `save` gives it.

    Attributes:
        task: The task whose head is trained.
        train_batch_size: Rows of a training step.
        state_details: Name -> `TensorInfo` of the weights and the optimizer's variables.

    The others are those of `LiteRTModel`.
    """

    def __init__(self, content: bytes, runtime="interpreter", num_threads=1, source="<bytes>"):
        signatures = read_signatures(content, source)
        if set(signatures) != _SIGNATURES:
            raise ValueError(
                f"A trainable model must have the signatures {sorted(_SIGNATURES)}, as files from "
                f"`export_trainable` have. Received: {source}, with {sorted(signatures)}"
            )
        super().__init__(content, runtime, num_threads, "infer", source)
        train, restore = signatures["train"], signatures["restore"]
        (self.task,) = set(train.inputs) - set(self.input_details)
        self._label = train.inputs[self.task]
        self.train_batch_size = self._label.shape[0]
        self.state_details = restore.inputs
        with quiet_stderr(), refuse_damage(content, source):
            self._entries = {
                key: self._backend.entered_by(signatures[key])
                for key in ("restore", "save", "train")
            }

    def infer(self, inputs) -> dict[str, np.ndarray]:
        """The same as calling the model: task -> array, of all tasks, for any number of rows."""
        return self(inputs)

    def train(self, x, y) -> float:
        """One step of the optimizer on one batch.

        Args:
            x: Array (one input) or dict of input name -> array, `train_batch_size` rows.
            y: Labels of the task that is trained, or a dict with them by its name: class
                indices where the loss takes such, else of the shape of the head's output.

        Returns:
            The batch's loss, before the step.

        Raises:
            ValueError: for inputs or labels of other names, shapes or types than the file's,
                or class indices that do not exist; nothing is learned then.
        """
        arrays = self.in_file_types(x)
        rows = len(next(iter(arrays.values())))
        if rows != self.train_batch_size:
            raise ValueError(
                f"A training step takes {self.train_batch_size} rows, the `batch_size` of "
                f"`export_trainable`. Received: {rows} rows"
            )
        arrays[self.task] = self._checked_labels(y)
        return float(self._enter("train", arrays)["loss"])

    def save(self) -> dict[str, np.ndarray]:
        """Name -> array of all that training changes: the head's weights, the optimizer's state.

        Stored and restored, training goes on as if it had never stopped.
        """
        return {name: np.asarray(array) for name, array in self._enter("save", {}).items()}

    def restore(self, state: Mapping[str, np.ndarray]) -> None:
        """Takes what `save` gave, of this file or another of the same head.

        Args:
            state: Name -> array. `"optimizer/learning_rate"`, where there is one, may be changed.

        Raises:
            ValueError: for missing or unknown names, other shapes or types, or values that are
                not finite; the state is then as before.
        """
        details = self.state_details
        absent, unknown = sorted(set(details) - set(state)), sorted(set(state) - set(details))
        if absent or unknown:
            raise ValueError(
                f"`state` must hold {sorted(details)}. "
                f"Received: missing {absent}, unknown {unknown}"
            )
        self._enter("restore", {n: _checked(n, state[n], info) for n, info in details.items()})

    def _enter(self, key, arrays):
        with quiet_stderr():
            return self._entries[key].run(arrays)

    def _checked_labels(self, y):
        if hasattr(y, "keys"):
            if set(y) != {self.task}:
                raise ValueError(
                    f"Labels must be of the task that is trained, {self.task!r}. "
                    f"Received: {sorted(y)}"
                )
            y = y[self.task]
        labels = _checked(f"labels of {self.task}", y, self._label)
        classes = self.output_details[self.task].shape[-1]
        if self._label.dtype == "int32":
            check_class_indices(self.task, labels, classes)
        return labels


def _checked(name, array, info):
    array = np.asarray(array)
    if array.shape != info.shape or not np.can_cast(array.dtype, info.dtype, "same_kind"):
        raise ValueError(
            f"{name!r} must have the shape {info.shape} and values of type {info.dtype}. "
            f"Received: {array.shape} of {array.dtype}"
        )
    array = array.astype(info.dtype)
    if not np.isfinite(array).all():
        raise ValueError(
            f"{name!r} must be finite. "
            f"Received: {int((~np.isfinite(array)).sum())} values that are NaN or infinite"
        )
    return array
