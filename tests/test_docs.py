"""Docstrings tell the truth: sections, defaults, examples that run."""

import doctest
import importlib
import inspect
import re

import pytest

import kmtl

ROOMS = [
    "analysis",
    "auxiliary",
    "callbacks",
    "data",
    "datasets",
    "grouping",
    "layers",
    "losses",
    "metrics",
    "models",
    "regularizers",
    "weighting",
]
MODULES = [importlib.import_module(f"kmtl.{room}") for room in ROOMS]
PUBLIC = sorted(
    {
        getattr(module, name)
        for module in MODULES
        for name in module.__all__
        if callable(getattr(module, name))
    },
    key=lambda value: (value.__module__, value.__name__),
)
# Public for subclasses and helpers; they have no paper.
WITHOUT_REFERENCE = {
    "InputOrOutput",
    "Recommendation",
    "Agreement",
    "DeltaM",
    "GainValidation",
    "GradientWeighting",
    "JacobianWeighting",
    "LearnedRegularizer",
    "TaskGroups",
    "TaskWeighting",
    "TransferMatrix",
    "get",
}


def ids(value):
    return value.__name__


def signature_defaults(public):
    parameters = inspect.signature(public.__init__ if inspect.isclass(public) else public)
    return {
        name: p.default
        for name, p in parameters.parameters.items()
        if p.default is not inspect.Parameter.empty
    }


@pytest.mark.parametrize("public", PUBLIC, ids=ids)
def test_sections(public):
    doc = inspect.getdoc(public)
    assert doc, "no docstring"
    first = doc.splitlines()[0]
    assert first.endswith("."), f"the first line is no sentence: {first}"
    if public.__name__ in WITHOUT_REFERENCE:
        return
    assert "Example:" in doc and ">>> " in doc, "no runnable example"
    assert re.search(r"References?:\s.*\b(19|20)\d\d\b", doc, re.S), "no reference with a year"


def test_no_exemption_is_left_over():
    assert WITHOUT_REFERENCE <= {public.__name__ for public in PUBLIC}


@pytest.mark.parametrize("public", PUBLIC, ids=ids)
def test_documented_defaults_are_the_signature_s(public):
    doc = inspect.getdoc(public)
    arguments = re.search(r"\nArgs:\n(.*?)(\n\n[A-Z]|\Z)", doc, re.S)
    if arguments is None:
        return
    defaults = signature_defaults(public)
    entries = re.findall(r"^    (\w+): (.*?)(?=^    \w+: |\Z)", arguments[1] + "\n", re.S | re.M)
    documented = {name: " ".join(text.split()) for name, text in entries}
    for name, default in defaults.items():
        if name in ("kwargs", "args") or (name == "name" and name not in documented):
            continue
        assert name in documented, f"`{name}` is not documented"
        stated = re.search(r"Defaults to `([^`]*)`", documented[name])
        assert stated, f"`{name}` does not state its default {default!r}"
        assert re.sub(r"(?<=\d)_", "", stated[1]).replace('"', "'") == repr(default), (
            f"`{name}`: the docstring says {stated[1]}, the signature {default!r}"
        )


@pytest.mark.parametrize(
    "module",
    sorted({public.__module__ for public in PUBLIC} | {"kmtl.export.folding.fold"}),
)
def test_examples_run(module):
    if module.startswith("kmtl.export"):
        importlib.import_module("kmtl.export")
    results = doctest.testmod(importlib.import_module(module), extraglobs={"kmtl": kmtl})
    assert results.failed == 0
