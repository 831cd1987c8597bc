"""What every request meets before and after its handler: routes, tokens, bodies, headers, failures."""

import asyncio
import gzip
import json
from typing import Any

import httpx2
import pytest
from api_kit import bearer, client_for, make_token, services_without_stores
from starlette.types import Message, Scope
from structlog.testing import capture_logs

from api.answers import Answer, json_answer
from api.app import Application, create_app
from api.call import Call
from api.errors import KeysUnavailable
from api.identity import ROLES, TokenVerifier
from api.route import Method, Reply, Route
from api.routes import ROUTES
from api.services import Impaired, ReadinessCheck

REPLIES = (Reply(200, "Fine."),)


async def echo(call: Call) -> Answer:
    return json_answer({"length": len(call.body), "caller": call.caller.sub, "base": call.base_url})


async def fail(call: Call) -> Answer:
    raise RuntimeError("password=hunter2")


def route(method: Method, path: str, handler: Any = echo, **members: Any) -> Route:
    return Route(method=method, path=path, handler=handler, summary="s", tag="t", replies=REPLIES, **members)


OWN_ROUTES = (
    route("POST", "/echo", body=dict[str, Any], body_max=1000),
    route("GET", "/echo"),
    route("GET", "/fail", fail),
    route("POST", "/customers", roles=frozenset({"customer"})),
    route("POST", "/events/{event_id}", roles=ROLES),
    route("POST", "/holds/{hold_id}", roles=ROLES),
)


def filled(path: str) -> str:
    """The path with something in its braces; for a customer's own, whom the tests call ``x``."""
    return path.replace("{customer_id}", "x").replace("{", "x").replace("}", "")


@pytest.mark.parametrize("row", [row for row in ROUTES if row.roles], ids=lambda row: f"{row.method} {row.path}")
async def test_route_with_roles_answers_401_without_a_token(row: Route) -> None:
    async with client_for(ROUTES) as client:
        response = await client.request(row.method, filled(row.path))
    assert response.status_code == 401
    assert response.headers["www-authenticate"].startswith("Bearer")
    assert response.json()["code"] == "unauthenticated"


@pytest.mark.parametrize("row", [row for row in ROUTES if row.roles], ids=lambda row: f"{row.method} {row.path}")
@pytest.mark.parametrize("role", [*sorted(ROLES), "janitor"])
async def test_route_answers_403_to_every_role_that_the_table_does_not_name(row: Route, role: str) -> None:
    with capture_logs():  # without stores they end in tracebacks, which take longer to print than everything else
        async with client_for(ROUTES) as client:
            response = await client.request(row.method, filled(row.path), headers=bearer("x", role))
    if role not in row.roles:
        assert (response.status_code, response.json()["code"]) == (403, "forbidden")
    else:
        assert response.status_code not in (401, 403)


def test_public_routes_are_those_that_tell_nothing_of_anybody() -> None:
    assert {row.path for row in ROUTES if not row.roles} == {
        "/healthz",
        "/readyz",
        "/metrics",
        "/v1/info",
        "/openapi.json",
        "/",
        "/docs",
        "/docs/{file}",
        "/problems/{code}",
        "/v1/payments/webhooks/{provider}",  # which asks for a signature instead
    }


@pytest.mark.parametrize(
    "path",
    ["http://holdfast.test//", "/nothing", "/echo/", "http://holdfast.test//echo", "/v1/events/a/holds/", "/echo%00"],
)
async def test_unknown_path_is_a_404_problem(path: str) -> None:
    async with client_for((*OWN_ROUTES, *ROUTES)) as client:
        response = await client.get(path)
    assert (response.status_code, response.json()["code"]) == (404, "not-found")
    assert response.headers["content-type"] == "application/problem+json"


async def test_wrong_method_is_a_405_problem_that_names_the_right_ones() -> None:
    async with client_for(OWN_ROUTES) as client:
        response = await client.delete("/echo")
    assert (response.status_code, response.json()["code"]) == (405, "method-not-allowed")
    assert set(response.headers["allow"].split(", ")) == {"GET", "HEAD", "POST"}


async def test_head_gets_the_headers_of_get_and_no_body() -> None:
    async with client_for(OWN_ROUTES) as client:
        whole, head = await client.get("/echo"), await client.head("/echo")
    assert head.status_code == 200
    assert head.headers["content-length"] == whole.headers["content-length"] == str(len(whole.content))
    assert head.content == b""


async def test_request_id_of_the_client_comes_back_in_header_and_problem() -> None:
    async with client_for(OWN_ROUTES) as client:
        response = await client.get("/nothing", headers={"x-request-id": "trace-7:a/b"})
    assert response.headers["x-request-id"] == response.json()["request_id"] == "trace-7:a/b"


@pytest.mark.parametrize("given", ["", "x" * 129, "a b", "ü", '"><script>', "-x"], ids=repr)
async def test_request_id_is_made_anew_when_the_clients_cannot_be_repeated(given: str) -> None:
    async with client_for(OWN_ROUTES) as client:
        responses = [await client.get("/echo", headers={b"x-request-id": given.encode()}) for _ in range(2)]
    first, second = (response.headers["x-request-id"] for response in responses)
    assert first != second
    assert first.isalnum()


async def test_answers_forbid_content_sniffing() -> None:
    async with client_for(OWN_ROUTES) as client:
        assert (await client.get("/echo")).headers["x-content-type-options"] == "nosniff"


@pytest.mark.parametrize(
    "content_type",
    [None, "application/json", "Application/JSON; charset=utf-8", "application/merge-patch+json"],
)
async def test_body_is_taken_when_it_calls_itself_json_or_nothing(content_type: str | None) -> None:
    async with client_for(OWN_ROUTES) as client:
        headers = {"content-type": content_type} if content_type else {}
        response = await client.post("/echo", content=b"{}", headers=headers)
    assert response.status_code == 200


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "json", "text/x+json", ""])
async def test_body_of_another_type_is_a_415_problem(content_type: str) -> None:
    async with client_for(OWN_ROUTES) as client:
        response = await client.post("/echo", content=b"{}", headers={"content-type": content_type})
    assert (response.status_code, response.json()["code"]) == (415, "unsupported-media-type")


@pytest.mark.parametrize("encoding", ["gzip", "GZIP", "br", "gzip, identity", "deflate", ""])
@pytest.mark.parametrize(
    ("path", "body"), [("/echo", b"{}"), ("/customers", b"{}"), ("/echo", gzip.compress(b"{}", mtime=0))]
)
async def test_body_that_is_encoded_is_a_415_problem(encoding: str, path: str, body: bytes) -> None:
    headers = {"content-encoding": encoding} | bearer("ana", "customer")
    async with client_for(OWN_ROUTES) as client:
        response = await client.post(path, content=body, headers=headers)
    assert (response.status_code, response.json()["code"]) == (415, "content-encoded")
    assert response.headers["accept-encoding"] == "identity"


@pytest.mark.parametrize(("encoding", "body"), [("identity", b"{}"), ("Identity", b"{}"), ("gzip", b"")])
async def test_body_that_is_not_encoded_or_not_there_is_taken(encoding: str, body: bytes) -> None:
    headers = {"content-encoding": encoding} | bearer("ana", "customer")
    async with client_for(OWN_ROUTES) as client:
        response = await client.post("/customers", content=body, headers=headers)
    assert response.status_code == 200


BODILESS = [row for row in ROUTES if row.changes and row.body is None and not row.takes_bytes]


@pytest.mark.parametrize("row", BODILESS, ids=lambda row: f"{row.method} {row.path}")
async def test_body_of_a_request_that_takes_none_is_refused(row: Route) -> None:
    async with client_for(ROUTES) as client:
        everybody = bearer("x", *ROLES)
        response = await client.request(row.method, filled(row.path), json={"surprise": 1}, headers=everybody)
    assert (response.status_code, response.json()["path"]) == (422, "$.surprise")
    assert response.json()["detail"] == "this request takes no body"


@pytest.mark.parametrize("body", [b"", b"{}", b" { }\n"])
async def test_request_that_takes_no_body_may_have_an_empty_one(body: bytes) -> None:
    async with client_for(OWN_ROUTES) as client:
        response = await client.post("/customers", content=body, headers=bearer("ana", "customer"))
    assert response.status_code == 200


@pytest.mark.parametrize("body", [b"[]", b"null", b"{", b"a=b", b"\xff"])
async def test_anything_else_is_no_empty_body(body: bytes) -> None:
    async with client_for(OWN_ROUTES) as client:
        response = await client.post("/customers", content=body, headers=bearer("ana", "customer"))
    assert (response.status_code, response.json()["path"]) == (422, "$")


class Reader:
    """The receiving half of an ASGI connection that counts what was taken out of it."""

    def __init__(self, *chunks: bytes, hang_up: bool = False) -> None:
        self.messages: list[Message] = [
            {"type": "http.request", "body": chunk, "more_body": hang_up or number < len(chunks) - 1}
            for number, chunk in enumerate(chunks)
        ]
        self.taken = 0

    async def __call__(self) -> Message:
        self.taken += 1
        return self.messages[self.taken - 1] if self.taken <= len(self.messages) else {"type": "http.disconnect"}


async def post_raw(reader: Reader, *headers: tuple[bytes, bytes], **scope_members: Any) -> list[Message]:
    app = Application(services_without_stores(), OWN_ROUTES, lifespan=None, public_url=None)
    sent: list[Message] = []

    async def send(message: Message) -> None:
        sent.append(message)

    if not any(name == b"host" for name, _ in headers) and "http_version" not in scope_members:
        headers = (*headers, (b"host", b"holdfast.test"))
    scope: Scope = {
        "type": "http",
        "http_version": "1.1",
        "method": "POST",
        "path": "/echo",
        "query_string": b"",
        "headers": list(headers),
        "server": ("127.0.0.1", 8000),
        "scheme": "http",
    } | scope_members
    await app(scope, reader, send)
    return sent


HOST = (b"host", b"holdfast.test")


@pytest.mark.parametrize(
    ("version", "headers", "expected"),
    [
        ("1.1", [], (400, "bad-request", "`Host` is missing")),
        ("1.1", [HOST, HOST], (400, "bad-request", "`Host` is there more than once")),
        ("1.0", [HOST, HOST], (400, "bad-request", "`Host` is there more than once")),
        ("1.1", [HOST, *[(b"idempotency-key", b"k")] * 2], (422, "invalid-request", "given twice")),
        (
            "1.1",
            [HOST, *[(b"authorization", b"Bearer x")] * 2],
            (401, "unauthenticated", "The `Authorization` header is there more than once."),
        ),
    ],
)
async def test_head_that_two_readers_may_take_for_two_things_is_refused(
    version: str, headers: list[tuple[bytes, bytes]], expected: tuple[int, str, str]
) -> None:
    start, body = await post_raw(Reader(b"{}"), *headers, http_version=version)
    problem = json.loads(body["body"])
    assert (start["status"], problem["code"], problem["detail"]) == expected
    if expected[0] == 422:
        assert problem["path"] == "Idempotency-Key"


async def test_host_may_be_missing_before_http_1_1_and_other_headers_may_come_in_several_lines() -> None:
    old, _ = await post_raw(Reader(b"{}"), http_version="1.0")
    assert old["status"] == 200
    several = [(b"content-type", b"application/json"), (b"x-forwarded-for", b"::1"), (b"x-forwarded-for", b"::2")]
    start, _ = await post_raw(Reader(b"{}"), *several)
    assert start["status"] == 200
    seen: list[Call] = []

    async def look(call: Call) -> Answer:
        seen.append(call)
        return json_answer({})

    async with client_for([route("GET", "/look", look)]) as client:
        tickets = [("Holdfast-Admission", "a"), ("X", "y"), ("Holdfast-Admission", "b")]
        await client.get("/look", headers=tickets)
    assert seen[0].headers[b"holdfast-admission"] == b"a, b"


@pytest.mark.parametrize("path", ["/events%2Fa", "/events/a%2Fb", "/events/a%2fb", "/events/%2F"])
async def test_slash_that_is_escaped_parts_nothing(path: str) -> None:
    async with client_for(OWN_ROUTES) as client:
        response = await client.post(path, headers=bearer("ana", "customer"))
        escaped = await client.post("/events/a%2Db%252F", headers=bearer("ana", "customer"))
    assert (response.status_code, response.json()["code"], escaped.status_code) == (404, "not-found", 200)


async def test_body_above_the_cap_is_refused_by_its_header_without_reading_any_of_it() -> None:
    reader = Reader(b"x" * 1001)
    start, body = await post_raw(reader, (b"content-length", b"1001"))
    assert (start["status"], json.loads(body["body"])["maximum"]) == (413, 1000)
    assert (b"connection", b"close") in start["headers"]
    assert reader.taken == 0


async def test_body_above_the_cap_is_refused_as_it_comes_when_no_header_tells() -> None:
    reader = Reader(*[b"x" * 400] * 50)
    start, _ = await post_raw(reader)
    assert start["status"] == 413
    assert reader.taken == 3


@pytest.mark.parametrize("length", [b"9" * 5000, b"-1", b"1e3", b"", "²".encode()])
async def test_content_length_that_is_no_number_we_take_is_a_413(length: bytes) -> None:
    start, _ = await post_raw(Reader(b"{}"), (b"content-length", length))
    assert start["status"] == 413


async def test_body_of_exactly_the_cap_is_read_from_its_chunks() -> None:
    start, body = await post_raw(Reader(b"x" * 400, b"y" * 400, b"z" * 200))
    assert (start["status"], json.loads(body["body"])["length"]) == (200, 1000)


async def test_client_that_hangs_up_in_the_middle_is_answered_nothing() -> None:
    assert await post_raw(Reader(b"half", hang_up=True)) == []


async def test_failure_of_ours_is_a_500_that_leaks_nothing_and_is_logged_under_its_request_id() -> None:
    with capture_logs() as logs:
        async with client_for(OWN_ROUTES) as client:
            response = await client.get("/fail?token=hunter2", headers={"x-request-id": "r1"})
    assert (response.status_code, response.json()["code"]) == (500, "internal-error")
    assert "hunter2" not in response.text
    (entry,) = logs
    assert (entry["log_level"], entry["request_id"], entry["route"]) == ("error", "r1", "/fail")
    assert isinstance(entry["exc_info"], RuntimeError)
    assert "token=" not in repr(entry)


async def test_refusals_are_not_logged_but_for_those_of_access() -> None:
    with capture_logs() as logs:
        async with client_for(OWN_ROUTES) as client:
            await client.get("/nothing")
            await client.post("/customers")
    assert [(entry["logger"], entry["event"], entry["reason"]) for entry in logs] == [
        ("holdfast.audit", "access_refused", "unauthenticated")
    ]


async def test_root_leads_to_the_documents() -> None:
    async with client_for(ROUTES) as client:
        response = await client.get("/")
    assert (response.status_code, response.headers["location"]) == (307, "/docs")


async def test_cancellation_passes_through() -> None:
    async def stall(call: Call) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    async with client_for([route("GET", "/stall", stall)]) as client:
        request = asyncio.create_task(client.get("/stall"))
        await asyncio.sleep(0.01)
        request.cancel()
        with pytest.raises(asyncio.CancelledError):
            await request


async def test_role_is_enough_and_the_caller_is_known_to_the_handler() -> None:
    async with client_for(OWN_ROUTES) as client:
        response = await client.post("/customers", headers=bearer("ana", "customer", "organizer"))
    assert response.json()["caller"] == "ana"


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/events/mine", 200),
        ("/events/theirs", 403),
        ("/holds/01jt2x9k4mzq8v7c5e3h1n6b0r~mine", 200),
        ("/holds/01jt2x9k4mzq8v7c5e3h1n6b0r~theirs", 403),
    ],
)
async def test_service_token_with_a_scope_reaches_its_events_only(path: str, status: int) -> None:
    async with client_for(OWN_ROUTES) as client:
        response = await client.post(path, headers=bearer("box", "service", scope=["mine"]))
    assert response.status_code == status


async def test_token_cannot_be_checked_while_the_issuers_keys_are_away() -> None:
    class Away:
        algorithms = ("HS256",)

        async def find_keys(self, header: Any) -> Any:
            raise KeysUnavailable

    verifier = TokenVerifier([Away()], issuer="holdfast", audience="holdfast")
    async with client_for(OWN_ROUTES, verifier=verifier) as client:
        response = await client.post("/customers", headers={"authorization": f"Bearer {make_token()}"})
    assert (response.status_code, response.headers["retry-after"]) == (503, "5")


@pytest.mark.parametrize(
    ("host", "base"),
    [
        ("tickets.example", "http://tickets.example"),
        ("tickets.example:8443", "http://tickets.example:8443"),
        ("[::1]:8000", "http://[::1]:8000"),
        ('x"><script>', "http://127.0.0.1:80"),
        ("a/b?c=d", "http://127.0.0.1:80"),
    ],
)
async def test_type_of_a_problem_is_absolute_whatever_the_host_header_says(host: str, base: str) -> None:
    start, body = await post_raw(Reader(b""), (b"host", host.encode()), path="/nothing", server=("127.0.0.1", 80))
    assert start["status"] == 404
    assert json.loads(body["body"])["type"] == f"{base}/problems/not-found"


async def test_configured_url_is_the_base_of_absolute_uris() -> None:
    app = create_app(services_without_stores(), public_url="https://tickets.example/api")
    async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://inside") as client:
        problem = (await client.get("/nothing")).json()
    assert problem["type"] == "https://tickets.example/api/problems/not-found"


async def test_application_under_a_root_path_is_reached_with_it() -> None:
    start, body = await post_raw(Reader(b"{}"), (b"host", b"h"), path="/shop/echo", root_path="/shop")
    assert start["status"] == 200
    assert json.loads(body["body"])["base"] == "http://h/shop"


async def test_other_sites_are_let_in_only_when_named() -> None:
    preflight = {"origin": "https://shop.example", "access-control-request-method": "POST"}
    for origins, allowed in ((), None), (("https://shop.example",), "https://shop.example"):
        app = create_app(services_without_stores(), cors_origins=origins)
        async with httpx2.AsyncClient(transport=httpx2.ASGITransport(app), base_url="http://h") as client:
            response = await client.options("/v1/bookings", headers=preflight)
        assert response.headers.get("access-control-allow-origin") == allowed


async def test_lifespan_is_run_around_the_applications_life() -> None:
    seen: list[str] = []

    class Life:
        async def __aenter__(self) -> None:
            seen.append("up")

        async def __aexit__(self, *_: object) -> None:
            seen.append("down")

    app = create_app(services_without_stores(), lifespan=lambda _: Life())
    inbox = iter([{"type": "lifespan.startup"}, {"type": "lifespan.shutdown"}])
    sent: list[Message] = []

    async def receive() -> Message:
        return next(inbox)

    async def send(message: Message) -> None:
        sent.append(message)

    await app({"type": "lifespan", "app": app}, receive, send)
    assert seen == ["up", "down"]
    assert [message["type"] for message in sent] == ["lifespan.startup.complete", "lifespan.shutdown.complete"]


async def test_readiness_tells_which_check_failed_and_nothing_more() -> None:
    async def fine() -> None:
        return

    async def broken() -> None:
        raise ConnectionError("redis://user:hunter2@host")

    async with client_for(
        ROUTES, checks={"redis": ReadinessCheck(fine, "degraded"), "postgres": ReadinessCheck(broken, "unready")}
    ) as client:
        response = await client.get("/readyz")
    assert response.status_code == 503
    assert response.headers["retry-after"] == "1"
    document = response.json()
    assert document["status"] == "unready"
    assert document["checks"]["redis"]["ok"]
    assert document["checks"]["postgres"]["severity"] == "unready"
    assert document["checks"]["postgres"]["reason"] == "ConnectionError"
    assert "hunter2" not in response.text


async def test_readiness_is_degraded_and_serves_when_only_what_holds_can_do_without_is_away() -> None:
    async def old_journal() -> None:
        raise Impaired("3 bookings wait for Postgres, the oldest for 75 s")

    async def broken() -> None:
        raise ConnectionError("redis://user:hunter2@host")

    checks = {"postgres": ReadinessCheck(broken, "degraded"), "journal": ReadinessCheck(old_journal, "unready")}
    async with client_for(ROUTES, checks=checks) as client:
        response = await client.get("/readyz")
    document = response.json()
    assert (response.status_code, document["status"]) == (200, "degraded")
    assert "retry-after" not in response.headers
    told = {name: (verdict["severity"], verdict["reason"]) for name, verdict in document["checks"].items()}
    assert told == {
        "postgres": ("degraded", "ConnectionError"),
        "journal": ("degraded", "3 bookings wait for Postgres, the oldest for 75 s"),
    }


async def test_readiness_gives_up_on_a_check_that_does_not_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("api.operations.CHECK_TIMEOUT_S", 0.02)

    async def stall() -> None:
        await asyncio.Event().wait()

    async with client_for(ROUTES, checks={"redis": ReadinessCheck(stall, "unready")}) as client:
        response = await client.get("/readyz")
    assert (response.status_code, response.json()["checks"]["redis"]["reason"]) == (503, "TimeoutError")


async def test_health_and_info_need_nothing() -> None:
    async with client_for(ROUTES) as client:
        assert (await client.get("/healthz")).json() == {"status": "ok"}
        assert (await client.get("/v1/info")).json() == {"name": "holdfast", "version": "0.0.0", "partitions": 64}
        assert (await client.get("/readyz")).json() == {"status": "ready", "checks": {}}


@pytest.mark.parametrize("file", ["swagger-ui.css", "swagger-ui-bundle.js", "start.js", "favicon-32x32.png"])
async def test_docs_page_loads_only_files_that_are_served_here(file: str) -> None:
    async with client_for(ROUTES) as client:
        page, served = await client.get("/docs"), await client.get(f"/docs/{file}")
    assert f"/docs/{file}" in page.text
    assert "//" not in page.text.replace("<!doctype", "")
    assert served.status_code == 200
    assert len(served.content) > 100
    policy = page.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


@pytest.mark.parametrize("file", ["app.py", "..%2fapp.py", "%2e%2e", "LICENSE-swagger-ui", "x"])
async def test_docs_serve_no_other_file(file: str) -> None:
    async with client_for(ROUTES) as client:
        assert (await client.get(f"/docs/{file}")).status_code == 404


async def test_problem_page_explains_a_code_to_programs_and_people() -> None:
    async with client_for(ROUTES) as client:
        document = (await client.get("/problems/places-unavailable")).json()
        page = await client.get("/problems/places-unavailable", headers={"accept": "text/html,*/*"})
        missing = await client.get("/problems/nothing")
    assert document["status"] == 409
    assert document["members"] == ["unavailable", "held", "sold", "next_release_at"]
    assert page.headers["content-type"].startswith("text/html")
    assert "<code>next_release_at</code>" in page.text
    assert missing.status_code == 404


async def test_every_problem_type_leads_to_its_page() -> None:
    async with client_for(ROUTES) as client:
        problem = (await client.get("/nothing")).json()
        assert (await client.get(problem["type"])).json()["code"] == problem["code"]
