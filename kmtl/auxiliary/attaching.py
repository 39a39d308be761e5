"""Where the heads of helper tasks are joined to a user's model."""

import keras

from kmtl.layers.training_only import TrainingOnly


def features_of(
    model: keras.Model, features: str | keras.KerasTensor, argument: str = "features"
) -> keras.KerasTensor:
    """The tensor that a head reads.

    Args:
        model: A functional model.
        features: Name of one of its layers, which it uses once, or a tensor of its graph.
        argument: What the user calls it, for messages. Defaults to `"features"`.

    Raises:
        ValueError: for a layer that the model lacks, calls more than once, or that has several
            outputs.
    """
    if isinstance(features, keras.KerasTensor):
        return features
    layers = {layer.name: layer for layer in model.layers}
    if features not in layers:
        raise ValueError(
            f"`{argument}` must name a layer of the model {model.name!r}, {sorted(layers)}; of a "
            f"model inside of it only the outputs can be read. Received: {argument}={features!r}"
        )
    tensors = outputs_in(model, layers[features])
    if len(tensors) != 1:
        raise ValueError(
            f"`{argument}` must be a tensor where the layer has several outputs or is used more "
            f"than once. Received: {argument}={features!r}, with {len(tensors)} outputs"
        )
    return tensors[0]


def outputs_in(model: keras.Model, layer) -> list[keras.KerasTensor]:
    """What a layer returns in the model's own graph, not in others that it is part of."""
    nodes = [node for nodes in model._nodes_by_depth.values() for node in nodes]
    return [x for node in nodes if node.operation is layer for x in node.outputs]


def marked(output: str, tensor: keras.KerasTensor) -> keras.KerasTensor:
    """The tensor as an output that only training has.

    Args:
        output: Its name.
        tensor: What a head returns, in the type that it is to keep.
    """
    return TrainingOnly(name=f"{output}_training_only", dtype=tensor.dtype)(tensor)
