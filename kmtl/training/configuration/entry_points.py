"""Functions of the user's own modules, by name."""

import importlib
import os
import sys
from collections.abc import Callable, Mapping

import kmtl
from kmtl import models


def call(key: str, function: str, arguments: Mapping):
    """What a function returns.

    Args:
        key: Where it is named in the configuration, for errors.
        function: "module:function"; modules are found as from a script in this folder.
        arguments: Its keyword arguments.

    Raises:
        ValueError: if there is no such function, or it does not take these arguments.
    """
    found = _resolve(key, function)
    try:
        return found(**arguments)
    except TypeError as error:
        raise ValueError(
            f"`{key}` must name a function that takes these arguments. "
            f"Received: {function} with {dict(arguments)} ({error})"
        ) from error


def _resolve(key, function) -> Callable:
    if os.getcwd() not in sys.path:
        sys.path.insert(0, os.getcwd())  # the command's script lies elsewhere
    _complete_kmtl()
    module, _, path = function.partition(":")
    try:
        found = importlib.import_module(module)
        for name in path.split("."):
            found = getattr(found, name)
    except (ImportError, AttributeError) as error:
        raise ValueError(
            f"`{key}` must name a function as module:function. Received: {function} ({error})"
        ) from error
    if not callable(found):
        raise ValueError(f"`{key}` must name a function. Received: {function}, {found!r}")
    return found


def _complete_kmtl():
    """What `import kmtl` brings anywhere but in the command, which starts without it."""
    for name in kmtl.__all__:
        if not hasattr(kmtl, name):
            in_models = hasattr(models, name)
            found = getattr(models, name) if in_models else importlib.import_module(f"kmtl.{name}")
            setattr(kmtl, name, found)
