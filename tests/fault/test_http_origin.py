"""T08: a server on loopback answers to its own names only, and no page of another origin may use it unless it is listed."""
import pytest
from http_raw import exchange, head
from serving import DEMO, Server

POST = "/v1/chat/completions"


@pytest.fixture(scope="module")
def server():
    s = Server(DEMO, "--no-auth", "--name", "demo")
    yield s
    assert s.stop() == 0, "".join(s.lines)


@pytest.fixture(scope="module")
def open_server():
    """With what an operator has allowed."""
    s = Server(DEMO, "--no-auth", "--name", "demo", "--allow-host", "spillway.test", "--allow-origin", "https://app.test")
    yield s
    assert s.stop() == 0, "".join(s.lines)


def cors_headers(answer):
    return {k: v for k, v in answer.headers.items() if k.startswith("access-control")}


def get(server, *fields, host="localhost", method="GET", path="/v1/models"):
    return exchange(server.port, head(method, path, [*fields, "Connection: close"], host=host))


@pytest.mark.parametrize("origin", ["https://evil.test", "null", "http://localhost", "https://app.test"])
def test_t08_no_cors_headers_unless_listed(server, origin):
    answer = get(server, f"Origin: {origin}")
    assert answer.statuses and cors_headers(answer) == {}, answer


@pytest.mark.parametrize("path", ["/v1/models", POST, "/livez", "/nothing"])
def test_t08_preflight_is_refused_unless_listed(server, path):
    answer = get(server, "Origin: https://evil.test", "Access-Control-Request-Method: POST", method="OPTIONS", path=path)
    assert 400 <= answer.status < 500 and cors_headers(answer) == {}, answer


@pytest.mark.parametrize("host", ["evil.test", "evil.test:8080", "127.0.0.1.evil.test", "localhost.evil.test", "0.0.0.0", "[::2]", "127.1", "2130706433"])
def test_t08_foreign_host_on_loopback(server, host):
    answer = get(server, host=host)
    assert answer.status in (403, 421) and b'"object":"list"' not in answer.raw, answer


@pytest.mark.parametrize("host", ["localhost", "LOCALHOST", "127.0.0.1", "[::1]", "localhost:{port}", "127.0.0.1:{port}", "[::1]:{port}"])
def test_t08_own_names_are_served(server, host):
    assert get(server, host=host.format(port=server.port)).status == 200


def test_t08_listed_host_is_served(open_server):
    assert get(open_server, host="spillway.test").status == 200
    assert get(open_server, host="spillway.test:443").status == 200
    assert get(open_server, host="evil.test").status in (403, 421)


def test_t08_listed_origin_gets_cors_headers(open_server):
    answer = get(open_server, "Origin: https://app.test")
    assert answer.status == 200 and answer.headers["access-control-allow-origin"] == "https://app.test", answer
    assert "origin" in answer.headers["vary"].lower()
    assert "access-control-allow-credentials" not in answer.headers


@pytest.mark.parametrize("origin", ["https://evil.test", "https://app.test.evil.test", "http://app.test", "https://app.test:8443", "https://APP.test/", "null"])
def test_t08_other_origins_get_none(open_server, origin):
    assert cors_headers(get(open_server, f"Origin: {origin}")) == {}


def test_t08_listed_origin_may_read_what_answers_say_of_themselves(open_server):
    answer = get(open_server, "Origin: https://app.test")
    shown = answer.headers["access-control-expose-headers"].split(", ")
    assert {"x-request-id", "retry-after", "idempotent-replayed", "x-spillway-cost-nusd", "x-ratelimit-remaining-tokens"} <= set(shown)


def test_t08_listed_preflight_is_answered_without_a_key(open_server):
    answer = get(open_server, "Origin: https://app.test", "Access-Control-Request-Method: POST", "Access-Control-Request-Headers: authorization,content-type",
                 method="OPTIONS", path=POST)
    assert answer.status in (200, 204), answer
    assert "POST" in answer.headers["access-control-allow-methods"].upper()
    assert "authorization" in answer.headers["access-control-allow-headers"]
