"""Quantisation-aware training: a model that computes as the integer file will."""

from collections.abc import Sequence

import keras

from kmtl.export.edgetpu.lint import TARGETS
from kmtl.export.folding.fold import fold
from kmtl.export.folding.simplify import simplify
from kmtl.export.quantization_aware.builder import Builder
from kmtl.export.quantization_aware.calibration import calibrate
from kmtl.export.quantization_aware.float_parts import float_layers, part_to_keep
from kmtl.export.quantization_aware.schemes import SCHEMES, is_quantize_aware
from kmtl.models.multi_task_model import MultiTaskModel

RANGES = ("moving_average", "learned")


def quantize_aware(
    model: keras.Model,
    scheme: str = "int8",
    representative_data=None,
    ranges: str = "moving_average",
    freeze_after: int | None = None,
    strict: bool = False,
    keep_float: Sequence[str] = (),
    target: str | None = None,
) -> MultiTaskModel:
    """Turns a trained model into one that trains and predicts on the integer file's grid.

    Use it where `export_litert(..., quantization="int8")` costs a head too much: compile the
    result, `fit` it for a few epochs at a tenth of the learning rate, and export it.

    The model is folded first, as for export, so that what is trained is what is deployed:
    factorised kernels are trained as their product, stitches and normalisations stay as they
    are, and gradient reversal and dropout are gone.

    Args:
        model: A trained functional model with outputs `{task: tensor}`.
        scheme: `"int8"`, `"int4"` (kernels of 4 bits, activations of 8) or `"int8x16"`
            (activations of 16). Defaults to `"int8"`.
        representative_data: A few hundred typical inputs to start the ranges from, in any of
            the forms of `export_litert`. Defaults to `None`: from the first batch.
        ranges: `"moving_average"` of the batches' extremes, or `"learned"` with the weights, from
            those of `representative_data`. Defaults to `"moving_average"`.
        freeze_after: Number of steps after which ranges stand still. Defaults to `None`.
        strict: Whether layers without an integer form are an error. Defaults to `False`: they
            stay in float.
        keep_float: Names of heads (what only this head needs) and layers that stay in float, and
            with them what the file computes as one operation with them. Defaults to `()`.
        target: `"edgetpu"` gives each dense kernel one scale, as `export_litert` does for that
            target. Defaults to `None`, a scale for each output.

    Returns:
        A `kmtl.MultiTaskModel`, not compiled. `float_layers(result)` lists what stays in float.
        Where it is loaded from a `.keras` file, import `kmtl.export` first.

    Raises:
        ValueError: for unknown names, data that leaves a layer constant or makes it infinite,
            or with `strict` for layers without an integer form; the message names the layers.

    Example:

    ```python
    aware = kmtl.export.quantize_aware(model, "int8", representative_data=x_train[:256])
    aware.compile(keras.optimizers.Adam(2e-4), loss=loss, weighting="pcgrad")
    aware.fit(x_train, y_train, epochs=2)
    kmtl.export.export_litert(aware, "model.tflite", representative_data=x_train[:256])
    ```

    Differences from the paper: normalisations keep the statistics that they have and are folded
    before training starts, where the paper folds each batch's; kernels have a range for each
    output channel, of their own extremes; biases are rounded, too. Sums are brought to the
    output's grid as LiteRT's kernels do it on x86 (ARM was not tried): once rounded with 8-bit
    integers, twice by convolutions with 4-bit kernels, with 15 bits of the ratio of the scales by
    convolutions of 16-bit integers; and 16-bit sigmoids, softmaxes and hyperbolic tangents are
    those of its tables.

    Reference: B. Jacob, S. Kligys, B. Chen, M. Zhu, M. Tang, A. Howard, H. Adam, D. Kalenichenko
    (2018), "Quantization and Training of Neural Networks for Efficient
    Integer-Arithmetic-Only Inference", CVPR, arXiv:1712.05877, section 3.
    """
    if scheme not in SCHEMES:
        raise ValueError(f"`scheme` must be one of {[*SCHEMES]}. Received: scheme={scheme!r}")
    if ranges not in RANGES:
        raise ValueError(f"`ranges` must be one of {RANGES}. Received: ranges={ranges!r}")
    if target not in (None, *TARGETS) or (target and (scheme != "int8" or keep_float)):
        raise ValueError(
            f"`target` must be None, or one of {TARGETS} with scheme='int8' and no `keep_float`. "
            f"Received: target={target!r}, scheme={scheme!r}, keep_float={keep_float}"
        )
    if ranges == "learned" and representative_data is None:
        raise ValueError(
            "With ranges='learned' `representative_data` must be given, to start from. "
            "Received: None"
        )
    if freeze_after is not None and not (isinstance(freeze_after, int) and freeze_after >= 0):
        raise ValueError(
            f"`freeze_after` must be at least 0, or None. Received: freeze_after={freeze_after!r}"
        )
    if is_quantize_aware(model):
        raise ValueError(
            "`model` must be trained in float, not one from `quantize_aware`. "
            f"Received: {model.name}"
        )
    plain = simplify(fold(model))
    loops = [x.name for x in plain.layers if _is_loop(x)]
    if loops:
        raise ValueError(
            "Activations can only have integer types where nothing loops; train without, and "
            "export with a dynamic or a weight-only type, or unroll the layer. "
            f"Received: {', '.join(loops)}"
        )
    kept = part_to_keep(plain, keep_float)
    without = [name for name in float_layers(plain) if name not in kept]
    if strict and without:
        raise ValueError(
            f"With `strict` every layer must have an integer form. Received: {without}"
        )
    builder = Builder(plain, scheme, ranges, freeze_after, kept, per_channel_dense=not target)
    result = builder.build()
    if representative_data is not None:
        calibrate(result, representative_data)
    return result


def _is_loop(layer) -> bool:
    inner = getattr(layer, "forward_layer", layer)  # of a bidirectional one
    return isinstance(inner, keras.layers.RNN) and not inner.unroll
