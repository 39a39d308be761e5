"""What the mixtures of experts share: experts as one product, their gates, and the mixing."""

from collections.abc import Callable, Sequence

import keras
import numpy as np
from keras import ops

from kmtl.layers.folding import weighted_sum
from kmtl.layers.task_stacked_dense import TaskStackedDense


class Mixture(keras.layers.Layer):
    """Stacked experts, and for each output a gate that mixes some of them.

    ```
    outputs[o] = sum_i weights[o][..., i] * experts[choices[o][i]]
    ```

    A subclass has `_check(shapes)` and `_route(streams)`. The latter gets the inputs as a list
    and returns three lists: what the experts read, what the gates read, and what the outputs
    take their shape and mask from; with one item for all, or with one for each.

    Args:
        num_experts: How many experts there are.
        choices: For each output the indices of the experts that its gate mixes. An output with
            one expert has no gate.
        units: Features of an expert, or a list of them for experts of several layers.
        activation: Activation of each layer of an expert.
        gate: `"softmax"`, or a layer, or the config of one.
    """

    def __init__(self, *, num_experts, choices, units, activation, gate, **kwargs):
        super().__init__(**kwargs)
        sizes = [*units] if isinstance(units, (list, tuple)) else [units]
        if not sizes:
            raise ValueError(f"`units` must be of at least one layer. Received: units={units}")
        self.units = units
        self.activation = keras.activations.get(activation)
        self.gate = _config_of(gate)
        self.supports_masking = True
        self._choices = choices
        self.experts = [
            TaskStackedDense(
                size,
                num_experts,
                activation=self.activation,
                name=f"{self.name}_experts_{depth}",
                dtype=self.dtype_policy,
            )
            for depth, size in enumerate(sizes)
        ]
        # Layers, and the outputs that each of them has the gates of.
        make = self._softmax_gates if self.gate == "softmax" else self._own_gates
        self.gates, self._gated = make({o: len(c) for o, c in enumerate(choices) if len(c) > 1})

    def _softmax_gates(self, widths):
        """Gates of one width are one layer."""
        gates, gated = [], []
        for width in sorted(set(widths.values())):
            outputs = [o for o in widths if widths[o] == width]
            layer = TaskStackedDense(
                width,
                len(outputs),
                activation="softmax",
                use_bias=False,
                name=f"{self.name}_gates_of_{width}",
                dtype=self.dtype_policy,
            )
            gates.append(layer)
            gated.append(outputs)
        return gates, gated

    def _own_gates(self, widths):
        gates = []
        for o, width in widths.items():
            own = {"num_experts": width, "name": f"{self.name}_gate_{o}"}
            config = {**self.gate["config"], **own, "dtype": self.dtype_policy}
            gates.append(_made({**self.gate, "config": config}))
        return gates, [[o] for o in widths]

    def build(self, input_shape) -> None:
        nested = isinstance(input_shape[0], (list, tuple))
        shapes = [tuple(shape) for shape in (input_shape if nested else [input_shape])]
        self._check(shapes)
        reads, gated, _ = self._route(shapes)
        for layer in self.experts:
            layer.build(_one_or_all(reads))
            reads = [(*shape[:-1], layer.units) for shape in reads]
        for gate, _, shape in self._gates_on(gated):
            gate.build(shape)

    def _gates_on(self, streams):
        """Each gate's layer, its outputs, and what it reads."""
        for gate, outputs in zip(self.gates, self._gated, strict=True):
            own = streams if len(streams) == 1 else [streams[o] for o in outputs]
            yield gate, outputs, _one_or_all(own)

    def _run_gates(self, streams, run: Callable) -> list:
        weights = [None] * len(self._choices)
        for gate, outputs, x in self._gates_on(streams):
            made = run(gate, x)
            made = made if isinstance(made, list) else [made]
            for o, own in zip(outputs, made, strict=True):
                weights[o] = own
        return weights

    def gate_weights(self, inputs) -> list:
        """The gates' outputs, `(batch, ..., experts)`; None for an output with one expert."""
        _, gated, _ = self._route(_as_list(inputs))
        return self._run_gates(gated, lambda gate, x: gate(x))

    def expert_outputs(self, inputs) -> list:
        """The features of each expert, `(batch, ..., units)`."""
        reads, _, _ = self._route(_as_list(inputs))
        for layer in self.experts:
            reads = layer(_one_or_all(reads))
        return reads

    def mix(self, experts: Sequence, weights: Sequence) -> list:
        """The outputs, from what `expert_outputs` and `gate_weights` return."""
        stacks, outputs = {}, []
        for choice, own in zip(map(tuple, self._choices), weights, strict=True):
            if own is None:
                outputs.append(experts[choice[0]])
                continue
            if choice not in stacks:
                stacks[choice] = ops.stack([experts[i] for i in choice], axis=-2)
            mixed = ops.matmul(ops.expand_dims(own, -2), stacks[choice])
            outputs.append(ops.squeeze(mixed, -2))
        return outputs

    def call(self, inputs) -> list:
        return self.mix(self.expert_outputs(inputs), self.gate_weights(inputs))

    def compute_output_shape(self, input_shape) -> list:
        nested = isinstance(input_shape[0], (list, tuple))
        *_, like = self._route(input_shape if nested else [input_shape])
        return [(*shape[:-1], self.experts[-1].units) for shape in self._for_each(like)]

    def compute_mask(self, inputs, previous_mask=None) -> list:
        several = isinstance(inputs, (list, tuple))
        masks = (previous_mask or [None] * len(inputs)) if several else [previous_mask]
        *_, like = self._route(masks)
        return self._for_each(like)

    def _for_each(self, like):
        return like * len(self._choices) if len(like) == 1 else like

    def fold(self, inputs) -> list:
        """A `Dense` for each layer of an expert and for each gate, then products and sums.

        Weights that are the same for all examples become factors, and what has the factor zero
        is left out.
        """
        reads, gated, _ = self._route(_as_list(inputs))
        for layer in self.experts:
            reads = layer.fold(_one_or_all(reads))
        weights = self._run_gates(gated, _fold_gate)
        stacks, outputs = {}, []
        for o, (choice, own) in enumerate(zip(map(tuple, self._choices), weights, strict=True)):
            chosen, name = [reads[i] for i in choice], f"{self.name}_output_{o}"
            if own is None:
                outputs.append(chosen[0])
            elif isinstance(own, np.ndarray):
                outputs.append(weighted_sum(chosen, own, name))
            elif len(chosen[0].shape) > 2:
                outputs.append(_sum_of_products(chosen, own, name))
            else:
                if choice not in stacks:
                    stacks[choice] = _stack(chosen, f"{name}_experts")
                outputs.append(_mean_of_products(stacks[choice], own, name))
        return outputs

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "units": self.units if isinstance(self.units, int) else [*self.units],
            "activation": keras.activations.serialize(self.activation),
            "gate": self.gate,
        }


def check_count(name: str, value, least: int) -> None:
    """Requires an integer that is large enough."""
    if not isinstance(value, int) or value < least:
        raise ValueError(f"`{name}` must be an integer >= {least}. Received: {name}={value}")


def _config_of(gate):
    if isinstance(gate, keras.layers.Layer):
        gate = keras.saving.serialize_keras_object(gate)
    if gate == "softmax":
        return gate
    if not isinstance(gate, dict) or "num_experts" not in gate.get("config", {}):
        received = gate.get("class_name") if isinstance(gate, dict) else gate
        raise ValueError(
            "`gate` must be 'softmax' or a layer with the argument `num_experts`, such as "
            f"`DSelectKGate`. Received: gate={received}"
        )
    return {key: value for key, value in gate.items() if key != "build_config"}


def _made(config):
    """The layer of a config. What it refuses is its own error, not Keras's around that."""
    try:
        return keras.saving.deserialize_keras_object(config)
    except TypeError as error:
        while error.__context__ is not None:
            error = error.__context__
        raise error from None


def _as_list(inputs):
    return [*inputs] if isinstance(inputs, (list, tuple)) else [inputs]


def _one_or_all(streams):
    return streams[0] if len(streams) == 1 else streams


def _fold_gate(gate, x):
    """The weights as an array where they are the same for all examples, else as a tensor."""
    constant = getattr(gate, "constant_weights", lambda: None)()
    return gate.fold(x) if constant is None else constant


def _stack(experts, name):
    joined = keras.layers.Concatenate(name=f"{name}_joined")(experts)
    return keras.layers.Reshape((len(experts), experts[0].shape[-1]), name=name)(joined)


def _mean_of_products(stack, weights, name):
    """The sum over experts as a mean, times their number: layers that every target has."""
    count = stack.shape[1]
    weights = keras.layers.Reshape((count, 1), name=f"{name}_weights")(weights)
    products = keras.layers.Multiply(name=f"{name}_products")([stack, weights])
    mean = keras.layers.GlobalAveragePooling1D(name=f"{name}_mean")(products)
    return keras.layers.Rescaling(float(count), name=name)(mean)


def _sum_of_products(experts, weights, name):
    """The same expert by expert, for any number of axes."""
    masks = [getattr(x, "_keras_mask", None) for x in (*experts, weights)]
    if any(mask is None for mask in masks) and any(mask is not None for mask in masks):
        raise ValueError(
            "A mixture can be folded where all that it reads has a mask, or nothing has: Keras's "
            f"products drop the mask of a part. Received: experts and a gate of {name!r}, "
            f"{sum(mask is not None for mask in masks)} of {len(masks)} with a mask"
        )
    units = np.eye(len(experts))
    terms = []
    for i, x in enumerate(experts):
        # A slice of the weights would lose their mask.
        weight = fixed_dense(weights, units[:, i : i + 1], None, f"{name}_weight_{i}")
        terms.append(keras.layers.Multiply(name=f"{name}_from_{i}")([x, weight]))
    return keras.layers.Add(name=name)(terms)


def fixed_dense(x, kernel, bias, name, activation=None):
    """A `Dense` with these weights on `x`."""
    dense = keras.layers.Dense(
        kernel.shape[1], activation=activation, use_bias=bias is not None, name=name
    )
    y = dense(x)
    dense.set_weights([kernel] if bias is None else [kernel, bias])
    return y
