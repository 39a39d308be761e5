"""Survives files that crash LiteRT: no check of a file can foresee all that its code trips over."""

import os
import signal
import sys
from collections.abc import Callable


def guarded(call: Callable[[], int], what: str) -> int:
    """Runs `call` in a fork of this process and reports how it ended, should it crash.

    A fork starts at once, as nothing large has been imported by then. Where the system has none
    (Windows), `call` runs in this process.

    Args:
        call: Returns an exit code.
        what: What is run, for the error.

    Returns:
        The exit code of `call`; 1 after a crash.
    """
    if not hasattr(os, "fork"):
        return call()
    sys.stdout.flush()
    sys.stderr.flush()
    child = os.fork()
    if not child:
        _finish(call)
    handlers = {
        signal.SIGINT: signal.SIG_IGN,  # the terminal sends it to the child as well
        signal.SIGTERM: lambda number, frame: os.kill(child, number),
    }
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
    if code == -signal.SIGTERM:
        return 128 + signal.SIGTERM  # as a shell counts it
    if code < 0:
        print(
            "kmtl: A LiteRT model must be one that LiteRT can run. "
            f"Received: {what}, whose process was ended by {signal.Signals(-code).name}",
            file=sys.stderr,
        )
        return 1
    return code


def _finish(call) -> None:
    """Ends this process, the fork, as `sys.exit` would end the one that called."""
    code = 1
    try:
        code = call()
    except BaseException:
        sys.excepthook(*sys.exc_info())
    finally:
        try:
            sys.stdout.flush()
            sys.stderr.flush()
        finally:
            os._exit(code)
