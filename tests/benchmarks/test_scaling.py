"""What replicas send is counted right, is what the formulas say, and gets onto the page."""

import pytest

from benchmarks import scaling_page
from benchmarks.scaling_methods import METHODS, gradient_bytes, other_bytes
from benchmarks.scaling_tables import MISSING, TABLES, ring_seconds


def test_payload_is_counted_through_nested_functions(mirrored):
    import tensorflow as tf

    from benchmarks.collectives import payload_bytes

    def sum_of_rows():
        return tf.distribute.get_replica_context().all_reduce("SUM", tf.ones((3, 5)))

    @tf.function
    def inner():
        return mirrored.run(sum_of_rows)

    found = payload_bytes(tf.function(lambda: inner()).get_concrete_function())
    assert found == {"CollectiveReduceV2": [60, 60]}  # both replicas are in the graph


@pytest.mark.parametrize("method", METHODS)
def test_a_replica_sends_what_the_formula_says(mirrored, method):
    from benchmarks.scaling_worker import sent_bytes

    found = sent_bytes(mirrored, method, 3)
    expected = gradient_bytes(found["parameters"]) + other_bytes(method, 3, found["shared"])
    assert found["bytes"] == expected


def test_a_ring_sends_all_but_its_own_part_twice():
    assert ring_seconds(100.0, replicas=1, bandwidth=10.0) == 0
    assert ring_seconds(100.0, replicas=4, bandwidth=10.0) == 15  # 3/4 of the bytes, twice


def marks():
    return "".join(f"<!-- begin {name} -->\nold\n<!-- end {name} -->\ntext\n" for name in TABLES)


def test_tables_are_replaced_and_the_text_stays():
    page = scaling_page.fill(marks(), {})
    assert "old" not in page and page.count("text\n") == len(TABLES)
    assert MISSING in page
    assert scaling_page.fill(page, {}) == page


def test_a_page_without_a_mark_is_refused():
    with pytest.raises(ValueError, match="marks of every table once. Received: 0 and 1 of 'sent'"):
        scaling_page.fill(marks().replace("<!-- begin sent -->", ""), {})
