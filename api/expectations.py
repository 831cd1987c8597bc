"""What a type expects at a path: the values that it allows there, and a hint where a number alone says too little.

msgspec names the path of what is wrong, and not what would be right. Only refusals come here, so it may take its time.
"""

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any

from msgspec import inspect

HINT = "hint"  # the key of ``msgspec.Meta(extra=...)``
_STEP = re.compile(r"\.([^.\[]+)|\[(?:[0-9]+|\.\.\.)\]")


def allowed_values(type_: Any, path: str) -> tuple[str, ...]:
    """The words of which a value at *path* must be one; none where it need not be one of any."""
    found: dict[str, None] = {}
    for node in _plain(_at(type_, path)):
        if isinstance(node, inspect.LiteralType):
            found |= dict.fromkeys(map(str, node.values))
    return tuple(found)


def hint(type_: Any, path: str) -> str | None:
    """What the type has to say to whoever gets a value at *path* wrong."""
    for node in _unpacked(_at(type_, path)):
        if isinstance(node, inspect.Metadata) and HINT in (node.extra or {}):
            told: str = (node.extra or {})[HINT]
            return told
    return None


def _at(type_: Any, path: str) -> list[inspect.Type]:
    """The types that a value at *path* may have; a path that leads nowhere has none."""
    nodes = [_inspected(type_)]
    for step in _STEP.finditer(path):
        nodes = [inner for node in _plain(nodes) for inner in _inner(node, step[1])]
    return nodes


@lru_cache(maxsize=128)  # more than there are bodies and queries
def _inspected(type_: Any) -> inspect.Type:
    return inspect.type_info(type_)


def _inner(node: inspect.Type, name: str | None) -> Iterator[inspect.Type]:
    """What is inside *node*: its member *name*, or any element where there is no name."""
    if name is not None:
        if isinstance(node, inspect.StructType):
            yield from (field.type for field in node.fields if field.encode_name == name)
    elif isinstance(node, inspect.ListType | inspect.VarTupleType):
        yield node.item_type
    elif isinstance(node, inspect.DictType):
        yield node.value_type


def _plain(nodes: list[inspect.Type]) -> Iterator[inspect.Type]:
    return (node for node in _unpacked(nodes) if not isinstance(node, inspect.Metadata | inspect.UnionType))


def _unpacked(nodes: list[inspect.Type]) -> Iterator[inspect.Type]:
    """Every alternative of every union, with and without what is noted on it."""
    for node in nodes:
        yield node
        if isinstance(node, inspect.Metadata):
            yield from _unpacked([node.type])
        elif isinstance(node, inspect.UnionType):
            yield from _unpacked(list(node.types))
