"""Whether a sentence holds a name, asked at every word beside a language model."""

from collections.abc import Callable, Mapping

import keras
import numpy as np
from keras.optimizers.schedules import LearningRateSchedule

from kmtl.auxiliary.attaching import marked
from kmtl.auxiliary.auxiliary_task import AuxiliaryTask
from kmtl.auxiliary.checks import check_weight, is_missing
from kmtl.auxiliary.language_model import states_of
from kmtl.auxiliary.word_ids import NO_LABEL, neighbours, word_ids


class NameDetection(AuxiliaryTask):
    """Tells a rare property of a sentence at each of its words, and predicts the next word.

    Use it when the main task looks for something rare in a text, such as names that a speech
    recogniser got wrong, and it is easier to say which sentences hold it: the sentence's label
    turns the attention to its signs, and the language model learns from any text, also from
    sentences without a label.

    ```
    y[t]    = sigmoid(v h[t] + b)                        # the sentence's label, at every word
    p[t]    = softmax(U h[t] + c)                                          # the next word
    L_name  = mean over t of -(label * log y[t] + (1 - label) * log(1 - y[t]))
    L_words = mean over t of -log p[t][word[t + 1]]
    loss    = L_main + weight * L_name + word_weight * L_words
    ```

    `score` is the answer of a sentence's last word, which has read all of it.

    Args:
        name: The task's name; outputs are `<name>`, of shape `(N, steps, 1)`, and
            `<name>_words`.
        sentences: `(x, y) -> labels` of 0 and 1, `(N,)`; or the name of the entry of `y` that
            holds them and is for this task alone.
        features: Name of a recurrent layer of your model that reads forwards and returns a state
            for each step, or that tensor.
        vocabulary_size: Number of word ids, padding included.
        weight: Factor of the sentences' loss. Defaults to `1.0`.
        word_weight: Factor of the words' loss. Defaults to `1.0`.
        missing: Label of sentences that are not known. Defaults to `None`, all are.
        words: Name of the input that holds the word ids, `(N, steps)`. Defaults to `None`, the
            input is one array.
        padding: The id that is no word. Defaults to `0`.

    Raises:
        ValueError: as `kmtl.auxiliary.AuxiliaryTask`, for both weights; on building, as
            `kmtl.auxiliary.AuxiliaryLanguageModel`; for labels that are neither 0, 1 nor
            missing, or not one for each sentence; and for ids not below `vocabulary_size`.

    Example:

    >>> import keras
    >>> import numpy as np
    >>> import kmtl
    >>> x = keras.Input((4,), dtype="int32")
    >>> h = keras.layers.Embedding(20, 8)(x)
    >>> h = keras.layers.SimpleRNN(6, return_sequences=True, name="reader")(h)
    >>> model = keras.Model(x, {"error": keras.layers.Dense(1, activation="sigmoid")(h)})
    >>> task = kmtl.auxiliary.NameDetection("has_name", "has_name", "reader", vocabulary_size=20)
    >>> both = kmtl.auxiliary.AuxiliaryTasks([task]).attach(model)
    >>> sentences = np.array([[5, 7, 0, 0], [3, 9, 4, 2]])
    >>> labels = task.targets(sentences, {"has_name": np.array([1, 0])})
    >>> print(labels["has_name"][..., 0].tolist(), labels["has_name_words"].tolist())
    [[1.0, 1.0, -1.0, -1.0], [0.0, 0.0, 0.0, 0.0]] [[7, -1, -1, -1], [9, 4, 2, -1]]
    >>> print(task.score(sentences, both.predict(sentences, verbose=0)).shape)
    (2,)

    Differences from the paper: each loss is a mean over the words of a batch. How the paper
    weighs the two against each other could not be checked, so both weights are arguments. There
    the network is only a helper, whose score goes to another classifier of words; here it shares
    its recurrent layer with your model. No word marks the end of a sentence.

    Reference: H. Cheng, H. Fang, M. Ostendorf (2015), "Open-Domain Name Error Detection using a
    Multi-Task RNN", EMNLP, figure 1.
    """

    def __init__(
        self,
        name: str,
        sentences: Callable | str,
        features: str | keras.KerasTensor,
        vocabulary_size: int,
        weight: float | LearningRateSchedule = 1.0,
        word_weight: float | LearningRateSchedule = 1.0,
        missing: float | None = None,
        words: str | None = None,
        padding: int = 0,
    ):
        super().__init__(name, sentences, None, "binary_crossentropy", features, weight, NO_LABEL)
        check_weight(word_weight)
        if vocabulary_size < 1:
            raise ValueError(
                f"`vocabulary_size` must be at least 1. Received: vocabulary_size={vocabulary_size}"
            )
        self.vocabulary_size, self.words, self.padding = vocabulary_size, words, padding
        self._missing, self._word_output = missing, f"{name}_words"
        self.losses[self._word_output] = keras.losses.SparseCategoricalCrossentropy(
            from_logits=True
        )
        self.weights[self._word_output] = word_weight
        self.missing[self._word_output] = NO_LABEL

    def build(self, model):
        states = states_of(model, self.features, self.words, 1)
        name = keras.layers.Dense(1, activation="sigmoid", name=f"{self.name}_head")
        words = keras.layers.Dense(self.vocabulary_size, name=f"{self._word_output}_head")
        return {
            self.name: marked(self.name, name(states)),
            self._word_output: marked(self._word_output, words(states)),
        }

    def targets(self, x, y):
        ids = word_ids(x, self.words, self.name, self.vocabulary_size)
        labels = np.asarray(super().targets(x, y)[self.name], "float32").reshape(-1)
        unknown = np.zeros(labels.shape, bool)
        if self._missing is not None:
            unknown = is_missing(labels, self._missing)
        wrong = ~unknown & (labels != 0) & (labels != 1)
        if len(labels) != len(ids) or wrong.any():
            raise ValueError(
                "There must be a label of 0 or 1 for each sentence. Received: "
                f"{labels[wrong][0] if wrong.any() else len(labels)} for {self.name!r}, "
                f"with {len(ids)} sentences"
            )
        known = (ids != self.padding) & ~unknown[:, None]
        return {
            self.name: np.where(known, labels[:, None], NO_LABEL)[..., None].astype("float32"),
            self._word_output: neighbours(ids, 1, self.vocabulary_size, self.padding),
        }

    def score(self, x, answers: Mapping[str, np.ndarray]) -> np.ndarray:
        """The answer of each sentence's last word, `(N,)`; NaN for one without words.

        Args:
            x: The inputs, as in the data.
            answers: What `predict` of the model with this task returned.
        """
        there = word_ids(x, self.words, self.name, self.vocabulary_size) != self.padding
        last = there.shape[1] - 1 - np.argmax(there[:, ::-1], axis=1)
        scores = np.asarray(answers[self.name])[np.arange(len(there)), last, 0]
        return np.where(there.any(axis=1), scores, np.nan)
