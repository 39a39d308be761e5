"""Applies a quantisation recipe to a float32 flatbuffer."""

import contextlib
import io
import json
import warnings
from importlib import resources

import numpy as np

from kmtl.export.convert import SIGNATURE, quiet_stderr

QUANTIZATIONS = ("float32", "float16", "dynamic_int8", "int8")
CALIBRATED = ("int8",)


def check_quantization(quantization: str) -> None:
    """Raises ValueError for a name that is no recipe."""
    if quantization not in QUANTIZATIONS:
        raise ValueError(
            f"`quantization` must be one of {QUANTIZATIONS}. "
            f"Received: quantization={quantization!r}"
        )


def load_recipe(quantization: str) -> list[dict]:
    """The recipe of that name; an empty one for float32."""
    check_quantization(quantization)
    if quantization == "float32":
        return []
    text = resources.files("kmtl.export").joinpath(f"recipes/{quantization}.json").read_text()
    return json.loads(text)


def quantize(flatbuffer: bytes, recipe: list[dict], samples: list[dict] | None) -> bytes:
    """Quantises a flatbuffer.

    Args:
        flatbuffer: A float32 model from `to_flatbuffer`.
        recipe: Rules from `load_recipe`; an empty list changes nothing.
        samples: For recipes that need ranges: inputs by name, each with the model's batch
            size.
    """
    if not recipe:
        return flatbuffer
    from ai_edge_quantizer import quantizer

    # The quantiser reports by print, progress bars and warnings about its own choices.
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with quiet_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            work = quantizer.Quantizer(bytearray(flatbuffer), recipe)
            ranges = _calibrate(flatbuffer, recipe, samples) if work.need_calibration else None
            return bytes(work.quantize(ranges).quantized_model)


def _calibrate(flatbuffer, recipe, samples) -> dict:
    """The smallest and largest value of every tensor over all samples.

    The quantiser's own default is a moving average of each sample's extremes, which cuts off
    the range of any head with few outputs: for a single one, extremes are the value itself.
    """
    from ai_edge_quantizer import calibrator, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    rules = recipe_manager.RecipeManager()
    rules.load_quantization_recipe(recipe)
    calibration = calibrator.Calibrator(
        bytearray(flatbuffer), qsv_update_func=qsv_utils.min_max_update
    )
    calibration.calibrate({SIGNATURE: samples}, rules)
    return calibration.get_model_qsvs()


def representative_samples(model, data, batch_size: int) -> list[dict]:
    """Checks representative data and cuts it into calibration samples.

    Args:
        model: The plain model whose inputs are to be exercised.
        data: Array (one input) or dict of input name -> array, samples along axis 0.
        batch_size: Rows of each sample.

    Raises:
        ValueError: if data is missing, empty, of the wrong shape or not finite; the message
            names the input.
    """
    inputs = {x.name: x for x in model.inputs}
    if data is None:
        raise ValueError(
            "`representative_data` must be given for this quantization: a few hundred typical "
            f"inputs {sorted(inputs)}. Received: None"
        )
    arrays = as_named_arrays(data, inputs)
    rows = len(next(iter(arrays.values())))
    if rows < batch_size:
        raise ValueError(
            f"`representative_data` must hold at least `batch_size` rows. "
            f"Received: {rows} rows, batch_size={batch_size}"
        )
    for name, array in arrays.items():
        if array.dtype.kind == "f" and array.min() == array.max():
            raise ValueError(
                f"`representative_data` must vary, since it sets the int8 ranges. "
                f"Received: the constant {array.flat[0]} for input {name!r}"
            )
    count = rows // batch_size
    return [
        {name: a[i * batch_size : (i + 1) * batch_size] for name, a in arrays.items()}
        for i in range(count)
    ]


def as_named_arrays(data, inputs: dict) -> dict[str, np.ndarray]:
    """Inputs by name as arrays of the model's types, checked for names, shapes and NaN.

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
    return arrays
