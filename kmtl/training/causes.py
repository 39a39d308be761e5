"""What went wrong in TensorFlow, in one line and without its own internals."""

import re

import tensorflow as tf

# What another worker's end looks like from here, whatever it was.
_OF_PEERS = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
)
_INTERNALS = re.compile(
    r"\{\{[^}]*\}\}|\[\[.*?\]\]|\[Op:[^]]*\]|name: *$"
    r"|Error in user-defined function passed to \S+ transformation with iterator: \S+: "
    r"|^\(\d+\) [A-Z_]+:"
)
_AROUND = re.compile(
    r'File "|Graph execution error|Detected at node|\d+ root error|\d+ (successful|derived)'
    r"|Stack trace|Errors may have originated|Operation defined at"
)


def cause(error: Exception) -> str:
    """The first line that tells what happened, without stacks and names of graph nodes."""
    lines = (line.strip() for line in getattr(error, "message", str(error)).splitlines())
    telling = (_INTERNALS.sub("", line).strip() for line in lines if not _AROUND.match(line))
    return next((line for line in telling if line), type(error).__name__)


def is_of_peers(error: tf.errors.OpError) -> bool:
    """Whether it tells of another worker rather than of this one's work."""
    return isinstance(error, _OF_PEERS) or "Collective ops is aborted" in error.message
