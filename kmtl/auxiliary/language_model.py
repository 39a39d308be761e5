"""A language model in both directions, as a helper of a tagger."""

from collections.abc import Mapping, Sequence

import keras
import numpy as np
from keras import ops
from keras.optimizers.schedules import LearningRateSchedule

from kmtl.auxiliary.attaching import features_of, marked
from kmtl.auxiliary.auxiliary_task import AuxiliaryTask
from kmtl.auxiliary.word_ids import NO_LABEL, neighbours, word_ids

OFFSETS = {"forward": 1, "backward": -1}


class AuxiliaryLanguageModel(AuxiliaryTask):
    """Predicts the next word from what was read so far, and the one before from the rest.

    Use it for taggers of text: their labels are few and one-sided (most words have "none"), while
    each word is a label for its neighbours. It needs no data but the sentences, also those whose
    tags are missing.

    ```
    m_d[t]  = tanh(W_d h_d[t] + b_d)                     # d forward, backward; h_d: `features`
    logits  = V_d m_d[t] + c_d
    loss_d  = mean over t of -log softmax(logits)[word[t + 1]]            # forward
            = mean over t of -log softmax(logits)[word[t - 1]]            # backward
    loss    = L_main + weight * (loss_forward + loss_backward)
    ```

    The two states must not see the word that they predict: a forward state reads the words up to
    t, a backward one those from t on. So take the *first* recurrent layer, one state for each
    direction: a second layer above both, or one that merges them, has read the answer. Only
    words with a neighbour have a label; the ends and the padding have -1.

    Outputs are a word for each of the ids, so ids have to be sorted by falling frequency, as
    those of `kmtl.datasets.conll2000` are: all from `max_vocabulary - 1` on are one word.

    The loss is a mean over words. The authors sum over the words of a batch, of the tagger's
    loss as well, and then `weight` says nearly the same (a sentence of n words has n - 1
    neighbours). Where the main loss is one value for each sentence, as of a CRF, their balance
    is `weight` times the words of a sentence; raise `weight` by that to have it.

    Args:
        name: Start of the outputs' names, `<name>_forward` and `<name>_backward`.
        features: For each of `directions` the name of a layer of your model that returns a state
            for each step in the order of the words, or that tensor.
        vocabulary_size: Number of word ids, padding included.
        hidden: Units of `m_d`. Defaults to `50`.
        max_vocabulary: Most words that are told apart. Defaults to `7500`.
        weight: Factor of both losses. Defaults to `0.1`.
        directions: `"forward"`, `"backward"` or both. Defaults to `("forward", "backward")`.
        words: Name of the input that holds the word ids, `(N, steps)`. Defaults to `None`, the
            input is one array.
        padding: The id that is no word. Defaults to `0`.

    Raises:
        ValueError: as `kmtl.auxiliary.AuxiliaryTask`; for other directions, or not one of
            `features` for each; for sizes below 1; on building, for a `Bidirectional` layer that
            merges its directions, a recurrent layer that returns its states backwards, features
            that are no states of steps, and such that see the words to predict; and for data
            whose ids are not below `vocabulary_size`.

    Example: two recurrent layers as a bidirectional one, of which each state is a tensor.
    (`Bidirectional(..., merge_mode=None)` gives the same two tensors.)

    >>> import keras
    >>> import numpy as np
    >>> import kmtl
    >>> x = keras.Input((5,), dtype="int32")
    >>> h = keras.layers.Embedding(20, 8)(x)
    >>> forward = keras.layers.LSTM(6, return_sequences=True, name="forward")(h)
    >>> backward = keras.layers.LSTM(6, return_sequences=True, go_backwards=True)(h)
    >>> backward = keras.ops.flip(backward, axis=1)  # the states in the order of the words again
    >>> both = keras.layers.Concatenate()([forward, backward])
    >>> model = keras.Model(x, {"pos": keras.layers.Dense(4, activation="softmax")(both)})
    >>> task = kmtl.auxiliary.AuxiliaryLanguageModel(
    ...     "word", features=("forward", backward), vocabulary_size=20, max_vocabulary=10
    ... )
    >>> helpers = kmtl.auxiliary.AuxiliaryTasks([task])
    >>> trained = helpers.attach(model)
    >>> print({name: y.shape for name, y in sorted(trained.output.items())})
    {'pos': (None, 5, 4), 'word_backward': (None, 5, 10), 'word_forward': (None, 5, 10)}
    >>> labels = task.targets(np.array([[3, 15, 2, 0, 0]]), {})
    >>> print(labels["word_forward"], labels["word_backward"])
    [[ 9  2 -1 -1 -1]] [[-1  3  9 -1 -1]]

    Differences from the paper: the mean above; marks for begin and end of a sentence are no
    labels, as in the authors' code. Their vocabulary, too, is cut at the last id. That is read
    in their code (marekrei/sequence-labeler), and so are the defaults of `hidden` and
    `max_vocabulary`; that of `weight` is recalled from the paper.

    Reference: M. Rei (2017), "Semi-supervised Multitask Learning for Sequence Labeling", ACL,
    arXiv:1704.07156, section 3.
    """

    def __init__(
        self,
        name: str,
        features: Sequence[str | keras.KerasTensor],
        vocabulary_size: int,
        hidden: int = 50,
        max_vocabulary: int = 7500,
        weight: float | LearningRateSchedule = 0.1,
        directions: Sequence[str] = ("forward", "backward"),
        words: str | None = None,
        padding: int = 0,
    ):
        super().__init__(name, None, None, None, tuple(features), weight)
        self.directions = tuple(directions)
        known = set(self.directions) <= set(OFFSETS)
        if not known or not 0 < len(set(self.directions)) == len(self.directions):
            raise ValueError(
                f"`directions` must be one or both of {tuple(OFFSETS)}. "
                f"Received: directions={directions}"
            )
        if isinstance(features, str) or len(self.features) != len(self.directions):
            raise ValueError(
                "`features` must be a tuple with a layer's name or a tensor for each of "
                f"{self.directions}. Received: features={features}"
            )
        for argument, value in (
            ("vocabulary_size", vocabulary_size),
            ("hidden", hidden),
            ("max_vocabulary", max_vocabulary),
        ):
            if value < 1:
                raise ValueError(f"`{argument}` must be at least 1. Received: {argument}={value}")
        self.vocabulary_size, self.max_vocabulary = vocabulary_size, max_vocabulary
        self.hidden, self.words, self.padding = hidden, words, padding
        self._outputs = {d: f"{name}_{d}" for d in self.directions}
        self.losses = {
            output: keras.losses.SparseCategoricalCrossentropy(from_logits=True)
            for output in self._outputs.values()
        }
        self.weights = dict.fromkeys(self.losses, weight)
        self.missing = dict.fromkeys(self.losses, NO_LABEL)

    @property
    def num_labels(self) -> int:
        """How many words are told apart."""
        return min(self.vocabulary_size, self.max_vocabulary)

    def build(self, model):
        outputs = {}
        pairs = zip(self._outputs.items(), self.features, strict=True)
        for (direction, output), features in pairs:
            hidden = keras.layers.Dense(self.hidden, activation="tanh", name=f"{output}_hidden")
            words = keras.layers.Dense(self.num_labels, name=f"{output}_words")
            states = states_of(model, features, self.words, OFFSETS[direction])
            outputs[output] = marked(output, words(hidden(states)))
        return outputs

    def targets(self, x, y):
        ids = word_ids(x, self.words, self.name, self.vocabulary_size)
        return {
            output: neighbours(ids, OFFSETS[direction], self.num_labels, self.padding)
            for direction, output in self._outputs.items()
        }


def states_of(
    model: keras.Model, features: str | keras.KerasTensor, words: str | None, offset: int
) -> keras.KerasTensor:
    """States of one direction, one for each step, in the order of the words.

    Args:
        model: A functional model.
        features: Name of a layer of it, or a tensor of its graph.
        words: Name of the input that holds the word ids, or None where it is the only one.
        offset: Where the word is that they are to predict: 1 for the next, -1 for the one before.

    Raises:
        ValueError: for a `Bidirectional` layer that merges its directions, a recurrent layer that
            goes backwards, features without steps, and such that see the word to predict.
    """
    states = features_of(model, features)
    layer = states._keras_history.operation
    if isinstance(layer, keras.layers.Bidirectional) and layer.merge_mode is not None:
        raise ValueError(
            "`features` must be the states of one direction: merged ones have read the word that "
            "they are to predict. Take the two tensors of `Bidirectional(..., merge_mode=None)`, "
            f"or two layers. Received: {layer.name!r} with merge_mode={layer.merge_mode!r}"
        )
    if getattr(layer, "go_backwards", False):
        raise ValueError(
            "`features` must be states in the order of the words, and a layer with "
            "go_backwards=True returns the last word's first. Give the flipped tensor, "
            f"`keras.ops.flip(states, axis=1)`. Received: {layer.name!r}"
        )
    if len(states.shape) != 3:
        raise ValueError(
            "`features` must have a state for each step, (batch, steps, units), as with "
            f"return_sequences=True. Received: shape {states.shape} of {layer.name!r}"
        )
    if _sees(model, states, words, offset):
        side = "after" if offset == 1 else "before"
        raise ValueError(
            "`features` must be made without the words that they are to predict. Received: "
            f"{layer.name!r}, whose states depend on the words {side} theirs"
        )
    return states


def _sees(model, states, words, offset):
    """Whether other words on the side of the one to predict change the state at the far end."""
    if words is not None and (not isinstance(model.input, Mapping) or words not in model.input):
        raise ValueError(
            f"`words` must name an input of the model, and be None where there is one without a "
            f"name. Received: words={words!r}, inputs {model.input}"
        )
    read = model.inputs[0] if words is None else model.input[words]
    (place,) = (n for n, x in enumerate(model.inputs) if x is read)
    given = [np.ones([size or 4 for size in (x.shape[0] or 1, *x.shape[1:])], x.dtype)
             for x in model.inputs]  # fmt: skip
    if given[place].shape[1] == 1:
        return False
    state, others = (0, np.s_[1:]) if offset == 1 else (-1, np.s_[:-1])
    reader = keras.Model(model.inputs, states)
    before = ops.convert_to_numpy(reader(given))[:, state]
    given[place][:, others] = 0
    after = ops.convert_to_numpy(reader(given))[:, state]
    return not np.allclose(after, before, atol=0, equal_nan=True)
