"""Sealed details open for their own booking, with a key that is here, unchanged; and never otherwise."""

import pytest

from engine.bookings import BookingDetails
from engine.ids import BookingId
from persistence.sealing import AesSealer

ANA = BookingId("01jc0000000000000000000000~concert")
RUI = BookingId("01jc0000000000000000000001~concert")
OLD_KEY, NEW_KEY = b"o" * 32, b"n" * 32
DETAILS = BookingDetails(
    guest={"name": "Ana Raposo", "email": "ana@example.org"}, attendees=[{"name": "Rui"}], notes="aisle, please"
)


def test_sealed_details_open_again() -> None:
    sealer = AesSealer([OLD_KEY])

    assert sealer.unseal(sealer.seal(DETAILS, ANA), ANA) == DETAILS


def test_sealed_details_show_nothing_and_are_never_the_same_twice() -> None:
    sealer = AesSealer([OLD_KEY])

    first, second = sealer.seal(DETAILS, ANA), sealer.seal(DETAILS, ANA)

    assert first != second
    assert not any(word in first for word in (b"Ana", b"Raposo", b"example.org", b"aisle", b"guest"))


def test_sealed_details_do_not_open_for_another_booking() -> None:
    sealer = AesSealer([OLD_KEY])

    with pytest.raises(ValueError, match="another one, or changed"):
        sealer.unseal(sealer.seal(DETAILS, ANA), RUI)


def test_sealed_details_do_not_open_when_any_byte_was_changed() -> None:
    sealer = AesSealer([OLD_KEY])
    sealed = sealer.seal(DETAILS, ANA)

    for position in range(len(sealed)):
        changed = bytearray(sealed)
        changed[position] ^= 1
        with pytest.raises(ValueError, match=ANA):
            sealer.unseal(bytes(changed), ANA)


@pytest.mark.parametrize("length", [0, 3, 4, 16, 31])
def test_sealed_details_do_not_open_when_cut_short(length: int) -> None:
    sealer = AesSealer([OLD_KEY])

    with pytest.raises(ValueError, match=ANA):
        sealer.unseal(sealer.seal(DETAILS, ANA)[:length], ANA)


def test_first_key_seals_and_every_key_opens_when_keys_are_rotated() -> None:
    before, during, after = AesSealer([OLD_KEY]), AesSealer([NEW_KEY, OLD_KEY]), AesSealer([NEW_KEY])

    assert during.unseal(before.seal(DETAILS, ANA), ANA) == DETAILS
    assert after.unseal(during.seal(DETAILS, ANA), ANA) == DETAILS
    with pytest.raises(ValueError, match="key that is not here"):
        after.unseal(before.seal(DETAILS, ANA), ANA)


@pytest.mark.parametrize("keys", [[], [b"short"], [OLD_KEY, b"short"]])
def test_sealer_refuses_keys_that_are_no_keys(keys: list[bytes]) -> None:
    with pytest.raises(ValueError, match="32 bytes"):
        AesSealer(keys)
