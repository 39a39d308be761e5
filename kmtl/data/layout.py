"""The one form that examples of all sources are brought to."""

from collections.abc import Mapping, Sequence

from kmtl.data.missing import missing_values


class Layout:
    """What an example of a mixture is: inputs, labels of all tasks, sample weights.

    Attributes:
        tasks: Names of all tasks, sorted.
        missing: Task -> value of an absent label; tasks that every source has need none.
        chosen: Tasks whose value the user did not give.
        filled: Tasks that some source lacks, and whose absent labels only `missing` tells.

    Args:
        sources: All sources, see `kmtl.data.sources`.
        missing: The user's, task -> value, or None.
        source_input: Name of the input that gets the source's number, or None.

    Raises:
        ValueError: for sources that do not fit together.
    """

    def __init__(self, sources: Sequence, missing: Mapping | None, source_input: str | None):
        self._source_input = source_input
        self._check_inputs(sources)
        self._labels = _merged(sources, 1, "labels")
        self._weights = _merged(sources, 2, "sample weights")
        self.tasks = sorted(self._labels)
        self.missing = missing_values(missing, sources, self._labels)
        self.chosen = set(self.missing) - set(missing or {})
        # With sample weights, absent labels have a weight of 0 besides.
        lacking = {t for t in self.tasks if any(t not in source.spec[1] for source in sources)}
        self.filled = sorted(lacking - set(self._weights))

    def _check_inputs(self, sources):
        first = sources[0]
        for other in sources[1:]:
            ours, theirs = _paths(first.spec[0]), _paths(other.spec[0])
            for path in sorted({*ours, *theirs}):
                if ours.get(path) != theirs.get(path):
                    raise ValueError(
                        "All sources must have the same inputs, with equal shapes and types. "
                        f"Received: input{path} {_shown(ours.get(path))} in source "
                        f"{first.name!r}, {_shown(theirs.get(path))} in source {other.name!r}"
                    )
        name = self._source_input
        if name is None:
            return
        inputs = first.spec[0]
        if not isinstance(inputs, Mapping) or name in inputs:
            kind = sorted(inputs) if isinstance(inputs, Mapping) else "a single input"
            raise ValueError(
                "`source_input` must be a new name in a dict of inputs. "
                f"Received: source_input={name!r} with {kind}"
            )

    def complete(self, examples, number: int, rows):
        """`(x, labels, weights)` of one source with what the others have besides.

        Args:
            examples: Some of one source, as it gives them.
            number: Which source it is.
            rows: How many they are.

        Returns:
            `(x, labels)`, and sample weights as the third where some source has them.
        """
        import tensorflow as tf

        x, labels, weights = examples
        if self._source_input is not None:
            x = {**x, self._source_input: tf.fill([rows], number)}

        def filled(spec, value):
            return tf.fill([rows, *spec.shape], tf.cast(value, spec.dtype))

        # A label without a weight counts as it is, an absent one must not count.
        given = {
            task: weights.get(task, filled(spec, 1 if task in labels else 0))
            for task, spec in self._weights.items()
        }
        labels = {
            task: labels[task] if task in labels else filled(spec, self.missing[task])
            for task, spec in self._labels.items()
        }
        return (x, labels, given) if self._weights else (x, labels)


def _merged(sources, part, what):
    """Task -> spec, over all sources."""
    specs, origin = {}, {}
    for source in sources:
        for task, spec in source.spec[part].items():
            if task not in source.spec[1]:
                raise ValueError(
                    f"Sample weights must be for tasks of their source, {sorted(source.spec[1])}. "
                    f"Received: {task!r} in source {source.name!r}"
                )
            if specs.setdefault(task, spec) != spec:
                raise ValueError(
                    f"The {what} of a task must have one shape and type in all sources. Received: "
                    f"{_shown(specs[task])} in source {origin[task]!r}, {_shown(spec)} in source "
                    f"{source.name!r} for task {task!r}"
                )
            origin.setdefault(task, source.name)
    return specs


def _paths(inputs):
    """`{"": spec}` of a single input, ` 'name'` -> spec of a dict of them."""
    if not isinstance(inputs, Mapping):
        return {"": inputs}
    return {f" {name!r}": spec for name, spec in inputs.items()}


def _shown(spec):
    return "absent" if spec is None else f"{spec.dtype.name} {tuple(spec.shape)}"
