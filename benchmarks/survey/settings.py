"""What every page takes from the command line, and where it goes."""

import json
from pathlib import Path

from absl import flags

from benchmarks.versions import versions

DATA = flags.DEFINE_string("data", "../shared/data", "Folder with a folder for each data set.")
OUTPUT = flags.DEFINE_string("output", "docs/results/survey", "Folder for the results.")
SEEDS = flags.DEFINE_integer("seeds", 3, "Number of seeds.", lower_bound=1)


def save(name: str, record: dict, text: str) -> Path:
    """Writes `<name>.json` and `<name>.md`, prints the latter, returns the folder."""
    folder = Path(OUTPUT.value)
    folder.mkdir(parents=True, exist_ok=True)
    record = {**record, "versions": versions()}
    (folder / f"{name}.json").write_text(json.dumps(record, indent=2) + "\n")
    (folder / f"{name}.md").write_text(text)
    print(text)
    return folder
