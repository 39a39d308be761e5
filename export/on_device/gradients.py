"""Gradients in operations that LiteRT has, for those whose own in TensorFlow are Flex.

What is not in the table needs none: TensorFlow's gradients of matrix products, softmax, sigmoid,
tanh, norms, sums, reshapes and of Keras's losses convert as they are.
"""

import contextlib
import itertools

import tensorflow as tf


@contextlib.contextmanager
def builtin_gradients():
    """In a `tf.function`: what the block makes, `tf.gradients` derives by the table."""
    names = {kind: _registered_name(kind) for kind in GRADIENTS}
    with tf.compat.v1.get_default_graph().gradient_override_map(names):
        yield


def _registered_name(kind):
    return f"KmtlBuiltin{kind}"


def _relu(op, dy):
    return dy * tf.cast(op.outputs[0] > 0, dy.dtype)


def _relu6(op, dy):
    y = op.outputs[0]
    return dy * tf.cast((y > 0) & (y < 6), dy.dtype)


def _leaky_relu(op, dy):
    return tf.where(op.inputs[0] > 0, dy, op.get_attr("alpha") * dy)


def _elu(op, dy):
    y = op.outputs[0]
    return tf.where(y < 0, dy * (y + 1), dy)


def _softsign(op, dy):
    return dy / tf.square(1 + tf.abs(op.inputs[0]))


def _convolution(op, dy):
    x, kernel = op.inputs
    channels, filters = kernel.shape[2:]
    windows = _Windows(op, kernel.shape[:2], x, dy)
    rows, taps = tf.reshape(dy, [-1, filters]), tf.reshape(kernel, [-1, channels, filters])
    d_taps, d_parts = [], []
    for i, part in enumerate(windows.cut(x)):
        d_taps.append(tf.matmul(tf.reshape(part, [-1, channels]), rows, transpose_a=True))
        d_part = tf.matmul(rows, taps[i], transpose_b=True)
        d_parts.append(tf.reshape(d_part, [*dy.shape[:-1], channels]))
    return windows.add_up(d_parts), tf.reshape(tf.concat(d_taps, axis=0), kernel.shape)


def _depthwise_convolution(op, dy):
    x, kernel = op.inputs
    channels, multiplier = kernel.shape[2:]
    windows = _Windows(op, kernel.shape[:2], x, dy)
    rows = tf.reshape(dy, [-1, channels, multiplier])
    taps = tf.reshape(kernel, [-1, channels, multiplier])
    d_taps, d_parts = [], []
    for i, part in enumerate(windows.cut(x)):
        part = tf.reshape(part, [-1, channels, 1])
        d_taps.append(tf.reduce_sum(part * rows, axis=0))
        d_part = tf.reduce_sum(rows * taps[i], axis=-1)
        d_parts.append(tf.reshape(d_part, [*dy.shape[:-1], channels]))
    return windows.add_up(d_parts), tf.reshape(tf.concat(d_taps, axis=0), kernel.shape)


def _transposed_convolution(op, dy):
    _, kernel, x = op.inputs
    filters, channels = kernel.shape[2:]
    rows = tf.reshape(x, [-1, channels])
    d_taps = [
        tf.matmul(tf.reshape(part, [-1, filters]), rows, transpose_a=True)
        for part in _Windows(op, kernel.shape[:2], dy, x).cut(dy)
    ]
    d_x = tf.raw_ops.Conv2D(
        input=dy,
        filter=kernel,
        **{name: op.get_attr(name) for name in ("strides", "padding", "dilations")},
    )
    return None, tf.reshape(tf.concat(d_taps, axis=0), kernel.shape), d_x


def _max_pool(op, dy):
    """The first of equal values takes all, as in TensorFlow."""
    x, y = op.inputs[0], op.outputs[0]
    windows = _Windows(op, op.get_attr("ksize")[1:3], x, dy)
    left, d_parts = tf.ones_like(dy), []
    for part in windows.cut(x, fill=x.dtype.min):
        hit = left * tf.cast(tf.equal(part, y), dy.dtype)
        d_parts.append(dy * hit)
        left = left - hit
    return windows.add_up(d_parts)


def _average_pool(op, dy):
    x = op.inputs[0]
    windows = _Windows(op, op.get_attr("ksize")[1:3], x, dy)
    inside = windows.cut(tf.ones([1, *x.shape[1:3], 1], x.dtype))  # padding does not count
    return windows.add_up([dy / tf.add_n(inside)] * len(inside))


class _Windows:
    """The windows of a convolution or pooling, tap by tap.

    Tap `i` of all windows is a slice of the padded input: every `stride`-th place, from where
    that tap of the first window lies. Its gradient is the values put back, with zeros between.
    """

    def __init__(self, op, size, x, y):
        # Always channels last: Keras transposes what is not, as the CPU has no kernels for it.
        dilations = op.get_attr("dilations")[1:3] if "dilations" in op.node_def.attr else (1, 1)
        same = op.get_attr("padding") == b"SAME"
        self._inner, self._outer = x.shape[1:3].as_list(), y.shape[1:3].as_list()
        self._strides, self._pads = op.get_attr("strides")[1:3], []
        for n, out, k, s, d in zip(
            self._inner, self._outer, size, self._strides, dilations, strict=True
        ):
            total = max((out - 1) * s + (k - 1) * d + 1 - n, 0)
            before = total // 2 if same else 0
            self._pads.append((before, total - before))
        offsets = [range(0, k * d, d) for k, d in zip(size, dilations, strict=True)]
        self._starts = list(itertools.product(*offsets))

    def cut(self, x, fill=0.0) -> list:
        """`x` at each tap of all windows, `(batch, out height, out width, channels)`."""
        x = tf.pad(x, [(0, 0), *self._pads, (0, 0)], constant_values=fill)
        down, right = self._strides
        rows, columns = [
            (out - 1) * s + 1 for out, s in zip(self._outer, self._strides, strict=True)
        ]
        return [x[:, i : i + rows : down, j : j + columns : right] for i, j in self._starts]

    def add_up(self, parts):
        """The gradient by `x` from those by what `cut` gave."""
        total = 0.0
        sizes = [n + sum(pads) for n, pads in zip(self._inner, self._pads, strict=True)]
        for part, start in zip(parts, self._starts, strict=True):
            part = self._spread(self._spread(part, 1), 2)
            after = [n - i - m for n, i, m in zip(sizes, start, part.shape[1:3], strict=True)]
            total += tf.pad(part, [(0, 0), *zip(start, after, strict=True), (0, 0)])
        (top, _), (left, _) = self._pads
        return total[:, top : top + self._inner[0], left : left + self._inner[1]]

    def _spread(self, part, axis):
        """With `stride - 1` zeros between neighbours along an axis."""
        stride, shape = self._strides[axis - 1], part.shape.as_list()
        if stride == 1:
            return part
        # LiteRT pads up to five axes: one for the zeros, and the rest in one.
        lines = tf.reshape(part, [-1, 1, int(tf.TensorShape(shape[axis + 1 :]).num_elements())])
        shape[axis] *= stride
        spread = tf.reshape(tf.pad(lines, [(0, 0), (0, stride - 1), (0, 0)]), shape)
        end = shape[axis] - stride + 1
        return spread[:, :end] if axis == 1 else spread[:, :, :end]


# Kind of operation -> its gradient.
GRADIENTS = {
    "AvgPool": _average_pool,
    "Conv2D": _convolution,
    "Conv2DBackpropInput": _transposed_convolution,
    "DepthwiseConv2dNative": _depthwise_convolution,
    "Elu": _elu,
    "LeakyRelu": _leaky_relu,
    "MaxPool": _max_pool,
    "Relu": _relu,
    "Relu6": _relu6,
    "Softsign": _softsign,
}
for _kind, _gradient in GRADIENTS.items():
    tf.RegisterGradient(_registered_name(_kind))(_gradient)
