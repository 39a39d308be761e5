"""tfmot's quantisation-aware training of a Keras 2 model."""

import numpy as np

from kmtl.export.tfmot.layers import own_layers
from kmtl.export.tfmot.structure import KERNELS, holds, kernels

# Layers that tfmot's registry lacks, although LiteRT computes them in integers: those with a
# range of their own, and those that only move or compare values.
WITH_OUTPUT_RANGE = ("Multiply", "Subtract")
WITHOUT_RANGE = ("MaxPooling1D", "Slice")
# Layers with kernels: what tfmot calls the kernel, and how it rounds it.
WITH_KERNELS = {
    "Conv2D": ("kernel", "Default8BitConvQuantizeConfig"),
    "Conv2DTranspose": ("kernel", "Default8BitConvTransposeQuantizeConfig"),
    "Dense": ("kernel", "Default8BitQuantizeConfig"),
    "DepthwiseConv2D": ("depthwise_kernel", "Default8BitConvQuantizeConfig"),
}
RELUS = ("relu", "relu6")
OUTPUT_RANGE = ("output_min", "output_max")


def quantize_aware(tfmot, tf_keras, base, inputs, per_tensor: bool):
    """The model with fake quantisation, its ranges started from data.

    tfmot starts all ranges at plus and minus 6 and moves them by a thousandth in each step, far
    too slowly for fine-tuning; here they start at the extremes that the float model shows.

    Args:
        tfmot: The module.
        tf_keras: The module.
        base: The float model.
        inputs: Arrays in the order of its inputs.
        per_tensor: Whether a convolution has one scale, in which equal values of a kernel are
            equal integers, and not one for each channel.
    """
    api = tfmot.quantization.keras
    forms = _Forms(api, base, per_tensor)

    def annotate(layer):
        return api.quantize_annotate_layer(layer, forms.of(layer))

    with api.quantize_scope(), tf_keras.utils.custom_object_scope(own_layers()):
        annotated = tf_keras.models.clone_model(base, clone_function=annotate)
        # Without a prefix the heads keep their names.
        aware = api.quantize_apply(annotated, _scheme(api), quantized_layer_name_prefix="")
    _start_ranges(tf_keras, base, aware, inputs)
    return aware


def check_quantizable(tfmot, base, per_tensor: bool) -> None:
    """Raises ValueError with the name of a layer that tfmot cannot quantise."""
    forms = _Forms(tfmot.quantization.keras, base, per_tensor)
    for layer in base.layers:
        if type(layer).__name__ != "InputLayer":
            forms.of(layer)


def keep_structure(aware, base, zeros: bool, clusters: bool) -> list[tuple]:
    """What keeps the zeros and clusters of `base` in `aware`, for `train`."""
    before = {name: kernel.numpy() for name, kernel in kernels(base).items()}
    return holds(aware, before, zeros, clusters)


class _Forms:
    """How each layer is quantised."""

    def __init__(self, api, base, per_tensor):
        from tensorflow_model_optimization.python.core.quantization.keras import default_8bit

        self.registry = api.default_8bit.Default8BitQuantizeRegistry(disable_per_axis=per_tensor)
        self.kernels = default_8bit.default_8bit_quantize_registry
        self.others = default_8bit.default_8bit_quantize_configs
        self.per_tensor = per_tensor
        self.base = base

    def of(self, layer):
        """A `QuantizeConfig` for a layer."""
        kind = type(layer).__name__
        if kind in WITH_KERNELS:
            # The output, not the activation: tfmot takes only some of these, relu6 not.
            own_range = not self._only_before_relu(layer)
            kernel, name = WITH_KERNELS[kind]
            if self.per_tensor and kind in KERNELS:
                name = "Default8BitQuantizeConfig"
            return getattr(self.kernels, name)([kernel], [], own_range)
        if kind == "Affine":
            return self.kernels.Default8BitQuantizeConfig(["constant"], [], True)
        if kind in WITH_OUTPUT_RANGE:
            return self.others.Default8BitOutputQuantizeConfig()
        if kind in WITHOUT_RANGE:
            return self.others.NoOpQuantizeConfig()
        if self.registry.supports(layer):
            config = self.registry.get_quantize_config(layer)
            try:
                config.get_output_quantizers(layer)
                return config
            except ValueError:  # an activation that it does not know
                kind = f"{kind} of {layer.activation.__name__}"
        raise ValueError(
            "Every layer must be one that tfmot can quantise; `quantize_aware` and "
            f"`export_litert` know more. Received: layer {layer.name!r}, {kind}"
        )

    def _only_before_relu(self, layer) -> bool:
        """Whether LiteRT computes the layer and a ReLU after it as one operation."""
        readers = [node.outbound_layer for node in layer._outbound_nodes]
        if len(readers) != 1 or any(x is layer.output for x in self.base.outputs):
            return False
        own = getattr(getattr(layer, "activation", None), "__name__", None)
        return own == "linear" and _is_relu(readers[0])


def _is_relu(layer) -> bool:
    if type(layer).__name__ == "ReLU":
        return layer.max_value in (None, 6) and not layer.negative_slope and not layer.threshold
    name = getattr(getattr(layer, "activation", None), "__name__", None)
    return type(layer).__name__ == "Activation" and name in RELUS


def _scheme(api):
    """Every layer says itself how it is quantised; what is left is to quantise the inputs.

    tfmot's further rewrites are for normalisations, which are folded already, and for
    concatenations, whose inputs they put in another order (model-optimization#1179).
    """
    transforms = api.default_8bit.default_8bit_transforms
    transformer = api.graph_transformations.model_transformer.ModelTransformer

    class QuantizeInputs(api.QuantizeLayoutTransform):
        def apply(self, model, layer_quantize_map):
            rewrites = [transforms.InputLayerQuantize()]
            names = set(layer_quantize_map)
            return transformer(model, rewrites, names, layer_quantize_map).transform()

    class Scheme(api.QuantizeScheme):
        def get_layout_transformer(self):
            return QuantizeInputs()

        def get_quantize_registry(self):
            return api.default_8bit.Default8BitQuantizeRegistry()

    return Scheme()


def _start_ranges(tf_keras, base, aware, inputs) -> None:
    layers = [x for x in base.layers if x.name not in {i.name for i in base.inputs}]
    values = tf_keras.Model(base.inputs, [layer.output for layer in layers])(inputs)
    values = values if isinstance(values, list) else [values]
    shown = {layer.name: np.asarray(y) for layer, y in zip(layers, values, strict=True)}
    of_input = {x.name: array for x, array in zip(base.inputs, inputs, strict=True)}
    for layer in aware.layers:
        if type(layer).__name__ == "QuantizeLayer":
            shown[layer.name] = of_input[layer.input.name]
        ranges = {v.name.split("/")[-1].split(":")[0]: v for v in layer.non_trainable_variables}
        for name, variable in ranges.items():
            # The others are of kernels and constants, which are measured in each step.
            if name not in OUTPUT_RANGE and not name.startswith(f"{layer.name}_m"):
                continue
            low, high = min(0.0, shown[layer.name].min()), max(0.0, shown[layer.name].max())
            if low < high:
                variable.assign(low if name.endswith("_min") else high)
