"""What differs between Keras backends, one small module each.

`all_reduce_sum(x)` adds a tensor over replicas; `num_replicas()` counts them; `get_mask(x)` is the
mask that Keras attached to a tensor, or None.
"""

import keras

# Keras keeps the masks of traced JAX arrays in a table that only this function reads.
from keras.src.backend import get_keras_mask as get_mask

if keras.backend.backend() == "tensorflow":
    from kmtl.backend.tensorflow import all_reduce_sum as all_reduce_sum
    from kmtl.backend.tensorflow import num_replicas as num_replicas
elif keras.backend.backend() == "jax":
    from kmtl.backend.jax import all_reduce_sum as all_reduce_sum
    from kmtl.backend.jax import num_replicas as num_replicas
else:
    raise ImportError(
        "kmtl runs on the TensorFlow and the JAX backend of Keras. Received: "
        f"KERAS_BACKEND={keras.backend.backend()}"
    )

__all__ = ["all_reduce_sum", "get_mask", "num_replicas"]
