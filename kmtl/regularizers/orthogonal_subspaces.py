"""A penalty that keeps the subspaces of a layer's units apart."""

import itertools
import math

import keras
from keras import ops

from kmtl.regularizers.checks import check_strength


@keras.saving.register_keras_serializable(package="kmtl")
class OrthogonalSubspaces(keras.regularizers.Regularizer):
    """Penalises the overlap between blocks of a layer's units.

    Use it as `kernel_regularizer`, or as `recurrent_regularizer`, of the layers before a
    `kmtl.layers.SluiceUnit`, so that its subspaces learn different features. The penalty is 0
    exactly when each unit's incoming weights are orthogonal to those of all units of the
    other blocks; the order of the units within a block does not matter.

    ```
    K      = kernel as (inputs, units); of a convolution (kh * kw * in, out)
    K[s]   = columns s * units / num_subspaces ... of K, the units of subspace s
    result = strength * sum_{gates} sum_{a < b} || K[a]^T K[b] ||_F^2
    ```

    Args:
        strength: Factor of the penalty. Defaults to `0.1`.
        num_subspaces: Blocks that the units are cut into; must divide their number.
            Defaults to `2`.
        num_gates: Kernels that the layer keeps side by side on its units axis, each of which
            is cut on its own: 4 for `LSTM`, 3 for `GRU`. Defaults to `1`.
        axis: The units axis. `-1` for `Dense`, `Conv2D` and recurrent layers, `-2` for
            `Conv2DTranspose`. Defaults to `-1`.

    Call arguments:
        x: A kernel of rank 2 or more.

    Input shape: `(..., inputs, num_gates * units)`.

    Output shape: `()`.

    Raises:
        ValueError: if the units do not divide into `num_gates * num_subspaces`.

    Example:

    >>> import keras
    >>> import kmtl
    >>> penalty = kmtl.regularizers.OrthogonalSubspaces(strength=0.5)
    >>> print(float(penalty(keras.ops.convert_to_tensor([[1.0, 3.0], [1.0, 1.0]]))))
    8.0
    >>> gates = kmtl.regularizers.OrthogonalSubspaces(num_gates=4)
    >>> layer = keras.layers.LSTM(10, recurrent_regularizer=gates)

    Differences from the paper: for more than two subspaces, all pairs are added up. Units are
    the columns of the paper's `G`, as in the penalty of Bousmalis et al. (2016) that it
    follows. The released code has them as rows, alternating between the subspaces; its
    product pairs unit i of one subspace with unit i of the other and so depends on the order
    of the units.

    Reference: S. Ruder, J. Bingel, I. Augenstein, A. Soegaard (2019), "Latent Multi-task
    Architecture Learning", AAAI, arXiv:1705.08142 (2017 as "Sluice networks: Learning what to
    share between loosely related tasks"), the orthogonality constraint.
    """

    def __init__(self, strength=0.1, num_subspaces=2, num_gates=1, axis=-1):
        check_strength(strength)
        if not isinstance(num_subspaces, int) or num_subspaces < 2:
            raise ValueError(
                f"`num_subspaces` must be an integer >= 2. Received: num_subspaces={num_subspaces}"
            )
        if not isinstance(num_gates, int) or num_gates < 1:
            raise ValueError(
                f"`num_gates` must be an integer >= 1. Received: num_gates={num_gates}"
            )
        self.strength = strength
        self.num_subspaces = num_subspaces
        self.num_gates = num_gates
        self.axis = axis

    def __call__(self, x):
        kernel = ops.moveaxis(x, self.axis, -1)
        *inputs, units = kernel.shape
        if units % (self.num_gates * self.num_subspaces):
            raise ValueError(
                "`num_gates * num_subspaces` must divide the length of the units axis. Received: "
                f"num_gates={self.num_gates}, num_subspaces={self.num_subspaces}, {units} units"
            )
        shape = (math.prod(inputs), self.num_gates, self.num_subspaces, -1)
        blocks = ops.transpose(ops.reshape(kernel, shape), (2, 1, 0, 3))  # (S, gates, in, units)
        overlaps = [
            ops.sum(ops.square(ops.matmul(ops.swapaxes(blocks[a], -1, -2), blocks[b])))
            for a, b in itertools.combinations(range(self.num_subspaces), 2)
        ]
        return self.strength * sum(overlaps)

    def get_config(self):
        return {
            "strength": self.strength,
            "num_subspaces": self.num_subspaces,
            "num_gates": self.num_gates,
            "axis": self.axis,
        }
