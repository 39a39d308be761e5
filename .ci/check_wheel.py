"""Compares a wheel with the checkout: every source file is in it, under kmtl/ and nowhere else.

A folder without `__init__.py` or a data file that setup.py does not name would be left out
silently, and tests that run in the checkout would not notice.
"""

import sys
import zipfile
from pathlib import Path

SUFFIXES = {".py", ".json", ".html", ".j2", ".css", ".yaml"}


def main(wheel: str) -> None:
    """Exits with the difference, if there is one."""
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    expected = {
        str(target / path.relative_to(source))
        for source, target in ((Path("kmtl"), Path("kmtl")), (Path("export"), Path("kmtl/export")))
        for path in source.rglob("*")
        if path.suffix in SUFFIXES and path.is_file()
    }
    if packed != expected:
        sys.exit(
            f"The wheel differs from the checkout. Missing: {sorted(expected - packed)}. "
            f"Unexpected: {sorted(packed - expected)}."
        )
    print(f"The wheel holds all {len(packed)} files.")


if __name__ == "__main__":
    main(*sys.argv[1:])
