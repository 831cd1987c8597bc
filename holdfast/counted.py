"""Counts as people read them: one event, 2,000 events."""


def counted(count: int, one: str, many: str | None = None) -> str:
    """*count* of a thing, with the word for *one*, or else for *many* (``one`` with an s where that is not said)."""
    return f"{count:,} {one if count == 1 else many or one + 's'}"
