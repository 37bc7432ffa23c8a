"""T30: pictures that requests name by URL. What must not be connected to is not, whatever the URL looks like; what may be is fetched, and becomes the picture
that a data: URL would have been, here and at a provider that takes no URLs. tests/unit/test_remote_image.c has names that change their answers."""
import base64
import io
import json
import re
import socket
import ssl
import threading
import time

import pytest
import requests
from PIL import Image, ImageDraw
from http_raw import n_fds, wait_until
from serving import DEMO, FakeServer, Server
from test_tls import Files

URL_PARAM = "messages[0].content[0].image_url.url"


def png(colour="red", size=(40, 30), fmt="PNG"):
    image = Image.new("RGB", size, "white")
    ImageDraw.Draw(image).ellipse((5, 5, size[0] - 5, size[1] - 5), fill=colour)
    out = io.BytesIO()
    image.save(out, fmt)
    return out.getvalue()


RED, JPEG = png(), png("blue", fmt="JPEG")
NOISE = bytes(range(256)) * 400


class Hosts:
    """Listens at every address of this machine, IPv4 and IPv6, counts connections by the address that was called, and answers by path."""

    def __init__(self, context=None):
        self.seen, self.heads, self.left, self.context = [], [], threading.Event(), context
        self.sockets = [socket.create_server(("0.0.0.0", 0), backlog=64)]
        self.port = self.sockets[0].getsockname()[1]
        if socket.has_ipv6:
            self.sockets.append(socket.create_server(("::", self.port), family=socket.AF_INET6, backlog=64))
        for s in self.sockets:
            threading.Thread(target=self.accept, args=(s,), daemon=True).start()

    def accept(self, listener):
        while True:
            try:
                s, _ = listener.accept()
            except OSError:
                return
            self.seen.append(s.getsockname()[0])
            threading.Thread(target=self.answer, args=(s,), daemon=True).start()

    def answer(self, s):
        try:
            if self.context:
                s = self.context.wrap_socket(s, server_side=True)
            with s:
                head = b""
                while b"\r\n\r\n" not in head:
                    if not (more := s.recv(4096)):
                        return
                    head += more
                self.heads.append(head.decode("latin-1"))
                path = head.split(b" ")[1].decode()
                if path == "/hang":
                    s.recv(1)
                    self.left.set()
                elif path.startswith("/to?"):
                    s.sendall(f"HTTP/1.1 302 Found\r\nlocation: {path[4:]}\r\ncontent-length: 0\r\n\r\n".encode())
                else:
                    kind, data = {"/jpeg": ("image/jpeg", JPEG), "/lies": ("image/png", JPEG), "/text": ("image/png", b"<svg xmlns='http://www.w3.org/2000/svg'/>"),
                                  "/noise": ("image/png", RED[:8] + NOISE), "/big": ("image/png", RED + bytes(3 << 20))}.get(path, ("image/png", RED))
                    s.sendall(f"HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {len(data)}\r\n\r\n".encode() + data)
        except OSError:
            pass

    def close(self):
        for s in self.sockets:
            s.close()


@pytest.fixture(scope="module")
def hosts():
    h = Hosts()
    yield h
    h.close()


@pytest.fixture(scope="module")
def serve():
    servers = {}

    def call(*options, kind=Server, env=None, **kw):
        known = (options, kind, str(env))
        if known not in servers:
            servers[known] = kind(DEMO, "--no-auth", "--name", "demo", *options, env=env, **kw)
        return servers[known]
    yield call
    for s in servers.values():
        assert s.stop() == 0, "".join(s.lines)


@pytest.fixture
def strict(serve, hosts):
    """Any host, also at the port of ours, so that only the address stands in the way."""
    return serve("--remote-images", "http", "--remote-image-host", f"*:{hosts.port}")


@pytest.fixture
def lenient(serve, hosts):
    """And this machine's own address."""
    return serve("--remote-images", "http", "--remote-image-host", f"*:{hosts.port}", "--remote-image-network", "127.0.0.2", "--max-remote-image-redirects", "3",
                 "--max-remote-image-bytes", "200KiB", "--max-body-bytes", "300KiB")


def ask(server, *urls, headers={}, model="demo", part=lambda url: {"type": "image_url", "image_url": {"url": url}}, **body):
    content = [part(url) for url in urls] + [{"type": "text", "text": "What is it?"}]
    return requests.post(server.url + "/v1/chat/completions", timeout=30, headers=headers,
                         json={"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 8, "temperature": 0, **body})


def refused(r, param=URL_PARAM, status=400, code=None):
    assert r.status_code == status, r.text
    error = r.json()["error"]
    assert error["param"] == param and (code is None or error["code"] == code), error
    return error


# --- what must not be connected to ---

def spellings():
    """Of this machine, of what is beside it, and of what clouds tell their machines at."""
    v4 = ["127.0.0.1", "127.1", "127.0.1", "127.255.255.254", "127.0.0.2", "0.0.0.0", "0", "0.0", "2130706433", "0x7f000001", "0x7f.1", "0X7F.0.0.1", "0x7f.0x0.0x0.0x1",
          "017700000001", "0177.0.0.1", "0177.1", "127.0.0.01", "127.000.000.001", "00000177.0.0.1", "127.0.0.0x1", "4294967297", "127.0.0.1.", "127。0。0。1", "①②⑦.0.0.1",
          "127%2e0%2e0%2e1", "%31%32%37.0.0.1", "127.0.0.1%00", "127.0.0.1%20", "１２７.0.0.1"]
    v6 = ["[::1]", "[0:0:0:0:0:0:0:1]", "[::]", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[0:0:0:0:0:ffff:127.0.0.1]", "[::ffff:0:127.0.0.1]", "[::127.0.0.1]", "[::7f00:1]",
          "[64:ff9b::127.0.0.1]", "[64:ff9b::7f00:1]", "[64:ff9b:1::127.0.0.1]", "[2002:7f00:1::]", "[2002:a9fe:a9fe::]", "[2001::1]", "[fe80::1]", "[fe80::1%25lo]", "[fe80::1%lo]",
          "[::1%25lo]", "[fc00::1]", "[fd00:ec2::254]", "[fec0::1]", "[ff02::1]", "[ff01::1]", "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "[127.0.0.1]", "::1", "[::1",
          "[::ffff:10.0.0.1]", "[::ffff:0.0.0.0]", "[2001:db8::1]", "[100::1]", "[5f00::1]"]
    clouds = ["169.254.169.254", "169.254.170.2", "0xa9fea9fe", "2852039166", "0251.0376.0251.0376", "169.254.43518", "169.0xfe.169.254", "100.100.100.200", "192.0.0.192",
              "168.63.129.16", "169.254.0.1", "169.254.255.255"]
    nets = ["10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.254", "172.16.0.1", "172.31.255.254", "192.168.0.1", "192.168.255.254", "192.0.0.1", "192.0.2.1", "192.88.99.1",
            "198.18.0.1", "198.19.255.254", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255", "0.1.2.3", "1.2.3.4.5", "256.1.1.1"]
    names = ["localhost", "LOCALHOST", "localhost.", "localhost.localdomain", "ip6-localhost", "ip6-loopback", "ⓛocalhost", "loc\u200balhost", "lo%63alhost", "localhost%00.example.org",
             socket.gethostname(), "a.localhost", "localhost%2eexample", "localhost;example.org", "localhost,example.org", "_.invalid", "", ".", "..", "-", "*"]
    return v4 + v6 + clouds + nets + names


def forms():
    """Of URLs whose host is one thing to one reader and another to the next. H: a host that is told to be fine, P: the port of ours."""
    return ["http://example.invalid@127.0.0.1:P/", "http://example.invalid:80@127.0.0.1:P/", "http://user:password@127.0.0.1:P/", "http://@127.0.0.1:P/", "http://127.0.0.1:P@127.0.0.1:P/",
            "http://127.0.0.1:P\\@example.invalid/", "http://example.invalid\\@127.0.0.1:P/", "http:\\\\127.0.0.1:P\\", "http:/\\127.0.0.1:P/", "http:\\/127.0.0.1:P/", "\\\\127.0.0.1:P\\",
            "http:///127.0.0.1:P/", "http:127.0.0.1:P/", "http:/127.0.0.1:P/", "http//127.0.0.1:P/", "//127.0.0.1:P/", "127.0.0.1:P/", ":P/", "http://:P/",
            "http://example.invalid#@127.0.0.1:P/", "http://127.0.0.1:P#@example.invalid/", "http://127.0.0.1:P?@example.invalid/", "http://example.invalid?@127.0.0.1:P/",
            " http://127.0.0.1:P/", "\thttp://127.0.0.1:P/", "http://127.0.0.1:P/\r\nx: y", "http://127.0.0.1\t:P/", "ht\ntp://127.0.0.1:P/", "http://127.0.0.1:P/ HTTP/1.1",
            "http://127.0.0.1:0P/", "http://127.0.0.1:P:P/", "http://127.0.0.1:+P/", "http://127.0.0.1:P%00/", "http://127.0.0.1 :P/", "HTTP://127.0.0.1:P/", "hTTp://127.0.0.1:P/",
            "file:///etc/passwd", "file://127.0.0.1:P/", "ftp://127.0.0.1:P/", "gopher://127.0.0.1:P/_GET", "dict://127.0.0.1:P/x", "ldap://127.0.0.1:P/", "tftp://127.0.0.1:P/x",
            "smb://127.0.0.1:P/x", "telnet://127.0.0.1:P/", "ws://127.0.0.1:P/", "jar:http://127.0.0.1:P/!/", "url:http://127.0.0.1:P/", "view-source:http://127.0.0.1:P/",
            "javascript:fetch('http://127.0.0.1:P/')", "blob:http://127.0.0.1:P/x", "data:http://127.0.0.1:P/", "https+http://127.0.0.1:P/", "http+unix://%2Ftmp%2Fs:P/", "unix:///tmp/s"]


def corpus(port):
    return [f"http://{host}:{port}/p.png" for host in spellings()] + [f"https://{host}:{port}/" for host in ("127.0.0.1", "[::1]", "localhost", "169.254.169.254")] + \
        [form.replace("P/", f"{port}/").replace("P\\", f"{port}\\").replace(":P", f":{port}").replace("+P", f"+{port}").replace("0P", f"0{port}") for form in forms()]


def test_t30_nothing_is_connected_to(strict, hosts, figure):
    urls = corpus(hosts.port)
    assert len(set(urls)) == len(urls) >= 150
    hosts.seen.clear()
    for url in urls:
        error = refused(ask(strict, url))
        assert error["code"] in ("invalid_value", "unsupported_parameter"), (url, error)
    assert hosts.seen == []
    figure("URLs refused", len(urls))


def test_t30_the_same_urls_would_have_found_us(hosts):
    """Or nothing above could fail: what some reader takes for this machine does reach the listener."""
    hosts.seen.clear()
    for host in ("127.0.0.1", "127.1", "2130706433", "0x7f000001", "0177.0.0.1", "0", "localhost"):
        socket.create_connection((host, hosts.port), 5).close()
    until = time.monotonic() + 5
    while len(hosts.seen) < 7 and time.monotonic() < until:
        time.sleep(0.01)
    assert len(hosts.seen) == 7


def test_t30_a_port_must_be_named(serve, hosts):
    server = serve("--remote-images", "http", "--remote-image-network", "127.0.0.0/8")
    hosts.seen.clear()
    refused(ask(server, f"http://127.0.0.1:{hosts.port}/"))
    assert hosts.seen == []


def test_t30_a_host_must_be_named_once_one_is(serve, hosts):
    server = serve("--remote-images", "http", "--remote-image-host", f"127.0.0.1:{hosts.port}", "--remote-image-network", "127.0.0.0/8")
    hosts.seen.clear()
    refused(ask(server, f"http://127.0.0.3:{hosts.port}/"))
    assert ask(server, f"http://127.0.0.1:{hosts.port}/").status_code == 200
    assert hosts.seen == ["127.0.0.1"]


def test_t30_off_unless_it_is_on(serve, hosts):
    server = serve()
    hosts.seen.clear()
    refused(ask(server, f"http://127.0.0.1:{hosts.port}/"))
    refused(ask(server, "https://example.org/a.png"))
    assert hosts.seen == []


def test_t30_without_tls_only_where_it_is_asked_for(serve, hosts):
    server = serve("--remote-images", "https", "--remote-image-host", f"*:{hosts.port}", "--remote-image-network", "127.0.0.0/8")
    hosts.seen.clear()
    refused(ask(server, f"http://127.0.0.1:{hosts.port}/"))
    assert hosts.seen == []


@pytest.mark.parametrize("to", ["http://127.0.0.1:PORT/", "http://localhost:PORT/", "http://0x7f.1:PORT/", "//127.0.0.1:PORT/", "http://u@127.0.0.2:PORT/", "https://[::1]:PORT/",
                                "http://169.254.169.254/", "file:///etc/passwd", "http://127.0.0.2/"])
def test_t30_a_redirect_leads_nowhere_else(lenient, hosts, to):
    hosts.seen.clear()
    refused(ask(lenient, f"http://127.0.0.2:{hosts.port}/to?" + to.replace("PORT", str(hosts.port))))
    assert hosts.seen == ["127.0.0.2"]


def test_t30_environments_proxies_are_not_used(serve, hosts):
    """A proxy would connect for us, and to where it likes."""
    other = Hosts()
    proxy = f"http://127.0.0.1:{other.port}"
    server = serve("--remote-images", "http", "--remote-image-host", f"*:{hosts.port}", "--remote-image-network", "127.0.0.2",
                   env={"http_proxy": proxy, "HTTP_PROXY": proxy, "ALL_PROXY": proxy, "no_proxy": ""})
    assert ask(server, f"http://127.0.0.2:{hosts.port}/").status_code == 200
    assert other.seen == []
    other.close()


# --- what may be ---

def test_what_is_fetched_is_what_a_data_url_is(lenient, hosts):
    by_url, by_data = (ask(lenient, url).json() for url in (f"http://127.0.0.2:{hosts.port}/", "data:image/png;base64," + base64.b64encode(RED).decode()))
    assert by_url["choices"][0]["message"] == by_data["choices"][0]["message"] and by_url["usage"]["prompt_tokens"] == by_data["usage"]["prompt_tokens"]


def test_pictures_keep_their_order(lenient, hosts):
    """One by URL, one as it is, one after redirects."""
    data = {"red": "data:image/png;base64," + base64.b64encode(RED).decode(), "blue": "data:image/jpeg;base64," + base64.b64encode(JPEG).decode()}
    at = f"http://127.0.0.2:{hosts.port}"
    mixed, plain = (ask(lenient, *urls).json() for urls in ((at + "/to?/jpeg", data["red"], at + "/to?/to?/jpeg"), (data["blue"], data["red"], data["blue"])))
    assert mixed["choices"][0]["message"] == plain["choices"][0]["message"]


def test_what_a_host_calls_a_picture_does_not_matter(lenient, hosts):
    assert ask(lenient, f"http://127.0.0.2:{hosts.port}/lies").status_code == 200


@pytest.mark.parametrize("path", ["/text", "/noise"])
def test_what_is_no_picture_is_refused(lenient, hosts, path):
    refused(ask(lenient, f"http://127.0.0.2:{hosts.port}{path}"))


def test_the_other_form_of_a_part(lenient, hosts):
    part = {"type": "input_image", "image_url": f"http://127.0.0.2:{hosts.port}/"}
    assert ask(lenient, "x", part=lambda _: part).status_code == 200
    part["image_url"] = "http://127.0.0.1/"
    refused(ask(lenient, "x", part=lambda _: part), param="messages[0].content[0].image_url")


def test_nothing_is_told_but_what_is_needed(lenient, hosts):
    hosts.heads.clear()
    assert ask(lenient, f"http://127.0.0.2:{hosts.port}/a?b=c#d", headers={"authorization": "Bearer secret", "cookie": "a=b"}).status_code == 200
    lines = hosts.heads[0].split("\r\n")
    assert lines[0] == "GET /a?b=c HTTP/1.1"
    assert {line.split(":")[0].lower() for line in lines[1:] if line} == {"host", "user-agent", "accept"}


def test_too_long_a_picture_is_refused(lenient, hosts):
    error = refused(ask(lenient, f"http://127.0.0.2:{hosts.port}/big"))
    assert "204800 bytes" in error["message"]


def test_pictures_together_are_as_long_as_a_body_may_be(lenient, hosts):
    """RED[:8] + NOISE is 100 KiB, and 300 KiB of body are allowed: two of them in base64, not three."""
    url = f"http://127.0.0.2:{hosts.port}/noise"
    assert "body" not in ask(lenient, url, url).json()["error"]["message"]
    error = ask(lenient, url, url, url).json()["error"]
    assert "body" in error["message"] and re.fullmatch(r"messages\[0\]\.content\[\d\]\.image_url\.url", error["param"])


def test_too_many_pictures_are_refused_before_any_is_fetched(lenient, hosts):
    hosts.seen.clear()
    refused(ask(lenient, *[f"http://127.0.0.2:{hosts.port}/"] * 21), param="messages[0].content[20].image_url.url")
    assert hosts.seen == []


def test_a_host_that_hangs_costs_the_requests_time(lenient, hosts):
    r = ask(lenient, f"http://127.0.0.2:{hosts.port}/hang", headers={"x-request-timeout-ms": "300"})
    assert r.status_code == 504 and r.json()["error"]["code"] == "deadline_exceeded"


def test_a_host_that_hangs_is_left_in_time(serve, hosts):
    server = serve("--remote-images", "http", "--remote-image-host", f"*:{hosts.port}", "--remote-image-network", "127.0.0.2", "--remote-image-timeout", "300ms")
    refused(ask(server, f"http://127.0.0.2:{hosts.port}/hang"))


def test_who_leaves_ends_the_fetch(lenient, hosts):
    hosts.left.clear()
    with pytest.raises(requests.Timeout):
        requests.post(lenient.url + "/v1/chat/completions", timeout=0.5, json={"model": "demo", "messages": [
            {"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"http://127.0.0.2:{hosts.port}/hang"}}]}]})
    assert hosts.left.wait(5)


def test_certificates_are_verified(serve, tmp_path):
    files = Files(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(files.cert, files.key)
    host = Hosts(context)
    options = ("--remote-images", "https", "--remote-image-host", f"*:{host.port}", "--remote-image-network", "127.0.0.0/8")
    assert ask(serve(*options, env={"SSL_CERT_FILE": str(files.cert)}), f"https://127.0.0.1:{host.port}/").status_code == 200
    assert "certificate" in refused(ask(serve(*options), f"https://127.0.0.1:{host.port}/"))["message"]
    host.close()


def test_operators_see_what_was_fetched(serve, hosts):
    server = serve("--remote-images", "http", "--remote-image-host", f"*:{hosts.port}", "--remote-image-network", "127.0.0.2", "--max-remote-images", "31")

    def told():
        return requests.get(server.url + "/healthz", timeout=10).json()["remote_images"]
    assert told() == {"running": 0, "waiting": 0, "fetched": 0, "failed": 0, "unallowed": 0}
    ask(server, f"http://127.0.0.2:{hosts.port}/")
    ask(server, f"http://localhost:{hosts.port}/")
    assert told() == {"running": 0, "waiting": 0, "fetched": 1, "failed": 1, "unallowed": 1}
    assert server.log_has("host localhost has an address that is not public")


def test_a_dry_run_counts_the_picture(lenient, hosts):
    body = {"model": "demo", "messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": f"http://127.0.0.2:{hosts.port}/"}}]}]}
    assert requests.post(lenient.url + "/v1/route", json=body, timeout=30).status_code == 200
    body["messages"][0]["content"][0]["image_url"]["url"] = f"http://127.0.0.1:{hosts.port}/"
    refused(requests.post(lenient.url + "/v1/route", json=body, timeout=30))


def test_fetches_leave_nothing_open(lenient, hosts):
    for _ in range(3):
        ask(lenient, f"http://127.0.0.2:{hosts.port}/")
    before = n_fds(lenient.process.pid)
    for path in ("/", "/text", "/big", "/to?/", "/to?http://127.0.0.1/") * 4:
        ask(lenient, f"http://127.0.0.2:{hosts.port}{path}")
    assert wait_until(lambda: n_fds(lenient.process.pid) <= before) is not None


# --- providers ---

def provider_config(tmp_path, fake, more=""):
    row = {"model": "fake-a", "context": 32000, "max_output": 4096, "can": ["tools", "image", "schema"], "prices": [{"in_uncached": [1000, 1], "out_text": [2000, 1]}]}
    lines = ["providers:"]
    for name, kind, profile in (("gemini", "gemini", "gemini"), ("lab", "openai-compatible", "generic")):
        table = tmp_path / f"{name}.json"
        table.write_text(json.dumps({"format": 1, "version": "test", "date": "2026-11-29", "sources": [], "models": [{"provider": name, **row}]}))
        lines += [f"  - provider: {kind}", f"    name: {name}", f"    base_url: \"{fake.base(profile)}\"", "    key_env: PROVIDER_KEY", f"    prices: \"{table}\""]
    path = tmp_path / "c.yaml"
    path.write_text("\n".join(lines) + "\n" + more)
    return path


def pictures_of(fake, n):
    text = json.dumps(fake.requests()[n - 1])
    return re.findall(r'https?://127\.0\.0\.2[^"\\]*', text), text


@pytest.fixture
def place(tmp_path, fake, hosts):
    s = Server(DEMO, "--no-auth", "--name", "demo", "--config", provider_config(tmp_path, fake), "--remote-images", "http", "--remote-image-host", f"*:{hosts.port}",
               "--remote-image-network", "127.0.0.2", env={"PROVIDER_KEY": "key-one"})
    yield s
    assert s.stop() == 0, "".join(s.lines)


def test_a_provider_that_takes_urls_gets_them(place, fake, hosts):
    hosts.seen.clear()
    url = f"http://127.0.0.2:{hosts.port}/jpeg"
    assert ask(place, url, model="lab/fake-a").status_code == 200
    assert pictures_of(fake, 1)[0] == [url] and hosts.seen == []


def test_a_provider_that_takes_none_gets_the_picture(place, fake, hosts):
    """Its type is what it is, not what its host says."""
    assert ask(place, f"http://127.0.0.2:{hosts.port}/lies", model="gemini/fake-a").status_code == 200
    urls, text = pictures_of(fake, 1)
    assert urls == [] and base64.b64encode(JPEG).decode() in text and "image/jpeg" in text


def test_a_providers_picture_is_held_to_the_same_rules(place, fake, hosts):
    hosts.seen.clear()
    refused(ask(place, f"http://127.0.0.1:{hosts.port}/", model="gemini/fake-a"))
    assert hosts.seen == [] and fake.requests() == []


def test_a_stand_in_gets_what_was_fetched(tmp_path, fake, hosts):
    """It may not reach what is in our network."""
    more = f"models:\n  - path: \"{DEMO}\"\n    name: demo\n    stand_ins: \"lab/fake-a\"\noverflow_usd_per_hour: \"1.00\"\n"
    script = {"prediction": {"first_token_ms": 5000, "prompt_token_ms": 1, "side_by_side": 4}}
    s = FakeServer("--no-auth", "--config", provider_config(tmp_path, fake, more), "--remote-images", "http", "--remote-image-host", f"*:{hosts.port}",
                   "--remote-image-network", "127.0.0.2", env={"PROVIDER_KEY": "key-one"}, script=script)
    assert ask(s, f"http://127.0.0.2:{hosts.port}/jpeg").status_code == 200  # the prediction is known after a submit
    held = socket.create_connection(("127.0.0.1", s.port))
    body = json.dumps({"model": "demo", "seed": FakeServer.seeds["queue"], "messages": [{"role": "user", "content": "hello"}]})
    held.sendall(f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n\r\n{body}".encode())
    until = time.monotonic() + 5
    while not [e for e in s.recorded("submit") if e.get("seed") == FakeServer.seeds["queue"]]:
        assert time.monotonic() < until
        time.sleep(0.01)
    r = ask(s, f"http://127.0.0.2:{hosts.port}/jpeg")
    assert r.status_code == 200 and r.headers["x-spillway-served-by"] == "lab/fake-a"
    urls, text = pictures_of(fake, 1)
    assert urls == [] and base64.b64encode(JPEG).decode() in text
    held.close()
    assert s.stop() == 0, "".join(s.lines)


@pytest.mark.parametrize("host", ["https://example.org", "127.1", "a b", "*.", "example.org:0"])
def test_a_host_that_is_none_is_no_option(host):
    s = Server(DEMO, "--no-auth", "--remote-images", "https", "--remote-image-host", host, wait=False)
    assert s.process.wait(20) == 2 and s.stop() == 2
    assert "--remote-image-host" in "".join(s.lines)
