"""Random numbers that are a function of the user's seed and of their place, in any order."""

_GOLDEN = 0x9E3779B97F4A7C15
_FACTORS = 0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53


def hashed(seed: int, kind, number):
    """A pseudorandom uint64 for each place.

    Args:
        seed: int.
        kind: int64 tensor, what the number is for.
        number: int64 tensor that broadcasts with it, which one of its kind.
    """
    import tensorflow as tf

    # The odd factor keeps the kinds of neighbouring seeds apart.
    start = tf.constant(seed * _GOLDEN % 2**64, tf.uint64)
    return mixed(mixed(tf.cast(kind, tf.uint64) + start) + tf.cast(number, tf.uint64))


def uniform(seed: int, kind, number):
    """As `hashed`, but float64 in [0, 1)."""
    import tensorflow as tf

    # As many bits as a float64 holds.
    return tf.cast(shifted(hashed(seed, kind, number), 11), tf.float64) * 2.0**-53


def mixed(x):
    """MurmurHash3's final mix of uint64 numbers: each bit of `x` changes all of them."""
    import tensorflow as tf

    for factor in _FACTORS:
        x = tf.bitwise.bitwise_xor(x, shifted(x, 33)) * tf.constant(factor, tf.uint64)
    return tf.bitwise.bitwise_xor(x, shifted(x, 33))


def shifted(x, bits: int):
    """`x >> bits` of uint64 numbers."""
    import tensorflow as tf

    return tf.bitwise.right_shift(x, tf.constant(bits, tf.uint64))
