"""Flags that give each head something, as in `left:accuracy,right:mae`."""

from collections.abc import Sequence


def by_head(flag: str, entries: Sequence[str], example: str) -> dict[str, str]:
    """Head -> what an entry `head:something` gives it.

    Args:
        flag: The flag, for errors.
        entries: Its entries.
        example: What it should look like, for errors.

    Raises:
        ValueError: for entries of another form, and if there are none.
    """
    pairs = [entry.partition(":") for entry in entries]
    bad = [entry for entry, (_, _, value) in zip(entries, pairs, strict=True) if not value]
    if bad or not pairs:
        raise ValueError(
            f"--{flag} must be a list such as {example}. Received: {', '.join(bad) or 'nothing'}"
        )
    return {head.strip(): value.strip() for head, _, value in pairs}
