"""Tables of `metadata_schema.fbs`, the description inside of a model file: writing and reading.

The schema is the TFLite Support library's, of the version 1.0.0: later ones only add to it.
"""

import enum
import struct
from collections.abc import Mapping

import flatbuffers

IDENTIFIER = b"M001"
MIN_PARSER_VERSION = "1.0.0"

# The numbers of the fields that are used, in the schema's order.
Model = enum.IntEnum("Model", {"NAME": 0, "DESCRIPTION": 1, "GRAPHS": 3, "MIN_PARSER_VERSION": 7})
Graph = enum.IntEnum("Graph", {"NAME": 0, "INPUTS": 2, "OUTPUTS": 3})
Tensor = enum.IntEnum(
    "Tensor",
    {"NAME": 0, "DESCRIPTION": 1, "CONTENT": 3, "PROCESS_UNITS": 4, "STATS": 5, "FILES": 6},
)
Union = enum.IntEnum("Union", {"TYPE": 0, "VALUE": 1})  # the fields of Content and ProcessUnit
Image = enum.IntEnum("Image", {"COLOR_SPACE": 0})
Normalization = enum.IntEnum("Normalization", {"MEAN": 0, "STD": 1})
Stats = enum.IntEnum("Stats", {"MAX": 0, "MIN": 1})
File = enum.IntEnum("File", {"NAME": 0, "TYPE": 2})

# Values of its enumerations.
FEATURE_PROPERTIES, IMAGE_PROPERTIES = 1, 2
RGB, GRAYSCALE = 1, 2
NORMALIZATION_OPTIONS = 1
TENSOR_AXIS_LABELS = 2


def pack_table(fields: Mapping) -> bytes:
    """A flatbuffer of this schema.

    Args:
        fields: Field number -> text, number of one byte, table (as fields again), or list of
            tables or of floats. None and empty ones are left out, but for a table.
    """
    builder = flatbuffers.Builder(256)
    builder.Finish(_write(builder, fields), file_identifier=IDENTIFIER)
    return bytes(builder.Output())


def _write(builder, fields) -> int:
    fields = {n: v for n, v in fields.items() if v is not None and v != "" and v != []}
    # What a table points to must be complete before it begins.
    targets = {n: _target(builder, v) for n, v in fields.items() if not isinstance(v, int)}
    builder.StartObject(max(fields, default=-1) + 1)
    for number, value in fields.items():
        if number in targets:
            builder.PrependUOffsetTRelativeSlot(number, targets[number], 0)
        else:
            builder.PrependUint8Slot(number, value, 0)
    return builder.EndObject()


def _target(builder, value) -> int:
    if isinstance(value, str):
        return builder.CreateString(value)
    if isinstance(value, Mapping):
        return _write(builder, value)
    of_floats = isinstance(value[0], float)
    items = value if of_floats else [_write(builder, item) for item in value]
    builder.StartVector(4, len(items), 4)
    for item in reversed(items):
        if of_floats:
            builder.PrependFloat32(item)
        else:
            builder.PrependUOffsetTRelative(item)
    return builder.EndVector()


class Table:
    """A table of any flatbuffer, read by the numbers of its fields.

    No verifier has seen the metadata of a foreign file; every step is checked here.

    Args:
        content: The flatbuffer.
        position: Where the table begins. Defaults to `None`: the root.
    """

    def __init__(self, content: bytes, position: int | None = None):
        self._content = content
        self._position = self._follow(0) if position is None else position

    def number(self, field: int, form: str = "B") -> int:
        """A scalar of this `struct` format; 0 if it is left out."""
        position = self._field(field)
        return 0 if position is None else self._read(form, position)

    def text(self, field: int) -> str:
        """A string; the empty one if it is left out."""
        return self.data(field).decode("utf-8")

    def data(self, field: int) -> bytes:
        """The bytes of a vector of bytes."""
        start, count = self._vector(field, 1)
        return bytes(self._content[start : start + count])

    def table(self, field: int) -> "Table | None":
        """A table; None if it is left out."""
        position = self._field(field)
        return None if position is None else Table(self._content, self._follow(position))

    def tables(self, field: int) -> list["Table"]:
        """The tables of a vector."""
        start, count = self._vector(field, 4)
        return [Table(self._content, self._follow(start + 4 * i)) for i in range(count)]

    def floats(self, field: int) -> tuple[float, ...]:
        """The numbers of a vector of floats."""
        start, count = self._vector(field, 4)
        return struct.unpack_from(f"<{count}f", self._content, start)

    def _field(self, number) -> int | None:
        index = self._position - self._read("i", self._position)
        entry = 4 + 2 * number
        if entry + 2 > self._read("H", index):
            return None
        offset = self._read("H", index + entry)
        return self._position + offset if offset else None

    def _vector(self, number, size) -> tuple[int, int]:
        """Where the items begin, and how many there are."""
        position = self._field(number)
        if position is None:
            return 0, 0
        start = self._follow(position)
        count = self._read("I", start)
        self._check(start + 4, count * size)
        return start + 4, count

    def _follow(self, position) -> int:
        return position + self._read("I", position)

    def _read(self, form, position) -> int:
        self._check(position, struct.calcsize(f"<{form}"))
        return struct.unpack_from(f"<{form}", self._content, position)[0]

    def _check(self, position, size) -> None:
        if position < 0 or position + size > len(self._content):
            raise ValueError(
                "What a flatbuffer points to must lie inside of it. "
                f"Received: {size} bytes at {position} of {len(self._content)}"
            )
