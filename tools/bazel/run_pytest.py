"""Runs pytest on the paths given, as a Bazel test. Slow tests are left to `make test`."""

import sys

import pytest

if __name__ == "__main__":
    quick = ["-m", "not slow and not gpu and not nightly", "-p", "no:cacheprovider"]
    status = pytest.main([*quick, *sys.argv[1:]])
    # A folder may hold slow tests only, which is no failure.
    sys.exit(0 if status == pytest.ExitCode.NO_TESTS_COLLECTED else status)
