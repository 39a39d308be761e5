"""The head of a dependency parser: for each token its parent, and the label of the arc."""

import keras
import numpy as np
from keras import ops

from kmtl import backend
from kmtl.layers.experts import fixed_dense
from kmtl.layers.sentence_pair import BLOCKED


@keras.saving.register_keras_serializable(package="kmtl")
class DependencyHead(keras.layers.Layer):
    """Head that chooses for each token its parent among the others and the root, and a label.

    Choose it for parsing, or wherever each element of a sequence points to another one. It is
    greedy: every token decides by itself, so that the arcs of a sentence need not be a tree.

    ```
    heads[0] = root,  heads[j] = inputs[j]                                   # tokens from 1 on
    m[i, j]  = inputs[i] @ arc_kernel @ heads[j]
    p[i, j]  = exp(m[i, j]) / sum_(k != i) exp(m[i, k])                      # over 0 ... n
    q[i, j]  = softmax([inputs[i]; heads[j]] @ label_kernel + bias)          # over labels
    outputs[i, j * num_labels + l] = log(p[i, j] * q[i, j, l])
    ```

    A task has one output, so parent and label are one class. With the labels that `classes`
    makes, `keras.losses.SparseCategoricalCrossentropy(from_logits=True)` is minus the log of the
    parent's probability, minus the log of the label's given the true parent. `decode` takes the
    likeliest parent, and then the likeliest label for it, as the paper does. The padding of a
    Keras mask is no token's parent.

    Outputs of arcs that cannot be are about -1e4, a range of which 8 bits leave steps of 40. In a
    file of integers keep the task in floats: `export_litert(..., overrides={"dep": "float32"})`.

    Args:
        num_labels: Number of labels of arcs; 1 for parents alone.
        kernel_initializer: Of `arc_kernel` and `label_kernel`. Defaults to `"glorot_uniform"`.
        root_initializer: Of the root's vector. Defaults to `"random_normal"`.

    Input shape: `(batch, n, features)`.

    Output shape: `(batch, n, (n + 1) * num_labels)`.

    Raises:
        ValueError: if `num_labels` is below 1, inputs have another rank, or a model is folded
            whose number of tokens is not fixed.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> head = kmtl.layers.DependencyHead(num_labels=2)
    >>> outputs = head(np.ones((1, 3, 4), "float32"))
    >>> print(outputs.shape, np.round(np.exp(outputs).sum(axis=-1)))
    (1, 3, 8) [[1. 1. 1.]]
    >>> parents, labels = head.decode(outputs)
    >>> print(parents.shape, labels.shape)
    (1, 3) (1, 3)
    >>> kmtl.layers.DependencyHead.classes([[2, 0, 2]], [[1, 0, 1]], num_labels=2)
    array([[5, 0, 5]])

    Differences from the paper: the root is number 0, as in files of the CoNLL format, where the
    paper puts it last. The softmax of arcs that are not allowed is 0 only to the float's
    precision. A token's label given each parent is part of the output, `n + 1` times more than
    the paper computes; kernels are split, so that it is only an addition.

    Reference: K. Hashimoto, C. Xiong, Y. Tsuruoka, R. Socher (2017), "A Joint Many-Task Model:
    Growing a Neural Network for Multiple NLP Tasks", EMNLP, arXiv:1611.01587, section 2.3, the
    matching function m(i, j) and p(j | h_i).
    """

    def __init__(
        self,
        num_labels,
        kernel_initializer="glorot_uniform",
        root_initializer="random_normal",
        **kwargs,
    ):
        super().__init__(**kwargs)
        if not isinstance(num_labels, int) or num_labels < 1:
            raise ValueError(
                f"`num_labels` must be an integer >= 1. Received: num_labels={num_labels}"
            )
        self.num_labels = num_labels
        self.kernel_initializer = keras.initializers.get(kernel_initializer)
        self.root_initializer = keras.initializers.get(root_initializer)
        self.supports_masking = True

    def build(self, input_shape):
        if len(input_shape) != 3:
            raise ValueError(
                "Inputs of a `DependencyHead` must be of shape (batch, n, features). "
                f"Received: shape {tuple(input_shape)}"
            )
        size = input_shape[-1]
        shapes = {"arc_kernel": (size, size), "label_kernel": (2 * size, self.num_labels)}
        self.arc_kernel, self.label_kernel = (
            # Anew, as one object gives the same numbers at every call.
            self.add_weight(name=name, shape=shape, initializer=_fresh(self.kernel_initializer))
            for name, shape in shapes.items()
        )
        self.bias = self.add_weight(name="bias", shape=(self.num_labels,), initializer="zeros")
        self.root = self.add_weight(name="root", shape=(size,), initializer=self.root_initializer)

    def call(self, inputs, mask=None):
        batch, n, size = (*ops.shape(inputs)[:2], inputs.shape[-1])
        root = ops.cast(self.root, inputs.dtype)
        root = ops.broadcast_to(root, (batch, 1, size))
        heads = ops.concatenate([root, inputs], axis=1)
        kernel, bias = (ops.cast(w, inputs.dtype) for w in (self.label_kernel, self.bias))
        arcs = ops.matmul(inputs, self.arc_kernel)
        arcs = ops.matmul(arcs, ops.transpose(heads, (0, 2, 1)))
        itself = ops.equal(ops.arange(n + 1)[None, :], ops.arange(1, n + 1)[:, None])
        arcs = arcs + ops.cast(ops.where(itself, BLOCKED, 0.0), arcs.dtype)
        if mask is not None:
            there = ops.pad(mask, ((0, 0), (1, 0)), constant_values=True)
            arcs = arcs + ops.cast(ops.where(there, 0.0, BLOCKED), arcs.dtype)[:, None, :]
        child = ops.matmul(inputs, kernel[:size]) + bias
        parent = ops.matmul(heads, kernel[size:])
        labels = ops.log_softmax(child[:, :, None, :] + parent[:, None, :, :])
        both = ops.log_softmax(arcs)[..., None] + labels
        return ops.reshape(both, (-1, n, (n + 1) * self.num_labels))

    def compute_output_shape(self, input_shape):
        batch, n = input_shape[:2]
        return batch, n, None if n is None else (n + 1) * self.num_labels

    @staticmethod
    def classes(parents, labels, num_labels: int) -> np.ndarray:
        """Labels for training: `parents * num_labels + labels`, and -1 where a parent is -1.

        Args:
            parents: `(batch, n)`, 0 for the root, else the parent's place counted from 1.
            labels: `(batch, n)`, from 0 to `num_labels - 1`.
            num_labels: The layer's.

        Raises:
            ValueError: for a parent that the sentence lacks or that is the token itself, and for a
                label out of range where there is a parent.
        """
        parents, labels = np.asarray(parents), np.asarray(labels)
        most = {"parents": (parents, parents.shape[1]), "labels": (labels, num_labels - 1)}
        for name, (values, last) in most.items():
            wrong = (parents >= 0) & ((values < 0) | (values > last))
            if wrong.any():
                row, step = np.argwhere(wrong)[0]
                raise ValueError(
                    f"`{name}` must be from 0 to {last}. "
                    f"Received: {values[row, step]} in row {row}, step {step}"
                )
        own = parents == np.arange(1, parents.shape[1] + 1)
        if own.any():
            row, step = np.argwhere(own)[0]
            raise ValueError(
                "`parents` must be other tokens than the one that they are of, counted from 1. "
                f"Received: {parents[row, step]} in row {row}, step {step}"
            )
        return np.where(parents < 0, -1, parents * num_labels + labels)

    def decode(self, outputs) -> tuple[np.ndarray, np.ndarray]:
        """The greedy parents, 0 for the root, and their labels, by NumPy; each `(batch, n)`.

        Args:
            outputs: What the layer returns, or the deployed model.
        """
        outputs = np.asarray(ops.convert_to_numpy(outputs), "float32")
        both = outputs.reshape(*outputs.shape[:2], -1, self.num_labels)
        parents = np.logaddexp.reduce(both, axis=-1).argmax(axis=-1)
        chosen = np.take_along_axis(both, parents[..., None, None], axis=2)
        return parents, chosen[:, :, 0].argmax(axis=-1)

    def fold(self, inputs):
        """`Dense` layers and products; the root is in their weights."""
        n, size, layers, name = *inputs.shape[1:], keras.layers, self.name
        if n is None:
            raise ValueError(
                "A `DependencyHead` is folded for a fixed number of tokens: give the model's "
                f"inputs one. Received: inputs of shape {tuple(inputs.shape)}"
            )
        arc, kernel, bias, root = (
            ops.convert_to_numpy(w)
            for w in (self.arc_kernel, self.label_kernel, self.bias, self.root)
        )
        to_root = fixed_dense(inputs, (arc @ root)[:, None], None, f"{name}_to_root")
        to_tokens = fixed_dense(inputs, arc, None, f"{name}_arcs")
        to_tokens = layers.Dot(axes=2, name=f"{name}_to_tokens")([to_tokens, inputs])
        arcs = layers.Concatenate(name=f"{name}_scores")([to_root, to_tokens])
        itself = BLOCKED * np.eye(n, n + 1, 1)
        arcs = layers.Rescaling(1.0, offset=itself.tolist(), name=f"{name}_others")(arcs)
        mask = backend.get_mask(inputs)
        if mask is not None:
            there = layers.Reshape((n, 1), name=f"{name}_mask")(ops.cast(mask, "float32"))
            blocks = layers.Rescaling(-BLOCKED, offset=BLOCKED, name=f"{name}_blocks")(there)
            blocks = layers.ZeroPadding1D((1, 0), name=f"{name}_and_root")(blocks)
            blocks = layers.Reshape((1, n + 1), name=f"{name}_columns")(blocks)
            arcs = layers.Add(name=f"{name}_present")([arcs, blocks])
        arcs = layers.Activation("log_softmax", name=f"{name}_parents")(arcs)
        child, parent = kernel[:size], kernel[size:]

        # `Reshape` layers would warn of the masks that end here; operations have none.
        def rows(bias, name):
            made = fixed_dense(inputs, child, bias, name)
            return ops.reshape(made, (-1, n, 1, self.num_labels))

        under_root = rows(bias + root @ parent, f"{name}_under_root")
        columns = fixed_dense(inputs, parent, None, f"{name}_as_parent")
        columns = ops.reshape(columns, (-1, 1, n, self.num_labels))
        under_tokens = layers.Add(name=f"{name}_under_tokens")(
            [rows(bias, f"{name}_as_child"), columns]
        )
        labels = layers.Concatenate(axis=2, name=f"{name}_labels")([under_root, under_tokens])
        labels = layers.Activation("log_softmax", name=f"{name}_given_parents")(labels)
        arcs = layers.Reshape((n, n + 1, 1), name=f"{name}_for_labels")(arcs)
        both = layers.Add(name=f"{name}_both")([arcs, labels])
        return layers.Reshape((n, (n + 1) * self.num_labels), name=name)(both)

    def get_config(self):
        return {
            **super().get_config(),
            "num_labels": self.num_labels,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
            "root_initializer": keras.initializers.serialize(self.root_initializer),
        }


def _fresh(initializer):
    return type(initializer).from_config(initializer.get_config())
