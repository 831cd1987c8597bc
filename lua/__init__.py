"""The atomic transitions: one Lua file each, and the loader that makes scripts of them.

A script's header is a contract. The loader reads the names of its keys and arguments and the statuses it may return;
two directives save what every file would repeat:

``--- @include NAME``
    puts ``include/NAME.lua`` here.
``--- @include NAME, NAME for FUNCTION``
    the same inside of a function: what the files define exists only while *FUNCTION*, which one of them must define,
    runs. A script makes all its functions anew at every call, so what is seldom needed should cost nothing then.
``--- @keys``
    binds the header's keys: ``local keys = {state = KEYS[1], …}``.

Scripts are addressed by the SHA-1 of their text, as Redis does, so two versions of Holdfast can share a server.
"""

import hashlib
import re
from functools import cache
from importlib import resources
from importlib.resources.abc import Traversable

import msgspec

_KEY = re.compile(r"-- KEYS\[(\d+)\]\s+(\w+)\s+(hash|bitmap|zset|string|stream|set)\s+(optional: )?")
_ARGUMENT = re.compile(r"-- ARGV\[(\d+)\]\s+(\w+)")
_STATUS = re.compile(r"\{'([A-Z_]+)'")
_FLAGS = re.compile(r"#!lua(?: flags=([a-z,-]+))?")
_INCLUDE = re.compile(r"--- @include (\w+(?:, \w+)*)(?: for (\w+))?\n")
_KEYS_DIRECTIVE = "--- @keys\n"


class ScriptError(Exception):
    """A script file breaks the rules of this package; names the file."""


class Script(msgspec.Struct, frozen=True):
    """One atomic transition.

    ``event_keys`` repeat for every event of a call where ``repeats`` is set; ``shared_keys`` follow them. ``once`` says
    that the last key, of the idempotency record, may be left out.
    """

    name: str
    source: bytes
    sha: bytes
    flags: frozenset[str]
    event_keys: tuple[str, ...]
    shared_keys: tuple[str, ...]
    repeats: bool
    once: bool
    arguments: tuple[str, ...]
    statuses: frozenset[str]


@cache
def load(name: str) -> Script:
    """The script of ``lua/<name>.lua``, with its includes.

    Raises:
        ScriptError: There is no such file, or its header is not one.
    """
    file = resources.files(__name__) / f"{name}.lua"
    if not file.is_file():
        raise ScriptError(f"lua/{name}.lua does not exist")
    return parse(name, file.read_text("utf-8"))


def names() -> list[str]:
    """The names of all scripts, sorted; inspection scripts are not among them."""
    return sorted(file.name.removesuffix(".lua") for file in _files() if file.name.endswith(".lua"))


def parse(name: str, text: str) -> Script:
    """The script that the file *text* describes."""
    header, body = _split(name, text)
    flags = _FLAGS.match(header)
    if flags is None:
        raise ScriptError(f"lua/{name}.lua: the first line must be '#!lua', so that Redis checks its memory first")
    if f"\n-- {name}: " not in header:
        raise ScriptError(f"lua/{name}.lua: the header must open with '-- {name}: ' and what it does")
    repeats = "\n-- For each event:\n-- KEYS" in header
    event_part, _, shared_part = header.partition("\n-- Then:\n")
    keys = _numbered(name, _KEY, header)
    event_count = len(_KEY.findall(event_part)) if repeats else len(keys)
    source = _expand(name, body, keys).encode()
    if repeats and not shared_part:
        raise ScriptError(f"lua/{name}.lua: keys that repeat are followed by '-- Then:' and the shared ones")
    return Script(
        name=name,
        source=flags[0].encode() + b"\n" + source,
        sha=hashlib.sha1(flags[0].encode() + b"\n" + source, usedforsecurity=False).hexdigest().encode(),
        flags=frozenset((flags[1] or "").split(",")) - {""},
        event_keys=tuple(key for key in keys[:event_count] if key != "once"),
        shared_keys=tuple(key for key in keys[event_count:] if key != "once"),
        repeats=repeats,
        once="once" in keys,
        arguments=tuple(_numbered(name, _ARGUMENT, header)),
        statuses=frozenset(_STATUS.findall(header)),
    )


def _split(name: str, text: str) -> tuple[str, str]:
    """Header and body: the header ends at the first line that is no comment."""
    lines = text.splitlines(keepends=True)
    end = next((n for n, line in enumerate(lines) if n and not line.startswith("-- ") and line != "--\n"), None)
    if end is None:
        raise ScriptError(f"lua/{name}.lua: there is nothing below the header")
    return "".join(lines[:end]), "".join(lines[end:])


def _numbered(name: str, pattern: re.Pattern[str], header: str) -> list[str]:
    entries = pattern.findall(header)
    if [int(entry[0]) for entry in entries] != list(range(1, len(entries) + 1)):
        raise ScriptError(f"lua/{name}.lua: keys and arguments must be numbered 1, 2, 3, …")
    return [entry[1] for entry in entries]


def _expand(name: str, body: str, keys: list[str]) -> str:
    def include(match: re.Match[str]) -> str:
        text = "".join(_read_include(name, included) for included in match[1].split(", "))
        if match[2] is None:
            return text
        if f"local function {match[2]}(" not in text:
            raise ScriptError(f"lua/{name}.lua: none of {match[1]} defines {match[2]}")
        return f"local function {match[2]}(...)\n{text}return {match[2]}(...)\nend\n"

    bindings = ", ".join(f"{key} = KEYS[{number}]" for number, key in enumerate(keys, start=1))
    return _INCLUDE.sub(include, body).replace(_KEYS_DIRECTIVE, f"local keys = {{ {bindings} }}\n")


def _read_include(name: str, included: str) -> str:
    file = resources.files(__name__) / "include" / f"{included}.lua"
    if not file.is_file():
        raise ScriptError(f"lua/{name}.lua: lua/include/{included}.lua does not exist")
    return file.read_text("utf-8")


def _files() -> list[Traversable]:
    return list(resources.files(__name__).iterdir())
