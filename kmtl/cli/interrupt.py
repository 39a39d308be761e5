"""Ctrl-C ends a command with one line and the exit code 130, wherever it strikes."""

import _thread
import os
import signal
import sys
import threading

INTERRUPTED = 128 + signal.SIGINT  # as a shell counts it
RETRY_SECONDS = 0.05

_struck = False


def quit_at_once() -> None:
    """From here on Ctrl-C ends the process itself.

    For the time in which modules are imported: native code that is interrupted as it starts may
    crash, and there is nothing to clean up yet. Does nothing where Ctrl-C is ignored, as it is
    for jobs in the background.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _quit)


def unwind() -> None:
    """From here on Ctrl-C raises KeyboardInterrupt, where `quit_at_once` was in force.

    Python drops exceptions in finalizers and in callbacks of its garbage collector; this one is
    raised again when they are done.
    """
    if signal.getsignal(signal.SIGINT) is _quit:
        signal.signal(signal.SIGINT, _raise)
        sys.unraisablehook = _raise_again


def ignore() -> None:
    """From here on Ctrl-C does nothing: all is done, and Python itself would end in a traceback."""
    if signal.getsignal(signal.SIGINT) in (_quit, _raise):
        signal.signal(signal.SIGINT, signal.SIG_IGN)


def is_interruption(error: BaseException) -> bool:
    """Whether Ctrl-C is behind an error, which native code may have made another one of."""
    return _struck or isinstance(error, KeyboardInterrupt)


def _quit(number, frame):
    print("kmtl: interrupted", file=sys.stderr, flush=True)
    os._exit(INTERRUPTED)


def _raise(number, frame):
    global _struck
    _struck = True
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the second time would stop the cleaning up
    raise KeyboardInterrupt


def _raise_again(dropped):
    if not isinstance(dropped.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(dropped)
        return
    signal.signal(signal.SIGINT, _raise)
    retry = threading.Timer(RETRY_SECONDS, _strike)
    retry.daemon = True
    retry.start()


def _strike():
    """Ctrl-C once more, from another thread."""
    if hasattr(signal, "pthread_kill"):  # it wakes the main thread from what that waits for
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
    else:
        _thread.interrupt_main()
