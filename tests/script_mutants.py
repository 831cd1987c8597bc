"""Scripts with a safety taken out, for tests that must notice."""

import hashlib

import msgspec

import lua
from lua import Script

_load = lua.load  # what the package defines, also while a test has put something else in its place


def mutated(name: str, *changes: tuple[str, str]) -> Script:
    """The script *name* with each original text replaced, wherever it stands."""
    script = _load(name)
    source = script.source.decode()
    for original, replacement in changes:
        assert original in source, f"{name} has changed: there is nothing to replace"
        source = source.replace(original, replacement)
    changed = source.encode()
    return msgspec.structs.replace(script, source=changed, sha=hashlib.sha1(changed).hexdigest().encode())
