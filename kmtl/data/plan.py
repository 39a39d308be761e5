"""Which source, and which place in it, each row of each batch comes from."""

import numpy as np

from kmtl.data.hashing import hashed, uniform

# Steps that are counted at a time.
BLOCK = 1024
# What random numbers are for; numbers of sources are not negative. Rows have all from _ROWS down.
_DRAWS, _ROWS = -1, -2


class Plan:
    """Decides all batches as a function of the seed and the step.

    ```
    counts[k, s] = ceil(draws * edges[s + 1] - v[k]) - ceil(draws * edges[s] - v[k])
    edges        = cumulative probabilities of the sources, 0 first, in the epoch of step k
    v[k]         = uniform in [0, 1), from the seed and k alone
    ```

    With this systematic sampling a batch holds its expected number of rows of each source, rounded
    up or down at random, on average exactly. Turns go by the draws' number in place of `v`.

    Args:
        seed: int.
        probabilities: `(epochs, sources)`, see `probability_table`.
        steps_per_epoch: int.
        batch_size: int.
        one_source: Whether the rows of a batch all come from one source.
        turns: Whether sources take turns, whatever the probabilities.
    """

    def __init__(self, seed, probabilities, steps_per_epoch, batch_size, one_source, turns):
        self.seed = seed
        self.num_sources = probabilities.shape[1]
        self.steps_per_epoch = steps_per_epoch
        self.batch_size = batch_size
        self.one_source = one_source
        self.turns = turns
        self.draws = 1 if one_source else batch_size
        edges = np.cumsum(probabilities, axis=1)
        edges /= edges[:, -1:]  # the last one is 1 to the last bit
        self._edges = np.pad(edges, ((0, 0), (1, 0))) * self.draws

    def counts(self, block):
        """Rows of each source in the steps of a block; int64 `(BLOCK, sources)`."""
        import tensorflow as tf

        steps = block * BLOCK + tf.range(BLOCK, dtype=tf.int64)
        if self.turns:
            first = steps[:, None] * self.draws
            counts = self._turns_before(first + self.draws) - self._turns_before(first)
        else:
            epochs = tf.minimum(steps // self.steps_per_epoch, len(self._edges) - 1)
            v = uniform(self.seed, _DRAWS, steps)[:, None]
            bounds = tf.math.ceil(tf.gather(tf.constant(self._edges), epochs) - v)
            counts = tf.cast(bounds[:, 1:] - bounds[:, :-1], tf.int64)
        return counts * (self.batch_size // self.draws)

    def _turns_before(self, draw):
        import tensorflow as tf

        n = self.num_sources
        return (draw - tf.range(n, dtype=tf.int64) + n - 1) // n

    def rows_before(self, step: int) -> np.ndarray:
        """Rows of each source in all steps before `step`; int64 `(sources,)`."""
        import tensorflow as tf

        with tf.device("CPU"):
            counts = tf.function(self.counts, autograph=False)
            rows = np.zeros(self.num_sources, "int64")
            for start in range(0, step, BLOCK):
                block = counts(tf.constant(start // BLOCK, tf.int64)).numpy()
                rows += block[: step - start].sum(axis=0)
            return rows

    def dataset(self, start_step: int):
        """A `tf.data.Dataset` of `(step, rows before of each source, rows of each source)`."""
        import tensorflow as tf

        first = start_step // BLOCK

        def plan_block(before, block):
            counts = self.counts(block)
            steps = block * BLOCK + tf.range(BLOCK, dtype=tf.int64)
            befores = before + tf.cumsum(counts, exclusive=True)
            return before + tf.reduce_sum(counts, axis=0), (steps, befores, counts)

        blocks = tf.data.Dataset.range(first, tf.int64.max)
        blocks = blocks.scan(tf.constant(self.rows_before(first * BLOCK)), plan_block)
        return blocks.unbatch().skip(start_step % BLOCK)

    def slots(self, steps):
        """The order that each batch, sorted by source, is put into, so that shards are alike.

        Args:
            steps: int64 `(n,)`.

        Returns:
            int64 `(n, batch_size)`.
        """
        import tensorflow as tf

        kinds = _ROWS - tf.range(self.batch_size, dtype=tf.int64)
        # Signed numbers sort, unsigned ones do not.
        numbers = tf.bitcast(hashed(self.seed, kinds, steps[:, None]), tf.int64)
        return tf.cast(tf.argsort(numbers), tf.int64)

    def rows(self, slots, before, counts):
        """Where the rows in some slots come from.

        Args:
            slots: int64 `(n, rows)`.
            before, counts: int64 `(n, sources)`, as `dataset` gives them.

        Returns:
            Number of the source and position in it, how many rows of the source came before; int64
            `(n, rows)` both.
        """
        import tensorflow as tf

        ends = tf.cumsum(counts, axis=1)
        sources = tf.searchsorted(ends, slots, side="right", out_type=tf.int64)
        return sources, slots + tf.gather(before + counts - ends, sources, batch_dims=1)
