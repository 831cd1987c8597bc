"""Ids of holds and bookings, and the references people read out on the telephone.

A hold's id is ``<26 characters>~<event id>``: a UUIDv7 in Crockford's base32 and the event, so that any process finds
the hold's partition from its id alone, without a lookup. A booking keeps the id of the hold it was made from: one hold
can never become two bookings, because there is only one primary key for both.
"""

import os
import re
import time
import uuid
from collections.abc import Sequence
from functools import cache, lru_cache
from typing import NewType

import msgspec

HoldId = NewType("HoldId", str)
BookingId = NewType("BookingId", str)

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"  # Crockford's base32: no I, L, O, U
_VALUES = {character: value for value, character in enumerate(ALPHABET)}
# Crockford's digits in either case to those of ``int(text, 32)``.
_DIGITS = {
    ord(letter): "0123456789abcdefghijklmnopqrstuv"[value]
    for character, value in _VALUES.items()
    for letter in (character, character.lower())
}
# Two characters at once, in lower case, from a table.
_PAIRS = tuple((first + second).lower() for first in ALPHABET for second in ALPHABET)
_PAIR_SHIFTS = range(120, -10, -10)
_LANE_BITS = 256  # in which many keys are made at once: 6 bytes of space, then 26 for the characters
KEY_LENGTH = 26
_KEY_BITS = KEY_LENGTH * 8
_LANE_SPACE = b" " * ((_LANE_BITS - _KEY_BITS) // 8)
_LANE_GAP = _LANE_SPACE + bytes(_LANE_BITS // 8 - 16 - len(_LANE_SPACE))
_CHARACTER_OF_VALUE = ALPHABET.lower().encode() + bytes(range(len(ALPHABET), 256))  # a space stays one
_TAILS = 64  # made together
_TAIL_BITS = 80  # of a UUIDv7, behind 48 of time: four say that it is one, two are the variant, the others are random
_TAIL_LENGTH = _TAIL_BITS // 5
_TAIL_MASK, _TAIL_MARKS = (int.from_bytes(bits * _TAILS) for bits in (
    (0x0FFF_3FFF_FFFF_FFFF_FFFF).to_bytes(16), (0x7000_8000_0000_0000_0000).to_bytes(16)
))  # fmt: skip
_CLAIM_ID = re.compile(r"([0-7][0-9a-hjkmnp-tv-z]{25})~([a-z0-9][a-z0-9._-]{0,63})")
_CLAIM_ID_MAX = KEY_LENGTH + 1 + 64

_REFERENCE = re.compile(r"HF-?([0-9A-Z]{4})-?([0-9A-Z]{3})([0-9A-Z])")
_REFERENCE_BITS = 35  # seven characters of five bits: 34 thousand million bookings
_REFERENCE_MASK = (1 << _REFERENCE_BITS) - 1
_REFERENCE_FACTOR = 0x5_A82F_1D3B | 1  # odd, so multiplication is a bijection modulo 2**35
_REFERENCE_INVERSE = pow(_REFERENCE_FACTOR, -1, 1 << _REFERENCE_BITS)
# What two characters of a reference add to its check character, by their ten bits: the first two, the next, the next.
_FIRST_SUMS, _SECOND_SUMS, _THIRD_SUMS = (
    tuple(weight * (pair >> 5) + (weight + 1) * (pair & 31) for pair in range(1024)) for weight in (1, 3, 5)
)


class ClaimKey(msgspec.Struct, frozen=True):
    """A hold's or booking's id taken apart: ``key`` is its name inside the event's hashes in Redis."""

    key: str
    event_id: str

    @property
    def uuid(self) -> uuid.UUID:
        """The same 128 bits as Postgres stores them."""
        return uuid.UUID(int=_decode(self.key))


def new_claim_id(event_id: str) -> HoldId:
    """A fresh id for a hold on *event_id*."""
    return HoldId(claim_id_of(new_claim_key(), event_id))


def new_claim_key() -> str:
    """What the event's hashes will call a fresh hold: 48 bits of time, 74 of randomness from the operating system.

    Every hold needs one. The characters of the time are those of the last one as a rule, and the others, which no time
    is in, are made many at once: a quarter of the cost of a UUID and its characters. Those of one millisecond are in no
    order.
    """
    global _latest
    try:
        tail = _tails.pop()
    except IndexError:
        tails = _random_tails()
        tail = tails.pop()
        _tails.extend(tails)
    now_ms = time.time_ns() // 1_000_000
    made_ms, characters = _latest
    if now_ms != made_ms:
        characters = claim_key(now_ms << _TAIL_BITS)[:-_TAIL_LENGTH]
        _latest = (now_ms, characters)
    return characters + tail


def _random_tails() -> list[str]:
    bits = int.from_bytes(os.urandom(16 * _TAILS)) & _TAIL_MASK | _TAIL_MARKS
    ids = bits.to_bytes(16 * _TAILS)
    return [key[-_TAIL_LENGTH:] for key in claim_keys([ids[at : at + 16] for at in range(0, len(ids), 16)])]


_tails: list[str] = []
_latest = (-1, "")
if hasattr(os, "register_at_fork"):  # where processes fork, two of them would make the same ids of what is in store
    os.register_at_fork(after_in_child=_tails.clear)


def claim_id(number: int, event_id: str) -> str:
    """The public id made of the 128-bit *number* and the event."""
    return claim_id_of(claim_key(number), event_id)


def claim_key(number: int) -> str:
    """What an event's hashes call the hold or booking of the 128-bit *number*."""
    return "".join([_PAIRS[number >> shift & 1023] for shift in _PAIR_SHIFTS])


def claim_keys(ids: Sequence[bytes]) -> list[str]:
    """The same of many, each of 16 bytes; a sixth of the cost of :func:`claim_key` for each.

    All of them stand in one large integer, 256 bits apart, whose groups of five bits are moved to a byte each: first
    the upper ten of 26 groups away from the lower sixteen, in all lanes at once, then eights from eights, and so on.
    """
    if not ids:
        return []
    spread = int.from_bytes(_LANE_GAP + _LANE_GAP.join(ids))
    for lower, upper, shift in _spreading_masks(1 << (len(ids) - 1).bit_length()):
        spread = (spread & lower) | (spread & upper) << shift
    return spread.to_bytes(_LANE_BITS // 8 * len(ids)).translate(_CHARACTER_OF_VALUE).decode().split()


@cache
def _spreading_masks(lanes: int) -> list[tuple[int, int, int]]:
    """For each step: which bits stay, which move, and how far. For *lanes* or fewer; a power of two, as a rule."""
    masks, space = [], int.from_bytes(_LANE_SPACE) << _KEY_BITS
    for step in (16, 8, 4, 2, 1):
        lower = upper = 0
        for base in range(0, _KEY_BITS, 16 * step):
            group = (1 << 5 * step) - 1
            lower |= group << base
            upper |= group << base + 5 * step
        lower, upper = lower % (1 << _KEY_BITS) | space, upper % (1 << _KEY_BITS)
        repeated = [int.from_bytes(mask.to_bytes(_LANE_BITS // 8) * lanes) for mask in (lower, upper)]
        masks.append((repeated[0], repeated[1], 3 * step))
    return masks


def claim_id_of(key: str, event_id: str) -> str:
    """The public id of the hold or booking that an event's hashes call *key*."""
    return f"{key}~{event_id}"


def parse_claim_id(text: str) -> ClaimKey | None:
    """Take a hold's or booking's id apart; ``None`` when it cannot be one."""
    return _parse_claim_id(text) if len(text) <= _CLAIM_ID_MAX else None


@lru_cache(maxsize=1024)  # a request looks at its own several times on its way
def _parse_claim_id(text: str) -> ClaimKey | None:
    match = _CLAIM_ID.fullmatch(text)
    return ClaimKey(match[1], match[2]) if match else None


def reference_from_number(number: int) -> str:
    """The reference of the ledger's booking *number*, with a check character: ``HF-7K3M-9QXP``.

    Consecutive numbers give references that look unrelated, so that nobody reads a shop's sales off its references;
    it is a bijection, so that two bookings never share one.

    Raises:
        ValueError: The number does not fit into seven characters.
    """
    if not 0 <= number <= _REFERENCE_MASK:
        raise ValueError(f"booking number {number} does not fit into a reference")
    scrambled = number * _REFERENCE_FACTOR & _REFERENCE_MASK
    body = _encode(scrambled)
    return f"HF-{body[:4]}-{body[4:]}{_check_character(scrambled)}"


def number_from_reference(reference: str) -> int | None:
    """The ledger's number of a reference as a person typed it; ``None`` when the check character does not fit.

    Case, hyphens and Crockford's confusions (O for 0, I and L for 1) do not matter.
    """
    match = _REFERENCE.fullmatch(reference.strip().upper())
    if match is None:
        return None
    body = (match[1] + match[2]).translate(_CONFUSIONS)
    if any(character not in _VALUES for character in body):
        return None
    scrambled = _decode(body)
    if _check_character(scrambled) != match[3].translate(_CONFUSIONS):
        return None
    return scrambled * _REFERENCE_INVERSE & _REFERENCE_MASK


_CONFUSIONS = str.maketrans("OIL", "011")


def _check_character(scrambled: int) -> str:
    """Seven characters, by their weights, modulo 31, a prime: it finds a wrong one and every swap but of 0 and Z."""
    first, second, third = scrambled >> 25 & 1023, scrambled >> 15 & 1023, scrambled >> 5 & 1023
    total = _FIRST_SUMS[first] + _SECOND_SUMS[second] + _THIRD_SUMS[third] + 7 * (scrambled & 31)
    return ALPHABET[total % 31]


def _encode(number: int) -> str:
    """The seven characters of a reference."""
    pairs = _PAIRS[number >> 25 & 1023] + _PAIRS[number >> 15 & 1023] + _PAIRS[number >> 5 & 1023]
    return pairs.upper() + ALPHABET[number & 31]


def _decode(text: str) -> int:
    return int(text.translate(_DIGITS), 32)
