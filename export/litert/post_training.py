"""Files of several types from one conversion."""

import functools
from collections.abc import Mapping

from kmtl.export.edgetpu.target import check_no_loops_on_target
from kmtl.export.flatbuffers.convert import to_flatbuffer
from kmtl.export.flatbuffers.operations import find_operations, where
from kmtl.export.quantization.quantize import check_done, quantize
from kmtl.export.quantization.ranges import check_no_loops, check_ranges, measure_ranges
from kmtl.export.quantization.recipes import (
    assign,
    load_recipe,
    needs_data,
    per_tensor_dense,
    with_overrides,
)
from kmtl.export.samples import calibration_batches


class PostTraining:
    """A model converted once, for files of several types.

    Args:
        plain: The folded model.
        samples: Representative data by input name, or None.
        batch_size: As in `export_litert`.
        target: As in `export_litert`. Defaults to `None`.

    Attributes:
        content: The float32 flatbuffer.
        operations: Its operations.
    """

    def __init__(self, plain, samples, batch_size, target=None):
        self._plain, self._samples = plain, samples
        self._batch_size, self._target = batch_size, target
        self.content = to_flatbuffer(plain, batch_size)
        self.operations = find_operations(self.content, plain)
        if batch_size is None:
            _check_shapes(self.operations)
        if target:
            check_no_loops_on_target(self.operations)

    def quantized(
        self, quantization: str, overrides: Mapping[str, str]
    ) -> tuple[bytes, list[dict], list[str]]:
        """The quantised file, its recipe, and kinds of operations that stay in float."""
        types = assign(self.operations, quantization, overrides)
        recipe = with_overrides(quantization, self.operations, types)
        if self._target:
            recipe = per_tensor_dense(recipe)
        ranges = None
        if any(needs_data(load_recipe(name)) for name in (quantization, *overrides.values())):
            check_no_loops(self.operations)
            ranges = self._ranges
            check_ranges(ranges, self.operations, types)
        content = quantize(self.content, recipe, ranges)
        return content, recipe, check_done(content, self.operations, types)

    @functools.cached_property
    def _ranges(self):
        batches = calibration_batches(self._samples, self._batch_size, self._plain)
        return measure_ranges(self.content, batches)


def _check_shapes(operations) -> None:
    found = [where(op) for op in operations if op.kind == "SHAPE"]
    if found:
        raise ValueError(
            "With `batch_size=None` no layer may compute shapes while running, which LiteRT's "
            f"CompiledModel cannot do; give a number. Received: {'; '.join(found)}"
        )
