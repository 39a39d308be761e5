"""Thin layers from wide, trained ones, for `BranchingModel`."""

from collections.abc import Sequence

import keras
import numpy as np
from keras import ops

from kmtl.ops.somp import somp_filters

_WITH_FILTERS = (
    keras.layers.Dense,
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
)


def fill_from_wide(thin: Sequence, wide: Sequence) -> None:
    """Gives thin layers filters of wide ones, chosen layer by layer from the input up.

    ```
    omega_l = somp_filters(W_l, width of thin layer l)   # W_l over the inputs that are left
    thin_l  = W_l[omega_l],  bias_l[omega_l]
    W_{l+1} keeps the inputs omega_l
    ```

    Args:
        thin: Layers in the order in which they run; their weights are overwritten.
        wide: Trained layers of the same kinds in the same order. Further ones, such as heads,
            are left out.

    Raises:
        ValueError: if kinds or shapes of two layers do not fit, a wide layer is not built, or a
            layer with weights is none of dense, convolution and batch normalization.
    """
    if len(wide) < len(thin):
        raise ValueError(
            f"`wide` must have a layer for each of the {len(thin)} of the stages. "
            f"Received: {len(wide)} layers"
        )
    kept, width = None, None  # which outputs of the wide layer below are left, and of how many
    for mine, its in zip(thin, wide, strict=False):
        if type(mine) is not type(its):
            raise ValueError(
                "`wide` must have layers of the same kinds as the stages, in the same order. "
                f"Received: {its.name!r}, a {type(its).__name__}, for {mine.name!r}, a "
                f"{type(mine).__name__}"
            )
        if not mine.weights:
            continue
        if not its.built:
            raise ValueError(
                "`wide` must hold layers that are built and trained. "
                f"Received: {its.name!r}, not built"
            )
        if isinstance(mine, keras.layers.BatchNormalization):
            values = [w if kept is None else w[_repeated(kept, width, len(w))]
                      for w in its.get_weights()]  # fmt: skip
        elif type(mine) in _WITH_FILTERS:
            kernel = ops.convert_to_numpy(its.kernel)
            if kept is not None:
                kernel = kernel[..., _repeated(kept, width, kernel.shape[-2]), :]
            width, filters = kernel.shape[-1], mine.kernel.shape[-1]
            if filters > width:
                raise ValueError(
                    "`wide` must have at least as many filters as the stages. "
                    f"Received: {width} in {its.name!r} for {filters} in {mine.name!r}"
                )
            kept = np.sort(somp_filters(kernel.reshape(-1, width).T, filters))
            values = [kernel[..., kept], *(w[kept] for w in its.get_weights()[1:])]
        else:
            raise ValueError(
                "Layers to be thinned must be dense, convolutions or batch normalizations where "
                f"they have weights. Received: {mine.name!r}, a {type(mine).__name__}"
            )
        shapes = [tuple(w.shape) for w in mine.weights]
        if [w.shape for w in values] != shapes:
            raise ValueError(
                "What is left of a layer of `wide` must have the shapes of the stage's. "
                f"Received: {[w.shape for w in values]} for {mine.name!r} with {shapes}"
            )
        mine.set_weights(values)


def _repeated(kept, width, size):
    """Indices of inputs that come from the outputs `kept`, also after flattening positions."""
    if size % width:
        raise ValueError(
            "The inputs of a layer must be the outputs of the one before, at one or several "
            f"positions. Received: {size} inputs for {width} outputs"
        )
    return (np.arange(size // width)[:, None] * width + kept).reshape(-1)
