"""A plain model that computes in bfloat16, as accelerators in servers do."""

import keras

from kmtl.export.folding.rewrite import rewrite
from kmtl.models.graph import Cloner

# Weights stay float32: the statistics of a batch normalisation need it, and kernels are rounded
# when they are used.
_POLICY = "mixed_bfloat16"


def to_bfloat16(plain: keras.Model) -> keras.Model:
    """Rewrites a folded model; its inputs and heads stay float32.

    Args:
        plain: A model as `fold` returns it.
    """
    cloner = Cloner(rename=lambda layer: layer.name, edit_config=_edited)
    return rewrite(plain, cloner, end=lambda task, x: keras.ops.cast(x, plain.output[task].dtype))


def _edited(layer, config):
    # Subtracting the mean from rounded raw values could leave nothing but the rounding.
    return config if isinstance(layer, keras.layers.Normalization) else _in_bfloat16(config)


def _in_bfloat16(config):
    """A config with this policy in place of float32, in wrapped layers, too."""
    if isinstance(config, list):
        return [_in_bfloat16(item) for item in config]
    if not isinstance(config, dict):
        return config
    return {
        key: _POLICY if key == "dtype" and _is_float32(value) else _in_bfloat16(value)
        for key, value in config.items()
    }


def _is_float32(dtype):
    name = dtype.get("config", {}).get("name") if isinstance(dtype, dict) else dtype
    return name == "float32"
