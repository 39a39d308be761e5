"""Linear chains of tags: score of one sequence, normaliser, marginals and the best sequence.

A sequence of tags scores

```
score(y) = start[y_1] + sum_t emissions[t, y_t] + sum_t transitions[y_t, y_(t+1)] + end[y_n]
```

and has the probability `exp(score(y) - log sum_y' exp(score(y')))`. `n` is the row's entry of
`lengths`: what comes after it is padding, and changes nothing. A sequence of length 0 has score
and log normaliser 0. All is computed in float32.

Everywhere, `emissions` is `(batch, steps, tags)`; `transitions`, from row to column, is
`(tags, tags)` or `(batch, tags, tags)`; `start` and `end` are `(tags,)` or `(batch, tags)`;
`lengths` is `(batch,)` of integers from 0 to `steps`, or None for all of the steps. There must be
at least one step. Forbid a transition by a large negative number, such as -1e4, not by infinity.
"""

from keras import ops


def split_outputs(outputs):
    """Takes apart what the layer `CRF` returns.

    Args:
        outputs: Tensor or NumPy array of shape `(batch, steps + tags + 2, tags)`.

    Returns:
        `(emissions, transitions, start, end)`, each with the axis of rows.

    Raises:
        ValueError: for another shape, and for less than one step.
    """
    shape = tuple(outputs.shape)
    if len(shape) != 3 or shape[1] is not None and shape[1] < shape[2] + 3:
        raise ValueError(
            "Outputs of a CRF must be of shape (batch, steps + tags + 2, tags), with a step at "
            f"least. Received: shape {shape}"
        )
    first = -(shape[2] + 2)
    return outputs[:, :first], outputs[:, first:-2], outputs[:, -2], outputs[:, -1]


def sequence_score(emissions, transitions, start, end, tags, lengths=None):
    """The score of given tags, `(batch,)`.

    Args:
        emissions, transitions, start, end, lengths: See the module.
        tags: Integers from 0 to `tags - 1`, `(batch, steps)`; any in padded steps.
    """
    potentials = emissions, transitions, start, end
    emissions, transitions, start, end, mask, last = _prepare(*potentials, lengths)
    tags = ops.cast(tags, "int32")
    of_steps = ops.take_along_axis(emissions, tags[:, :, None], axis=2)[:, :, 0]
    shape = ops.shape(emissions)
    flat = ops.broadcast_to(
        ops.reshape(transitions, (-1, shape[2] ** 2)), (shape[0], shape[2] ** 2)
    )
    of_pairs = ops.take_along_axis(flat, tags[:, :-1] * shape[2] + tags[:, 1:], axis=1)
    rows = shape[0], shape[2]
    of_first = ops.take_along_axis(ops.broadcast_to(start, rows), tags[:, :1], axis=1)[:, 0]
    last_tag = ops.take_along_axis(tags, last[:, None], axis=1)
    of_last = ops.take_along_axis(ops.broadcast_to(end, rows), last_tag, axis=1)[:, 0]
    total = ops.sum(ops.where(mask, of_steps, 0.0), axis=1)
    total = total + ops.sum(ops.where(mask[:, 1:], of_pairs, 0.0), axis=1)
    return total + ops.where(mask[:, 0], of_first + of_last, 0.0)


def log_normalizer(emissions, transitions, start, end, lengths=None):
    """The logarithm of the sum of `exp(score)` over all sequences of tags, `(batch,)`.

    Its gradient is the expected gradient of the score, which is computed along with it: a loop
    that a backend differentiates itself does not compile with XLA on TensorFlow. So there are
    first derivatives only.
    """
    potentials = emissions, transitions, start, end
    emissions, transitions, start, end, mask, last = _prepare(*potentials, lengths)
    # Cut off before and after the loop, as TensorFlow would still differentiate one that is only
    # cut off before, and JAX one that is only cut off after.
    frozen = [ops.stop_gradient(x) for x in (emissions, transitions, start, end)]
    alphas, gammas, value = (ops.stop_gradient(x) for x in _forward_backward(*frozen, mask, last))
    tag = _tag_probabilities(frozen[0], alphas, gammas, mask)
    pairs = alphas[:, :-1, :, None] + frozen[1][:, None] + gammas[:, 1:, None, :]
    pairs = ops.exp(pairs - ops.logsumexp(pairs, axis=(2, 3), keepdims=True))
    pairs = ops.sum(ops.where(mask[:, 1:, None, None], pairs, 0.0), axis=1)
    expected = (
        ops.sum(tag * emissions, axis=(1, 2))
        + ops.sum(pairs * transitions, axis=(1, 2))
        + ops.sum(tag[:, 0] * start, axis=1)
        + ops.sum(_at(tag, last) * end, axis=1)
    )
    value = ops.where(mask[:, 0], value, 0.0)
    return value + (expected - ops.stop_gradient(expected))  # adds a gradient, and exactly 0


def marginals(emissions, transitions, start, end, lengths=None):
    """The probability of each tag at each step, `(batch, steps, tags)`; 0 in padded steps.

    It is constant to gradients.
    """
    potentials = [ops.stop_gradient(x) for x in (emissions, transitions, start, end)]
    emissions, transitions, start, end, mask, last = _prepare(*potentials, lengths)
    alphas, gammas, _ = _forward_backward(emissions, transitions, start, end, mask, last)
    return ops.stop_gradient(_tag_probabilities(emissions, alphas, gammas, mask))


def viterbi(emissions, transitions, start, end, lengths=None):
    """The tags with the highest score, of equal ones the lowest, and that score.

    Returns:
        `(tags, score)`: `(batch, steps)` of int32, -1 in padded steps, and `(batch,)`.
    """
    potentials = emissions, transitions, start, end
    emissions, transitions, start, end, mask, last = _prepare(*potentials, lengths)
    rows, num_tags = ops.shape(emissions)[0], emissions.shape[2]
    by_step = ops.transpose(emissions, (1, 0, 2))
    best = _recursion(by_step, start, lambda x: ops.max(x[:, :, None] + transitions, axis=1))
    best = ops.transpose(best, (1, 0, 2))
    score = ops.max(_at(best, last) + end, axis=1)
    into = ops.broadcast_to(ops.transpose(transitions, (0, 2, 1)), (rows, num_tags, num_tags))

    def back(following, best):
        scores = best + following
        tag = ops.argmax(scores, axis=1)
        return ops.take_along_axis(into, tag[:, None, None], axis=1)[:, 0], scores

    order = _backwards(mask, last)
    from_last = ops.transpose(ops.take_along_axis(best, order[:, :, None], axis=1), (1, 0, 2))
    _, scores = ops.scan(back, ops.broadcast_to(end, (rows, num_tags)), from_last)
    tags = ops.transpose(ops.cast(ops.argmax(scores, axis=2), "int32"))
    tags = ops.where(mask, ops.take_along_axis(tags, order, axis=1), -1)
    return tags, ops.where(mask[:, 0], score, 0.0)


def _prepare(emissions, transitions, start, end, lengths):
    """All in float32 with an axis of rows (1 for shared ones), a mask and each last step."""
    emissions, transitions, start, end = (
        ops.cast(x, "float32") for x in (emissions, transitions, start, end)
    )
    rows, steps, num_tags = ops.shape(emissions)
    lengths = ops.full((rows,), steps) if lengths is None else lengths
    lengths = ops.cast(lengths, "int32")
    mask = ops.arange(steps, dtype="int32") < lengths[:, None]
    emissions = ops.where(mask[:, :, None], emissions, 0.0)  # also if what is padded is NaN
    transitions = ops.reshape(transitions, (-1, num_tags, num_tags))
    start, end = (ops.reshape(x, (-1, num_tags)) for x in (start, end))
    return emissions, transitions, start, end, mask, ops.maximum(lengths - 1, 0)


def _recursion(emissions, start, combine):
    """`out[0] = start + emissions[0]`, and `out[t] = combine(out[t - 1]) + emissions[t]`.

    The step comes first in `emissions` and in the result, where tags come last.
    """

    def step(before, emission):
        return combine(before) + emission, before

    # The state before each step is kept, so that one step, too, goes once through the loop. What
    # follows the last step is for nothing.
    _, states = ops.scan(step, emissions[0] + start, ops.roll(emissions, -1, axis=0))
    return states


def _forward_backward(emissions, transitions, start, end, mask, last):
    """Sums over all that leads up to a step's tag, and over all that follows, and over all.

    They are logarithms. The first two include the emission of the step itself, and are up to a
    number for each step, so that those of long sequences are as exact as those of short ones.
    They are found together: the backward one is the forward one of the reversed chain.
    """
    order = _backwards(mask, last)[:, :, None]
    both = ops.stack([emissions, ops.take_along_axis(emissions, order, axis=1)])
    chains = ops.stack([transitions, ops.transpose(transitions, (0, 2, 1))])
    rows = ops.shape(emissions)[0], emissions.shape[2]
    ends = ops.stack([ops.broadcast_to(x, rows) for x in (start, end)])

    def combine(sums):
        return ops.logsumexp(_lowered(sums)[..., :, None] + chains, axis=-2)

    sums = _recursion(ops.transpose(both, (2, 0, 1, 3)), ends, combine)
    sums = ops.transpose(sums, (1, 2, 0, 3))
    taken_off = ops.sum(ops.where(mask, ops.max(sums[0], axis=2), 0.0), axis=1)
    sums = _lowered(sums)
    alphas, gammas = sums[0], ops.take_along_axis(sums[1], order, axis=1)
    return alphas, gammas, taken_off + ops.logsumexp(_at(alphas, last) + end, axis=1)


def _lowered(x):
    return x - ops.max(x, axis=-1, keepdims=True)


def _tag_probabilities(emissions, alphas, gammas, mask):
    logs = alphas + gammas - emissions
    shares = ops.exp(logs - ops.logsumexp(logs, axis=2, keepdims=True))
    return ops.where(mask[:, :, None], shares, 0.0)


def _backwards(mask, last):
    """For each step its mirror image within the sequence, `(batch, steps)`; 0 in padding."""
    return ops.maximum(last[:, None] - ops.arange(ops.shape(mask)[1], dtype="int32"), 0)


def _at(x, step):
    """Row b of the result is `x[b, step[b]]`."""
    return ops.take_along_axis(x, step[:, None, None], axis=1)[:, 0]
