"""Tokens for development, demo and tests; in production an identity provider makes them."""

import time
from collections.abc import Sequence

import jwt

from holdfast.settings import Settings, jwt_secret

TTL_S = 24 * 3600


def make_token(settings: Settings, subject: str, roles: Sequence[str], *, ttl_s: int = TTL_S) -> str:
    """A bearer token for *subject*, signed with the installation's secret."""
    now = int(time.time())
    claims = {
        "sub": subject,
        "roles": list(roles),
        "iss": settings.jwt_issuer,
        "aud": settings.jwt_audience,
        "iat": now,
        "exp": now + ttl_s,
    }
    return jwt.encode(claims, jwt_secret(settings), algorithm="HS256")
