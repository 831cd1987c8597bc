"""Sealing of personal data with AES-256-GCM-SIV: readable by this installation only, and for its own booking only.

Sealed bytes are ``key id (4) | nonce (12) | ciphertext and tag``. The booking's id is authenticated with them, so that
nobody with write access to the database can show one guest's data to another. GCM-SIV, because nonces are random and
many: a nonce that repeats gives away no more than that two texts are equal.
"""

import hashlib
import os
from collections.abc import Sequence

import msgspec
from cryptography.exceptions import InvalidTag, UnsupportedAlgorithm
from cryptography.hazmat.primitives.ciphers.aead import AESGCMSIV

from engine.bookings import BookingDetails
from engine.ids import BookingId

KEY_BYTES = 32
KEY_ID_BYTES = 4
_NONCE_BYTES = 12
_TAG_BYTES = 16


class SealingUnsupported(Exception):
    """This build of ``cryptography`` cannot seal; the message says what is missing."""


class AesSealer:
    """Seals with the first key and opens with every one: put a new key in front, drop the last one when unused."""

    def __init__(self, keys: Sequence[bytes]) -> None:
        if not keys or any(len(key) != KEY_BYTES for key in keys):
            raise ValueError(f"sealing needs at least one key, each of {KEY_BYTES} bytes")
        try:
            self._ciphers = {_key_id(key): AESGCMSIV(key) for key in keys}
        except UnsupportedAlgorithm as error:
            raise SealingUnsupported(
                "AES-GCM-SIV needs OpenSSL 3.2 or newer: install cryptography from its wheel"
            ) from error
        self.first_key_id = _key_id(keys[0])  # what it seals begins with
        self._current = self._ciphers[self.first_key_id]
        self._encoder = msgspec.json.Encoder()
        self._decoder = msgspec.json.Decoder(BookingDetails)

    def seal(self, details: BookingDetails, booking_id: BookingId) -> bytes:
        """The details as bytes that only this installation can open."""
        return self._encrypt(self._encoder.encode(details), _bound(booking_id))

    def unseal(self, sealed: bytes, booking_id: BookingId) -> BookingDetails:
        """The details again.

        Raises:
            ValueError: The bytes were sealed for another booking, with a key that is not here, or were changed.
        """
        return self._decoder.decode(self._decrypt(sealed, _bound(booking_id), f"booking {booking_id}: its details"))

    def seal_text(self, text: str, bound: bytes) -> bytes:
        """A secret of the installation as bytes that only it can open, and only as what *bound* names."""
        return self._encrypt(text.encode(), bound)

    def unseal_text(self, sealed: bytes, bound: bytes) -> str:
        """The secret again.

        Raises:
            ValueError: The bytes were sealed for something else, with a key that is not here, or were changed.
        """
        return self._decrypt(sealed, bound, bound.decode()).decode()

    def has_key_of(self, sealed: bytes) -> bool:
        """Whether the key that *sealed* names is here; its first bytes are enough to tell."""
        return sealed[:KEY_ID_BYTES] in self._ciphers

    def is_sealed_with_first_key(self, sealed: bytes) -> bool:
        """Whether *sealed* would still open when all keys but the first are dropped."""
        return sealed[:KEY_ID_BYTES] == self.first_key_id

    def _encrypt(self, plain: bytes, bound: bytes) -> bytes:
        nonce = os.urandom(_NONCE_BYTES)
        return self.first_key_id + nonce + self._current.encrypt(nonce, plain, bound)

    def _decrypt(self, sealed: bytes, bound: bytes, subject: str) -> bytes:
        cipher = self._ciphers.get(sealed[:KEY_ID_BYTES])
        if cipher is None or len(sealed) < KEY_ID_BYTES + _NONCE_BYTES + _TAG_BYTES:
            raise ValueError(f"{subject} were sealed with a key that is not here")
        nonce = sealed[KEY_ID_BYTES : KEY_ID_BYTES + _NONCE_BYTES]
        try:
            return cipher.decrypt(nonce, sealed[KEY_ID_BYTES + _NONCE_BYTES :], bound)
        except InvalidTag:
            raise ValueError(f"{subject} were sealed for another one, or changed") from None


def _key_id(key: bytes) -> bytes:
    """Names a key without telling anything of it."""
    return hashlib.blake2b(key, digest_size=KEY_ID_BYTES, person=b"holdfast key id").digest()


def _bound(booking_id: BookingId) -> bytes:
    return b"holdfast booking details:" + booking_id.encode()
