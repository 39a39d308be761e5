"""How LiteRT's kernels bring sums of products to the output's grid, in integers only.

A kernel has sums in units of `steps` (the input's step times the kernel's, for each channel) and
multiplies them by `m = steps / scale` to have them in units of the output's. They write
`m = q * 2**e`, with `q` in [0.5, 1) and of 31 bits, and

- `"twice_up"`: round the product to multiples of `2**e` first, then those to whole units, halves
  upwards: convolutions with kernels of 4 bits, and dense layers with an odd number of inputs;
- `"twice_away"`: do so with halves away from 0: convolutions with kernels of 4 bits and groups,
  and means of 16-bit integers, there with `m / count`;
- `"reduced"`: keep 15 bits of `q` and round once: convolutions of 16-bit integers;
- `"once"`: round the product once, as XNNPACK does: dense layers with 16-bit integers;
- `"sum"`, `"difference"`: round what 16-bit integers on two grids make, first to the 15 bits more
  that the kernel has and then to whole units, halves away from 0.

A kernel is described by `{"rule", "first" (channel), "channels", "count" (of values in a mean),
"low", "high" (limits of the ReLU in it)}`.
Steps are two floats whose sum is the exact product: with 16 bits, half a float's last bit decides
the rounding of one number in a thousand.
"""

from keras import ops

ONCE, TWICE_UP, TWICE_AWAY, REDUCED = "once", "twice_up", "twice_away", "reduced"
SUM, DIFFERENCE = "sum", "difference"


def exact_product(a, b):
    """`a * b` rounded, and what the rounding has lost."""
    (a_high, a_low), (b_high, b_low), rounded = _halves(a), _halves(b), a * b
    lost = ((a_high * b_high - rounded) + a_high * b_low + a_low * b_high) + a_low * b_low
    return rounded, lost


def as_kernels_do(x, scale, kernels, steps):
    """`x`, moved to where rounding to `scale` gives the kernels' integers; gradients pass.

    Args:
        x: Float tensor; its last axis has the channels.
        scale: Step of the grid that `x` is rounded to next.
        kernels: What computed it, ordered by channels; others than theirs stay as they are.
        steps: For each of the kernels, units of its sums: `(batch, 2, channels)`, from
            `exact_product`; for means the inputs' grid; for sums both inputs with their grids.
    """
    parts, done = [], 0
    for kernel, units in zip(kernels, steps, strict=True):
        first, end = kernel["first"], kernel["first"] + kernel["channels"]
        parts += [x[..., done:first]] if first > done else []
        parts.append(_moved(x[..., first:end], scale, kernel, units))
        done = end
    parts += [x[..., done:]] if done < x.shape[-1] else []
    moved = parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=-1)
    return x + ops.stop_gradient(moved - x)


def power_of_two(x):
    """`2**e` of `x = q * 2**e` with `q` in [0.5, 1), exactly: from the bits of the float."""
    return 2.0 * ops.view(ops.bitwise_and(ops.view(x, "int32"), 0x7F800000), "float32")


def _moved(x, scale, kernel, steps):
    if kernel["rule"] in (SUM, DIFFERENCE):
        y = _rounded_sum(steps, scale, -1.0 if kernel["rule"] == DIFFERENCE else 1.0) * scale
    elif kernel["rule"] in (ONCE, REDUCED):
        units = ops.max(steps, axis=0)
        high, low = _quotient(units, scale)
        if kernel["rule"] == REDUCED:  # `high` has 12 bits, of which none is lost
            bit = power_of_two(high) / 2.0**15
            low = ops.minimum(ops.floor(low / bit + 0.5) * bit, (2.0**15 - 1.0) * bit - high)
        whole, fraction = _product(ops.round(x / units[0]), high, low)
        y = (whole + ops.floor(fraction + 0.5)) * scale
    else:
        halvings = kernel["count"].bit_length() - 1
        power = power_of_two(ops.max(steps, axis=0)[0] / scale)
        fine = ops.minimum(power / 2.0**halvings, 1.0)
        y = ops.floor(x / (scale * fine) + 0.5)
        # A quarter decides the second rounding's halves and changes nothing else.
        quarter = 0.25 * ops.sign(y) if kernel["rule"] == TWICE_AWAY else 0.25
        y = (y + quarter) * (fine * scale)
    low, high = kernel["low"], kernel["high"]
    y = y if low is None else ops.maximum(y, low)
    return y if high is None else ops.where(x < high, ops.minimum(y, high), x)


def _halves(x):
    """Two floats of 12 bits each whose sum is `x`: products of such are exact."""
    high = ops.view(ops.bitwise_and(ops.view(x, "int32"), ~0xFFF), "float32")
    return high, x - high


def _quotient(units, scale):
    """`m`, as a float of 12 bits and what it lacks."""
    high, (scale_high, scale_low) = _halves(units[0] / scale)[0], _halves(scale)
    rest = ((units[0] - high * scale_high) - high * scale_low) + units[1]
    return high, rest / scale


def _product(sums, high, low):
    """`sums * (high + low)`, as integers and the fractions that they lack."""
    last = sums - ops.floor(sums / 2.0**12) * 2.0**12
    first, last = (sums - last) * high, last * high
    whole_first, whole_last = ops.floor(first), ops.floor(last)
    return whole_first + whole_last, (first - whole_first) + (last - whole_last) + sums * low


def _rounded_sum(terms, scale, sign):
    """Integers next to `x + sign * y`, of `terms = [x, its grid, y, its grid]`."""
    scales = [ops.max(grid[:, 0]) for grid in (terms[1], terms[3])]
    parts = []
    for x, unit, factor in zip((terms[0], terms[2]), scales, (1.0, sign), strict=True):
        high, low = _quotient((unit, 0.0), scale)
        parts.append(_product(factor * ops.round(x / unit), high, low))
    whole, fraction = parts[0][0] + parts[1][0], parts[0][1] + parts[1][1]
    fine = power_of_two(ops.maximum(*scales) / scale) / 2.0**14
    fraction = ops.floor(fraction / fine + 0.5) * fine
    up, down = ops.floor(fraction + 0.5), ops.ceil(fraction - 0.5)
    return whole + ops.where(whole + fraction < 0.0, down, up)
