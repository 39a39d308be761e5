"""The model of a configuration."""

import keras

from kmtl import layers as kmtl_layers
from kmtl import models
from kmtl.models import MultiTaskModel
from kmtl.models.graph import Cloner, run
from kmtl.training.configuration.entry_points import call
from kmtl.training.configuration.objects import make
from kmtl.training.configuration.schema import Config, Head
from kmtl.training.loading.data import Loaded

_KINDS = {
    "hard_sharing": models.HardSharing,
    "cross_stitch": models.CrossStitchNetwork,
    "sluice": models.SluiceNetwork,
    "factorized": models.FactorizedNetwork,
}
_LAYERS = (keras.layers, kmtl_layers)


def build(config: Config, data: Loaded) -> MultiTaskModel:
    """The model, not compiled; to be called in the scope of the strategy.

    Raises:
        ValueError: if it cannot be built, or does not fit the data.
    """
    network = config.network
    if network.kind == "python":
        model = call("network.function", network.function, network.arguments)
        if not isinstance(model, MultiTaskModel):
            raise ValueError(
                "`network.function` must return a `kmtl.MultiTaskModel`. "
                f"Received: {type(model).__name__} from {network.function}"
            )
    else:
        model = _layered(network, data, config.training.precision != "float32")
    names = sorted(x.name for x in model.inputs)
    if len(names) > 1 and names != sorted(data.inputs):
        raise ValueError(
            f"`network` must have the inputs of the data, {sorted(data.inputs)}. Received: {names}"
        )
    return _standardized(model, data.moments) if data.moments else model


def _layered(network, data, half):
    inputs = [
        keras.Input(tuple(spec.shape), dtype=spec.dtype.name, name=name)
        for name, spec in sorted(data.inputs.items())
    ]
    trunk = [_stage(f"network.trunk.{i}", entry) for i, entry in enumerate(network.trunk)]
    if network.kind == "hard_sharing":
        trunk = sum((stage if isinstance(stage, list) else [stage] for stage in trunk), [])
    heads = {t: _head(f"network.heads.{t}", head, half) for t, head in network.heads.items()}
    single = inputs[0] if len(inputs) == 1 else inputs
    try:
        return _KINDS[network.kind](trunk, heads, inputs=single, **network.arguments)
    except (ValueError, TypeError) as error:
        raise ValueError(
            f"`network` must be layers that fit together, with what {network.kind} takes as "
            f"`arguments`. Received: {error}"
        ) from error


def _stage(key, entry):
    if isinstance(entry, list):
        return [make(f"{key}.{i}", layer, _LAYERS) for i, layer in enumerate(entry)]
    return make(key, entry, _LAYERS)


def _head(key, head: Head, half):
    """A head's layers; its answer is in float32, whatever the rest computes in."""
    last = {"dtype": "float32"} if half else {}
    if head.layers is None:
        return [keras.layers.Dense(head.units, activation=head.activation, **last)]
    numbers = range(len(head.layers))
    return [
        make(f"{key}.layers.{i}", layer, _LAYERS, last if i == numbers[-1] else {})
        for i, layer in zip(numbers, head.layers, strict=True)
    ]


def _standardized(model, moments):
    """The same network on inputs that it brings to mean 0 and variance 1 itself."""
    inputs, features = [], []
    for x in model.inputs:
        inputs.append(keras.Input(x.shape[1:], dtype=x.dtype, name=x.name))
        features.append(inputs[-1])
        # A single input may have any name in a model of the user's own.
        name = x.name if len(model.inputs) > 1 else next(iter(moments))
        if name in moments:
            mean, variance = moments[name]
            layer = keras.layers.Normalization(mean=mean, variance=variance, name=f"{name}_scale")
            features[-1] = layer(inputs[-1])
    outputs = run(model, features, Cloner(rename=lambda layer: layer.name))
    single = inputs[0] if len(inputs) == 1 else {x.name: x for x in inputs}
    return MultiTaskModel(single, outputs, name=model.name)
