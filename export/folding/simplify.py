"""A plain model in the operations that LiteRT will run: one Keras layer for each."""

import keras
import numpy as np

from kmtl.export.folding.rewrite import rewrite
from kmtl.models.graph import Cloner

FUSED_ACTIVATIONS = ("linear", "relu", "relu6")
# Layers whose kernel takes a batch normalisation in, and the axes of its output channels.
CHANNELS = {
    "Dense": (-1,),
    "Conv1D": (-1,),
    "Conv2D": (-1,),
    "DepthwiseConv1D": (-2, -1),
    "DepthwiseConv2D": (-2, -1),
    "Conv2DTranspose": (-2,),
}


def simplify(plain: keras.Model) -> keras.Model:
    """Rewrites a folded model; its outputs stay equal to float error.

    Batch normalisation goes into the kernel before it, or becomes a scaling and a shift.
    Separable convolutions and sums of many become several operations, and activations that
    LiteRT does not fuse become layers of their own.

    Args:
        plain: A model as `fold` returns it.
    """
    cloner = Cloner(rename=lambda layer: layer.name, edit_config=_without_activation)
    taken_in = _batch_normalisations(plain)  # id of a layer -> the one that goes into it
    vanishing = {id(layer) for layer in taken_in.values()}

    def call(operation, args, kwargs):
        if id(operation) in vanishing:
            return args[0]
        if type(operation) is keras.layers.BatchNormalization:
            return _scale_and_shift(operation, args[0], cloner)
        if type(operation) is keras.layers.Rescaling:
            return _rescale(operation, args[0], cloner)
        if type(operation) in (keras.layers.Add, keras.layers.Multiply):
            return _two_by_two(operation, args[0], cloner)
        if type(operation) is keras.layers.SeparableConv2D:
            x = _separate(operation, args[0], cloner)
        elif id(operation) in taken_in:
            x = _with_normalisation(operation, taken_in[id(operation)], args[0], cloner)
        else:
            x = cloner(operation, args, kwargs)
        activation = _own_activation(operation)
        if activation is None:
            return x
        name = cloner.unique(f"{operation.name}_{activation.__name__}")
        return keras.layers.Activation(activation, name=name)(x)

    return rewrite(plain, call)


def consumers(model: keras.Model) -> dict:
    """Id of a tensor -> the operations that read it; a head's tensor has None among them."""
    found = {id(x): [None] for x in model.output.values()}
    for nodes in model._nodes_by_depth.values():
        for node in nodes:
            for x in node.input_tensors:
                found.setdefault(id(x), []).append(node.operation)
    return found


def only_consumer(layer, consumers_of: dict):
    """The one operation that reads the layer's one output; None if there are others."""
    if len(layer._inbound_nodes) != 1 or len(layer._inbound_nodes[0].outputs) != 1:
        return None
    readers = consumers_of.get(id(layer._inbound_nodes[0].outputs[0]), [])
    return readers[0] if len(readers) == 1 else None


def _batch_normalisations(plain):
    consumers_of, found = consumers(plain), {}
    for layer in plain.layers:
        reader = only_consumer(layer, consumers_of)
        if (
            type(layer).__name__ in CHANNELS
            and type(reader) is keras.layers.BatchNormalization
            and len(reader._inbound_nodes) == 1
            and layer.activation is keras.activations.linear
            and reader.axis in (-1, len(layer.output.shape) - 1)
        ):
            found[id(layer)] = reader
    return found


def _own_activation(layer):
    """The activation that becomes a layer of its own, or None."""
    activation = getattr(layer, "activation", None)
    if isinstance(layer, keras.layers.Activation) or not hasattr(layer, "kernel"):
        if type(layer) is not keras.layers.SeparableConv2D:
            return None
    name = getattr(activation, "__name__", None)
    return None if name in FUSED_ACTIVATIONS else activation


def _without_activation(layer, config):
    return {**config, "activation": "linear"} if _own_activation(layer) else config


def _factor_and_shift(normalisation):
    """What a batch normalisation does in inference: `x * factor + shift`."""
    as_array = keras.ops.convert_to_numpy
    variance = as_array(normalisation.moving_variance) + normalisation.epsilon
    factor = 1.0 / np.sqrt(variance)
    if normalisation.scale:
        factor = factor * as_array(normalisation.gamma)
    shift = -as_array(normalisation.moving_mean) * factor
    if normalisation.center:
        shift = shift + as_array(normalisation.beta)
    return factor, shift


def _with_normalisation(layer, normalisation, x, cloner):
    factor, shift = _factor_and_shift(normalisation)
    weights = layer.get_weights()
    config = {**_without_activation(layer, layer.get_config()), "use_bias": True}
    config["name"] = cloner.unique(layer.name)
    copy = type(layer).from_config(config)
    y = copy(x)
    kernel = weights[0]
    shape = np.ones(kernel.ndim, int)
    for axis in CHANNELS[type(layer).__name__]:
        shape[axis] = kernel.shape[axis]
    bias = weights[1] if layer.use_bias else 0.0
    copy.set_weights([kernel * factor.reshape(shape), bias * factor + shift])
    return y


def _scale_and_shift(normalisation, x, cloner):
    factor, shift = _factor_and_shift(normalisation)
    rank, axis = len(x.shape), normalisation.axis
    if axis not in (-1, rank - 1):
        shape = [-1 if i == axis % rank else 1 for i in range(1, rank)]
        factor, shift = factor.reshape(shape), shift.reshape(shape)
    return _affine(x, factor, shift, normalisation.name, cloner)


def _rescale(layer, x, cloner):
    return _affine(x, np.asarray(layer.scale), np.asarray(layer.offset), layer.name, cloner)


def _affine(x, factor, shift, name, cloner):
    """A multiplication and an addition, each by a layer of its own."""
    if np.any(factor != 1.0):
        x = keras.layers.Rescaling(factor.tolist(), name=cloner.unique(name))(x)
    if np.any(shift != 0.0):
        shift = keras.layers.Rescaling(1.0, shift.tolist(), name=cloner.unique(f"{name}_shift"))
        x = shift(x)
    return x


def _two_by_two(layer, inputs, cloner):
    """A sum or product of many as one of two at a time."""
    y = inputs[0]
    for x in inputs[1:]:
        y = type(layer)(name=cloner.unique(layer.name))([y, x])
    return y


def _separate(layer, x, cloner):
    depthwise_kernel, pointwise_kernel, *bias = layer.get_weights()
    depthwise = keras.layers.DepthwiseConv2D(
        layer.kernel_size,
        strides=layer.strides,
        padding=layer.padding,
        depth_multiplier=layer.depth_multiplier,
        dilation_rate=layer.dilation_rate,
        data_format=layer.data_format,
        use_bias=False,
        name=cloner.unique(f"{layer.name}_depthwise"),
    )
    fused = _own_activation(layer) is None
    pointwise = keras.layers.Conv2D(
        layer.filters,
        1,
        data_format=layer.data_format,
        use_bias=layer.use_bias,
        activation=layer.activation if fused else None,
        name=cloner.unique(f"{layer.name}_pointwise"),
    )
    y = pointwise(depthwise(x))
    depthwise.set_weights([depthwise_kernel])
    pointwise.set_weights([pointwise_kernel, *bias])
    return y
