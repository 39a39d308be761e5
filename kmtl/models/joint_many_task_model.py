"""A joint many-task model: a layer for each task, which reads what the tasks below predict."""

from collections.abc import Sequence

import keras

from kmtl.layers.label_embedding import LabelEmbedding
from kmtl.models.joint_stage import JointStage, checked_stages
from kmtl.models.multi_task_model import MultiTaskModel
from kmtl.models.towers import as_model_inputs, layer_prefix, make_inputs

SECOND = "_second"


def JointManyTaskModel(
    stages: Sequence[JointStage | tuple],
    inputs=None,
    encoder=None,
    name: str | None = None,
) -> MultiTaskModel:
    """A stack that grows by a layer with each task, from simple tasks to those built on them.

    Choose it over `LayerwiseSupervision` for a hierarchy of several tasks with data sets of their
    own: each layer also reads the words and what lower tasks predict, softly, so that a higher
    task's error can correct them. Train it stage by stage, with
    `kmtl.models.SuccessiveStages`.

    ```
    x          = encoder(inputs)                                      # word vectors
    h[1]       = layer_1(x)
    h[k]       = layer_k([h[k - 1]; x; y[s] for s in labels_from])
    outputs[k] = head_k(h[k])
    y[k]       = sum_c outputs[k][c] * e[k][c]                        # soft label embedding
    ```

    A stage for pairs runs the stack on two sentences, by the same weights, and its head gets
    `[h[k] of the first, h[k] of the second, y[s] of pairs]`:

    ```
    head = [kmtl.layers.SentencePair(), keras.layers.Dense(5, "softmax")]     # relatedness
    head = [kmtl.layers.SentencePair(signed=True), keras.layers.Dense(3, "softmax")]
    ```

    with `keras.losses.KLDivergence` for relatedness, whose labels are distributions over scores,
    and a cross-entropy for entailment. The model then has a second input, called
    `<first>_second`. Tasks of single sentences are predicted of the first one; alone (by
    `model_of_task`, or exported with `tasks=`) they have one input.

    Args:
        stages: The tasks from the bottom up, `kmtl.models.JointStage` or tuples `(name, layer,
            head, label_dim)`. Their layers are used as they are, not copied.
        inputs: A `keras.Input` or a shape without the batch axis. Defaults to `None`: that of
            `encoder`, if it is a model.
        encoder: Layer, list of layers or model that makes the word vectors, such as a
            `keras.layers.Embedding(..., mask_zero=True)`. Defaults to `None`: the inputs are
            word vectors already.
        name: The model's name. Defaults to `None`, a name made by Keras.

    Returns:
        A `kmtl.MultiTaskModel`.

    Raises:
        ValueError: for stages without names of their own, more than one input, and a stage that
            reads labels of one that is not below it, or that has none.

    Example:

    >>> import keras
    >>> import kmtl
    >>> def lstm():
    ...     return keras.layers.Bidirectional(keras.layers.LSTM(4, return_sequences=True))
    >>> stages = [
    ...     ("pos", lstm(), keras.layers.Dense(5, "softmax"), 3),
    ...     ("chunk", lstm(), keras.layers.Dense(4, "softmax"), 2),
    ...     ("dep", lstm(), kmtl.layers.DependencyHead(num_labels=2)),
    ... ]
    >>> words = keras.layers.Embedding(50, 6, mask_zero=True)
    >>> model = kmtl.models.JointManyTaskModel(stages, inputs=(7,), encoder=words)
    >>> print(model.get_layer("dep_inputs").output.shape)  # 8 + 6 + 3 + 2
    (None, 7, 19)

    Differences from the paper: any layers, and as many stages as are given. Heads with ReLU or
    Maxout layers are the user's to make. The character n-gram vectors of its words are an
    `encoder` to give. Whether the label embedding of relatedness goes into entailment's head as
    here is from memory of the paper.

    Reference: K. Hashimoto, C. Xiong, Y. Tsuruoka, R. Socher (2017), "A Joint Many-Task Model:
    Growing a Neural Network for Multiple NLP Tasks", EMNLP, arXiv:1611.01587, section 2.
    """
    stages = checked_stages(stages)
    tensors = make_inputs(encoder, inputs)
    if len(tensors) != 1:
        raise ValueError(
            "A sentence must be one input. "
            f"Received: {len(tensors)} inputs, {[x.name for x in tensors]}"
        )
    if any(stage.pair for stage in stages):
        x = tensors[0]
        second = keras.Input(batch_shape=x.shape, dtype=x.dtype, name=f"{x.name}{SECOND}")
        tensors.append(second)
    words = [_run(encoder, x) for x in tensors]
    features, labels, outputs = [None] * len(words), {}, {}
    for k, stage in enumerate(stages):
        # Above the last stage for pairs nothing reads the second sentence.
        count = 2 if any(s.pair for s in stages[k:]) else 1
        by_word = [s.name for s in stages[:k] if s.name in stage.labels_from and not s.pair]
        features = [
            _run(stage.layer, x) for x in _joined(stage, features, words, labels, by_word, count)
        ]
        if stage.pair:
            of_pair = [labels[s][0] for s in stage.labels_from if s not in by_word]
            made = [_run(stage.head, [*features, *of_pair])]
        else:
            made = [_run(stage.head, h) for h in features]
        outputs[stage.name] = made[0]
        if stage.label_dim:
            prefix = layer_prefix(stage.name)
            embed = LabelEmbedding(stage.label_dim, name=f"{prefix}_label_embedding")
            labels[stage.name] = [embed(p) for p in made]
    return MultiTaskModel(as_model_inputs(tensors), outputs, name=name)


def _joined(stage, below, words, labels, by_word, count):
    """What a stage's layer reads, of each sentence that is still needed."""
    if below[0] is None:
        return words[:count]
    join = keras.layers.Concatenate(name=f"{layer_prefix(stage.name)}_inputs")
    return [
        join([below[n], words[n], *(labels[source][n] for source in by_word)]) for n in range(count)
    ]


def _run(layers, x):
    for layer in layers if isinstance(layers, (list, tuple)) else [layers]:
        x = x if layer is None else layer(x)
    return x
