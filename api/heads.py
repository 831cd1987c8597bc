"""Heads of requests that say something twice, or not at all; the application asks only where that is so."""

from collections.abc import Iterable, Mapping

from api.errors import BadRequest, Unauthenticated
from engine.errors import InvalidRequest


def joined_headers(headers: Iterable[tuple[bytes, bytes]], http_version: str) -> Mapping[bytes, bytes]:
    """*headers* by name: lines of one name are one list with commas between (RFC 9110, section 5.3).

    Raises:
        BadRequest: ``Host`` is there twice, or not at all, which HTTP/1.0 alone allows (RFC 9112, section 3.2).
        Unauthenticated, InvalidRequest: Who asks, or which request it is, is said twice; somebody on its way may have
            gone by the other line.
    """
    values: dict[bytes, list[bytes]] = {}
    for name, value in headers:
        values.setdefault(name, []).append(value)
    hosts = len(values.get(b"host", ()))
    if hosts > 1 or (not hosts and http_version == "1.1"):
        raise BadRequest("`Host` is there more than once" if hosts else "`Host` is missing")
    if len(values.get(b"authorization", ())) > 1:
        raise Unauthenticated("The `Authorization` header is there more than once.")
    if len(values.get(b"idempotency-key", ())) > 1:
        raise InvalidRequest("Idempotency-Key", "given twice")
    return {name: b", ".join(of_name) for name, of_name in values.items()}
