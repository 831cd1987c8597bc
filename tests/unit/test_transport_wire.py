"""Commands as bytes: what the server would read."""

import hiredis
import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from engine.transport.wire import pack_command, pack_evalsha, pack_keys, pack_shared_command

SHA = b"0123456789abcdef0123456789abcdef01234567"


def read(wire: bytes) -> list[bytes]:
    reader = hiredis.Reader()
    reader.feed(wire)
    command: list[bytes] = reader.gets()
    assert reader.gets() is False, "more than one command was packed"
    return command


@given(keys=st.lists(st.binary(), min_size=1, max_size=8), args=st.lists(st.binary(max_size=2000), max_size=12))
def test_evalsha_reads_back_as_it_was_packed(keys: list[bytes], args: list[bytes]) -> None:
    tagged = [b"{t}" + key for key in keys]
    assert read(pack_evalsha(SHA, pack_keys(tagged), args)) == [b"EVALSHA", SHA, b"%d" % len(keys), *tagged, *args]


@pytest.mark.parametrize("size", [0, 1, 1023, 1024, 1025, 1_000_000])
def test_evalsha_keeps_arguments_of_every_size_whole(size: int) -> None:
    argument = b"\r\n" * (size // 2) + b"x" * (size % 2)
    assert read(pack_evalsha(SHA, pack_keys([b"k"]), [argument, b"next"]))[4:] == [argument, b"next"]


@given(st.lists(st.one_of(st.binary(), st.text(st.characters(exclude_categories=["Cs"])), st.integers()), min_size=1))
def test_command_reads_back_as_it_was_packed(parts: list[bytes | str | int]) -> None:
    expected = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
    assert read(pack_command(*parts)) == expected


@pytest.mark.parametrize("count", [1, 2, 9, 10, 99])
def test_key_begun_and_ended_is_packed_as_if_it_had_been_there_at_once(count: int) -> None:
    keys = [b"hf:{1}:%d" % number for number in range(count + 1)]
    begun = pack_keys(keys[:-1]).begin_key(keys[-1][:4], len(keys[-1]) - 4)
    whole = begun.end_key(keys[-1][4:])
    assert whole == pack_keys(keys)
    assert whole.keys == tuple(keys)


def test_keys_know_their_slot() -> None:
    assert pack_keys([b"hf:{12}:a:state", b"hf:{12}:a:held"]).slot == key_slot(b"12")


def test_keys_of_different_slots_are_refused() -> None:
    with pytest.raises(ValueError, match="one slot"):
        pack_keys([b"{1}:a", b"{2}:a"])


def test_no_keys_are_refused() -> None:
    with pytest.raises(ValueError, match="one slot"):
        pack_keys([])


@pytest.mark.parametrize(
    "parts",
    [
        (),
        (b"select", 1),
        ("Client", b"Reply", "OFF"),
        ("XREAD", "COUNT", 1, "block", 0, "STREAMS", "s", "$"),
        ("XREADGROUP", "GROUP", "g", "c", "BLOCK", 10, "STREAMS", "s", ">"),
    ],
)
def test_command_that_does_not_belong_on_a_shared_connection_is_refused(parts: tuple[bytes | str | int, ...]) -> None:
    with pytest.raises(ValueError, match="shared connection"):
        pack_shared_command(*parts)


def test_command_that_leaves_the_connection_as_it_was_is_packed() -> None:
    assert read(pack_shared_command("XREAD", "COUNT", 1, "STREAMS", "s", "0"))[0] == b"XREAD"
    assert read(pack_shared_command("CLIENT", "INFO")) == [b"CLIENT", b"INFO"]
