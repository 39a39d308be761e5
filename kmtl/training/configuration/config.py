"""Reads a configuration: YAML, values set on the command line, and checks that name the key."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import pydantic
import yaml

from kmtl.training.configuration.complaints import complaint
from kmtl.training.configuration.consistency import check_together
from kmtl.training.configuration.schema import Config


def read_config(path: str | Path, settings: Sequence[str] = ()) -> Config:
    """The configuration in a file.

    Args:
        path: The file.
        settings: Values that replace its own, as in `training.epochs=2`; parts of lists by
            number, as in `export.0.quantization=int8`. Defaults to none.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: for what is no YAML or no configuration; the message names the keys.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"CONFIG.yaml must be an existing file. Received: {path}")
    return parse_config(path.read_text(encoding="utf-8"), settings, str(path))


def parse_config(text: str, settings: Sequence[str] = (), name: str = "the text") -> Config:
    """As `read_config`, of the text itself.

    Args:
        text: YAML.
        settings: See `read_config`.
        name: Where it comes from, for errors.
    """
    raw = _parse(text, name)
    if not isinstance(raw, dict):
        raise ValueError(
            f"A configuration must be a mapping with the keys {list(Config.model_fields)}. "
            f"Received: {type(raw).__name__} in {name}"
        )
    for setting in settings:
        _set(raw, setting)
    try:
        config = Config.model_validate(raw)
    except pydantic.ValidationError as error:
        found = [complaint(one, raw) for one in error.errors()]
        raise ValueError(". ".join(dict.fromkeys(found))) from None
    check_together(config)
    return config


class _Loader(yaml.SafeLoader):
    """YAML in which 1e-3 is a number and no key is given twice."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value if key.tag.endswith(":str")]
        twice = sorted({key for key in keys if keys.count(key) > 1})
        if twice:
            raise yaml.constructor.ConstructorError(
                None, None, f"a key must be given once, not {', '.join(twice)}", node.start_mark
            )
        return super().construct_mapping(node, deep=deep)


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float",
    re.compile(r"[-+]?(\d+(\.\d*)?|\.\d+)[eE][-+]?\d+$"),
    list("-+.0123456789"),
)


def _parse(text, name):
    try:
        return _unshared(yaml.load(text, _Loader))  # a SafeLoader: it makes no objects
    except yaml.YAMLError as error:
        raise ValueError(f"A configuration must be YAML. Received: {name} ({error})") from None


def _unshared(value):
    """Copies of what anchors make one, so that setting a value in one place changes no other."""
    if isinstance(value, dict):
        return {key: _unshared(inner) for key, inner in value.items()}
    return [_unshared(inner) for inner in value] if isinstance(value, list) else value


def _set(raw, setting):
    """Puts one value of the command line in its place."""
    path, equals, text = setting.partition("=")
    *parents, last = path.split(".")
    if not equals or not all([*parents, last]):
        raise ValueError(f"--set must be key=value with a dotted key. Received: {setting}")
    place = raw
    for i, part in enumerate(parents):
        place = _step(place, part, ".".join(parents[: i + 1]), setting)
    value = _parse(text, f"--set={setting}")
    if isinstance(place, list):
        place[_index(place, last, path, setting)] = value
    else:
        place[last] = value


def _step(place, part, path, setting):
    """The mapping or list under a key, made where there is none."""
    if isinstance(place, list):
        inner = place[_index(place, part, path, setting)]
    else:
        inner = place.setdefault(part, {})
        if inner is None:
            inner = place[part] = {}
    if not isinstance(inner, (Mapping, list)):
        raise ValueError(
            f"--set must lead to a key of a mapping, and `{path}` is none. Received: {setting}"
        )
    return inner


def _index(place, part, path, setting):
    if not part.isdecimal() or int(part) >= len(place):
        raise ValueError(
            f"`{path}` must be one of the {len(place)} entries of a list, counted from 0. "
            f"Received: --set={setting}"
        )
    return int(part)
