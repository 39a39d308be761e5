"""Data by input name, from whatever holds it: arrays, datasets, generators."""

from collections.abc import Callable, Collection, Iterable, Mapping

import keras
import numpy as np

from kmtl.export.indices import check_embedded, embedded

MAX_SAMPLES = 512


def read_samples(data, inputs: Mapping) -> dict[str, np.ndarray]:
    """Representative data as arrays by input name, at most `MAX_SAMPLES` rows of each.

    Of arrays, rows at equal distances are taken, as they may be sorted; of a stream, the
    first. So an endless one is no harm.

    Args:
        data: Array (one input); dict of input name -> array; `tf.data.Dataset`, iterator or
            function that returns one, of batches: each an array or a dict of input name ->
            array, or a tuple that begins with one, such as `(x, y)`.
        inputs: Input name -> something with `shape` (batch first) and `dtype`.

    Raises:
        ValueError: if there is no sample, or one of the wrong name, shape or type, or that is
            not finite; the message names the input.
    """
    batches = _batches(data)
    if batches is None:
        arrays = as_named_arrays(data, inputs)
        rows = len(next(iter(arrays.values())))
        if rows <= MAX_SAMPLES:
            return arrays
        chosen = np.linspace(0, rows - 1, MAX_SAMPLES).astype(int)
        return {name: array[chosen] for name, array in arrays.items()}
    parts, rows = [], 0
    for batch in batches:
        batch = batch[0] if isinstance(batch, (tuple, list)) and len(batch) else batch
        parts.append(as_named_arrays(batch, inputs))
        rows += len(next(iter(parts[-1].values())))
        if rows >= MAX_SAMPLES:
            break
    if not parts:
        raise ValueError(
            f"Data must hold at least one batch of samples. Received: an empty "
            f"{type(data).__name__}"
        )
    return {name: np.concatenate([p[name] for p in parts])[:MAX_SAMPLES] for name in inputs}


def without(names: Collection[str], data):
    """Arrays by name without some of them, which chosen tasks do not need; other data as it is."""
    if not isinstance(data, Mapping):
        return data
    return {name: array for name, array in data.items() if name not in names}


def _batches(data) -> Iterable | None:
    """The batches of a stream; None for arrays."""
    if hasattr(data, "as_numpy_iterator"):  # a tf.data.Dataset
        return data.as_numpy_iterator()
    if hasattr(data, "__next__"):
        return data
    if isinstance(data, Callable):
        batches = data()
        if not isinstance(batches, Iterable):
            raise ValueError(
                "A function that gives data must return something to iterate over. "
                f"Received: {type(batches).__name__}"
            )
        return batches
    return None


def noise_samples(model: keras.Model, rows: int) -> dict[str, np.ndarray]:
    """Standard normal inputs by name.

    Raises:
        ValueError: for an input of indices, whose range nobody told.
    """
    rng = np.random.default_rng(0)
    noise = {}
    for x in model.inputs:
        if "float" not in x.dtype or any(embedded([x])):
            raise ValueError(
                f"`representative_data` must be given for integer inputs, whose range kmtl "
                f"cannot know, and for those of an Embedding. "
                f"Received: None for input {x.name!r} of type {x.dtype}"
            )
        noise[x.name] = rng.normal(size=(rows, *x.shape[1:])).astype(x.dtype)
    return noise


def calibration_batches(
    arrays: dict[str, np.ndarray] | None, batch_size: int | None, model: keras.Model
) -> list[dict]:
    """Cuts samples into batches for measuring ranges.

    Args:
        arrays: Samples by input name, or None where none were given.
        batch_size: Rows of each batch; None where the model takes any number.
        model: The model, for the names of its inputs.

    Raises:
        ValueError: if there are no or too few samples, or an input does not vary.
    """
    if arrays is None:
        raise ValueError(
            "`representative_data` must be given for this quantization: a few hundred typical "
            f"inputs {sorted(x.name for x in model.inputs)}. Received: None"
        )
    rows = len(next(iter(arrays.values())))
    size = batch_size or min(rows, 32)
    if rows < size:
        raise ValueError(
            f"`representative_data` must hold at least `batch_size` rows. "
            f"Received: {rows} rows, batch_size={batch_size}"
        )
    for name, array in arrays.items():
        if array.dtype.kind == "f" and array.min() == array.max():
            raise ValueError(
                f"`representative_data` must vary, since it sets the ranges of integers. "
                f"Received: the constant {array.flat[0]} for input {name!r}"
            )
    return [
        {name: array[i * size : (i + 1) * size] for name, array in arrays.items()}
        for i in range(rows // size)
    ]


def as_named_arrays(data, inputs: dict) -> dict[str, np.ndarray]:
    """Inputs by name as arrays of the model's types, checked for names, shapes, NaN and indices.

    Args:
        data: Array (one input) or mapping of input name -> array.
        inputs: Input name -> something with `shape` (batch first) and `dtype`.
    """
    if not hasattr(data, "keys"):
        if len(inputs) > 1:
            raise ValueError(
                f"Data must be a dict with the inputs {sorted(inputs)}. Received: {type(data)}"
            )
        data = {next(iter(inputs)): data}
    absent, unknown = sorted(set(inputs) - set(data)), sorted(set(data) - set(inputs))
    if absent or unknown:
        raise ValueError(
            f"Data must hold the inputs {sorted(inputs)}. "
            f"Received: missing {absent}, unknown {unknown}"
        )
    arrays = {}
    for name, spec in inputs.items():
        array = np.asarray(data[name])
        expected = tuple(spec.shape[1:])
        if array.ndim != len(expected) + 1 or any(
            e not in (None, a) for e, a in zip(expected, array.shape[1:], strict=True)
        ):
            raise ValueError(
                f"Input {name!r} must have the shape (samples, "
                f"{', '.join(map(str, expected))}). Received: {array.shape}"
            )
        if not len(array):
            raise ValueError(f"Input {name!r} must hold at least one sample. Received: 0 samples")
        if not np.can_cast(array.dtype, np.dtype(spec.dtype), "same_kind"):
            raise ValueError(
                f"Input {name!r} must hold values of type {spec.dtype}. Received: {array.dtype}"
            )
        if array.dtype.kind in "iu" and np.dtype(spec.dtype).kind in "iu":
            limits = np.iinfo(np.dtype(spec.dtype))
            if array.min() < limits.min or array.max() > limits.max:
                raise ValueError(
                    f"Input {name!r} must hold values of type {spec.dtype}, from {limits.min} to "
                    f"{limits.max}. Received: {array.min()} to {array.max()}"
                )
        array = array.astype(np.dtype(spec.dtype), copy=False)
        if np.issubdtype(array.dtype, np.floating) and not np.isfinite(array).all():
            raise ValueError(
                f"Input {name!r} must be finite. Received: "
                f"{int((~np.isfinite(array)).sum())} values that are NaN or infinite"
            )
        arrays[name] = array
    rows = {name: len(array) for name, array in arrays.items()}
    if len(set(rows.values())) > 1:
        raise ValueError(f"All inputs must have the same number of rows. Received: {rows}")
    check_embedded(arrays, inputs)
    return arrays
