"""Low tasks at low layers, and a language model beside: `python -m benchmarks.survey.tagging`.

Parts of speech and chunks of CoNLL-2000, and three kinds of tags of English EWT, by networks that
differ in where each task has its head. Nothing is chosen by test scores.
Writes `tagging.json`, `.md` and `.png`.
"""

import functools

import keras
import numpy as np
from absl import app, flags

import kmtl
from benchmarks.survey import tagging_networks as networks
from benchmarks.survey.records import dots, measure, table
from benchmarks.survey.settings import DATA, SEEDS, save
from benchmarks.survey.tagging_scores import frequent_tags, scores
from kmtl.ops.figures import new_figure

_SENTENCES = flags.DEFINE_integer("sentences", 7000, "At most so many to train with.")
_EPOCHS = flags.DEFINE_integer("epochs", 4, "Passes through them.", lower_bound=1)

STEPS, BATCH, RATE, CLIP = 40, 128, 1e-2, 5.0
WORDS, WEIGHT = 1000, 0.1  # of the language model
CONLL = {"pos": ("POS %", 100, 2), "chunk": ("chunk F1 %", 100, 2), "minutes": ("minutes", 1, 1)}
EWT = {t: (f"{t.upper()} %", 100, 2) for t in ("upos", "xpos", "deprel")}
EWT["minutes"] = CONLL["minutes"]
ONE, OUTER, INNER = "{} alone", "all at the outer layer", "low tasks at lower layers"
OUTER_MODEL, INNER_MODEL = f"{OUTER}, language model", f"{INNER}, language model"
LOW = {"conll2000": {"pos": 1, "chunk": 3}, "ewt": {"upos": 1, "xpos": 2, "deprel": 3}}
PUBLISHED = {
    "conll2000": {
        (INNER, "chunk"): 95.57,
        (OUTER, "chunk"): 95.30,
        (ONE.format("chunk"), "chunk"): 95.28,
    },
    "ewt": {(INNER, "upos"): 96.94, (INNER, "xpos"): 96.36},
}


def main(argv) -> None:
    del argv
    conll = kmtl.datasets.conll2000(f"{DATA.value}/conll2000")
    ewt = kmtl.datasets.ud_english_ewt(f"{DATA.value}/ud_english_ewt")
    read = {
        name: networks.corpus(data, _SENTENCES.value, STEPS)
        for name, data in (("conll2000", conll), ("ewt", ewt))
    }
    chunks = {
        "true part of speech -> its most frequent chunk": functools.partial(frequent_chunk, conll),
        **taggers(read["conll2000"], LOW["conll2000"]),
    }
    trees = {
        "word -> its most frequent tag": functools.partial(frequent_by_word, ewt),
        **taggers(read["ewt"], LOW["ewt"]),
        OUTER_MODEL: functools.partial(train, read["ewt"], outer(LOW["ewt"]), language=True),
        INNER_MODEL: functools.partial(train, read["ewt"], LOW["ewt"], language=True),
    }
    record = {
        "command": f"python -m benchmarks.survey.tagging --seeds={SEEDS.value} "
        f"--sentences={_SENTENCES.value} --epochs={_EPOCHS.value}",
        "setting": setting(read),
        "conll2000": measure(chunks, SEEDS.value),
        "ewt": measure(trees, SEEDS.value),
    }
    folder = save("tagging", record, page(record))
    picture(record).savefig(folder / "tagging.png", dpi=120)


def taggers(data, low: dict) -> dict:
    """Method -> function of a seed: each task alone, all at the top, and the low ones below."""
    alone = {ONE.format(task): {task: networks.LEVELS} for task in low}
    heads = {**alone, OUTER: outer(low), INNER: low}
    return {name: functools.partial(train, data, levels) for name, levels in heads.items()}


def outer(low: dict) -> dict:
    return dict.fromkeys(low, networks.LEVELS)


def train(data, levels, seed: int, language: bool = False) -> dict:
    """Scores on the test part of a network with heads at these levels."""
    keras.utils.set_random_seed(seed)
    model = trained = networks.tagger(data, levels)
    x, y = data.train
    labelled = x, {task: y[task] for task in levels}
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    arguments = {"loss": dict.fromkeys(levels, loss), "missing": dict.fromkeys(levels, -1)}
    if language:
        helper = kmtl.auxiliary.AuxiliaryLanguageModel(
            "language",
            features=model.get_layer(networks.FIRST).output,
            vocabulary_size=data.sizes["word"],
            max_vocabulary=WORDS,
            weight=WEIGHT,
            words="word",
        )
        helpers = kmtl.auxiliary.AuxiliaryTasks([helper])
        trained = helpers.attach(model)
        labelled = helpers.add_targets(labelled)
        arguments = helpers.compile_arguments(**arguments)
    batches = networks.batches(*labelled, BATCH, seed)
    rate = keras.optimizers.schedules.CosineDecay(RATE, _EPOCHS.value * len(batches))
    # Compiled by XLA, a step with loops over words takes several times as long on a CPU.
    trained.compile(keras.optimizers.Adam(rate, clipnorm=CLIP), **arguments, jit_compile=False)
    trained.fit(batches, epochs=_EPOCHS.value, shuffle=False, verbose=0)
    guesses = networks.labels_by(model, data.test[0], BATCH)
    return scores(guesses, data.test[1], data.tags)


def frequent_chunk(data, seed: int) -> dict:
    """The shared task's baseline, which it publishes: it proves how chunks are counted."""
    del seed
    parts = [data.train, data.validation]
    guess = frequent_tags(parts, data.test, "chunk", lambda p: p.y["pos"][p.y["pos"] >= 0].tolist())
    return scores({"chunk": guess}, data.test.y, data.tags)


def frequent_by_word(data, seed: int) -> dict:
    del seed

    def words(part):
        return [word for sentence in part.words for word in sentence]

    guesses = {t: frequent_tags([data.train], data.test, t, words) for t in data.tags}
    return scores(guesses, data.test.y, data.tags)


def setting(read) -> str:
    sizes = " and ".join(f"{len(data.train[0]['word']):,}" for data in read.values())
    kept = " and ".join(f"{100 * data.kept:.1f} %" for data in read.values())
    return (
        f"{sizes} training sentences (CoNLL-2000, EWT), cut at {STEPS} words, which leaves {kept} "
        f"of their words; all test sentences, uncut. The network reads the word in small letters "
        f"with digits as 0, its last three letters and its capitals, in embeddings of "
        f"{', '.join(map(str, networks.EMBEDDED.values()))} numbers that are learned from these "
        f"sentences alone; Gaussian noise of {networks.NOISE}; {networks.LEVELS} bidirectional "
        f"LSTMs of {networks.UNITS} units in each direction; dropout {networks.DROPOUT}; "
        f"{_EPOCHS.value} epochs of Adam in batches of {BATCH}, rate {RATE:g} falling to 0 along "
        f"a cosine, gradients clipped to {CLIP:g}. All tasks learn from each batch, their losses "
        f"summed. The language model's labels are the {WORDS:,} most frequent words, its weight "
        f"is {WEIGHT:g}, the author's (recalled). {SEEDS.value} seeds. Nothing is chosen by test "
        f"scores: of the rates 0.005 and 0.01 the second was better on validation sentences of "
        f"CoNLL-2000 (low tasks at lower layers, 8,000 sentences, 4 epochs, one seed) and is "
        f"taken for all rows; "
        f"sizes and epochs are what the time allows, and the last weights are tested"
    )


def page(record) -> str:
    chunks, trees = record["conll2000"], record["ewt"]
    return f"""# Low tasks at lower layers, and a language model beside

{record["setting"]}.

## CoNLL-2000: parts of speech and chunks

{table(chunks, CONLL)}

On the same seeds, points:

{table(differences(chunks, [(INNER, OUTER), (INNER, None), (OUTER, None)]), scores_of(CONLL))}

The first row is the task's baseline, published as 77.07 (verified). Published beside: chunk F1
95.57 with the low task at the lower layer (verified), in the paper against 95.28 alone and 95.30
with both at the outer layer (recalled, not checked); 93.88 with a language model beside (Rei 2017,
recalled, not checked). {gaps(chunks, PUBLISHED["conll2000"])}

The paper trains a task drawn anew for each step, with plain SGD; here both learn from each batch.

## English EWT: UPOS, XPOS and DEPREL

{table(trees, EWT)}

On the same seeds, points:

{table(differences(trees, PAIRS), scores_of(EWT))}

Low tasks are UPOS at layer 1 and XPOS at 2. The language model reads layer 1, each direction by
itself. DEPREL is tagged word by word, without a tree. Published beside: UPOS 96.94 and XPOS 96.36
by a pretrained transformer (verified, on release 2.5); UPOS of about 93 to 95 by a plain
bidirectional LSTM (recalled, not checked). {gaps(trees, PUBLISHED["ewt"])}

![scores by method](tagging.png)

Made by `{record["command"]}`.
"""


PAIRS = [(INNER, OUTER), (INNER, None), (OUTER_MODEL, OUTER), (INNER_MODEL, INNER)]


def scores_of(columns: dict) -> dict:
    return {name: column for name, column in columns.items() if name != "minutes"}


def differences(rows, pairs) -> dict:
    """What the first of each pair gains over the second, None being each task alone."""
    found = {}
    for first, second in pairs:
        tasks = [task for task in rows[first] if task != "minutes"]
        against = {t: rows[second or ONE.format(t)][t] for t in tasks}
        gains = {t: np.subtract(rows[first][t], against[t]) for t in tasks}
        found[f"{first} − {second or 'each task alone'}"] = gains
    return found


def gaps(rows, published: dict) -> str:
    """How far published scores are, and why that may be where ours are below."""
    points = {
        (name, task): 100 * np.mean(rows[name][task]) - score
        for (name, task), score in published.items()
    }
    text = "Here " + "; ".join(
        f"{task} of `{name}` is {abs(gain):.2f} points {'above' if gain >= 0 else 'below'} "
        f"{published[name, task]:.2f}"
        for (name, task), gain in points.items()
    )
    if min(points.values()) >= 0:
        return f"{text}."
    return (
        f"{text}. Likely reasons for what is below: nothing here is pretrained, where published "
        f"systems start from SENNA's embeddings or the like; {networks.UNITS} units and "
        f"{_EPOCHS.value} epochs; and the sentences that were left out."
    )


def picture(record):
    """A dot for each seed, their mean as a line."""
    figure = new_figure(9.0, 4.6)
    panels = [("conll2000", "chunk"), ("ewt", "deprel")]
    for axes, (name, task) in zip(figure.subplots(2, 1), panels, strict=True):
        dots(axes, {n: row for n, row in record[name].items() if "->" not in n}, task, 100)
        axes.set_xlabel("chunk F1 on CoNLL-2000, %" if task == "chunk" else "DEPREL of EWT, %")
    return figure


if __name__ == "__main__":
    app.run(main)
