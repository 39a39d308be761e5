"""What a traced training step hands to its collective operations."""

import collections
import math


def payload_bytes(concrete_function) -> dict[str, list[int]]:
    """Operation, such as "CollectiveReduceV2" -> bytes of what each of its nodes is given.

    Nodes of functions that the step calls are counted once each; none of them lies in a loop.
    All replicas of a process are in its graph.

    Raises:
        ValueError: if a shape is not known before the step runs.
    """
    import tensorflow as tf

    definition = concrete_function.graph.as_graph_def(add_shapes=True)
    functions = definition.library.function
    found = collections.defaultdict(list)
    for node in [*definition.node, *(node for f in functions for node in f.node_def)]:
        if not node.op.startswith("Collective") or "T" not in node.attr:
            continue
        shape = tf.TensorShape(node.attr["_output_shapes"].list.shape[0])
        if not shape.is_fully_defined():
            raise ValueError(
                f"The shapes of collective operations must be known. Received: {shape} of "
                f"{node.op} {node.name!r}"
            )
        size = math.prod(shape) * tf.as_dtype(node.attr["T"].type).size
        found[node.op].append(size)
    return dict(found)
