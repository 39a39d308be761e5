"""What pydantic found, as kmtl says it: the key by its path, the rule, the value."""

import difflib
import typing
from collections.abc import Iterable, Mapping

from pydantic import BaseModel

from kmtl.training.configuration.schema import Config

LONGEST = 80

_KINDS = {
    "int_type": "an integer",
    "int_from_float": "an integer",
    "float_type": "a number",
    "bool_type": "true or false",
    "string_type": "a text",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "list_type": "a list",
}
_BOUNDS = {"greater_than_equal": ("ge", "at least"), "greater_than": ("gt", "more than")}


def complaint(error: Mapping, raw: Mapping) -> str:
    """A sentence on one error.

    Args:
        error: One of pydantic's `ValidationError.errors()`.
        raw: What was validated.
    """
    kind, value = error["type"], error["input"]
    path = _path(error["loc"], raw, kind)
    context = error.get("ctx", {})
    if kind == "missing":
        return f"`{path}` must be given. Received: nothing"
    if kind == "extra_forbidden":
        name = str(error["loc"][-1])
        known = _known(error["loc"])
        return f"`{path}` must be a known key{_hint(name, known)}. Received: {name}"
    if kind == "union_tag_not_found":
        return f"`{path}.{_bare(context)}` must be given. Received: nothing"
    if kind == "union_tag_invalid":
        known = context["expected_tags"].replace("'", "").split(", ")
        rule = f"must be one of {', '.join(known)}{_nearest(context['tag'], known)}"
        return f"`{path}.{_bare(context)}` {rule}. Received: {context['tag']}"
    if kind in _BOUNDS:
        key, words = _BOUNDS[kind]
        rule = f"must be {words} {context[key]}"
    elif kind == "too_short":
        rule = f"must have at least {context['min_length']} entry"
    elif kind in _KINDS:
        rule = f"must be {_KINDS[kind]}"
    elif kind == "literal_error":
        known = context["expected"].replace("'", "").replace(" or ", ", ").split(", ")
        rule = f"must be one of {', '.join(known)}{_nearest(str(value), known)}"
    else:
        rule = str(context.get("error", error["msg"]))
    return f"`{path}` {rule}. Received: {shown(value)}"


def shown(value) -> str:
    """A value for a message, shortened where it is long."""
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]} ..."


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that is most like another, if any is."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.5)
    return found[0] if found else None


def _hint(name, known):
    """The nearest name, or all of them."""
    return _nearest(name, known) or (f", one of {', '.join(known)}" if known else "")


def _nearest(name, known):
    likely = nearest(name, known)
    return "" if likely is None else f"; the nearest is {likely}"


def _bare(context):
    return context["discriminator"].strip("'")


def _path(location, raw, kind):
    """The keys that the user wrote; pydantic also tells which kind of part it took it for."""
    kept, place = [], raw
    for i, part in enumerate(location):
        is_last = i == len(location) - 1
        if isinstance(place, Mapping) and part in place:
            place = place[part]
        elif isinstance(place, list) and str(part).isdecimal() and int(part) < len(place):
            place = place[int(part)]
        elif not (is_last and kind == "missing"):
            continue
        kept.append(str(part))
    return ".".join(kept)


def _known(location) -> list[str]:
    """The keys of the part in which the last one of a location is."""
    parts = [Config]
    for step in location[:-1]:
        fields = [part.model_fields[step] for part in parts if step in part.model_fields]
        if fields:
            parts = [part for field in fields for part in _parts_in(field.annotation)]
        else:  # a name, a number, or the kind of a part
            parts = [part for part in parts if step in _tags(part)] or parts
    return sorted({key for part in parts for key in part.model_fields})


def _parts_in(annotation) -> list[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    return [part for inner in typing.get_args(annotation) for part in _parts_in(inner)]


def _tags(part):
    kinds = [part.model_fields[key] for key in ("format", "kind") if key in part.model_fields]
    return [tag for field in kinds for tag in typing.get_args(field.annotation)]
