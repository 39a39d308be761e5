"""DSelect-k: a gate that learns to select k experts, and has gradients everywhere on the way."""

import keras
import numpy as np
from keras import ops

from kmtl.layers.experts import check_count, fixed_dense

_EPSILON = 1e-6


@keras.saving.register_keras_serializable(package="kmtl")
class DSelectKGate(keras.layers.Layer):
    """Weights for n experts of which at most k are positive at the end of training.

    Choose it as the `gate` of `MMoE`, `CGC` or `PLE` where a task should settle on few
    experts, which softmax gates never do. With `per_example=False` each task has one choice
    for all examples, and the exported model has only the experts that some task uses.

    A selector writes the number of an expert in binary, each digit by a step that is smooth
    and reaches 0 and 1; k selectors are mixed by a softmax.

    ```
    S(t)          = 0 for t <= -gamma / 2, 1 for t >= gamma / 2, else
                    -2 * t**3 / gamma**3 + 3 * t / (2 * gamma) + 1 / 2
    z             = inputs @ z_kernel + z_bias       # k selectors of m = ceil(log2(n)) digits
    r[j, i]       = prod_b S(z[j, b]) if bit b of i is 1, else 1 - S(z[j, b])
    outputs[i]    = sum_j softmax(inputs @ a_kernel + a_bias)[j] * r[j, i]
    loss          = entropy * mean over examples of sum_ij -r[j, i] * log(r[j, i])
                    + mean over examples of sum_j 1 / sum_i r[j, i]      # unless n = 2**m
    ```

    Args:
        num_experts: Number of experts n, at least 2.
        num_selected: Number of selectors k, at most n.
        gamma: Width of the smooth part of the step. Outside of it a digit is final: it has no
            gradient any more. Defaults to `1.0`.
        entropy: Strength of the loss that drives the digits to 0 and 1. Defaults to `0.001`.
        per_example: Whether the choice depends on the inputs; else `z` and the softmax have
            biases only. Defaults to `True`.

    Call arguments:
        inputs: A tensor.

    Input shape: `(batch, ..., features)`.

    Output shape: `(batch, ..., num_experts)`. The sum is 1 where n is a power of 2; else it is
    less by what the selectors give to numbers that no expert has, which the second loss drives
    to zero.

    Raises:
        ValueError: if an argument is out of range.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> gate = kmtl.layers.DSelectKGate(num_experts=4, num_selected=1, per_example=False)
    >>> gate.build((None, 8))
    >>> gate.set_weights([np.array([-0.5, 0.5])])  # the digits of expert 2, the lowest first
    >>> print(gate.constant_weights())
    [0. 0. 1. 0.]
    >>> mixture = kmtl.layers.MMoE(num_experts=4, units=16, num_tasks=2, gate=gate)
    >>> print(len(mixture(np.ones((3, 8), "float32"))))
    2

    Differences from the paper: the losses are means over examples, so that neither batch size
    nor replicas change them; the authors' code sums them, and only in training, where this
    layer adds them whenever it is called, as Keras does with its penalties. Their `entropy` is
    1e-6 and may follow a schedule, and their division has no guard against a sum of zero.

    Reference: H. Hazimeh, Z. Zhao, A. Chowdhery, M. Sathiamoorthy, Y. Chen, R. Mazumder,
    L. Hong, E. Chi (2021), "DSelect-k: Differentiable Selection in the Mixture of Experts with
    Applications to Multi-Task Learning", NeurIPS, arXiv:2106.03760; starts and the losses' form
    follow the authors' code, google-research/dselect_k_moe.
    """

    def __init__(
        self, num_experts, num_selected, gamma=1.0, entropy=1e-3, per_example=True, **kwargs
    ):
        super().__init__(**kwargs)
        check_count("num_experts", num_experts, 2)
        check_count("num_selected", num_selected, 1)
        if num_selected > num_experts:
            raise ValueError(
                "`num_selected` must be at most `num_experts`. "
                f"Received: num_selected={num_selected}, num_experts={num_experts}"
            )
        if gamma <= 0:
            raise ValueError(f"`gamma` must be positive. Received: gamma={gamma}")
        if entropy < 0:
            raise ValueError(f"`entropy` must not be negative. Received: entropy={entropy}")
        self.num_experts = num_experts
        self.num_selected = num_selected
        self.gamma = gamma
        self.entropy = entropy
        self.per_example = per_example
        self.supports_masking = True
        self._digits = (num_experts - 1).bit_length()
        codes = (np.arange(num_experts) >> np.arange(self._digits)[:, None]) & 1
        # A digit s contributes `offset + sign * s`: s where an expert's bit is 1, else 1 - s.
        self._offsets, self._signs = 1.0 - codes, 2.0 * codes - 1.0

    def build(self, input_shape) -> None:
        features, k = input_shape[-1], self.num_selected
        self.z_kernel, self.z_bias = self._affine("z", features, k * self._digits, self.gamma / 100)
        if k > 1:
            self.a_kernel, self.a_bias = self._affine("a", features, k, 0.05)

    def _affine(self, name, features, units, limit):
        def start(part, shape):
            uniform = keras.initializers.RandomUniform(-limit, limit)
            return self.add_weight(name=f"{name}_{part}", shape=shape, initializer=uniform)

        kernel = start("kernel", (features, units)) if self.per_example else None
        return kernel, start("bias", (units,))

    def call(self, inputs):
        weights, r = self._mixture(inputs)
        self._add_losses(ops.cast(r, "float32"))
        if self.per_example:
            return weights
        return ops.zeros_like(inputs[..., :1]) + weights

    def _mixture(self, inputs):
        """The outputs and r; both without axes of examples where one choice is for all."""
        z = _linear(inputs, self.z_kernel, self.z_bias)
        shape = (*ops.shape(z)[:-1], self.num_selected, self._digits)
        digits = smooth_step(ops.reshape(z, shape), self.gamma)
        offsets, signs = (ops.cast(x, digits.dtype) for x in (self._offsets, self._signs))
        r = 1.0
        for b in range(self._digits):
            r = r * (offsets[b] + signs[b] * digits[..., b : b + 1])
        if self.num_selected == 1:
            return r[..., 0, :], r
        shares = ops.softmax(_linear(inputs, self.a_kernel, self.a_bias))
        return ops.sum(ops.expand_dims(shares, -1) * r, axis=-2), r

    def _add_losses(self, r):
        if self.entropy:
            terms = ops.sum(-r * ops.log(r + _EPSILON), axis=(-2, -1))
            self.add_loss(self.entropy * ops.mean(terms))
        if self.num_experts < 2**self._digits:
            terms = ops.sum(1.0 / (ops.sum(r, axis=-1) + _EPSILON), axis=-1)
            self.add_loss(ops.mean(terms))

    def constant_weights(self) -> np.ndarray | None:
        """The outputs of any example, `(num_experts,)`; None where they depend on it.

        Raises:
            ValueError: before the layer is built.
        """
        if self.per_example:
            return None
        if not self.built:
            raise ValueError(f"The gate must be built first. Received: {self.name!r}, not built")
        return ops.convert_to_numpy(self._mixture(None)[0])

    def compute_output_shape(self, input_shape) -> tuple:
        return (*input_shape[:-1], self.num_experts)

    def fold(self, inputs):
        """The same by dense layers, most of them small and constant, and products."""
        constant = self.constant_weights()
        if constant is not None:
            nothing = np.zeros((inputs.shape[-1], self.num_experts))
            return fixed_dense(inputs, nothing, constant, self.name)
        k, n, name = self.num_selected, self.num_experts, self.name
        # u = 6 * v of `smooth_step`, as a ReLU6 is part of a dense layer everywhere.
        kernel, bias = (
            ops.convert_to_numpy(x) * 6.0 / self.gamma for x in (self.z_kernel, self.z_bias)
        )
        u = fixed_dense(inputs, kernel, bias + 3.0, f"{name}_z", "relu6")
        slope = keras.layers.Rescaling(-1.0 / 108.0, 1.0 / 12.0, name=f"{name}_slope")(u)
        digits = keras.layers.Multiply(name=f"{name}_digits")([u, u, slope])
        factors = []
        for b in range(self._digits):
            # Digit b of selector j, for each expert: (k * digits) -> (k * n).
            place = np.kron(np.eye(k), np.eye(self._digits)[:, b : b + 1] * self._signs[b])
            offset = np.tile(self._offsets[b], k)
            factors.append(fixed_dense(digits, place, offset, f"{name}_digit_{b}"))
        if k > 1:
            kernel, bias = (ops.convert_to_numpy(x) for x in (self.a_kernel, self.a_bias))
            shares = fixed_dense(inputs, kernel, bias, f"{name}_a", "softmax")
            spread = np.kron(np.eye(k), np.ones((1, n)))
            factors.append(fixed_dense(shares, spread, None, f"{name}_shares"))
        r = keras.layers.Multiply(name=f"{name}_r")(factors) if len(factors) > 1 else factors[0]
        return r if k == 1 else fixed_dense(r, np.tile(np.eye(n), (k, 1)), None, name)

    def get_config(self) -> dict:
        return {
            **super().get_config(),
            "num_experts": self.num_experts,
            "num_selected": self.num_selected,
            "gamma": self.gamma,
            "entropy": self.entropy,
            "per_example": self.per_example,
        }


def smooth_step(t, gamma: float):
    """S of `DSelectKGate`, whose cubic is `v**2 * (3 - 2 * v)` in `v = t / gamma + 1 / 2`."""
    v = ops.clip(t / gamma + 0.5, 0.0, 1.0)
    return v * v * (3.0 - 2.0 * v)


def _linear(x, kernel, bias):
    bias = ops.convert_to_tensor(bias)
    return bias if kernel is None else ops.matmul(x, kernel) + bias
