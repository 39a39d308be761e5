"""The stages of a joint many-task model, and what they may read of each other."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras

from kmtl.models.towers import last_activation


class JointStage(NamedTuple):
    """One task of `kmtl.models.JointManyTaskModel`, with the layer that it adds to the stack.

    A tuple `(name, layer, head, label_dim)` will do where the rest are defaults.

    Args:
        name: The task's name.
        layer: Layer, list of layers or model that is called on the stage's inputs, one after the
            other; for sequences, such as a `keras.layers.Bidirectional` that returns them.
        head: The same on what `layer` returns. For a `pair` it gets a list, as
            `kmtl.layers.SentencePair` takes it.
        label_dim: Size of the label embedding that stages above read. Their head must then give
            probabilities. Defaults to `None`, no label embedding.
        labels_from: Names of the stages whose label embeddings this one reads. Defaults to `None`,
            all below that have one; a stage for single sentences leaves out those of pairs.
        pair: Whether the task is about two sentences. Defaults to `False`.

    Example:

    >>> import keras
    >>> import kmtl
    >>> layer = keras.layers.LSTM(8, return_sequences=True)
    >>> stage = kmtl.models.JointStage("pos", layer, keras.layers.Dense(5, "softmax"), 3)
    >>> print(stage.name, stage.label_dim, stage.labels_from, stage.pair)
    pos 3 None False

    Reference: K. Hashimoto, C. Xiong, Y. Tsuruoka, R. Socher (2017), "A Joint Many-Task Model:
    Growing a Neural Network for Multiple NLP Tasks", EMNLP, arXiv:1611.01587, section 2.
    """

    name: str
    layer: Any
    head: Any
    label_dim: int | None = None
    labels_from: Sequence[str] | None = None
    pair: bool = False


def checked_stages(stages) -> list[JointStage]:
    """The stages, with `labels_from` filled in.

    Raises:
        ValueError: for names that are not one for each stage, for labels that a stage cannot
            read, and for heads that give no probabilities where they are to be read.
    """
    if not isinstance(stages, (list, tuple)) or not stages:
        raise ValueError(f"`stages` must be a list of at least one. Received: stages={stages!r}")
    checked = []
    for stage in stages:
        if not isinstance(stage, tuple) or not 3 <= len(stage) <= len(JointStage._fields):
            raise ValueError(
                "A stage must be a `JointStage` or a tuple of name, layer, head and label_dim. "
                f"Received: {stage!r}"
            )
        checked.append(JointStage(*stage))
    names = [stage.name for stage in checked]
    if len(set(names)) < len(names) or not all(isinstance(n, str) and n for n in names):
        raise ValueError(f"Stages must have names of their own. Received: {names}")
    for k, stage in enumerate(checked):
        dim = stage.label_dim
        if dim is not None and (not isinstance(dim, int) or dim < 1):
            raise ValueError(
                "`label_dim` must be None or an integer >= 1. "
                f"Received: label_dim={dim} for stage {stage.name!r}"
            )
        if dim is not None and last_activation(stage.head) is keras.activations.linear:
            raise ValueError(
                "The head of a stage with a `label_dim` must give probabilities, which the stages "
                f"above read. Received: a last layer without activation for stage {stage.name!r}"
            )
        checked[k] = stage._replace(labels_from=_sources(stage, checked[:k], names))
    return checked


def _sources(stage, below, names):
    """Names of the stages whose labels a stage reads."""
    readable = [s.name for s in below if s.label_dim and (stage.pair or not s.pair)]
    if stage.labels_from is None:
        return readable
    lower = {s.name: s for s in below}
    for name in stage.labels_from:
        if name in lower and name in readable:
            continue
        if name in lower:
            rule = (
                "A stage can read labels of stages that have a `label_dim`, and one for single "
                "sentences none of pairs."
            )
        elif name in names:
            rule = (
                "A stage can read labels of stages below it only, so that no two depend on each "
                "other."
            )
        else:
            rule = f"`labels_from` must name some of the stages {names}."
        raise ValueError(f"{rule} Received: {name!r} for stage {stage.name!r}")
    return list(stage.labels_from)
