"""Batches from one or many data sets, each with labels of its own tasks."""

from collections.abc import Mapping

import numpy as np

from kmtl.data.layout import Layout
from kmtl.data.pipeline import Pipeline
from kmtl.data.plan import Plan
from kmtl.data.reading import read_sources
from kmtl.data.sampling import probability_table
from kmtl.data.sharding import for_replicas, shard_of

MODES = ("joint", "one_source")


class TaskMixture:
    """Training data from sources that have the labels of different tasks.

    Choose it where each task has a data set of its own, where a run must go on after a stop with
    exactly the batches that it would have had, or where replicas must see the batches that one
    would. With a single source it is plain shuffled data.

    ```
    p[s] ~ size[s]**alpha                       "proportional"
    p[s] = 1 / number of sources                "uniform"
    p[s] ~ size[s]**(1 / temperature)           "temperature"
    p[s] ~ size[s]**a,  a = 1 - (1 - final_alpha) * min(epoch / (anneal_epochs - 1), 1)
                                                "annealed"
    0, 1, .., 0, 1, ..                          "round_robin", sources or rows take turns
    ```

    A row of a batch has its source's labels; those of other tasks hold `missing[task]`, so compile
    the model with `missing=mixture.missing`. Each pass through a source takes every example once,
    in an order of its own; passes of different sources are not aligned. Batches are a function of
    `seed` and of the step alone: `dataset(start_step=k)` goes on as `dataset()` does from its k-th
    batch on, without reading arrays up to there.

    Args:
        sources: Dict of source name -> `(x, {task: labels})` or `(x, {task: labels}, {task: sample
            weights})` of NumPy arrays, `x` an array or a dict of them; or a `tf.data.Dataset` of
            such examples, unbatched, finite, and with the same order each time. To start in the
            middle of a pass through a dataset, it is read up to there; with several shards, each
            reads all of it.
        batch_size: Rows of a batch, those of all replicas together.
        sampling: One of the above. Defaults to `"proportional"`.
        mode: `"joint"`: the rows of a batch come from all sources, each within one of its expected
            number. `"one_source"`: from one source, drawn for each step. Defaults to `"joint"`.
        missing: Dict of task -> label that marks an absent one. Defaults to `None`: NaN for
            floating labels, -1 for integers, the largest number for unsigned ones.
        seed: Non-negative int. Defaults to `0`.
        alpha: Power of "proportional". Defaults to `None`, which is 1.
        temperature: That of "temperature". Defaults to `None`, which is 5.
        anneal_epochs: Epochs until "annealed" has come to `final_alpha`. Defaults to `None`; it
            must be given there.
        final_alpha: Last power of "annealed". Defaults to `None`, which is 0.2.
        steps_per_epoch: Steps that are called an epoch. Defaults to `None`: as many as all examples
            would fill.
        source_input: Name of an input to add to the dict `x`, the number of the row's source in
            the sorted order of names, int32. Defaults to `None`, none.
        buffer_size: Examples of a `tf.data.Dataset` to shuffle among. Defaults to `1024`.

    Shapes: floating arrays come in `keras.config.floatx()`. All batches have `batch_size` rows.

    Attributes:
        missing: Dict of task -> value, as `compile` takes it.
        filled: Tasks for which `compile` must get it, as some source has no labels of theirs.
        steps_per_epoch: int.
        tasks: Names of all tasks, sorted.
        sizes: Dict of source name -> number of examples.

    Raises:
        ValueError: for sources without examples or labels, or that do not fit together; for a task
            whose default in `missing` is a label in the data; for arguments out of range.

    Example:

    >>> import numpy as np
    >>> import kmtl
    >>> digits = np.zeros((600, 8, 8)), {"left": np.zeros(600, "int32")}
    >>> photos = np.ones((200, 8, 8)), {"depth": np.ones(200)}
    >>> mixture = kmtl.data.TaskMixture({"digits": digits, "photos": photos}, batch_size=16)
    >>> print(mixture)
    TaskMixture of 2 sources, batch_size=16, mode='joint', sampling='proportional', 50 steps
    source  examples  probability  tasks
    digits       600       0.7500  left
    photos       200       0.2500  depth
    >>> mixture.missing
    {'depth': nan, 'left': -1}
    >>> x, y = next(iter(mixture.dataset(start_step=1000)))
    >>> print(int(np.sum(y["left"] == -1)), int(np.sum(y["depth"] == 1)))
    4 4

    Differences from the paper: there sources are drawn anew for each row or step. Here a "joint"
    batch holds the expected numbers, rounded at random, which are right on average and vary less;
    "annealed" starts anywhere and may end above the paper's 0.2.

    References:
        - A. Stickland, I. Murray (2019), "BERT and PALs: Projected Attention Layers for Efficient
          Adaptation in Multi-Task Learning", ICML, arXiv:1902.02671, section 4.1 ("annealed",
          "proportional" with a power).
        - N. Arivazhagan et al. (2019), "Massively Multilingual Neural Machine Translation in the
          Wild", arXiv:1907.05019, section 4.2 ("temperature").
    """

    def __init__(
        self,
        sources: Mapping,
        batch_size: int,
        sampling: str = "proportional",
        mode: str = "joint",
        missing: Mapping | None = None,
        seed: int = 0,
        alpha: float | None = None,
        temperature: float | None = None,
        anneal_epochs: int | None = None,
        final_alpha: float | None = None,
        steps_per_epoch: int | None = None,
        source_input: str | None = None,
        buffer_size: int = 1024,
    ):
        _check_integers(1, batch_size=batch_size, buffer_size=buffer_size)
        _check_integers(0, seed=seed)
        if mode not in MODES:
            raise ValueError(f"`mode` must be one of {MODES}. Received: mode={mode!r}")
        found = read_sources(sources, buffer_size)
        layout = Layout(found, missing, source_input)
        self.sizes = {source.name: source.size for source in found}
        if steps_per_epoch is None:
            steps_per_epoch = -(-sum(self.sizes.values()) // batch_size)
        _check_integers(1, steps_per_epoch=steps_per_epoch)
        self.sources = sources
        self.batch_size = batch_size
        self.sampling = sampling
        self.mode = mode
        self.missing = layout.missing
        self.filled = layout.filled
        self.seed = seed
        self.alpha = alpha
        self.temperature = temperature
        self.anneal_epochs = anneal_epochs
        self.final_alpha = final_alpha
        self.steps_per_epoch = steps_per_epoch
        self.source_input = source_input
        self.buffer_size = buffer_size
        self.tasks = layout.tasks
        self._tasks_of = {source.name: sorted(source.spec[1]) for source in found}
        self._table = probability_table(
            sampling,
            list(self.sizes.values()),
            alpha=alpha,
            temperature=temperature,
            anneal_epochs=anneal_epochs,
            final_alpha=final_alpha,
        )
        self._plan = Plan(
            seed,
            self._table,
            steps_per_epoch,
            batch_size,
            one_source=mode == "one_source",
            turns=sampling == "round_robin",
        )
        self._pipeline = Pipeline(found, layout, self._plan)

    def dataset(self, start_step: int = 0, num_shards: int = 1, shard: int = 0):
        """An endless `tf.data.Dataset` of the batches from `start_step` on.

        Args:
            start_step: Steps that were made already. Defaults to `0`.
            num_shards: Into how many equal parts each batch is split. Defaults to `1`.
            shard: Which of them to give. Defaults to `0`.
        """
        import tensorflow as tf

        _check_integers(0, start_step=start_step)
        rows = shard_of(self.batch_size, num_shards, shard)
        examples = sum(self.sizes.values())
        if examples < num_shards:
            raise ValueError(
                "There must be an example for each shard at least. "
                f"Received: {examples} examples for {num_shards} shards"
            )
        # Nothing here needs autograph, whose rewriting of functions takes longer than all the rest.
        batches = tf.autograph.experimental.do_not_convert(self._pipeline.batches)
        return batches(start_step, *rows).prefetch(tf.data.AUTOTUNE)

    def distributed(self, strategy, start_step: int = 0):
        """The batches from `start_step` on, spread over the replicas of a `tf.distribute` strategy.

        All replicas together see the rows of `dataset(start_step)`, in their order.

        Args:
            strategy: A `tf.distribute.Strategy`.
            start_step: Steps that were made already. Defaults to `0`.
        """
        shard_of(self.batch_size, strategy.num_replicas_in_sync, 0)

        def dataset(num_shards, shard):
            return self.dataset(start_step, num_shards, shard)

        return strategy.distribute_datasets_from_function(for_replicas(dataset))

    @property
    def fingerprint(self) -> dict:
        """What the order of the batches depends on, but for the data themselves."""
        return {
            "sizes": self.sizes,
            "batch_size": self.batch_size,
            "mode": self.mode,
            "seed": self.seed,
            "steps_per_epoch": self.steps_per_epoch,
            "turns": self.sampling == "round_robin",
            "probabilities": self._table.tolist(),
        }

    def probabilities(self, epoch: int = 0) -> dict:
        """Source name -> its probability in an epoch, counted from 0."""
        row = self._table[min(epoch, len(self._table) - 1)]
        return dict(zip(self.sizes, row.tolist(), strict=True))

    def epochs_of(self, step: int) -> dict:
        """Source name -> passes through it in the first `step` steps, a float."""
        _check_integers(0, step=step)
        rows = self._plan.rows_before(step)
        return {name: float(n) / self.sizes[name] for name, n in zip(self.sizes, rows, strict=True)}

    def __repr__(self):
        width = max(len("source"), *map(len, self.sizes))
        lines = [
            f"TaskMixture of {len(self.sizes)} sources, batch_size={self.batch_size}, "
            f"mode={self.mode!r}, sampling={self.sampling!r}, {self.steps_per_epoch} steps",
            f"{'source':{width}}  examples  probability  tasks",
        ]
        for name, probability in self.probabilities().items():
            tasks = ", ".join(self._tasks_of[name])
            lines.append(f"{name:{width}} {self.sizes[name]:9} {probability:12.4f}  {tasks}")
        return "\n".join(lines)


def _check_integers(minimum, **values):
    for name, value in values.items():
        if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < minimum:
            raise ValueError(f"`{name}` must be an integer >= {minimum}. Received: {name}={value}")
