"""SIGHUP: a changed configuration is swapped or refused as a whole, and no request notices. Sockets that systemd hands down."""
import fcntl
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import termios
import threading
import time

import pytest

from serving import BIN, DEMO, FakeServer, Server


class Configured:
    """A server with a fake engine and a file; reload(text) writes it, sends SIGHUP and waits for the verdict: True if it was taken over."""

    def __init__(self, tmp_path, text, *args, cls=FakeServer):
        self.file = tmp_path / "spillway.yaml"
        self.file.write_text(text)
        self.server = cls(str(DEMO), "--name", "demo", "--config", str(self.file), *args)

    def verdicts(self):
        return [line for line in self.server.lines if "reload: done;" in line or "reload: nothing is changed" in line]

    def reload(self, text, within_s=10):
        before = len(self.verdicts())
        new = self.file.with_suffix(".new")
        new.write_text(text)
        new.rename(self.file)
        self.server.process.send_signal(signal.SIGHUP)
        end = time.monotonic() + within_s
        while len(self.verdicts()) == before:
            assert time.monotonic() < end and self.server.process.poll() is None, "".join(self.server.lines[-10:])
            time.sleep(0.002)
        return "done" in self.verdicts()[-1]

    def get(self, path="/v1/models", headers={}):
        c = http.client.HTTPConnection("127.0.0.1", self.server.port, timeout=20)
        c.request("GET", path, headers={"Authorization": f"Bearer {self.server.key}", **headers})
        r = c.getresponse()
        r.read()
        c.close()
        return r.status


@pytest.fixture
def configured(tmp_path):
    made = []

    def make(text, *args, **kw):
        made.append(Configured(tmp_path, text, *args, **kw))
        return made[-1]
    yield make
    for c in made:
        c.server.stop()


def chat(c, stop, results):
    """Streams and whole answers in turn on one connection, until stop."""
    connection = http.client.HTTPConnection("127.0.0.1", c.server.port, timeout=30)
    n = 0
    while not stop.is_set():
        stream = n % 2 == 0
        body = json.dumps({"model": "demo", "max_tokens": 20, "stream": stream, "messages": [{"role": "user", "content": "hi"}]})
        try:
            connection.request("POST", "/v1/chat/completions", body, {"Authorization": f"Bearer {c.server.key}", "Content-Type": "application/json"})
            r = connection.getresponse()
            text = r.read()
            results.append(r.status == 200 and (text.endswith(b"data: [DONE]\n\n") if stream else b'"finish_reason"' in text))
        except (http.client.HTTPException, OSError) as e:
            results.append(repr(e))
            connection.close()
        n += 1


def test_t64_reloads_under_load_drop_no_request(configured, size, figure):
    c = configured("limits: {max_headers: 30}\n")
    stop, results = threading.Event(), []
    threads = [threading.Thread(target=chat, args=(c, stop, results)) for _ in range(4)]
    for t in threads:
        t.start()
    begin, n = time.monotonic(), size(100, 1000)
    taken = [c.reload(f"limits: {{max_headers: {30 + i % 20}}}\n" if i % 2 else f"limits: {{max_headers: {i}\n") for i in range(n)]
    seconds = time.monotonic() - begin
    stop.set()
    for t in threads:
        t.join(30)
    figure("reloads", n)
    figure("answers during these", len(results))
    figure("a reload and its verdict", 1000 * seconds / n, "ms")
    assert taken == [bool(i % 2) for i in range(n)]
    assert len(results) > 20 and [r for r in results if r is not True] == []


def test_a_reload_changes_limits_hosts_and_the_log_level(configured):
    c = configured("log_level: info\n")
    many = {f"x-{i}": "1" for i in range(20)}
    assert (c.get(headers=many), c.get(headers={"Host": "a.test"})) == (200, 421)
    assert c.reload("log_level: debug\nlimits: {max_headers: 12}\nallow_host: [a.test]\n")
    assert (c.get(headers=many), c.get(headers={"Host": "a.test"})) == (431, 200)
    assert c.server.log_has("changed: allow_host, log_level, max_headers")
    assert c.reload("") and (c.get(headers=many), c.get(headers={"Host": "a.test"})) == (200, 421)


@pytest.mark.parametrize("text,why", [("limits: {max_headers: 1}\nallow_host: [a.test]\n", "1:23: max_headers"), ("x", "1:1: must be keys"), ("tls_cert: c\n", "belong together")])
def test_a_file_that_is_wrong_changes_nothing_and_the_log_says_why(configured, text, why):
    c = configured("limits: {max_headers: 12}\n")
    assert not c.reload(text)
    assert c.server.log_has(why) and c.get(headers={"Host": "a.test"}) == 421
    assert c.get(headers={f"x-{i}": "1" for i in range(20)}) == 431


def test_a_file_that_is_gone_changes_nothing(configured):
    c = configured("limits: {max_headers: 12}\n")
    c.file.unlink()
    c.server.process.send_signal(signal.SIGHUP)
    assert c.server.log_has("No such file") and c.get() == 200


def test_what_needs_a_restart_is_named_and_kept(configured):
    c = configured("media_processes: 1\n")
    assert c.reload("media_processes: 2\nthreads: 3\nmodels: [{path: /nowhere}]\n")
    assert c.server.log_has("media_processes, threads: a change needs a restart") and c.get() == 200


def test_a_request_keeps_the_limits_it_began_with(configured):
    c = configured("")
    body = json.dumps({"model": "demo", "max_tokens": 5, "messages": [{"role": "user", "content": "x" * 200}], "user": "y" * 1500}).encode()
    head = (f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {c.server.key}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode()
    with socket.create_connection(("127.0.0.1", c.server.port), timeout=20) as begun, socket.create_connection(("127.0.0.1", c.server.port), timeout=20) as later:
        begun.sendall(head + body[:10])
        time.sleep(0.2)
        assert c.reload("limits: {max_body_bytes: 1KiB, max_stream_bytes: 4KiB}\n")
        begun.sendall(body[10:])
        later.sendall(head)
        assert begun.recv(4096).startswith(b"HTTP/1.1 200 ") and later.recv(4096).startswith(b"HTTP/1.1 413 ")


def test_sighup_without_a_file_is_harmless(configured):
    c = configured("")
    c.server.stop()
    server = Server(DEMO, "--name", "demo")
    try:
        server.process.send_signal(signal.SIGHUP)
        assert server.log_has("reload: done; nothing has changed")
    finally:
        assert server.stop() == 0


def test_sighup_to_all_processes_ends_none(configured):
    c = configured("", cls=Server)
    children = c.server.children("worker") + c.server.children("media")
    assert len(children) == 2
    for pid in children:
        os.kill(pid, signal.SIGHUP)
    assert c.reload("log_level: debug\n") and c.get() == 200
    time.sleep(0.3)
    assert c.server.children("worker") + c.server.children("media") == children


def test_a_new_key_in_the_key_file_takes_the_place_of_the_old_one(configured, tmp_path):
    key = tmp_path / "key"
    old, new = "sk-spillway-" + "a" * 40, "sk-spillway-" + "b" * 40
    key.write_text(old + "\n")
    key.chmod(0o600)
    c = configured("", "--api-key-file", str(key))
    c.server.key = old
    assert c.get() == 200
    key.write_text(new + "\n")
    assert c.reload("")
    assert c.get() == 401
    c.server.key = new
    assert c.get() == 200 and c.server.log_has("the key in api_key_file")


def certificate(folder, name):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj", f"/CN={name}",
                    "-keyout", folder / "key.pem", "-out", folder / "cert.pem"], check=True, capture_output=True)


def test_a_renewed_certificate_is_served_and_open_connections_live_on(configured, tmp_path):
    certificate(tmp_path, "one")
    c = configured(f"tls_cert: {tmp_path}/cert.pem\ntls_key: {tmp_path}/key.pem\n")
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE

    def connect():
        return context.wrap_socket(socket.create_connection(("127.0.0.1", c.server.port), timeout=20))
    with connect() as before:
        first = before.getpeercert(True)
        certificate(tmp_path, "two")
        assert c.reload(c.file.read_text())
        with connect() as after:
            assert after.getpeercert(True) != first
        before.sendall(b"GET /livez HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert before.recv(100).startswith(b"HTTP/1.1 200 ")
    (tmp_path / "cert.pem").write_text("nothing")
    assert not c.reload(c.file.read_text())
    with connect() as still:
        assert still.getpeercert(True) != first


def test_a_terminal_that_is_closed_ends_the_server(tmp_path):
    main, terminal = os.openpty()
    p = subprocess.Popen([BIN, "serve", str(DEMO), "--listen", "127.0.0.1:0", "--data", str(tmp_path / "data")], stdin=terminal, stdout=terminal,
                         stderr=terminal, start_new_session=True, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
    os.close(terminal)
    shown = b""
    while b"Ready" not in shown:
        shown += os.read(main, 4096)
    p.send_signal(signal.SIGHUP)  # a reload as long as the terminal is there
    while b"reload: done" not in shown:
        shown += os.read(main, 4096)
    assert p.poll() is None
    os.close(main)
    assert p.wait(20) == 0


# ---- sockets that are handed down ----

def handed_down(sockets, tmp_path, fds=None, pid="$$"):
    """Starts serve with the sockets from descriptor 3 on, as systemd does."""
    for i, s in enumerate(sockets):
        os.dup2(s.fileno(), 30 + i)
    moves = " ".join(f"{3 + i}<&{30 + i} {30 + i}<&-" for i in range(len(sockets)))
    script = f'LISTEN_PID={pid} LISTEN_FDS={len(sockets) if fds is None else fds} exec "{BIN}" serve "{DEMO}" --listen 127.0.0.1:0 --data "{tmp_path}/data" {moves}'
    p = subprocess.Popen(["bash", "-c", script], stderr=subprocess.PIPE, text=True, pass_fds=[30 + i for i in range(len(sockets))])
    for i in range(len(sockets)):
        os.close(30 + i)
    return p


def test_an_inherited_socket_is_served(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
        p = handed_down([s], tmp_path)
    try:
        line = next(line for line in p.stderr if line.startswith("Ready") or line.startswith("spillway:"))
        assert f"http://127.0.0.1:{port}/v1" in line
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        c.request("GET", "/livez")
        assert c.getresponse().status == 200
    finally:
        p.terminate()
        p.communicate(timeout=20)
    assert p.returncode == 0


@pytest.mark.parametrize("make,why", [(lambda: [socket.create_server(("127.0.0.1", 0)) for _ in range(2)], "only one"),
                                      (lambda: [socket.socket()], "not a listening socket"),
                                      (lambda: [socket.socketpair()[0]], "is not a TCP socket")])
def test_a_socket_that_cannot_be_served_is_an_error(tmp_path, make, why):
    sockets = make()
    p = handed_down(sockets, tmp_path)
    err = p.communicate(timeout=20)[1]
    for s in sockets:
        s.close()
    assert p.returncode == 1 and why in err


def test_sockets_for_another_process_are_left_alone(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as s:
        port = s.getsockname()[1]
        p = handed_down([s], tmp_path, pid="1")
    try:
        line = next(line for line in p.stderr if line.startswith(("Ready", "spillway:")))
        assert line.startswith("Ready") and f":{port}/v1" not in line
    finally:
        p.terminate()
        p.communicate(timeout=20)
