"""The process in which TensorFlow's converter runs; `converter.py` starts it by this path.

Each line of its input is a request in JSON: the `folder` of a SavedModel, its `signatures`, whether
fake quantisation becomes `integers`, and the `output` file. Each gets a line in JSON: `{}` when
the file is there, else the `error`. The process ends with its input, and thus with the one that
started it, however that ended.
"""

import json
import os
import sys

# TensorFlow loads these where they are installed, though its converter has no use for them: half
# of the time and a third of the memory that a start takes.
UNUSED = ("jax", "keras", "scipy", "tf_keras")


def serve() -> None:
    """Answers requests until there are no more; takes `sys.path`, as JSON, from the command."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # so that nothing that native code prints gets between the answers
    sys.path[:] = json.loads(sys.argv[1])
    sys.modules.update(dict.fromkeys(UNUSED))
    import tensorflow as tf

    for line in sys.stdin:
        try:
            _convert(tf, **json.loads(line))
            answer = {}
        except Exception as error:  # to the one who asked
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def _convert(tf, folder, signatures, integers, output) -> None:
    converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=signatures)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    if integers:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    with open(output, "wb") as file:
        file.write(converter.convert())


if __name__ == "__main__":
    serve()
