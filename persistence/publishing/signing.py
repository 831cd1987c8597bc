"""Signatures of webhooks by the Standard Webhooks scheme: HMAC-SHA256 over ``id.timestamp.body``."""

import base64
import binascii
import hashlib
import hmac
import secrets as randomness
from collections.abc import Sequence

SECRET_PREFIX = "whsec_"  # noqa: S105 - what secrets begin with, none itself
SECRET_BYTES = 32
SECRET_BYTES_ALLOWED = range(24, 65)  # the scheme's
SECRETS_MAX = 2  # the new one and the one it replaces


def new_secret() -> str:
    """A secret of 32 random bytes."""
    return SECRET_PREFIX + base64.b64encode(randomness.token_bytes(SECRET_BYTES)).decode()


def secret_key(secret: str) -> bytes:
    """The key in a secret.

    Raises:
        ValueError: It is no such secret; the message does not repeat it.
    """
    expected = f"a secret is {SECRET_PREFIX} and 24 to 64 bytes in base64"
    if not secret.startswith(SECRET_PREFIX):
        raise ValueError(expected)
    try:
        key = base64.b64decode(secret.removeprefix(SECRET_PREFIX), validate=True)
    except (binascii.Error, ValueError):
        raise ValueError(expected) from None
    if len(key) not in SECRET_BYTES_ALLOWED:
        raise ValueError(expected)
    return key


def signature_header(secrets: Sequence[str], message_id: str, timestamp_s: int, body: bytes) -> str:
    """The value of ``webhook-signature``: one signature for each secret; the receiver may know either."""
    signed = f"{message_id}.{timestamp_s}.".encode() + body
    return " ".join(
        "v1," + base64.b64encode(hmac.digest(secret_key(secret), signed, hashlib.sha256)).decode() for secret in secrets
    )
