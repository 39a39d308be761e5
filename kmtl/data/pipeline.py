"""From a plan to batches."""

from collections.abc import Sequence
from functools import partial

from kmtl.data.layout import Layout
from kmtl.data.missing import already_a_label
from kmtl.data.plan import Plan
from kmtl.data.sources import ArraySource, shuffled

# Rows whose sources and numbers are computed together, as many small operations cost too much.
_ROWS = 16384


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
            return self._layout.complete(example, number, [tf.size(indices)])

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
        """Reads whole batches, sorted by source, and takes the rows from them."""
        import tensorflow as tf

        plan = self._plan
        before = plan.rows_before(start_step)
        examples = [
            source.examples(plan.seed, number, int(before[number])).map(
                partial(self._complete_one, number), num_parallel_calls=tf.data.AUTOTUNE
            )
            for number, source in enumerate(self._sources)
        ]
        steps = plan.dataset(start_step)
        numbers = tf.range(len(self._sources), dtype=tf.int64)
        choices = steps.map(lambda step, before, counts: tf.repeat(numbers, counts)).unbatch()
        chosen = tf.data.Dataset.choose_from_datasets(examples, choices)
        slots = steps.map(lambda step, *_: plan.slots(step[None])[0, first : first + rows])

        def take(slots, examples):
            return tf.nest.map_structure(lambda x: tf.gather(x, slots), examples)

        return tf.data.Dataset.zip(slots, chosen.batch(plan.batch_size)).map(
            lambda *x: _with_rows(take(*x), rows), num_parallel_calls=tf.data.AUTOTUNE
        )

    def _complete_one(self, number, *example):
        """Checks what cannot be looked at before it is read."""
        import tensorflow as tf

        _, labels, _ = example
        for task in self._layout.chosen & labels.keys():
            value = self._layout.missing[task]
            if labels[task].dtype.is_integer:
                error = already_a_label(task, value, self._sources[number].name)
                tf.debugging.assert_none_equal(
                    labels[task], tf.cast(value, labels[task].dtype), message=str(error)
                )
        return self._layout.complete(example, number, [])


def _with_rows(batch, rows):
    import tensorflow as tf

    return tf.nest.map_structure(lambda x: tf.ensure_shape(x, [rows, *x.shape[1:]]), batch)
