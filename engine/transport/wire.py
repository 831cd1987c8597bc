"""Commands as bytes on the wire (RESP), packed as cheaply as Python can.

Measured for a script with six keys and seven arguments: 0.8 µs with the keys packed once, 1.6 µs with
``hiredis.pack_command`` over all of it, 6.3 µs with redis-py's own packer.
"""

from collections.abc import Callable, Sequence

import msgspec
from redis.crc import key_slot


class PackedKeys(msgspec.Struct, frozen=True):
    """The keys of one script call: made once per event and script, then appended as they are."""

    count: int
    slot: int
    """The cluster slot of all of them, 0..16383."""
    wire: bytes
    """RESP of ``<numkeys> <key> …``, every part with a line end *before* it rather than behind: one piece less to join
    for every argument that follows."""

    @property
    def keys(self) -> tuple[bytes, ...]:
        """The keys by themselves, none of which has a line end in it, for whoever sends them another way."""
        return tuple(self.wire.split(b"\r\n")[4::2])

    def begin_key(self, head: bytes, size: int) -> "PackedKeys":
        """These and the *head* of one more key of the same slot, which lacks the *size* bytes of :meth:`end_key`."""
        wire = b"%b%b\r\n$%d\r\n%b" % (
            _count(self.count + 1),
            self.wire[len(_count(self.count)) :],
            len(head) + size,
            head,
        )
        return PackedKeys(self.count + 1, self.slot, wire)

    def with_keys(self, more: Sequence[bytes]) -> "PackedKeys":
        """These and *more* of the same slot."""
        head = _count(self.count + len(more))
        wire = b"".join((head, self.wire[len(_count(self.count)) :], *map(_next, more)))
        return PackedKeys(self.count + len(more), self.slot, wire)

    def end_key(self, rest: bytes) -> "PackedKeys":
        """The last key made whole: nothing but a copy, for every call has another one."""
        return PackedKeys(self.count, self.slot, self.wire + rest)


def pack_keys(keys: Sequence[bytes]) -> PackedKeys:
    """Pack the keys of a script call.

    Raises:
        ValueError: There are no keys (the slot would not be known), or they are of different slots.
    """
    slots = {key_slot(key) for key in keys}
    if len(slots) != 1:
        raise ValueError(f"keys of one script call must share one slot, these are of {sorted(slots)}: {list(keys)!r}")
    wire = b"".join(map(_next, (b"%d" % len(keys), *keys)))
    return PackedKeys(len(keys), slots.pop(), wire)


def pack_evalsha(sha: bytes, keys: PackedKeys, args: Sequence[bytes]) -> bytes:
    """``EVALSHA sha numkeys key… arg…``; *sha* is 40 hexadecimal digits."""
    pieces = [b"*%d\r\n$7\r\nEVALSHA\r\n$40\r\n" % (3 + keys.count + len(args)), sha, keys.wire]
    for arg in args:
        size = len(arg)
        pieces.append(_NEXT_HEADS[size] if size < _NEXT_HEADS_SIZE else b"\r\n$%d\r\n" % size)
        pieces.append(arg)
    pieces.append(b"\r\n")
    return b"".join(pieces)


def pack_command(*parts: bytes | str | int) -> bytes:
    """Any command; text is encoded as UTF-8, integers in decimal."""
    encoded = [part if isinstance(part, bytes) else str(part).encode() for part in parts]
    return b"*%d\r\n" % len(encoded) + b"".join([_bulk(part) for part in encoded])


def pack_fields(key: bytes, names: Sequence[str], values: Sequence[str]) -> bytes:
    """``HSET key field value …``, of many fields: by columns, which costs half of packing one after the other."""
    head = b"*%d\r\n$4\r\nHSET%b" % (2 + 2 * len(names), _next(key))
    fields = _join_fields(len, names, values)
    if not fields.isascii():
        fields = _join_fields(_utf8_length, names, values)
    return b"%b%b\r\n" % (head, fields.encode())


def pack_shared_command(*parts: bytes | str | int) -> bytes:
    """Any command that leaves the connection as it was, for the connection belongs to everybody.

    Raises:
        ValueError: The command would change the connection's state, or hold up everybody else's replies.
    """
    name = _text(parts[0]) if parts else ""
    second = _text(parts[1]) if len(parts) > 1 else ""
    if not name or name in _NOT_SHARED or f"{name} {second}" in _NOT_SHARED:
        raise ValueError(f"{name or 'an empty command'} cannot be sent over a shared connection")
    if name in ("XREAD", "XREADGROUP") and any(_text(part) == "BLOCK" for part in parts[1:]):
        raise ValueError(f"{name} BLOCK would hold up every other caller of a shared connection")
    return pack_command(*parts)


def _text(part: bytes | str | int) -> str:
    return (part.decode(errors="replace") if isinstance(part, bytes) else str(part)).upper()


def _join_fields(size: Callable[[str], int], names: Sequence[str], values: Sequence[str]) -> str:
    parts = [""] * (4 * len(names))
    parts[0::4] = map(_FIELD_HEADS.__getitem__, map(size, names))
    parts[1::4] = names
    parts[2::4] = map(_FIELD_HEADS.__getitem__, map(size, values))
    parts[3::4] = values
    return "".join(parts)


def _utf8_length(text: str) -> int:
    return len(text.encode())


class _Heads(dict[int, str]):
    """What stands before a text of so many bytes, behind the part before it; made once for every size."""

    def __missing__(self, size: int) -> str:
        head = self[size] = f"\r\n${size}\r\n"
        return head


def _next(part: bytes) -> bytes:
    return b"\r\n$%d\r\n%b" % (len(part), part)


def _count(keys: int) -> bytes:
    return _COUNTS[keys] if keys < len(_COUNTS) else _next(b"%d" % keys)


def _bulk(part: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(part), part)


_NEXT_HEADS_SIZE = 1024  # arguments of scripts are ids, numbers and short JSON; longer ones are formatted on the spot
_COUNTS = tuple(_next(b"%d" % keys) for keys in range(64))
_NEXT_HEADS = tuple(b"\r\n$%d\r\n" % size for size in range(_NEXT_HEADS_SIZE))

_FIELD_HEADS = _Heads()

_NOT_SHARED = frozenset(
    {
        *("ASKING", "AUTH", "HELLO", "QUIT", "READONLY", "READWRITE", "RESET", "SELECT"),
        *("CLIENT REPLY", "CLIENT TRACKING", "MONITOR", "PSYNC", "SYNC"),
        *("DISCARD", "EXEC", "MULTI", "UNWATCH", "WATCH"),
        *("PSUBSCRIBE", "PUNSUBSCRIBE", "SSUBSCRIBE", "SUBSCRIBE", "SUNSUBSCRIBE", "UNSUBSCRIBE"),
        *("BLMOVE", "BLMPOP", "BLPOP", "BRPOP", "BRPOPLPUSH", "BZMPOP", "BZPOPMAX", "BZPOPMIN", "WAIT", "WAITAOF"),
    }
)
