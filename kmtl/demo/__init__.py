"""The demo: trains two-task networks on overlaid digits, deploys the best, writes a report."""

from kmtl.demo.demo import run_demo as run_demo

__all__ = ["run_demo"]
