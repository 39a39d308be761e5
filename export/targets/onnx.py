"""One call from a trained model to a verified ONNX file, for runtimes beyond LiteRT."""

import dataclasses
import importlib.util
import logging
import os
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path

import keras

from kmtl.export.compare import VerificationError, compare
from kmtl.export.files import write_together
from kmtl.export.flatbuffers.convert import quiet_stderr
from kmtl.export.folding.fold import fold
from kmtl.export.runtime.reference import expected_outputs, verification_inputs
from kmtl.export.targets.serving import require_tensorflow_backend

TOLERANCE = 1e-5
NEEDED, RUNTIME = ("onnx", "tf2onnx"), "onnxruntime"


@dataclasses.dataclass(frozen=True)
class OnnxResult:
    """What `export_onnx` wrote.

    Attributes:
        path: The `.onnx` file.
        bytes: Its size.
        tasks: The heads' names, sorted.
        opset: Version of ONNX's operations that a runtime must know.
        verified: Whether onnxruntime is installed, so that the file was run and compared.
        errors: Task -> `max_abs_error`, `mean_abs_error`, `relative_error` against the Keras
            model; None if `verified` is False.
    """

    path: Path
    bytes: int
    tasks: tuple[str, ...]
    opset: int
    verified: bool
    errors: dict[str, dict[str, float]] | None


def export_onnx(
    model: keras.Model,
    path: str | os.PathLike,
    tasks: str | Sequence[str] | None = None,
    representative_data=None,
    tolerance: float = TOLERANCE,
) -> OnnxResult:
    """Folds a model and writes it in ONNX, by Keras's own exporter.

    For ONNX Runtime, TensorRT, OpenVINO, browsers and others that read ONNX. Inputs and heads
    keep their names, and the batch may have any size. Where onnxruntime is installed, the file
    gets its name only when every head agrees with the Keras model; `OnnxResult.verified`
    tells. Needs `pip install "kmtl[onnx]"`, which brings onnxruntime, too.

    Args:
        model: A trained functional model with outputs `{task: tensor}`, folded or not.
        path: Where to write; must end in `.onnx`.
        tasks: The tasks to export. Defaults to `None`, all that are not only for training.
        representative_data: Array, or dict of input name -> array, with typical inputs to
            verify on. Defaults to `None`, standard normal noise.
        tolerance: Largest accepted relative error of a head. Defaults to `1e-5`.

    Returns:
        An `OnnxResult`.

    Raises:
        ImportError: if a package is missing; the message tells how to install it.
        ValueError: for bad arguments or data, non-finite weights, or an operation without an
            ONNX form (the message names it).
        VerificationError: if heads are lost or too far off.
        OSError: if the path cannot be written. In each case nothing is left half-written.

    Example:

    ```python
    result = kmtl.export.export_onnx(model, "model.onnx")
    session = onnxruntime.InferenceSession("model.onnx")
    (left,) = session.run(["left"], {"images": images})
    ```
    """
    path = Path(path)
    if path.suffix != ".onnx":
        raise ValueError(f"`path` must end in .onnx. Received: path={str(path)!r}")
    if not tolerance > 0:
        raise ValueError(f"`tolerance` must be positive. Received: tolerance={tolerance}")
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(
            'Export to ONNX needs more packages: pip install "kmtl[onnx]". '
            f"Received: no {', '.join(missing)}"
        )
    require_tensorflow_backend("Export to ONNX")
    plain = fold(model, tasks)
    inputs = verification_inputs(plain, representative_data)
    expected = expected_outputs(model, plain, inputs)
    content = _convert(plain)
    opset = _checked_opset(content, plain)
    verified, errors = importlib.util.find_spec(RUNTIME) is not None, None
    if verified:
        errors = compare(_run(content, inputs), expected, tolerance, "the ONNX file")
    write_together({path: content})
    return OnnxResult(
        path=path,
        bytes=len(content),
        tasks=tuple(sorted(expected)),
        opset=opset,
        verified=verified,
        errors=errors,
    )


def _convert(plain) -> bytes:
    # Keras's exporter asks that the model has been called, and for a file to write.
    plain(keras.tree.map_structure(lambda x: _one_row(x.shape, x.dtype), plain.input))
    logger = logging.getLogger("tf2onnx")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)  # what it reports is checked and raised here
    try:
        with tempfile.TemporaryDirectory() as folder, quiet_stderr(), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # how Keras makes tf2onnx fit newer NumPy
            file = Path(folder) / "model.onnx"
            plain.export(str(file), format="onnx", verbose=False)
            return file.read_bytes()
    finally:
        logger.setLevel(level)


def _one_row(shape, dtype):
    return keras.ops.zeros((1, *(size or 1 for size in shape[1:])), dtype)


def _checked_opset(content, plain) -> int:
    """Version of the operations, after a look at them and at the names.

    The exporter writes operations that it does not know as they are, and only logs them.
    """
    import onnx

    model = onnx.load_from_string(content)
    versions = {entry.domain: entry.version for entry in model.opset_import}
    unknown = sorted(
        f"{node.op_type} in {node.name}"
        for node in _nodes(onnx, model.graph)
        if not onnx.defs.has(node.op_type, versions.get(node.domain, 0), node.domain)
    )
    if unknown:
        raise ValueError(
            "Every operation must have an ONNX form. "
            f"Received: {', '.join(unknown)} of model {plain.name!r}"
        )
    onnx.checker.check_model(model)
    names = sorted(x.name for x in model.graph.output)
    if names != sorted(plain.output):
        raise VerificationError(
            f"The ONNX file must have the heads {sorted(plain.output)}. Received: {names}"
        )
    return versions[""]


def _nodes(onnx, graph):
    """All nodes, those in the branches and bodies of others, too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(onnx, attribute.g)


def _run(content, inputs):
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    names = [x.name for x in session.get_outputs()]
    return dict(zip(names, session.run(names, dict(inputs)), strict=True))
