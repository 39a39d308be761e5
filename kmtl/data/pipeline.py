"""From a plan to batches."""

from collections.abc import Sequence
from functools import partial

from kmtl.data.layout import Layout
from kmtl.data.missing import already_a_label
from kmtl.data.plan import Plan
from kmtl.data.sources import ArraySource, shuffled

# Rows whose sources and numbers are computed together, as many small operations cost too much.
_ROWS = 16384
# Rows of one source that are read together where a batch has those of several.
_READ_TOGETHER = 64


class Pipeline:
    """Makes `tf.data.Dataset`s of a mixture's batches, or of some rows of each.

    Args:
        sources: All sources.
        layout: What an example is.
        plan: Which rows are in which batch.
    """

    def __init__(self, sources: Sequence, layout: Layout, plan: Plan):
        self._sources = sources
        self._layout = layout
        self._plan = plan

    def batches(self, start_step: int, first: int, rows: int):
        """An endless dataset of the rows `first .. first + rows - 1` of each batch from a step on.

        Where all sources are arrays, the other rows are not touched.
        """
        if all(isinstance(source, ArraySource) for source in self._sources):
            return self._gathered(start_step, first, rows)
        return self._read(start_step, first, rows)

    def _gathered(self, start_step, first, rows):
        import tensorflow as tf

        plan, several = self._plan, len(self._sources) > 1
        sizes = tf.constant([source.size for source in self._sources], tf.int64)
        tensors = [source.tensors() for source in self._sources]

        def look_up(steps, before, counts):
            slots = plan.slots(steps)[:, first : first + rows]
            sources, positions = plan.rows(slots, before, counts)
            return sources, shuffled(plan.seed, sources, tf.gather(sizes, sources), positions)

        def part(number, indices):
            example = self._sources[number].take(tensors[number], indices)
            return self._layout.complete(example, number, tf.size(indices))

        def batch(sources, indices):
            if plan.one_source and several:
                parts = [partial(part, number, indices) for number in range(len(self._sources))]
                return tf.switch_case(tf.cast(sources[0], tf.int32), parts)
            if not several:
                return part(0, indices)
            places = [tf.where(sources == number)[:, 0] for number in range(len(self._sources))]
            parts = [part(number, tf.gather(indices, where)) for number, where in enumerate(places)]
            places = [tf.cast(where, tf.int32) for where in places]
            return tf.nest.map_structure(lambda *xs: tf.dynamic_stitch(places, xs), *parts)

        steps = plan.dataset(start_step).batch(max(1, _ROWS // rows))
        looked_up = steps.map(look_up, num_parallel_calls=tf.data.AUTOTUNE).unbatch()
        return looked_up.map(
            lambda *x: _with_rows(batch(*x), rows), num_parallel_calls=tf.data.AUTOTUNE
        )

    def _read(self, start_step, first, rows):
        """Reads whole batches and takes the rows from them."""
        import tensorflow as tf

        if len(self._sources) == 1:
            size = self._plan.batch_size
            batches = self._completed(0, start_step * size, size)
            # What is shuffled already needs no other order for shards to be alike.
            return batches.map(lambda *x: _with_rows(_sliced(x, first, rows), rows))
        plan = self._plan
        before = plan.rows_before(start_step)
        examples = [
            self._completed(number, int(before[number]), _READ_TOGETHER).unbatch()
            for number in range(len(self._sources))
        ]
        steps = plan.dataset(start_step)
        numbers = tf.range(len(self._sources), dtype=tf.int64)
        choices = steps.map(lambda step, before, counts: tf.repeat(numbers, counts)).unbatch()
        chosen = tf.data.Dataset.choose_from_datasets(examples, choices).batch(plan.batch_size)
        slots = steps.map(lambda step, *_: plan.slots(step[None])[0, first : first + rows])

        def take(batch, slots):
            return _with_rows(tf.nest.map_structure(lambda x: tf.gather(x, slots), batch), rows)

        return tf.data.Dataset.zip(chosen, slots).map(take, num_parallel_calls=tf.data.AUTOTUNE)

    def _completed(self, number, position, rows):
        """Batches of one source, from a position on, in the form of all."""
        import tensorflow as tf

        def completed(*example):
            self._check_labels(number, example[1])
            return self._layout.complete(example, number, rows)

        batches = self._sources[number].batches(self._plan.seed, number, position, rows)
        return batches.map(completed, num_parallel_calls=tf.data.AUTOTUNE)

    def _check_labels(self, number, labels):
        """What cannot be looked at before it is read."""
        import tensorflow as tf

        for task in self._layout.chosen & labels.keys():
            value = self._layout.missing[task]
            if labels[task].dtype.is_integer:
                error = already_a_label(task, value, self._sources[number].name)
                tf.debugging.assert_none_equal(
                    labels[task], tf.cast(value, labels[task].dtype), message=str(error)
                )


def _sliced(batch, first, rows):
    import tensorflow as tf

    return tf.nest.map_structure(lambda x: x[first : first + rows], batch)


def _with_rows(batch, rows):
    import tensorflow as tf

    return tf.nest.map_structure(lambda x: tf.ensure_shape(x, [rows, *x.shape[1:]]), batch)
