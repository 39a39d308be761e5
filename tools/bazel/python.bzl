"""The Python of the checkout's `.venv`, with TensorFlow and Keras in it, as Bazel's Python."""

_BUILD = """
load("@bazel_tools//tools/python:toolchain.bzl", "py_runtime_pair")

py_runtime(
    name = "runtime",
    interpreter_path = "{python}",
    python_version = "PY3",
)

py_runtime_pair(
    name = "pair",
    py3_runtime = ":runtime",
)

toolchain(
    name = "toolchain",
    toolchain = ":pair",
    toolchain_type = "@bazel_tools//tools/python:toolchain_type",
)
"""

def _environment_python_impl(ctx):
    root = ctx.path(Label("//:WORKSPACE")).dirname
    python = ctx.path("%s/.venv/bin/python" % root)
    if not python.exists:
        fail("%s is missing. `make bazel` creates it." % python)
    ctx.file("BUILD", _BUILD.format(python = python))

environment_python = repository_rule(
    implementation = _environment_python_impl,
    local = True,
)
