"""Which features a network should read, which it should predict, and which it should not see."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np

VARIANTS = ("input", "output", "ignored")


@dataclasses.dataclass(frozen=True)
class InputOrOutput:
    """Result of `kmtl.analysis.rank_input_or_output`; print it.

    Attributes:
        scores: Column -> variant (`"input"`, `"output"`, `"ignored"`) -> the main task's
            validation score, the mean over the seeds.
        deviations: The same of the standard deviations over the seeds.
        higher_is_better: Direction of the score.
    """

    scores: dict[int, dict[str, float]]
    deviations: dict[int, dict[str, float]]
    higher_is_better: bool

    @property
    def gains(self) -> dict[int, float]:
        """Column -> how much better it is as an output than as an input, the best first."""
        sign = 1.0 if self.higher_is_better else -1.0
        gains = {c: sign * (s["output"] - s["input"]) for c, s in self.scores.items()}
        return dict(sorted(gains.items(), key=lambda item: -item[1]))

    @property
    def best(self) -> dict[int, str]:
        """Column -> the variant with the best score; of equal ones the first."""
        pick = max if self.higher_is_better else min
        return {c: pick(VARIANTS, key=scores.get) for c, scores in self.scores.items()}

    def __str__(self) -> str:
        lines = ["column " + " ".join(f"{v:>16}" for v in VARIANTS) + "   best"]
        for column in self.gains:
            cells = (
                f"{self.scores[column][v]:9.4g} ±{self.deviations[column][v]:6.2g}"
                for v in VARIANTS
            )
            lines.append(
                f"{column:6} " + " ".join(f"{c:>16}" for c in cells) + f"   {self.best[column]}"
            )
        return "\n".join(lines)


def rank_input_or_output(
    model_fn: Callable,
    data: tuple,
    validation: tuple,
    main: str,
    columns: Sequence[int] | None = None,
    metric: str = "loss",
    higher_is_better: bool = False,
    epochs: int = 20,
    batch_size: int = 32,
    seeds: Sequence[int] = (0,),
) -> InputOrOutput:
    """Trains three variants for each feature: it is read, predicted, or left out.

    Use it before `kmtl.auxiliary.InputsAsOutputs`, on a small network: it trains
    `(1 + 2 * columns) * seeds` models. All other features stay inputs. Judge by scores that
    differ by more than their deviations, and measure the choice on a test set of its own, as the
    best of many is found on the validation data.

    ```
    scores[c]["input"]   = score(model_fn(all, []))               # the same for all columns
    scores[c]["output"]  = score(model_fn(all without c, [c]))
    scores[c]["ignored"] = score(model_fn(all without c, []))
    ```

    Args:
        model_fn: `(read, predicted) -> model`: a compiled model that takes the columns `read` and
            has, besides the main tasks, an output `column_<c>` for each `c` in `predicted`.
        data: `(x, y)` to train on: an array of features in the last axis, and a dict of task name
            -> labels.
        validation: The same, to measure on.
        main: The task whose score counts.
        columns: Which to try. Defaults to `None`, all.
        metric: Name of the score, as in `compile`. Defaults to `"loss"`.
        higher_is_better: Direction of the score. Defaults to `False`.
        epochs: Of each training. Defaults to `20`.
        batch_size: Of each training. Defaults to `32`.
        seeds: One training each. Defaults to `(0,)`.

    Returns:
        A `kmtl.analysis.InputOrOutput`.

    Raises:
        ValueError: for fewer than two features, columns that `x` lacks, labels without the main
            task, no seeds, and a score that the model does not have or that is not finite.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import kmtl
    >>> def model_fn(read, predicted):
    ...     x = keras.Input((len(read),))
    ...     h = keras.layers.Dense(4, activation="tanh")(x)
    ...     heads = {f"column_{c}": keras.layers.Dense(1)(h) for c in predicted}
    ...     model = kmtl.MultiTaskModel(x, {"price": keras.layers.Dense(1)(h), **heads})
    ...     model.compile("adam", loss="mse")
    ...     return model
    >>> x = np.random.default_rng(0).normal(size=(64, 3))
    >>> data = x, {"price": x[:, :1]}
    >>> found = kmtl.analysis.rank_input_or_output(
    ...     model_fn, data, data, main="price", columns=[0], epochs=1
    ... )
    >>> print(sorted(found.scores[0]))
    ['ignored', 'input', 'output']

    Differences from the paper: it chooses features by hand. The three variants are its
    experiments, one feature at a time.

    Reference: R. Caruana, V. R. de Sa (1997), "Promoting Poor Features to Supervisors: Some
    Inputs Work Better as Outputs", NIPS 9, pages 389 to 395.
    """
    x, y = data
    width = np.shape(x)[-1]
    if width < 2:
        raise ValueError(
            "`x` must have at least two features, as a network reads all but the one tried. "
            f"Received: x of shape {np.shape(x)}"
        )
    columns = list(range(width)) if columns is None else list(columns)
    if not columns or not set(columns) <= set(range(width)):
        raise ValueError(
            f"`columns` must be among the {width} of the inputs. Received: columns={columns}"
        )
    if not isinstance(y, Mapping) or main not in y:
        raise ValueError(
            f"The labels must be a dict with the task `main`. Received: main={main!r}, "
            f"{sorted(y) if isinstance(y, Mapping) else type(y)}"
        )
    if not len(seeds):
        raise ValueError("`seeds` must hold at least one. Received: none")

    def score(read, predicted):
        found = []
        for seed in seeds:
            keras.utils.set_random_seed(seed)
            model = model_fn(read, predicted)
            inputs, labels = _columns(*data, read, predicted)
            model.fit(inputs, labels, batch_size=batch_size, epochs=epochs, verbose=0)
            inputs, labels = _columns(*validation, read, predicted)
            logs = model.evaluate(
                inputs, labels, batch_size=batch_size, verbose=0, return_dict=True
            )
            found.append(_score_of(logs, main, metric))
        return float(np.mean(found)), float(np.std(found))

    every = list(range(width))
    read_all = score(every, [])
    scores, deviations = {}, {}
    for column in columns:
        others = [c for c in every if c != column]
        found = dict(
            zip(VARIANTS, (read_all, score(others, [column]), score(others, [])), strict=True)
        )
        scores[column] = {variant: mean for variant, (mean, _) in found.items()}
        deviations[column] = {variant: deviation for variant, (_, deviation) in found.items()}
    return InputOrOutput(scores, deviations, higher_is_better)


def _columns(x, y, read, predicted):
    x = np.asarray(x)
    return x[..., read], {**y, **{f"column_{c}": x[..., [c]] for c in predicted}}


def _score_of(logs, main, metric):
    several = any(name.startswith(f"{main}_") for name in logs)
    name = f"{main}_{metric}" if several else metric  # Keras leaves out the only task's name
    if name not in logs or not np.isfinite(logs[name]):
        raise ValueError(
            "`metric` must be one of the main task's scores, and finite. "
            f"Received: {name!r} in {dict(logs)}"
        )
    return logs[name]
