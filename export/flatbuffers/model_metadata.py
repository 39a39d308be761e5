"""What a LiteRT file says of itself: its name, what its inputs want, what its heads' values mean.

Android's model binding, MediaPipe Tasks and the TFLite Task Library read the same.
"""

import dataclasses
import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from urllib.parse import quote

from kmtl.export.flatbuffers import metadata_tables as schema
from kmtl.export.flatbuffers.metadata_tables import Table

ENTRY = "TFLITE_METADATA"


@dataclasses.dataclass(frozen=True)
class InputInfo:
    """What an application must know to feed an input.

    Attributes:
        description: What the input is.
        mean: With `std`, what the *application* does before feeding: `(x - mean) / std`, one
            value or one for each channel. What the model does itself is not said here. Empty
            where nothing is known; 0 and 1 say that values are fed as they are.
        std: As `mean`.
        minimum: The smallest of its values, over all or for each channel; empty if unknown.
        maximum: The largest.
    """

    description: str = ""
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    minimum: tuple[float, ...] = ()
    maximum: tuple[float, ...] = ()

    def __post_init__(self):
        lengths = len(self.mean), len(self.std)
        fit = lengths[0] == lengths[1] or min(lengths) == 1
        finite = all(map(math.isfinite, (*self.mean, *self.std)))
        if not (fit and finite and all(x > 0 for x in self.std)):
            raise ValueError(
                "`mean` and `std` must have one value or one for each channel, finite, and `std` "
                f"positive. Received: mean={self.mean}, std={self.std}"
            )


@dataclasses.dataclass(frozen=True)
class ModelMetadata:
    """The description inside of a file.

    Attributes:
        name: The model's name.
        description: What it is.
        inputs: Input name -> `InputInfo`.
        labels: Task -> class names, for heads that have them.
    """

    name: str
    description: str
    inputs: dict[str, InputInfo]
    labels: dict[str, tuple[str, ...]]


def label_file(task: str, names: Sequence[str]) -> tuple[str, bytes]:
    """Name and content of the file inside of the model that holds a head's class names.

    Raises:
        ValueError: for a class name that is not one line of text. Android's reader skips
            empty lines, and the names after one would move.
    """
    bad = [name for name in names if not name.strip() or len(name.splitlines()) != 1]
    if bad:
        raise ValueError(
            "`labels` must be one line of text each, and not blank. "
            f"Received: {bad[0]!r} for task {task!r}"
        )
    text = "".join(f"{name}\n" for name in names)
    return f"{quote(task, safe='')}_labels.txt", text.encode("utf-8")


def read_metadata(content: bytes) -> ModelMetadata | None:
    """The description inside of a `.tflite` file; None if it has none.

    Args:
        content: The file's bytes, with the label files behind the model.

    Raises:
        ValueError: if the description is damaged or names a file that is not there.
    """
    model = Table(content)
    buffers = [entry.number(1, "I") for entry in model.tables(_METADATA) if entry.text(0) == ENTRY]
    if not buffers:
        return None
    described = model.tables(_BUFFERS)[buffers[0] :][:1]
    packed = described[0].data(0) if described else b""
    if packed[4:8] != schema.IDENTIFIER:
        raise ValueError(
            f"A model's metadata must start with the identifier {schema.IDENTIFIER.decode()}. "
            f"Received: {len(packed)} bytes starting with {packed[:8]!r}"
        )
    root = Table(packed)
    graphs = root.tables(schema.Model.GRAPHS)
    inputs = {
        tensor.text(schema.Tensor.NAME): _input(tensor)
        for graph in graphs
        for tensor in graph.tables(schema.Graph.INPUTS)
    }
    files = {
        tensor.text(schema.Tensor.NAME): file.text(schema.File.NAME)
        for graph in graphs
        for tensor in graph.tables(schema.Graph.OUTPUTS)
        for file in reversed(tensor.tables(schema.Tensor.FILES))  # the first one counts
        if file.number(schema.File.TYPE) == schema.TENSOR_AXIS_LABELS
    }
    return ModelMetadata(
        root.text(schema.Model.NAME), root.text(schema.Model.DESCRIPTION), inputs,
        _labels(content, files),
    )  # fmt: skip


# Fields of LiteRT's own schema.
_BUFFERS, _METADATA = 4, 6


def _input(tensor: Table) -> InputInfo:
    mean, std = (), ()
    for unit in tensor.tables(schema.Tensor.PROCESS_UNITS):
        options = unit.table(schema.Union.VALUE)
        if options and unit.number(schema.Union.TYPE) == schema.NORMALIZATION_OPTIONS:
            mean = options.floats(schema.Normalization.MEAN)
            std = options.floats(schema.Normalization.STD)
    stats = tensor.table(schema.Tensor.STATS)
    return InputInfo(
        tensor.text(schema.Tensor.DESCRIPTION),
        mean,
        std,
        stats.floats(schema.Stats.MIN) if stats else (),
        stats.floats(schema.Stats.MAX) if stats else (),
    )


def _labels(content, files: Mapping[str, str]) -> dict[str, tuple[str, ...]]:
    if not files:
        return {}
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            texts = {task: _stored(archive, name) for task, name in files.items()}
    except (zipfile.BadZipFile, LookupError, RuntimeError, EOFError, OSError) as error:
        raise ValueError(
            "The label files that the metadata names must stand behind the model; tools that "
            f"rewrite it may drop them. Received: {', '.join(files.values())} ({error})"
        ) from error
    # Lines end as Android's reader sees them; `splitlines` knows more ends than that.
    return {
        task: tuple(io.StringIO(data.decode("utf-8"), newline=None).read().rstrip("\n").split("\n"))
        for task, data in texts.items()
    }


def _stored(archive, name) -> bytes:
    info = archive.getinfo(name)
    if info.compress_type != zipfile.ZIP_STORED:  # which a few bytes could blow up without end
        raise zipfile.BadZipFile("compressed, which the metadata's format does not allow")
    return archive.read(info)
