"""Which tasks gain from which: a logistic regression on features of both."""

import dataclasses
import itertools
from collections.abc import Mapping

import numpy as np

from kmtl.analysis.logistic import fit_logistic, sigmoid

Pair = tuple[str, str]


@dataclasses.dataclass(frozen=True)
class GainValidation:
    """How well gains of pairs of new tasks are told; see `TaskGainPredictor.cross_validate`.

    Attributes:
        accuracy: Share of the pairs whose sign is right.
        baseline: Accuracy of always telling the more frequent sign.
        f1: Of the gains; 0 if none is told.
        probabilities: Of a gain, for each pair, by a predictor that knew neither of its tasks.
    """

    accuracy: float
    baseline: float
    f1: float
    probabilities: dict[Pair, float]


class TaskGainPredictor:
    """Tells from features of two tasks whether the first gains from being trained with the second.

    Use it where some pairs have been trained and many more could be: it says which to try next.
    Give it the features of `kmtl.analysis.pair_features` and relative gains, such as the
    `gains` of a `kmtl.analysis.TransferMatrix`, and look at `cross_validate` before you
    believe it.

    ```
    x           = (features - minimum) / (maximum - minimum)      of the training pairs
    probability = sigmoid(intercept + sum_k coefficients[k] * x[k])
    fit         = argmin sum log loss of (gain > 0) + strength / 2 * sum_k coefficients[k]**2
    ```

    The minimum is found by Newton's method. A feature that is the same for all training pairs
    has no say.

    Args:
        penalty: `"l2"`, or None for no penalty, which needs far more pairs than features.
            Defaults to `"l2"`.
        strength: Weight of the penalty; the intercept has none. Defaults to `1.0`.

    Attributes:
        coefficients: By feature, those of largest size first, once fitted. Features are scaled,
            so that sizes can be compared.
        intercept: Once fitted.

    Raises:
        ValueError: for an unknown penalty or a strength that is not positive; for pairs without
            gains, or the reverse; for features that differ from pair to pair or are not finite;
            for gains of one sign only; without a penalty, if features separate the signs.

    Example:

    >>> import kmtl
    >>> entropy = {"pos": 2.0, "ner": 0.5, "chunks": 1.8, "frames": 0.7}
    >>> pairs = kmtl.analysis.pair_features({t: {"entropy": e} for t, e in entropy.items()})
    >>> gains = {(main, aux): entropy[aux] - 1.0 for main, aux in pairs}
    >>> predictor = kmtl.analysis.TaskGainPredictor(strength=0.1).fit(pairs, gains)
    >>> print(next(iter(predictor.coefficients)), predictor.predict(pairs)["ner", "pos"])
    auxiliary_entropy True

    Differences from the paper: `cross_validate` holds out both tasks of a pair. The paper's
    5 folds of pairs have the same tasks in training and test.

    Reference: J. Bingel, A. Soegaard (2017), "Identifying beneficial task relations for
    multi-task learning in deep neural networks", EACL, arXiv:1702.08303, section 4; its
    notebook has 90 pairs of 10 tasks.
    """

    def __init__(self, penalty: str | None = "l2", strength: float = 1.0):
        if penalty not in ("l2", None):
            raise ValueError(f'`penalty` must be "l2" or None. Received: penalty={penalty!r}')
        if not np.isfinite(strength) or strength <= 0:
            raise ValueError(
                f"`strength` must be finite and positive. Received: strength={strength}"
            )
        self.penalty = penalty
        self.strength = strength

    def fit(
        self, pairs: Mapping[Pair, Mapping[str, float]], gains: Mapping[Pair, float]
    ) -> "TaskGainPredictor":
        """Fits to the features and the relative gains of `(main, auxiliary)` pairs."""
        gained = self._signs(pairs, gains)
        if gained.all() or not gained.any():
            raise ValueError(
                "`gains` must have some above 0 and some not. "
                f"Received: {gained.sum()} of {len(gained)} above 0"
            )
        self._names = sorted(next(iter(pairs.values())))
        features = self._table(pairs)
        self._minimum = features.min(axis=0)
        self._range = np.ptp(features, axis=0)
        strength = 0.0 if self.penalty is None else self.strength
        weights = fit_logistic(self._scaled(features), gained, strength)
        self.intercept = float(weights[0])
        self._weights = weights[1:]
        order = np.argsort(-np.abs(self._weights), kind="stable")
        self.coefficients = {self._names[k]: float(self._weights[k]) for k in order}
        return self

    def predict_probability(self, pairs: Mapping[Pair, Mapping[str, float]]) -> dict[Pair, float]:
        """Probability that `main` gains, for each pair."""
        if not hasattr(self, "coefficients"):
            raise ValueError("Call `fit` before you predict.")
        scaled = self._scaled(self._table(pairs))
        probabilities = sigmoid(self.intercept + scaled @ self._weights)
        return dict(zip(sorted(pairs), probabilities.tolist(), strict=True))

    def predict(self, pairs: Mapping[Pair, Mapping[str, float]]) -> dict[Pair, bool]:
        """Whether a gain is more likely than not, for each pair."""
        return {pair: p > 0.5 for pair, p in self.predict_probability(pairs).items()}

    def cross_validate(
        self, pairs: Mapping[Pair, Mapping[str, float]], gains: Mapping[Pair, float]
    ) -> GainValidation:
        """Tells each pair by a predictor that was fitted to the pairs of other tasks.

        Pairs that share a task are not independent, so the pairs of two tasks, in both orders,
        are told by a fit to the pairs that contain neither. Where those have one sign only, it
        is taken for certain. This object is not fitted.

        Raises:
            ValueError: if no pair of other tasks is left, as for three tasks.
        """
        gained = dict(zip(sorted(pairs), self._signs(pairs, gains).tolist(), strict=True))
        tasks = sorted({task for pair in pairs for task in pair})
        probabilities = {}
        for held_out in itertools.combinations(tasks, 2):
            test = {pair: pairs[pair] for pair in pairs if set(pair) == set(held_out)}
            train = {pair: pairs[pair] for pair in pairs if not set(pair) & set(held_out)}
            if not test:
                continue
            signs = {gained[pair] for pair in train}
            if not signs:
                raise ValueError(
                    "`pairs` must leave pairs of other tasks for each pair. "
                    f"Received: none without {held_out}"
                )
            if len(signs) == 1:
                probabilities |= dict.fromkeys(test, float(signs.pop()))
            else:
                fold = TaskGainPredictor(self.penalty, self.strength)
                fold.fit(train, {pair: gains[pair] for pair in train})
                probabilities |= fold.predict_probability(test)

        truth = np.array([gained[pair] for pair in sorted(pairs)])
        told = np.array([probabilities[pair] > 0.5 for pair in sorted(pairs)])
        hits = np.sum(told & truth)
        return GainValidation(
            accuracy=float(np.mean(told == truth)),
            baseline=float(max(truth.mean(), 1 - truth.mean())),
            f1=float(2 * hits / max(told.sum() + truth.sum(), 1)),
            probabilities={pair: probabilities[pair] for pair in sorted(pairs)},
        )

    def _signs(self, pairs, gains) -> np.ndarray:
        if not pairs or set(pairs) != set(gains):
            raise ValueError(
                "`gains` must be of the same pairs as `pairs`, and of at least one. Received: "
                f"only in one of them: {sorted(set(pairs) ^ set(gains))}"
            )
        numbers = np.array([gains[pair] for pair in sorted(pairs)], "float64")
        if not np.isfinite(numbers).all():
            raise ValueError(f"`gains` must be finite. Received: gains={dict(gains)}")
        return numbers > 0

    def _table(self, pairs) -> np.ndarray:
        for pair, features in pairs.items():
            if sorted(features) != self._names or not np.isfinite(list(features.values())).all():
                raise ValueError(
                    f"`pairs` must have the same finite features, {self._names}. "
                    f"Received: pairs[{pair}]={dict(features)}"
                )
        return np.array([[pairs[pair][n] for n in self._names] for pair in sorted(pairs)])

    def _scaled(self, features) -> np.ndarray:
        varies = self._range > 0  # what is always the same in training has no scale
        scale = np.where(varies, self._range, 1.0)
        return np.where(varies, (features - self._minimum) / scale, 0.0)
