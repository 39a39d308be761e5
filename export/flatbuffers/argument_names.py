"""Names of a signature's inputs, which TensorFlow spells as identifiers on the way."""

import keyword
import re
from collections.abc import Iterable


def spelled(names: Iterable[str]) -> dict[str, str]:
    """Name -> the name of the argument that TensorFlow makes of it; the signature keeps ours.

    Raises:
        ValueError: for names that TensorFlow cannot carry, or cannot tell apart.
    """
    found = {name: _identifier(name) for name in names}
    bad = [n for n in found if not re.fullmatch(r"[A-Za-z0-9.][\w./>-]*", n, re.ASCII)]
    bad += [n for n in found if keyword.iskeyword(n)]
    alike = [n for n in found if list(found.values()).count(found[n]) > 1]
    if bad or alike:
        raise ValueError(
            "A signature's inputs must have names of letters and digits, after the first also of "
            "`_`, `.`, `/`, `>` and `-`, none a keyword of Python and no two that differ in these "
            "characters alone. "
            f"Received: {', '.join(bad or alike)}"
        )
    return found


def _identifier(name: str) -> str:
    """As `sanitize_arg_name` of TensorFlow has it."""
    swapped = re.sub(r"\W", "_", name)
    return swapped if swapped[:1].isalpha() else f"arg_{swapped}"
