"""What is in the batches: every example once a pass, the same from any step on."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import kmtl
from kmtl.data import plan
from tests.data.mixtures import SIZES, TASKS, arrays, assert_equal, mixture, read, sources

pytestmark = pytest.mark.both_backends

SAMPLINGS = {
    "proportional": {"alpha": 0.5},
    "uniform": {},
    "temperature": {"temperature": 3.0},
    "annealed": {"anneal_epochs": 3, "final_alpha": 0.0, "steps_per_epoch": 10},
    "round_robin": {},
}
CASES = [
    {"sampling": sampling, "mode": mode, **arguments}
    for sampling, arguments in SAMPLINGS.items()
    for mode in ("joint", "one_source")
]
STREAMS = [{"mode": "joint", "streams": ["many"]}, {"mode": "one_source", "streams": list(SIZES)}]


def label(case):
    return "-".join(str(case[key]) for key in ("sampling", "mode", "streams") if key in case)


@pytest.fixture
def small_blocks(monkeypatch):
    """Some 60 steps then cross the boundaries that are 1024 apart."""
    monkeypatch.setattr(plan, "BLOCK", 16)


@pytest.mark.parametrize("case", CASES + STREAMS, ids=label)
def test_a_start_in_the_middle_gives_the_same_batches(case, small_blocks):
    mix = mixture(**case)
    batches = read(mix.dataset(), 60)
    assert mix.epochs_of(60)["few"] > 2
    for start in (16, 41):
        assert_equal(read(mix.dataset(start), 3), batches[start : start + 3])


@pytest.mark.parametrize("case", CASES + STREAMS, ids=label)
def test_every_pass_has_every_example_once(case):
    mix, seen = mixture(**case), {name: np.zeros(size, int) for name, size in SIZES.items()}
    for x, _ in read(mix.dataset(), 60):
        for number, name in enumerate(sorted(SIZES)):
            np.add.at(seen[name], x[x[:, 1] == number, 0].astype(int), 1)
            # No example is seen again before all others were.
            assert seen[name].max() - seen[name].min() <= 1
        if mix.mode == "one_source":
            assert len(np.unique(x[:, 1])) == 1
    assert {name: seen[name].sum() / SIZES[name] for name in SIZES} == mix.epochs_of(60)
    assert all(counts.sum() > 0 for counts in seen.values())


@pytest.mark.parametrize("case", CASES[:2] + STREAMS, ids=label)
def test_shards_together_are_the_batch(case):
    mix = mixture(**case)
    shards = [read(mix.dataset(5, num_shards=3, shard=i), 4) for i in range(3)]
    together = [
        tf.nest.map_structure(lambda *parts: np.concatenate(parts), *step)
        for step in zip(*shards, strict=True)
    ]
    assert_equal(together, read(mix.dataset(5), 4))


def test_blocks_are_no_part_of_the_plan(small_blocks, monkeypatch):
    batches = read(mixture().dataset(), 20)
    monkeypatch.undo()
    assert_equal(read(mixture().dataset(), 20), batches)


@pytest.mark.parametrize("case", CASES, ids=label)
def test_frequencies_are_the_probabilities(case):
    mix, steps = mixture(**case), 3000
    epochs = np.arange(steps) // mix.steps_per_epoch
    expected = np.mean([list(mix.probabilities(epoch).values()) for epoch in epochs], axis=0)
    rows = np.array([passes * SIZES[name] for name, passes in mix.epochs_of(steps).items()])
    # Draws deviate by at most half a unit each: a row, or a batch from one source.
    unit = 12 if mix.mode == "one_source" else 1
    assert rows.sum() == 12 * steps
    np.testing.assert_allclose(rows, expected * 12 * steps, atol=4 * 0.5 * unit * np.sqrt(steps))


def test_joint_batches_hold_the_expected_numbers():
    mix = mixture(sampling="proportional")
    expected = 12 * np.array(list(mix.probabilities().values()))
    for x, _ in read(mix.dataset(), 50):
        assert np.all(np.abs(np.bincount(x[:, 1].astype(int), minlength=3) - expected) < 1)


def test_round_robin_takes_turns():
    batches = read(mixture(sampling="round_robin", mode="one_source").dataset(), 6)
    assert [x[0, 1] for x, _ in batches] == [0, 1, 2, 0, 1, 2]


def test_rows_of_sources_are_mixed():
    """Every half of a batch holds its share of the sources, on average."""
    shares = [np.mean(x[:6, 1] == 1) for x, _ in read(mixture().dataset(), 200)]
    share = mixture().probabilities()["many"]
    np.testing.assert_allclose(np.mean(shares), share, atol=4 * 0.5 / np.sqrt(6 * 200))


def test_passes_and_seeds_differ():
    def order(seed):
        mix = kmtl.data.TaskMixture({"many": arrays("many")}, batch_size=70, seed=seed)
        return [x[:, 0] for x, _ in read(mix.dataset(), 2)]

    first, second = order(0)
    for other in (second, order(1)[0], np.arange(70)):
        assert not np.array_equal(first, other)


@pytest.mark.parametrize("streams", [[], ["many"]], ids=["arrays", "stream"])
def test_labels_go_with_their_rows(streams):
    mix = mixture(streams)
    assert list(mix.missing) == mix.tasks == ["class", "depth", "edges"]
    for x, labels in read(mix.dataset(), 10):
        for number, name in enumerate(sorted(SIZES)):
            rows = x[:, 1] == number
            for task in mix.tasks:
                has = task in TASKS[name]
                expected = x[rows, 0] + TASKS[name][task] if has else mix.missing[task]
                np.testing.assert_array_equal(labels[task][rows], expected)


def test_sample_weights_and_source_input():
    data = sources()
    data["many"] = arrays("many", weighted=True)
    data = {name: ({"image": x}, *rest) for name, (x, *rest) in data.items()}
    mix = kmtl.data.TaskMixture(data, 12, source_input="source")
    for x, labels, weights in read(mix.dataset(), 10):
        np.testing.assert_array_equal(x["source"], x["image"][:, 1])
        assert x["source"].dtype == "int32"
        present = ~np.isnan(labels["depth"])
        np.testing.assert_array_equal(
            weights["depth"], np.where(present, 1 + x["image"][:, 0], 0).astype("float32")
        )
        assert list(weights) == ["depth"]


def test_labels_without_weights_count_once():
    x, labels = arrays("many")
    data = {"a": (x, labels), "b": (x, labels, {"depth": np.full(70, 3.0)})}
    mix = kmtl.data.TaskMixture(data, 8, sampling="round_robin", mode="one_source")
    assert mix.missing == {}
    means = [batch[2]["depth"].mean() for batch in read(mix.dataset(), 2)]
    assert means == [1.0, 3.0]


def test_shapes_are_static_and_floats_are_keras_s():
    for streams in ([], ["many"]):
        x, labels = mixture(streams).dataset(num_shards=3, shard=1).element_spec
        assert x == tf.TensorSpec((4, 2), "float32")
        assert labels["depth"] == tf.TensorSpec((4,), "float32")
        assert labels["class"] == tf.TensorSpec((4,), "int32")
    data = {"a": (np.zeros((3, 2)), {"t": np.zeros(3, "float16")})}
    x, labels = kmtl.data.TaskMixture(data, 2).dataset().element_spec
    assert x.dtype == labels["t"].dtype == keras.config.floatx()


def test_a_stream_s_order_is_not_the_program_s():
    def batches(program_seed):
        keras.utils.set_random_seed(program_seed)
        return read(mixture(["many"]).dataset(), 10)

    assert_equal(batches(1), batches(2))


def test_streams_are_shuffled():
    first, second = (
        np.concatenate([x[:, 0] for x, _ in read(mix.dataset(), 14)])
        for mix in [
            kmtl.data.TaskMixture({"many": sources(["many"])["many"]}, 5, seed=seed)
            for seed in (0, 1)
        ]
    )
    for other in (second, np.arange(70)):
        assert not np.array_equal(first, other)


def test_a_stream_of_unknown_length_is_counted(capsys):
    data = sources(["many"])["many"].filter(lambda x, labels: x[0] < 50)
    mix = kmtl.data.TaskMixture({"half": data}, 5)
    assert mix.sizes == {"half": 50}
    assert "Counting the examples of source 'half'" in capsys.readouterr().out


def test_unsigned_labels_have_the_largest_number_for_absent_ones():
    data = {
        "a": (np.zeros(3), {"seg": np.zeros(3, "uint8")}),
        "b": (np.zeros(3), {"t": np.ones(3)}),
    }
    assert kmtl.data.TaskMixture(data, 2).missing["seg"] == 255


def test_the_table_names_what_is_mixed():
    text = repr(mixture(sampling="uniform", steps_per_epoch=4))
    assert "3 sources" in text and "4 steps" in text
    assert ["many", "70", "0.3333", "class,", "depth"] in [row.split() for row in text.split("\n")]
