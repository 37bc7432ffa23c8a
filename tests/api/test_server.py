"""Models, health, keys, draining, departure: the server around the answers."""
import json
import os
import re
import signal
import socket
import subprocess
import threading
import time

import openai
import pytest
import requests

from serving import BIN, LLM, VLM, Server


def test_models(client, vlm, llm, server):
    assert [m.id for m in client.models.list()] == [vlm, llm]
    m = client.models.retrieve(vlm)
    assert m.id == vlm and m.object == "model" and m.owned_by
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("no/such/model")


def test_models_tell_what_they_take(client, vlm, llm):
    told = {m.id: m.to_dict() for m in client.models.list()}
    assert told[vlm]["modalities"] == ["text", "image"] and told[llm]["modalities"] == ["text"]
    for m in told.values():
        assert m["state"] == "ready" and m["context_length"] == m["max_model_len"] > 0


def test_model_id_with_slash():
    s = Server(VLM, "--name", "Owner/Model", "--no-auth")
    try:
        client = openai.OpenAI(base_url=s.url + "/v1", api_key="any", max_retries=0)
        assert client.models.retrieve("Owner/Model").id == "Owner/Model"
        assert requests.get(s.url + "/v1/models/Owner%2FModel", timeout=10).json()["id"] == "Owner/Model"
        r = client.chat.completions.create(model="Owner/Model", messages=[{"role": "user", "content": "Hi"}], max_tokens=2)
        assert r.choices
    finally:
        assert s.stop() == 0


def test_health_needs_no_key(server):
    assert requests.get(server.url + "/livez", timeout=10).status_code == 200
    assert requests.get(server.url + "/readyz", timeout=10).status_code == 200


def test_no_auth_only_on_loopback():
    r = subprocess.run([BIN, "serve", VLM, "--no-auth", "--listen", "0.0.0.0:0"], capture_output=True, text=True, timeout=30)
    assert r.returncode == 1 and "loopback" in r.stderr


def test_first_key_from_environment_and_file(tmp_path):
    s = Server(LLM, env={"SPILLWAY_API_KEY": "from-the-environment"}, wait=False)
    try:
        assert s.log_has("Ready in", 30)
        get = lambda key: requests.get(s.url + "/v1/models", headers={"authorization": "Bearer " + key}, timeout=10).status_code
        assert get("from-the-environment") == 200 and get("other-key-here") == 401
        assert s.key is None  # nothing is printed
    finally:
        s.stop()
    (tmp_path / "key").write_text("from-the-file\n")
    s = Server(LLM, "--api-key-file", tmp_path / "key")
    try:
        assert requests.get(s.url + "/v1/models", headers={"authorization": "Bearer from-the-file"}, timeout=10).status_code == 200
    finally:
        s.stop()


def test_first_key_is_told_by_a_start_that_fails(tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as taken:
        command = [BIN, "serve", LLM, "--data", tmp_path, "--listen", f"127.0.0.1:{taken.getsockname()[1]}"]
        r = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert r.returncode == 1 and "in use" in r.stderr
    key = re.search(r"first API key.*: (\S+)$", r.stderr, re.M)[1]
    s = Server(LLM, data=tmp_path, wait=False)
    try:
        assert s.log_has("Ready in", 30)
        assert requests.get(s.url + "/v1/models", headers={"authorization": "Bearer " + key}, timeout=10).status_code == 200
        assert s.key is None  # there was one already
    finally:
        s.stop()


def test_keys_command_is_taken_over(server):
    def keys(*args):
        return subprocess.run([BIN, "keys", *args, "--data", server.data.name], capture_output=True, text=True, timeout=30, check=True).stdout

    def status(key):
        return requests.get(server.url + "/v1/models", headers={"authorization": "Bearer " + key}, timeout=10).status_code

    def becomes(key, wanted):
        end = time.monotonic() + 3
        while status(key) != wanted and time.monotonic() < end:
            time.sleep(0.05)
        return status(key) == wanted
    token = keys("add", "tester").strip()
    assert becomes(token, 200)
    row = next(line for line in keys("list").splitlines() if "tester" in line)
    assert token not in row and token[-4:] in row
    keys("revoke", row.split()[0])
    assert becomes(token, 401)
    assert "revoked" in next(line for line in keys("list").splitlines() if "tester" in line)


@pytest.mark.parametrize("args", [["/no/such/folder"], ["--default-max-tokens", "0"], ["--listen", "nonsense"], ["--wat"]])
def test_bad_arguments(args, tmp_path):
    r = subprocess.run([BIN, "serve", *args], capture_output=True, text=True, timeout=30, env={**os.environ, "XDG_DATA_HOME": str(tmp_path)})
    assert r.returncode in (1, 2) and r.stderr.startswith("spillway: ") or "spillway: " in r.stderr
    assert args[0] in r.stderr


def long_stream(server, model, n=4000):
    body = json.dumps({"model": model, "messages": [{"role": "user", "content": "Hi"}], "max_tokens": n, "ignore_eos": True, "stream": True}).encode()
    s = socket.create_connection(("127.0.0.1", server.port))
    s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer " + (server.key or "x").encode() +
              b"\r\nContent-Type: application/json\r\nContent-Length: " + str(len(body)).encode() + b"\r\n\r\n" + body)
    got = b""
    while got.count(b"data: {") < 3:
        piece = s.recv(65536)
        assert piece, got
        got += piece
    return s


def cpu_s(pid):
    fields = open(f"/proc/{pid}/stat").read().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


@pytest.mark.parametrize("how", ["fin", "reset"])
def test_departed_client_stops_the_worker(how):
    """The worker's processor time stands still soon after the client has left, thousands of tokens before the end."""
    server = Server(VLM, "--no-auth")
    try:
        worker = server.children("worker")[0]
        s = long_stream(server, VLM.name, 8000)
        if how == "reset":
            s.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        s.close()
        time.sleep(0.3)
        before = cpu_s(worker)
        time.sleep(0.7)
        assert cpu_s(worker) - before <= 0.05
    finally:
        assert server.stop() == 0


def test_sigterm_drains():
    server = Server(VLM, "--no-auth")
    s = long_stream(server, VLM.name, 200)
    result = {}
    stopper = threading.Thread(target=lambda: result.update(code=server.stop()))
    stopper.start()
    got = b""
    while piece := s.recv(65536):
        got += piece
        if b"[DONE]" in got:
            break
    s.close()
    stopper.join(30)
    assert b"[DONE]" in got and result["code"] == 0


def test_terminated_with_requests_running_ends():
    server = Server(VLM, "--no-auth")
    s = long_stream(server, VLM.name, 8000)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    assert server.stop(signal.SIGTERM, timeout=5) == 0  # the second one does not wait
    s.close()


def test_port_in_use(server):
    r = subprocess.run([BIN, "serve", LLM, "--no-auth", "--listen", f"127.0.0.1:{server.port}"], capture_output=True, text=True, timeout=30)
    assert r.returncode == 1 and "in use" in r.stderr
