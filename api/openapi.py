"""The OpenAPI 3.1 document, made from the route table and the types that msgspec decodes and encodes."""

import inspect
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from api import errors as http
from api.problems import KIND_BY_CODE, Kind, kind_of_class
from api.route import Reply, Route
from engine import errors as engine
from engine.definition import EVENT_ID_PATTERN

_REF = "#/components/schemas/{name}"

_DESCRIPTION = """\
Holds places atomically and sells each of them once. A hold is a claim with a deadline; a booking is durable before it
is acknowledged, unless its event's policy says otherwise (`durability: redis`). Errors are `application/problem+json`
(RFC 9457) with a stable `code`. Every change takes an `Idempotency-Key`: for 24 hours the same key and body do
nothing a second time, and get the first answer again; where that is a booking, the booking as it is now. Fields that
are not known are refused (422), so that none is overlooked; a request that takes no body may have an empty object.
What is no HTTP request, or too much of one, never gets to a route: 400 `bad-request`, 411 `length-required`, 431
`head-too-large`.
"""

_PATH_PARAMS: dict[str, dict[str, Any]] = {
    "event_id": {"type": "string", "pattern": EVENT_ID_PATTERN, "example": "concert-42"},
    "hold_id": {"type": "string", "minLength": 1, "maxLength": 128},
    "booking_id": {"type": "string", "minLength": 1, "maxLength": 128},
    "entry_id": {"type": "string", "minLength": 1, "maxLength": 128},
    "block_id": {"type": "string", "minLength": 1, "maxLength": 128},
    "customer_id": {"type": "string", "minLength": 1, "maxLength": 255, "example": "ana"},
    "reference": {
        "type": "string",
        "minLength": 1,
        "maxLength": 32,
        "example": "HF-7K3M-9QXP",
        "description": "As it is read out or typed: in upper or lower case; the hyphens may be missing, the `HF` may "
        "not; O is taken for 0, I and L for 1. One whose last character, which checks the others, does not fit is "
        "answered 404.",
    },
    "code": {"type": "string", "enum": sorted(KIND_BY_CODE)},
    "file": {"type": "string", "minLength": 1},
    "provider": {"type": "string", "minLength": 1, "maxLength": 64, "example": "simulator"},
}

_HEADERS: dict[str, dict[str, Any]] = {
    "Idempotency-Key": {
        "description": "Makes it safe to repeat the request: at most 255 printable characters, new for every request.",
        "schema": {"type": "string", "pattern": "^[!-~]([ -~]{0,253}[!-~])?$"},
    },
    "Holdfast-Admission": {
        "description": "Tickets of admission queues, with commas between: for events that ask for one.",
        "schema": {"type": "string"},
    },
    "If-Match": {
        "description": "Change only the version with this entity tag.",
        "schema": {"type": "string", "pattern": '^"[0-9]{1,9}(-[0-9]{1,9}){0,2}"$'},
    },
    "If-None-Match": {
        "description": "Answer 304 when this is still the entity tag.",
        "schema": {"type": "string", "pattern": '^"[0-9a-f-]{1,32}"$'},
    },
}

_ANSWER_HEADERS: dict[str, dict[str, Any]] = {
    "ETag": {
        "description": "A strong entity tag: the version, with what changes without it (how far the cancelling of an "
        "event has come), or a digest of the bytes. `If-Match` takes it as it is.",
        "schema": {"type": "string"},
    },
    "Link": {"description": "The next page (`rel=next`), if there is one.", "schema": {"type": "string"}},
    "Location": {"description": "The path of what was made.", "schema": {"type": "string"}},
    "Idempotent-Replayed": {"description": "`true`: the answer was given before.", "schema": {"type": "string"}},
    "Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}},
}


def openapi_document(routes: Sequence[Route], *, version: str) -> dict[str, Any]:
    """The document for *routes*."""
    schemas = _Schemas(routes)
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        paths.setdefault(route.path, {})[route.method.lower()] = _operation(route, schemas)
    return {
        "openapi": "3.1.0",
        "info": {"title": "Holdfast", "version": version, "description": _DESCRIPTION},
        "servers": [{"url": "/"}],
        "tags": [{"name": name} for name in dict.fromkeys(route.tag for route in routes)],
        "paths": paths,
        "components": {
            "schemas": schemas.components,
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"}},
        },
    }


def problem_kinds(route: Route) -> list[Kind]:
    """Every kind of problem that *route* may answer with, in the table's order of statuses."""
    kinds = {kind.code: kind for kind in map(kind_of_class, _refusals(route))}
    return sorted(kinds.values(), key=lambda kind: kind.status)


def _refusals(route: Route) -> Iterator[type[Exception]]:
    yield from route.refusals
    yield http.BadRequest
    if route.roles:
        yield from (http.Unauthenticated, http.Forbidden, http.KeysUnavailable)
        yield from (engine.RateLimited, engine.StoreUnavailable, engine.LedgerUnavailable, engine.Overloaded)
    if route.query is not None:
        yield engine.InvalidRequest
    if route.changes:
        yield from (engine.InvalidRequest, http.PayloadTooLarge)
        yield from () if route.takes_bytes else (http.ContentEncoded,)
        yield from (engine.IdempotencyKeyReused, engine.IdempotencyInFlight)
    if route.takes_tickets:
        yield from (engine.AdmissionRequired, engine.AdmissionPending)
    if route.body is not None:
        yield http.UnsupportedMediaType


class _Schemas:
    """JSON schemas of all types that the routes name, each described once under ``components``."""

    def __init__(self, routes: Iterable[Route]) -> None:
        types: dict[Any, None] = {}
        for route in routes:
            named = [route.body, *(reply.body for reply in route.replies), *(k.shape for k in problem_kinds(route))]
            types |= dict.fromkeys(type_ for type_ in named if type_ is not None)
        schemas, components = msgspec.json.schema_components(tuple(types), ref_template=_REF)
        self._by_type = dict(zip(types, map(_portable, schemas), strict=True))
        self.components = _portable(components)

    def of(self, type_: Any) -> dict[str, Any]:
        """The schema of a type, most often a reference."""
        schema: dict[str, Any] = self._by_type[type_]
        return schema


def _portable(schema: Any) -> Any:
    """What is Python's own as others have it: patterns in ECMA 262's words, docstrings in Markdown."""
    if isinstance(schema, Mapping):
        return {
            name: _TEXTS[name](value) if name in _TEXTS and isinstance(value, str) else _portable(value)
            for name, value in schema.items()
        }
    return [_portable(member) for member in schema] if isinstance(schema, list | tuple) else schema


def _ecma_pattern(pattern: str) -> str:
    r"""ECMA 262 ends a string with ``$``, not with Python's ``\Z``."""
    return pattern[:-2] + "$" if pattern.endswith(("\\Z", "\\z")) else pattern


def _markdown(docstring: str) -> str:
    """Code in single backticks, members too, ``None`` by JSON's name, and no indentation, which would be a block."""
    text = inspect.cleandoc(docstring).replace("``None``", "``null``").replace("``", "`")
    return re.sub(r"\*(\w+)\*", r"`\1`", text)


_TEXTS = {"pattern": _ecma_pattern, "description": _markdown}


def _operation(route: Route, schemas: _Schemas) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": f"{route.handler.__name__}",
        "summary": route.summary,
        "tags": [route.tag],
        "security": [{"bearer": []}] if route.roles else [],
        "parameters": [*_path_parameters(route), *_query_parameters(route), *_header_parameters(route)],
        "responses": _responses(route, schemas),
    }
    if route.roles:
        operation["description"] = " ".join((f"Roles: {', '.join(sorted(route.roles))}.", *route.notes))
    if route.body is not None:
        content = {"schema": schemas.of(route.body)}
        if route.body_example is not None:
            content["example"] = route.body_example
        operation["requestBody"] = {"required": route.body_required, "content": {"application/json": content}}
    return operation


def _path_parameters(route: Route) -> Iterator[dict[str, Any]]:
    for name in route.param_names:
        schema = _portable(_PATH_PARAMS[name])
        described = {"description": schema.pop("description")} if "description" in schema else {}
        yield {"name": name, "in": "path", "required": True, **described, "schema": schema}


def _query_parameters(route: Route) -> Iterator[dict[str, Any]]:
    if route.query is None:
        return
    (_, components) = msgspec.json.schema_components((route.query,))
    schema = components[route.query.__name__]
    for name, member in schema["properties"].items():
        # What a struct calls null is, in a query string, an absent parameter.
        alternatives = [option for option in member.get("anyOf", []) if option != {"type": "null"}]
        plain = alternatives[0] if len(alternatives) == 1 else member
        yield {"name": name, "in": "query", "required": False, "schema": _portable(_without_default(plain))}


def _without_default(schema: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in schema.items() if name != "default" or value is not None}


def _header_parameters(route: Route) -> Iterator[dict[str, Any]]:
    names = ["Idempotency-Key"] if route.changes else []
    names += ["Holdfast-Admission"] if route.takes_tickets else []
    names += [route.conditional] if route.conditional else []
    for name in names:
        yield {"name": name, "in": "header", "required": False, **_HEADERS[name]}


def _responses(route: Route, schemas: _Schemas) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    for reply in route.replies:
        described = responses.setdefault(str(reply.status), {"description": reply.description})
        if reply.headers:
            described["headers"] = {name: _ANSWER_HEADERS[name] for name in reply.headers}
        if reply.body is not None or reply.media_type != Reply(0, "").media_type:
            content = described.setdefault("content", {})
            content[reply.media_type] = {"schema": schemas.of(reply.body)} if reply.body is not None else {}
    by_status: dict[int, list[Kind]] = {}
    for kind in problem_kinds(route):
        by_status.setdefault(kind.status, []).append(kind)
    for status, kinds in by_status.items():
        described = responses.setdefault(str(status), {"description": _describe(kinds)})
        described.setdefault("content", {})["application/problem+json"] = {"schema": _problem_schema(kinds, schemas)}
    return responses


def _describe(kinds: Sequence[Kind]) -> str:
    return "\n".join(f"- `{kind.code}`: {kind.meaning}" for kind in kinds)


def _problem_schema(kinds: Sequence[Kind], schemas: _Schemas) -> dict[str, Any]:
    shapes = list(dict.fromkeys(kind.shape for kind in kinds))
    alternatives = [
        {
            "allOf": [schemas.of(shape)],
            "properties": {"code": {"enum": [kind.code for kind in kinds if kind.shape is shape]}},
        }
        for shape in shapes
    ]
    return alternatives[0] if len(alternatives) == 1 else {"oneOf": alternatives}
