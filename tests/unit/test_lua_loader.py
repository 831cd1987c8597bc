"""The loader of scripts, and what every script of the package must be: header and body agree, and nothing leaks."""

import hashlib
import re
from importlib import resources
from typing import Any

import lupa.lua51
import pytest
import redis

import lua
from lua import Script, ScriptError

NAMES = lua.names()
INSPECT = sorted(file.name for file in (resources.files("lua") / "inspect").iterdir() if file.name.endswith(".lua"))
# What Redis gives a script beside Lua's own libraries.
GLOBALS_OF_REDIS = {"KEYS", "ARGV", "redis", "server", "cjson", "cmsgpack", "bit", "struct"}
GLOBALS_OF_LUA = {
    "math",
    "string",
    "table",
    "tonumber",
    "tostring",
    "pairs",
    "ipairs",
    "unpack",
    "select",
    "type",
    "next",
}
REFUSES_NOT = "-- Nothing below refuses"
# Statuses that come out of variables: what an include says of a hold's end, made of the word in the memory.
FROM_MEMORY = {"EXPIRED", "RELEASED", "REFUSED"}
DONE = {"HELD", "CONFIRMED", "EXTENDED", "RELEASED", "MARKED", "EXPIRED", "LOADING", "BURIED", "REVIVED", "REPAIRED"}
DONE |= {"ARCHIVED", "UNBOOKED", "DISCARDED", "LOADED", "TAKEN", "BEGUN", "JOINED", "LEFT", "QUEUED"}
DONE |= {"RESERVED", "APPLIED", "ABANDONED", "TRANSFERRED", "COUNTED", "ADOPTED"}
DONE |= {"SET", "CONTINUE"}  # of set_clock: what it has done is done, whether or not it has to be called again


def read(name: str) -> str:
    return (resources.files("lua") / name).read_text("utf-8")


def code_of(text: str) -> str:
    """Lua without comments."""
    return re.sub(r"--[^\n]*", "", text)


def header_and_body(name: str) -> tuple[str, str]:
    lines = read(f"{name}.lua").splitlines(keepends=True)
    end = next(n for n, line in enumerate(lines) if n and not line.startswith("--"))
    return "".join(lines[:end]), code_of("".join(lines[end:]))


# --- parsing ---------------------------------------------------------------------------------------------------------

HEADER = """#!lua flags=no-writes,allow-oom
-- move_seat: an example.
--
-- KEYS[1] state   hash    what it is
-- KEYS[2] held    bitmap  the same
-- KEYS[3] journal stream  entries
-- KEYS[4] once    string  optional: the answer
--
-- ARGV[1] owner   who
-- ARGV[2] places  which of
--                 them
--
-- Returns {'MOVED', seq} {'NOT_FOUND'}   or not
--         {'NOT_LOADED'}

"""
GROUP_HEADER = """#!lua
-- move_seats: an example.
--
-- For each event:
-- KEYS[1] state   hash    what it is
-- KEYS[2] held    bitmap  the same
-- Then:
-- KEYS[3] wakeups zset    one
-- KEYS[4] once    string  optional: the answer

"""


def test_header_says_keys_arguments_statuses_and_flags() -> None:
    script = lua.parse("move_seat", HEADER + "return 1\n")
    assert (script.event_keys, script.shared_keys) == (("state", "held", "journal"), ())
    assert (script.repeats, script.once) == (False, True)
    assert script.arguments == ("owner", "places")
    assert script.statuses == {"MOVED", "NOT_FOUND", "NOT_LOADED"}
    assert script.flags == {"no-writes", "allow-oom"}
    assert script.source == b"#!lua flags=no-writes,allow-oom\n\nreturn 1\n"


def test_keys_of_a_group_repeat_and_are_followed_by_the_shared_ones() -> None:
    script = lua.parse("move_seats", GROUP_HEADER + "return 1\n")
    assert (script.event_keys, script.shared_keys) == (("state", "held"), ("wakeups",))
    assert (script.repeats, script.once, script.flags) == (True, True, frozenset())


def test_keys_directive_binds_every_key_by_its_name() -> None:
    source = lua.parse("move_seat", HEADER + "--- @keys\nreturn keys.once\n").source.decode()
    runtime = lupa.lua51.LuaRuntime()
    runtime.execute("KEYS = {'a', 'b', 'c', 'd'}")
    assert runtime.execute(source.partition("\n")[2]) == "d"


def test_include_puts_the_file_in_its_place() -> None:
    source = lua.parse("move_seat", HEADER + "local a = 1\n--- @include clock\nreturn a\n").source.decode()
    assert source.partition("\n")[2] == "\nlocal a = 1\n" + read("include/clock.lua") + "return a\n"


def test_included_function_alone_is_seen_outside() -> None:
    body = "--- @include bounds\n--- @include event\n--- @include places\n--- @include rows, best for choose_seats\n"
    source = lua.parse(
        "move_seat", HEADER + body + "return { choose_seats, RUNS, find_run, read_rows, NEVER }\n"
    ).source
    seen = lupa.lua51.LuaRuntime().execute(source.decode().partition("\n")[2])
    assert {number for number, value in seen.items() if value is not None} == {1, 5}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (HEADER.replace("#!lua flags=no-writes,allow-oom", "-- lua") + "return 1\n", "the first line"),
        (HEADER.replace("#!lua flags=no-writes,allow-oom\n", "") + "return 1\n", "the first line"),
        (HEADER.replace("move_seat:", "seat_mover:") + "return 1\n", "must open with '-- move_seat: '"),
        (HEADER.replace("KEYS[3]", "KEYS[5]") + "return 1\n", "numbered 1, 2, 3"),
        (HEADER.replace("KEYS[2]", "KEYS[3]") + "return 1\n", "numbered 1, 2, 3"),
        (HEADER.replace("ARGV[1]", "ARGV[0]") + "return 1\n", "numbered 1, 2, 3"),
        (HEADER.rstrip("\n") + "\n", "nothing below the header"),
        (HEADER + "--- @include nowhere\nreturn 1\n", "lua/include/nowhere.lua does not exist"),
        (HEADER + "--- @include clock for choose_seats\nreturn 1\n", "none of clock defines choose_seats"),
        (GROUP_HEADER.replace("-- Then:\n", "--\n").replace("move_seats", "move_seat") + "return 1\n", "'-- Then:'"),
    ],
)
def test_script_that_breaks_the_rules_is_refused_by_its_name(text: str, reason: str) -> None:
    with pytest.raises(ScriptError) as error:
        lua.parse("move_seat", text)
    assert str(error.value).startswith("lua/move_seat.lua: ")
    assert reason in str(error.value)


def test_script_that_does_not_exist_is_refused() -> None:
    with pytest.raises(ScriptError, match=r"lua/buy_everything\.lua does not exist"):
        lua.load("buy_everything")


@pytest.mark.parametrize("name", ["../pyproject", "include/clock", "inspect/event"])
def test_file_that_is_no_script_is_not_loaded_as_one(name: str) -> None:
    with pytest.raises(ScriptError):
        lua.load(name)


def test_digest_is_the_one_that_redis_computes(redis_url: str) -> None:
    client = redis.Redis.from_url(redis_url)
    for name in NAMES:
        script = lua.load(name)
        assert str(client.script_load(script.source)).encode() == script.sha
        assert hashlib.sha1(script.source, usedforsecurity=False).hexdigest().encode() == script.sha


# --- every script of the package -------------------------------------------------------------------------------------


@pytest.fixture(params=NAMES)
def script(request: pytest.FixtureRequest) -> Script:
    return lua.load(request.param)


def test_package_has_the_scripts_it_should_have() -> None:
    assert len(NAMES) >= 14
    assert all(re.fullmatch(r"[a-z]+_[a-z]+", name) for name in NAMES)


def test_every_declared_key_is_used_and_none_besides(script: Script) -> None:
    declared = [*script.event_keys, *script.shared_keys, *(["once"] if script.once else [])]
    text = code_of(script.source.decode())
    _, body = header_and_body(script.name)
    moves = re.findall(r"'(free|held|sold)', '(free|held|sold)'\)", text)  # `keys[from]` and `keys[to]`
    used = {*re.findall(r"\bkeys\.(\w+)", text), *(kind for move in moves for kind in move)}
    if script.repeats:
        base = [int(number) for number in re.findall(r"KEYS\[base \+ (\d+)\]", body)]
        shared = [int(number) for number in re.findall(r"event_count \+ (\d+)\]", body)]
        assert base == list(range(1, len(script.event_keys) + 1))
        assert shared == list(range(1, len(script.shared_keys) + 1 + script.once))
        assert f"KEYS_PER_EVENT, ARGS_PER_EVENT, SHARED_ARGS = {len(script.event_keys)}," in body
        bound = re.findall(r"(\w+) = KEYS\[base \+ \d+\]", body)
        assert tuple(bound) == script.event_keys
        declared = [key for key in declared if key != "once"]
    if (first := re.search(r"FIRST_ONCE = \d+, (\d+)", body)) is not None:  # a key for each of many claims
        assert int(first[1]) == len(declared)
        assert "KEYS[FIRST_ONCE + #onces]" in body
        declared.remove("once")
    # An include may name a key that this script has no use for; a key of the script's own it must have.
    assert set(declared) <= used
    assert set(re.findall(r"\bkeys\.(\w+)(?! =)\b", body)) <= {*declared}


def test_every_declared_argument_is_used_and_none_besides(script: Script) -> None:
    _, body = header_and_body(script.name)
    count = len(script.arguments)
    numbers = {int(number) for number in re.findall(r"ARGV\[(\d+)\]", body)}
    if script.repeats:
        per_event, shared = re.findall(r"= \d+, (\d+), (\d+)\n", body)[0]
        offsets = {int(number) for number in re.findall(r"ARGV\[base \+ (\d+)\]", body)}
        assert offsets == set(range(1, int(per_event) + 1))
        assert set(range(1, int(shared) + 1)) <= numbers <= set(range(1, count + 1))
        assert int(per_event) + int(shared) == count
        return
    header, _ = header_and_body(script.name)
    if "from here on" in header:  # the last one repeats, and is walked over up to #ARGV
        assert "#ARGV" in body
        numbers.add(count)
    assert numbers == set(range(1, count + 1))


def test_every_declared_status_is_returned_and_none_besides(script: Script) -> None:
    text = code_of(script.source.decode())
    _, body = header_and_body(script.name)
    in_body = set(re.findall(r"\{ '([A-Z_]+)'", body)) | set(re.findall(r"\b(?:and|or) '([A-Z_]+)'", body))
    in_includes = set(re.findall(r"\{ '([A-Z_]+)'", text)) | set(re.findall(r"return '([A-Z_]+)'", text)) | FROM_MEMORY
    assert in_body <= script.statuses
    assert script.statuses <= in_body | in_includes


def test_script_is_valid_lua_with_few_enough_locals(script: Script) -> None:
    lupa.lua51.LuaRuntime().compile(script.source.decode().partition("\n")[2])


@pytest.mark.parametrize("name", INSPECT)
def test_inspection_script_is_valid_lua_on_its_own(name: str) -> None:
    text = read(f"inspect/{name}")
    assert "@include" not in text
    lupa.lua51.LuaRuntime().compile(text)
    assert _globals_of(text) <= GLOBALS_OF_REDIS | GLOBALS_OF_LUA


def test_script_reads_no_global_but_lua_s_and_redis_s_and_sets_none(script: Script) -> None:
    text = script.source.decode().partition("\n")[2]
    assert _globals_of(text) <= GLOBALS_OF_REDIS | GLOBALS_OF_LUA
    assert _globals_of(text, operation="SETGLOBAL") == set()


def _globals_of(text: str, *, operation: str = "GETGLOBAL") -> set[str]:
    """Names of the globals that compiled Lua gets or sets, read off the bytecode of every function in it."""
    return _Bytecode(text).globals(operation)


class _Bytecode:
    """A chunk of Lua 5.1, as ``string.dump`` writes it: just enough of it to see which globals it touches."""

    def __init__(self, text: str) -> None:
        runtime = lupa.lua51.LuaRuntime(encoding=None)
        self._bytes: bytes = runtime.eval(b"function(text) return string.dump(loadstring(text)) end")(text.encode())
        self._at = 12  # behind the header: signature, version, format, order and the sizes of the types
        self._found: list[tuple[str, str]] = []
        assert self._bytes[:5] == b"\x1bLua\x51"
        assert self._bytes[6:11] == bytes([1, 4, 8, 4, 8])
        self._function()

    def globals(self, operation: str) -> set[str]:
        return {name for kind, name in self._found if kind == operation}

    def _take(self, size: int) -> bytes:
        taken = self._bytes[self._at : self._at + size]
        self._at += size
        return taken

    def _number(self, size: int = 4) -> int:
        return int.from_bytes(self._take(size), "little")

    def _text(self) -> str:
        return self._take(self._number(8))[:-1].decode()

    def _function(self) -> None:
        self._text()
        self._take(4 + 4 + 4)
        code = [self._number() for _ in range(self._number())]
        constants: list[Any] = [self._constant() for _ in range(self._number())]
        for instruction in code:
            kind = {5: "GETGLOBAL", 7: "SETGLOBAL"}.get(instruction & 0x3F)
            if kind:
                self._found.append((kind, constants[instruction >> 14]))
        for _ in range(self._number()):
            self._function()
        self._take(4 * self._number())
        for _ in range(self._number()):
            self._text()
            self._take(8)
        for _ in range(self._number()):
            self._text()

    def _constant(self) -> Any:
        match self._take(1)[0]:
            case 0:
                return None
            case 1:
                return bool(self._take(1)[0])
            case 3:
                return self._take(8)
            case _:
                return self._text()


def test_reader_of_bytecode_finds_globals_in_every_function() -> None:
    text = "local a = b; function c(d) return function() e = d + f.g end end"
    assert (_globals_of(text), _globals_of(text, operation="SETGLOBAL")) == ({"b", "f"}, {"c", "e"})


def test_script_never_raises_lua_errors_on_purpose(script: Script) -> None:
    text = code_of(script.source.decode())
    assert not re.search(r"\b(?:error|assert|pcall)\s*\(", text)
    for message in re.findall(r"error_reply\('([^']*)", text):
        assert message.startswith("HF_")


def test_nothing_refuses_below_the_first_write(script: Script) -> None:
    text = read(f"{script.name}.lua")
    if REFUSES_NOT not in text:
        assert not re.search(r"^\s*move_places\(|'HSET'", code_of(text), re.MULTILINE) or script.name in {
            "offer_places",  # what it has done is done, whether or not it has to be called again
            "set_status",
        }
        return
    assert text.count(REFUSES_NOT) == 1
    below = code_of(text.partition(REFUSES_NOT)[2])
    assert set(re.findall(r"\{ '([A-Z_]+)'", below)) <= DONE
    assert "error_reply" not in below


def test_clock_is_read_once(script: Script) -> None:
    text = code_of(script.source.decode())
    assert text.count("'TIME'") <= 1
    assert text.count("read_clock()") in (0, 2)  # the definition and one call
    assert re.search(r"^\s*(for|while|repeat)\b[^\n]*read_clock", text, re.MULTILINE) is None


def test_script_that_only_reads_says_so_and_writes_nothing(script: Script) -> None:
    writes = {"HSET", "HDEL", "HINCRBY", "HSETNX", "SETBIT", "SET", "ZADD", "ZREM", "XADD", "XDEL", "SADD", "SREM"}
    _, body = header_and_body(script.name)
    commands = set(re.findall(r"redis\.call\('(\w+)'", body))
    if "no-writes" in script.flags:
        assert not commands & writes
        assert not re.search(r"\b(?:write_\w+|move_\w+|end_hold|reap_due|enter_line)\(", body)
    else:
        assert commands & writes or re.search(r"\b(?:write_\w+|move_\w+|end_hold|reap_due|enter_line)\(", body)


def test_no_key_is_built_in_a_script(script: Script) -> None:
    assert "hf:" not in code_of(script.source.decode())
