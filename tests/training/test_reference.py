"""docs/train.md names every key of the schema, with its type and default, and no other."""

import re
import typing
from pathlib import Path

import keras
import pytest
from pydantic import BaseModel
from pydantic_core import PydanticUndefined

if keras.backend.backend() != "tensorflow":
    pytest.skip("kmtl.training is for the TensorFlow backend", allow_module_level=True)

import yaml

from kmtl.training.configuration import schema, schema_data, schema_values
from kmtl.training.configuration.config import parse_config

PAGE = Path(__file__).resolve().parents[2] / "docs" / "train.md"
PARTS = {
    "The file": schema.Config,
    "data": schema_data.Data,
    "A source: npz": schema_data.Arrays,
    "A source: csv or parquet": schema_data.Table,
    "A source: tfrecord": schema_data.Records,
    "A feature of tfrecord": schema_data.Feature,
    "A source: python": schema_data.Function,
    "A task of a source": schema_data.Task,
    "network: kmtl's": schema.LayeredNetwork,
    "A head": schema.Head,
    "network: your own": schema.OwnNetwork,
    "training": schema.Training,
    "training.early_stopping": schema.EarlyStopping,
    "training.backup": schema.Backup,
    "An entry of export": schema.Export,
}
PLAIN = {str: "text", bool: "true or false", float: "number", int: "integer", typing.Any: "any"}
# What validators make of `Any` and `str`; by name, as they have no other mark.
BY_VALIDATOR = {
    "_entry_point": "module:function",
    "_specification": "object",
    "_optional": "object or null",
    "_interval": "epoch, or integer >= 1",
}


def type_of(annotation, metadata=()) -> str:
    """A type as the page writes it."""
    for mark in metadata:
        name = getattr(getattr(mark, "func", None), "__name__", None)
        if name in BY_VALIDATOR:
            return BY_VALIDATOR[name]
    metadata = [mark for m in metadata for mark in getattr(m, "metadata", [m])]
    bounds = [f" >= {m.ge}" for m in metadata if hasattr(m, "ge")]
    bounds += [f" > {m.gt:g}" for m in metadata if hasattr(m, "gt")]
    origin, inner = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is typing.Annotated:
        return type_of(inner[0], inner[1:])
    if origin is typing.Literal:
        return " ".join(str(value).lower() for value in inner)
    if origin is list:
        return f"list of {type_of(inner[0])}"
    if origin is dict:
        return f"mapping of {type_of(inner[1])}"
    if inner:
        kinds = [type_of(kind) for kind in inner if kind is not type(None)]
        return " or ".join(dict.fromkeys(kinds))
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "part"
    return PLAIN[annotation] + "".join(bounds)


def default_of(field) -> str:
    if field.default is PydanticUndefined:
        return "required"
    shown = yaml.safe_dump(field.default, default_flow_style=True)
    return shown.removesuffix("\n").removesuffix("\n...")


def rows_of(part) -> list[tuple[str, str, str]]:
    return [
        (name, type_of(field.annotation, field.metadata), default_of(field))
        for name, field in part.model_fields.items()
    ]


def sections():
    text = PAGE.read_text(encoding="utf-8")
    for section in re.split(r"^#+ ", text, flags=re.M)[1:]:
        title, _, body = section.partition("\n")
        rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*?) \| (.+?) \|$", body, re.M)
        yield title.replace("`", ""), rows


@pytest.mark.parametrize("title", PARTS)
def test_every_key_is_there(title):
    found = dict(sections())[title]
    assert [row[:3] for row in found] == rows_of(PARTS[title])


def test_every_part_is_there():
    modules = vars(schema) | vars(schema_data) | vars(schema_values)
    parts = {v for v in modules.values() if isinstance(v, type) and issubclass(v, BaseModel)}
    assert parts - {BaseModel, schema_values.Part} == set(PARTS.values())
    assert {title for title, rows in sections() if rows} == set(PARTS)


def test_examples_of_the_page_are_valid():
    text = PAGE.read_text(encoding="utf-8")
    blocks = [block.partition("```")[0] for block in text.split("```yaml\n")[1:]]
    assert blocks
    for block in blocks:
        parse_config(block)
