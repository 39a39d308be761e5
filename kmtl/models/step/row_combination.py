"""What a rule makes of the tasks' gradients, in the scope that it asks for."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

from keras import ops

from kmtl import backend
from kmtl.models.step.accumulated_gradients import AccumulatedGradients
from kmtl.models.step.parting import Parting
from kmtl.models.step.weight_gramian import WeightGramian
from kmtl.weighting.gradient import GradientWeighting
from kmtl.weighting.jacobian import JacobianWeighting


@dataclasses.dataclass(frozen=True)
class Combined:
    """What a rule made of the tasks' gradients.

    Attributes:
        weights: `(T,)`, or None if the rule gave none.
        valid: Whether every task's gradient is finite.
        features: What goes back through the trunk, one for each parting tensor, or None.
        variables: Gradients of the trunk's variables, the same on every replica, or None for
            those that follow from `features`.
        due: Whether the optimizer applies an update at this step.
    """

    weights: Any
    valid: Any
    features: list
    variables: list
    due: Any = True


class RowCombination:
    """Shows a rule the tasks' gradients and combines them by what it says.

    Args:
        rule: The rule.
        parting: Where the tasks part.
        accumulated: What earlier micro-batches add up to, or None where there are none.
    """

    def __init__(
        self,
        rule: GradientWeighting,
        parting: Parting,
        accumulated: AccumulatedGradients | None = None,
    ):
        self.rule, self.parting, self._accumulated = rule, parting, accumulated
        self._on_rows = isinstance(rule, JacobianWeighting)
        self._no_features = [None for _ in parting.tensors]
        self._no_variables = [None for _ in parting.trunk_variables]
        if rule.scope != "representation" and not parting.trunk_variables:
            raise ValueError(
                f'`scope="{rule.scope}"` needs shared layers that train; all are frozen. Use '
                f'`scope="representation"` or no weighting. Received: {type(rule).__name__}'
            )
        if self._on_rows and rule.scope == "parameters":
            size = sum(math.prod(v.shape) for v in parting.trunk_variables)
            rule.bind_size(len(rule.task_names), size)

    def weight_gramian(self) -> WeightGramian:
        """The products for one step; of no weights at all where the rule needs none."""
        needless = self._on_rows or self._accumulated is not None
        return WeightGramian(self.parting, [] if needless else self._counted_variables())

    def __call__(
        self, rows: list, features: list, losses, pull: Callable, weight_gramian: Callable
    ) -> Combined:
        """Combines one step's gradients.

        Args:
            rows: `Rows` for each parting tensor, this replica's.
            features: The parting tensors.
            losses: `(T,)`, of the global batch.
            pull: `(cotangents of the parting tensors, variables) -> gradients by the
                variables, and more`.
            weight_gramian: `(T, ...) rows for each parting tensor -> (T, T), gradients that
                it took to compute it`.
        """
        if self._accumulated is not None:
            return self._on_micro_batches(rows, losses, pull)
        if self.rule.scope == "representation":
            return self._on_features(rows, features, losses)
        tensors = [row.tensor for row in rows]
        if self._on_rows:
            return self._on_variables(tensors, losses, pull)
        gramian, computed = weight_gramian(tensors)
        finite = _finite(gramian, losses)
        weights, _ = self.rule.step(gramian, None, losses, finite)
        combined = {key: ops.tensordot(weights, rows, axes=1) for key, rows in computed.items()}
        return Combined(
            weights,
            ops.all(finite),
            [row.combine(weights) for row in rows],
            [combined.get(id(v)) for v in self.parting.trunk_variables],
        )

    def _counted_variables(self):
        """Those whose gradients the rule sees, if it sees any."""
        if self.rule.scope == "last_shared":
            return self.parting.last_variables
        return self.parting.trunk_variables if self.rule.scope == "parameters" else []

    def _on_features(self, rows, features, losses):
        rule = self.rule
        gramian = backend.all_reduce_sum(sum(row.gramian() for row in rows))
        finite = _finite(gramian, losses)
        if not self._on_rows:
            weights, _ = rule.step(gramian, None, losses, finite)
            combined = [row.combine(weights) for row in rows]
            return Combined(weights, ops.all(finite), combined, self._no_variables)
        tensors = [row.tensor for row in rows]
        if rule.by_feature:
            combined = self._by_feature(tensors, features, gramian, losses, finite)
            return Combined(None, ops.all(finite), combined, self._no_variables)
        weights, update = rule.step(gramian, _flat(tensors), losses, finite)
        combined = _split(update, tensors)
        return Combined(weights, ops.all(finite), combined, self._no_variables)

    def _by_feature(self, rows, features, gramian, losses, finite):
        """One decision for each feature in the whole batch."""
        summed = [
            backend.all_reduce_sum(ops.sum(ops.sign(ops.cast(x, "float32")) * row, axis=1))
            for row, x in zip(rows, features, strict=True)
        ]
        factors = self.rule.step_by_feature(gramian, _flat(summed), losses, finite)
        start, combined = 0, []
        for row, feature in zip(rows, summed, strict=True):
            end = start + math.prod(feature.shape[1:])
            of_feature = ops.reshape(factors[:, start:end], feature.shape)
            combined.append(ops.sum(ops.expand_dims(of_feature, 1) * row, axis=0))
            start = end
        return combined

    def _on_variables(self, rows, losses, pull):
        rule = self.rule
        gradients = self._gradients(rows, pull)
        jacobian = mean = _flat(gradients)
        if rule.samples > 1:
            parts = [_keep_samples(rows, k, rule.samples) for k in range(rule.samples)]
            jacobian = ops.stack([_flat(self._gradients(part, pull)) for part in parts])
        gramian = ops.matmul(mean, ops.transpose(mean))
        finite = _finite(gramian, losses)
        weights, update = rule.step(gramian, jacobian, losses, finite)
        combined = _split(update, gradients)
        return Combined(weights, ops.all(finite), self._no_features, combined)

    def _on_micro_batches(self, rows, losses, pull):
        """As for one batch, whose gradients are the means over its micro-batches."""
        means, due = self._accumulated, self._accumulated.due()
        gramian = backend.all_reduce_sum(sum(row.gramian() for row in rows))
        gradients = self._gradients([row.tensor for row in rows], pull)
        finite = _finite(gramian, losses) & ops.all(ops.isfinite(_flat(gradients)), axis=1)
        losses, gramian, gradients = means.add(losses, gramian, gradients)
        jacobian = _flat(gradients)
        seen = gramian
        if self.rule.scope != "representation":
            counted = {id(v) for v in self._counted_variables()}
            own = zip(gradients, self.parting.trunk_variables, strict=True)
            rows = _flat([g for g, v in own if id(v) in counted])
            seen = ops.matmul(rows, ops.transpose(rows))
        weights, update = self.rule.step(seen, jacobian, losses, finite, due)
        if update is None:
            update = ops.matmul(weights, jacobian)
        valid = ops.all(finite)
        means.keep(losses, gramian, gradients, valid, due)
        combined = means.update(_split(update, gradients), due)
        return Combined(weights, valid, self._no_features, combined, due)

    def _gradients(self, rows, pull):
        """Each task's gradient by the variables, over all replicas: a `(T, ...)` for each."""
        variables, by_task = self.parting.trunk_variables, []
        for t in range(len(self.rule.task_names)):
            gradients, _ = pull([row[t] for row in rows], variables)
            by_task.append(
                [
                    ops.zeros(v.shape) if g is None else g
                    for g, v in zip(gradients, variables, strict=True)
                ]
            )
        return [backend.all_reduce_sum(ops.stack(g)) for g in zip(*by_task, strict=True)]


def _finite(gramian, losses):
    return ops.isfinite(ops.diagonal(gramian)) & ops.isfinite(losses)


def _keep_samples(rows, part, parts):
    """The rows with every `parts`-th sample of the global batch only, which counts for all."""
    size = ops.shape(rows[0])[1]
    index = ops.arange(size) + backend.replica_index() * size
    kept = ops.where(ops.equal(index % parts, part), float(parts), 0.0)
    return [row * ops.reshape(kept, (1, -1, *(1 for _ in row.shape[2:]))) for row in rows]


def _flat(tensors):
    """`(T, ...)` tensors as one `(T, N)`."""
    flat = [ops.reshape(x, (x.shape[0], -1)) for x in tensors]
    return flat[0] if len(flat) == 1 else ops.concatenate(flat, axis=1)


def _split(vector, like):
    """A flat vector as pieces of the shapes in `like`, which have a task axis in front."""
    pieces, start = [], 0
    for x in like:
        size = ops.size(x[0])
        pieces.append(ops.reshape(vector[start : start + size], ops.shape(x)[1:]))
        start = start + size
    return pieces
