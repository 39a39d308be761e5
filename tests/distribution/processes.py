"""Starting worker processes on loopback, and ending them whatever happens."""

import contextlib
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on at this moment."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@contextlib.contextmanager
def started(
    commands: Sequence[Sequence[str]], logs: Path, environments: Sequence[dict] = ({}, {})
) -> Iterator[list[subprocess.Popen]]:
    """Processes whose output goes to `logs`/0.txt, `logs`/1.txt ...; killed at the end."""
    processes = []
    try:
        for i, (command, environment) in enumerate(zip(commands, environments, strict=True)):
            with open(logs / f"{i}.txt", "ab") as file:
                processes.append(
                    subprocess.Popen(
                        [sys.executable, *map(str, command)],
                        stdout=file,
                        stderr=subprocess.STDOUT,
                        env={**os.environ, **environment},
                    )
                )
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.wait()


def wait_for_all(processes, logs: Path, seconds: float) -> None:
    """Returns when all have ended well; raises with the end of the log as soon as one has not."""
    end = time.monotonic() + seconds
    while any(process.poll() is None for process in processes):
        failed = [i for i, process in enumerate(processes) if process.poll()]
        late = time.monotonic() > end
        if failed or late:
            why = f"worker {failed[0]} failed" if failed else f"not done after {seconds} s"
            raise AssertionError(f"{why}:\n{tail(logs / f'{failed[0] if failed else 0}.txt')}")
        time.sleep(0.1)
    for i, process in enumerate(processes):
        assert process.returncode == 0, tail(logs / f"{i}.txt")


def tail(path: Path) -> str:
    """The last lines of a log."""
    return "\n".join(path.read_text(errors="replace").splitlines()[-40:])
