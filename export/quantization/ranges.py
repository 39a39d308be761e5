"""The ranges of a float flatbuffer's tensors on data, and whether integers can have them."""

import contextlib
import io
import warnings
from collections.abc import Sequence

import numpy as np

from kmtl.export.flatbuffers.convert import quiet_stderr
from kmtl.export.flatbuffers.operations import LOOPS, Operation, constant_tensors, where
from kmtl.export.quantization.recipes import calibrated


def measure_ranges(flatbuffer: bytes, batches: Sequence[dict]) -> dict[str, tuple]:
    """Tensor name -> (smallest, largest) value of every float tensor that is no constant.

    The quantiser's own calibration takes a moving average of each sample's extremes, which
    cuts off the range of any head with few outputs: for a single one, extremes are the value
    itself. It also passes over values that are not finite.

    Args:
        flatbuffer: A float32 model from `to_flatbuffer`.
        batches: Inputs by name.
    """
    from ai_edge_quantizer.utils import tfl_interpreter_utils as utils

    lows, highs, constants = {}, {}, constant_tensors(flatbuffer)
    with quiet_quantizer(), np.errstate(invalid="ignore"):
        interpreter = utils.create_tfl_interpreter(
            flatbuffer, use_xnnpack=True, num_threads=4, preserve_all_tensors=True
        )
        for batch in batches:
            utils.invoke_interpreter_signature(interpreter, batch)
            for name, value in utils.get_tensor_name_to_content_map(interpreter).items():
                if value.dtype.kind == "f" and value.size and name not in constants:
                    lows[name] = np.minimum(lows.get(name, np.inf), value.min())
                    highs[name] = np.maximum(highs.get(name, -np.inf), value.max())
    return {name: (lows[name], highs[name]) for name in lows}


def check_no_loops(operations: Sequence[Operation]) -> None:
    """Raises ValueError for loops, inside of which no ranges can be measured."""
    found = [where(op) for op in operations if op.kind in LOOPS]
    if found:
        raise ValueError(
            "Activations can only have integer types where nothing loops; use a dynamic or a "
            f"weight-only type. Received: {'; '.join(found)}"
        )


def check_ranges(
    ranges: dict[str, tuple], operations: Sequence[Operation], types: Sequence[str]
) -> None:
    """Raises ValueError for ranges that no integer grid can have, naming the layers.

    Args:
        ranges: From `measure_ranges`.
        operations: From `find_operations`.
        types: The type of each; those that need no ranges are not looked at.
    """
    infinite, constant = [], []
    for op in calibrated(operations, types):
        for low, high in (ranges[name] for name in op.outputs if name in ranges):
            if not (np.isfinite(low) and np.isfinite(high)):
                infinite.append(f"{where(op)}: {low:.3g} to {high:.3g}")
            elif low == high:
                constant.append(f"{where(op)}: always {low:.3g}")
    if infinite:
        raise ValueError(
            "Ranges of integers must be finite on `representative_data`. "
            f"Received: {'; '.join(infinite)}"
        )
    if constant:
        raise ValueError(
            "`representative_data` must exercise every operation, since it sets the ranges of "
            "integers; a layer that is meant to be constant can stay in float by "
            f"`overrides={{name: 'float32'}}`. Received: {'; '.join(constant)}"
        )


@contextlib.contextmanager
def quiet_quantizer():
    """The quantiser reports by print, progress bars and warnings about its own choices."""
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        with quiet_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
