"""Handlers of what people read: Swagger UI from our own files, and a page for every kind of problem."""

import functools
import html
from importlib import resources

import msgspec

from api.answers import Answer, Header, json_answer
from api.call import Call
from api.errors import RouteNotFound
from api.negotiation import prefers
from api.problem_shapes import Problem
from api.problems import KIND_BY_CODE

_HTML = b"text/html; charset=utf-8"
_KEEP_A_DAY: Header = (b"cache-control", b"public, max-age=86400")
# Nothing but our own files: Swagger UI sets styles through the object model, which needs no exemption.
_CSP: Header = (
    b"content-security-policy",
    b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
)

_FILES = {  # those of swagger-ui-dist that a page needs, and the two lines that start it
    "swagger-ui.css": b"text/css; charset=utf-8",
    "swagger-ui-bundle.js": b"text/javascript; charset=utf-8",
    "start.js": b"text/javascript; charset=utf-8",
    "favicon-32x32.png": b"image/png",
}

FILE_MEDIA_TYPES = tuple(dict.fromkeys(media_type.decode("ascii").partition(";")[0] for media_type in _FILES.values()))

_DOCS_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Holdfast API</title>
<link rel="icon" href="{root}/docs/favicon-32x32.png">
<link rel="stylesheet" href="{root}/docs/swagger-ui.css">
<div id="swagger-ui" data-document="{root}/openapi.json"></div>
<script src="{root}/docs/swagger-ui-bundle.js"></script>
<script src="{root}/docs/start.js"></script>
</html>
"""

_PROBLEM_PAGE = """\
<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title} - Holdfast</title>
<h1>{title}</h1>
<p><code>{code}</code>, status {status}</p>
<p>{meaning}</p>
{members}
</html>
"""


class ProblemPage(msgspec.Struct, frozen=True):
    """A kind of problem: what it means, and the members its bodies have beside those of all problems."""

    code: str
    status: int
    title: str
    meaning: str
    members: list[str]


async def show_root(call: Call) -> Answer:
    """``GET /`` → 307: whoever opens the server in a browser wants to read."""
    link = f'<a href="{html.escape(call.root_path, quote=True)}/docs">The documents</a>\n'
    return Answer(307, link.encode(), _HTML, (call.location("/docs"), _CSP))


async def show_docs(call: Call) -> Answer:
    """``GET /docs`` → Swagger UI, which works without the Internet."""
    page = _DOCS_PAGE.format(root=html.escape(call.root_path, quote=True))
    return Answer(200, page.encode(), _HTML, (_CSP,))


async def show_docs_file(call: Call) -> Answer:
    """``GET /docs/{file}`` → one of the page's own files."""
    name = call.params["file"]
    if name not in _FILES:
        raise RouteNotFound
    return Answer(200, _read_file(name), _FILES[name], (_KEEP_A_DAY,))


async def show_problem(call: Call) -> Answer:
    """``GET /problems/{code}`` → what a problem's ``type`` means, for browsers as a page, else as JSON."""
    kind = KIND_BY_CODE.get(call.params["code"])
    if kind is None:
        raise RouteNotFound
    members = [name for name in kind.shape.__struct_encode_fields__ if name not in Problem.__struct_encode_fields__]
    if not prefers(call.headers.get(b"accept", b""), b"text/html"):
        return json_answer(ProblemPage(kind.code, kind.status, kind.title, kind.meaning, members))
    listed = f"<p>Members: {', '.join(f'<code>{name}</code>' for name in members)}.</p>" if members else ""
    page = _PROBLEM_PAGE.format(
        title=html.escape(kind.title),
        code=kind.code,
        status=kind.status,
        meaning=html.escape(kind.meaning),
        members=listed,
    )
    return Answer(200, page.encode(), _HTML, (_CSP,))


@functools.cache
def _read_file(name: str) -> bytes:
    return resources.files("api").joinpath("static", name).read_bytes()
