"""Lists in pages: where the next one starts, in the body and as a link (RFC 8288)."""

from collections.abc import Sequence
from typing import Annotated, Any
from urllib.parse import parse_qsl, quote, urlencode

import msgspec

from api.answers import Answer, json_answer
from api.call import Call

LIMIT_MAX = 200
LIMIT_DEFAULT = 50

Limit = Annotated[int, msgspec.Meta(ge=1, le=LIMIT_MAX, description="How many items at most.")]
Cursor = Annotated[str, msgspec.Meta(min_length=1, max_length=512, description="`next_cursor` of the page before.")]


class PageQuery(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which page of a list."""

    limit: Limit = LIMIT_DEFAULT
    cursor: Cursor | None = None


def page_answer(call: Call, items: Sequence[Any], next_cursor: str | None) -> Answer:
    """One page; ``Link`` repeats the request's own parameters with the next cursor."""
    document = {"items": items, "next_cursor": next_cursor}
    if next_cursor is None:
        return json_answer(document)
    asked = parse_qsl(call.query_string.decode("latin-1"), keep_blank_values=True)
    query = urlencode([(name, value) for name, value in asked if name != "cursor"] + [("cursor", next_cursor)])
    link = f'<{quote(call.root_path + call.scope["path"])}?{query}>; rel="next"'
    return json_answer(document, headers=((b"link", link.encode("ascii")),))
