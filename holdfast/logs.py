"""Logs as JSON lines on standard error, so that standard output stays a command's own."""

import datetime as dt
import json
import logging
import sys

import msgspec
import structlog
from structlog.typing import EventDict

_encoder = msgspec.json.Encoder(enc_hook=repr)


def configure_logs(level: str) -> None:
    """Send structlog's and the standard library's messages of *level* and above to standard error."""
    number = logging.getLevelNamesMapping()[level.upper()]
    shared = (structlog.processors.add_log_level, _add_timestamp)
    structlog.configure(
        processors=[*shared, structlog.processors.format_exc_info, structlog.processors.JSONRenderer(_as_json)],
        wrapper_class=structlog.make_filtering_bound_logger(number),
        logger_factory=structlog.BytesLoggerFactory(sys.stderr.buffer),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    formatter = structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=shared,
        processors=[
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(lambda event, **_: _as_json(event).decode()),
        ],
    )
    handler.setFormatter(formatter)
    logging.basicConfig(level=max(number, logging.WARNING), handlers=[handler], force=True)


def _add_timestamp(_: object, __: str, event: EventDict) -> EventDict:
    """In UTC, spelled as RFC 3339 has it by whoever makes a line of it: structlog's own takes five times as long."""
    event["timestamp"] = dt.datetime.now(dt.UTC)
    return event


def _as_json(event: EventDict, **_: object) -> bytes:
    """A line, whatever is in it: every sale writes one, and ``json.dumps`` took half of what that cost.

    Strings and numbers are what should be in it: structs and dataclasses are written out, also what their ``repr``
    leaves out.
    """
    try:
        return _encoder.encode(event)
    except UnicodeEncodeError:  # a string that is no text, which json can write all the same
        return json.dumps(msgspec.to_builtins(event, enc_hook=repr)).encode()
