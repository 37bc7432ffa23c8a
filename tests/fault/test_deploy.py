"""deploy/: the documented nginx in front of a running server, and the units."""
import http.client
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import time

import pytest

from serving import DEMO, ROOT, FakeServer

CONF = ROOT / "deploy/nginx.conf"


def free_port():
    with socket.create_server(("127.0.0.1", 0)) as s:
        return s.getsockname()[1]


@pytest.fixture(scope="module")
def proxied(tmp_path_factory):
    """The committed file with ports, folders and certificate of this test; nothing else is changed."""
    nginx = shutil.which("nginx") or "/usr/sbin/nginx"
    assert os.access(nginx, os.X_OK), "nginx is not there: tools/setup --tests"
    folder = tmp_path_factory.mktemp("nginx")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", "/CN=api.example.org",
                    "-keyout", folder / "key.pem", "-out", folder / "cert.pem"], check=True, capture_output=True)
    server = FakeServer(str(DEMO), "--name", "demo", "--allow-host", "api.example.org", "--trusted-proxy", "127.0.0.1/32", "--comment-interval", "200ms")
    port = free_port()
    text = CONF.read_text().replace("127.0.0.1:8080", f"127.0.0.1:{server.port}").replace("/etc/nginx/tls", str(folder))
    text, n = re.subn(r"listen 443 ssl", f"listen 127.0.0.1:{port} ssl", text)
    assert n == 1
    text = re.sub(r".*listen \[::\]:443.*\n", "", text)
    temps = "".join(f"{t}_temp_path {folder}/{t}; " for t in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
    text = text.replace("http {", f"http {{ access_log off; {temps}", 1)
    (folder / "nginx.conf").write_text(f"pid {folder}/pid; error_log {folder}/error.log; daemon off;\n" + text)
    test = subprocess.run([nginx, "-t", "-q", "-c", folder / "nginx.conf"], capture_output=True, text=True)
    assert test.returncode == 0 and test.stderr == "", test.stderr
    p = subprocess.Popen([nginx, "-c", folder / "nginx.conf"], stderr=subprocess.DEVNULL)
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            break
        except OSError:
            time.sleep(0.05)
    yield server, port
    p.terminate()
    p.wait(10)
    server.stop()


def request(proxied, method, path, body=None, host="api.example.org", key=True, headers={}):
    server, port = proxied
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    c = http.client.HTTPSConnection("127.0.0.1", port, timeout=20, context=context)
    sent = {"Host": host, "Content-Type": "application/json", **({"Authorization": f"Bearer {server.key}"} if key else {}), **headers}
    c.request(method, path, body, sent)
    return c.getresponse()


def chat_body(**more):
    return json.dumps({"model": "demo", "max_tokens": 8, "messages": [{"role": "user", "content": "hi"}], **more})


def test_nginx_passes_requests_on(proxied):
    r = request(proxied, "POST", "/v1/chat/completions", chat_body())
    assert r.status == 200 and json.load(r)["choices"][0]["finish_reason"]


def test_nginx_does_not_hold_a_stream_up(proxied):
    server, _ = proxied
    begin = time.monotonic()
    r = request(proxied, "POST", "/v1/chat/completions", chat_body(stream=True, seed=server.seeds["queue"]))
    assert r.status == 200 and r.readline().startswith(b":")  # a comment of a stream that is never answered
    assert time.monotonic() - begin < 5


def test_a_client_that_leaves_nginx_leaves_the_engine(proxied):
    server, _ = proxied
    before = len(server.recorded("cancel"))
    r = request(proxied, "POST", "/v1/chat/completions", chat_body(stream=True, seed=server.seeds["queue"]))
    r.readline()
    r.close()
    end = time.monotonic() + 5
    while len(server.recorded("cancel")) == before and time.monotonic() < end:
        time.sleep(0.01)
    assert len(server.recorded("cancel")) > before


def test_nginx_refuses_what_is_too_large(proxied):
    assert request(proxied, "POST", "/v1/chat/completions", b"x" * (21 << 20)).status == 413


def test_nginx_hides_healthz(proxied):
    assert request(proxied, "GET", "/healthz").status == 404


def test_the_request_id_of_nginx_comes_back(proxied):
    assert re.fullmatch("[0-9a-f]{32}", request(proxied, "GET", "/v1/models").headers["x-request-id"])


@pytest.mark.parametrize("unit", ["spillway.service", "spillway.socket"])
def test_units_have_only_known_sections_and_settings(unit):
    tool = shutil.which("systemd-analyze")
    if tool:
        r = subprocess.run([tool, "verify", "--man=no", ROOT / "deploy" / unit], capture_output=True, text=True)
        faults = [line for line in r.stderr.splitlines() if "Unknown" in line or "Failed to parse" in line or "Invalid" in line]
        assert faults == []
    names = re.findall(r"^\[(\w+)\]$", (ROOT / "deploy" / unit).read_text(), re.M)
    assert names == ["Unit", "Service" if unit.endswith("service") else "Socket", "Install"]
