"""Keys of hosted providers: several for one, from variables or files, in another header than the usual one; what is missing or said twice ends the start."""
import json
import re

import pytest
import requests
from serving import DEMO, Server

KEYS = ["key-one", "key-two", "key-three"]


def start(folder, fake, *hosts, env={}, wait=True):
    """hosts: (name, row, profile, lines of its own)."""
    lines = ["providers:"]
    for name, row, profile, more in hosts:
        table = folder / f"{name}.json"
        table.write_text(json.dumps({"format": 1, "version": "test", "date": "2026-11-29", "sources": [], "models": [
            {"provider": name, "model": "fake-a", "context": 32000, "can": [], "prices": [{"in_uncached": [1000, 1], "out_text": [2000, 1]}]}]}))
        lines += [f"  - provider: {row}", f"    name: {name}", f"    base_url: \"{fake.base(profile)}\"", f"    prices: \"{table}\"", *(f"    {line}" for line in more)]
    config = folder / "c.yaml"
    config.write_text("\n".join(lines) + "\n")
    return Server(DEMO, "--no-auth", "--name", "demo", "--config", config, env=env, wait=wait)


def ask(server, model="lab/fake-a"):
    return requests.post(server.url + "/v1/chat/completions", timeout=30, headers={"x-request-timeout-ms": "5000"},
                         json={"model": model, "messages": [{"role": "user", "content": "hello"}], "max_tokens": 8})


def used(fake):
    """The keys of the requests that came, in their order."""
    found = []
    for r in fake.requests():
        headers = {k.lower(): v for k, v in dict(r["headers"]).items()}
        found.append((headers.get("authorization", "").removeprefix("Bearer "), headers.get("api-key")))
    return found


def keys_told(server):
    return requests.get(server.url + "/v1/models/lab/fake-a", timeout=10).json()["spillway"]["keys"]


def stop(server):
    assert server.stop() == 0, "".join(server.lines)


def test_keys_of_several_variables_take_turns(tmp_path, fake):
    s = start(tmp_path, fake, ("lab", "openai-compatible", "generic", ["key_env: \"A, B,C\""]), env=dict(zip("ABC", KEYS)))
    assert keys_told(s)["usable"] == 3
    for _ in range(6):
        assert ask(s).status_code == 200
    assert sorted(k for k, _ in used(fake)) == sorted(KEYS * 2)
    stop(s)


def test_keys_of_several_files_take_turns(tmp_path, fake):
    for i, key in enumerate(KEYS):
        (tmp_path / f"k {i}").write_text(key + "\n")
        (tmp_path / f"k {i}").chmod(0o600)
    s = start(tmp_path, fake, ("lab", "openai-compatible", "generic", ["key_file: \"" + ", ".join(f"{tmp_path}/k {i}" for i in range(3)) + "\""]))
    for _ in range(3):
        assert ask(s).status_code == 200
    assert sorted(k for k, _ in used(fake)) == sorted(KEYS)
    stop(s)


def test_another_key_goes_on_when_one_is_dead(tmp_path, fake):
    fake.script({"match": {"key": "key-one"}, "do": {"status": 401, "body": {"error": {"message": "no", "code": "invalid_api_key"}}}})
    s = start(tmp_path, fake, ("lab", "openai-compatible", "generic", ["key_env: A, B"]), env={"A": "key-one", "B": "key-two"})
    assert [ask(s).status_code for _ in range(4)] == [200] * 4
    assert keys_told(s) == {"usable": 1, "resting": 0, "dead": 1}
    assert [k for k, _ in used(fake)].count("key-one") == 1
    stop(s)


def test_one_variable_may_be_for_several_providers(tmp_path, fake):
    s = start(tmp_path, fake, ("lab", "openai-compatible", "generic", ["key_env: B, A"]), ("more", "openai-compatible", "generic", ["key_env: A"]),
              env={"A": "key-one", "B": "key-two"})
    assert ask(s, "more/fake-a").status_code == 200
    assert used(fake) == [("key-one", None)]
    stop(s)


def test_keys_are_in_no_environment_any_more(tmp_path, fake):
    s = start(tmp_path, fake, ("lab", "openai-compatible", "generic", ["key_env: A, B"]), env={"A": "key-one-of-the-test", "B": "key-two-of-the-test"})
    for pid in [*s.children("worker"), *s.children("media")]:
        assert b"of-the-test" not in open(f"/proc/{pid}/environ", "rb").read()
    stop(s)


def test_a_key_goes_in_the_header_that_is_asked_for(tmp_path, fake):
    s = start(tmp_path, fake, ("lab", "azure", "azure", ["key_env: A", "auth: bearer"]), ("usual", "azure", "azure", ["key_env: A"]), env={"A": "key-one"})
    for model in ("lab/fake-a", "usual/fake-a"):
        ask(s, model)
    assert used(fake) == [("key-one", None), ("", "key-one")]
    stop(s)


def test_a_provider_that_nobody_has_tried_is_called_so(tmp_path, fake):
    s = start(tmp_path, fake, ("lab", "openai-compatible", "generic", ["key_env: A", "unverified: true"]), env={"A": "key-one"})
    assert any(re.search(r"provider lab: .*1 keys, unverified", line) for line in s.lines)
    stop(s)


@pytest.mark.parametrize("lines, says", [(["key_env: A, NOT_THERE"], "NOT_THERE is not set"), (["key_env: A, A"], "one key is there twice"),
                                         (["key_env: A, SAME"], "one key is there twice"), (["key_file: /none/a, /none/b"], "/none/a"),
                                         (["key_env: " + ", ".join(f"K{i}" for i in range(17))], "more than 16 keys"),
                                         (["key_env: A", "auth: cookie"], "there is no auth 'cookie'"), (["key_env: A", "unverified: maybe"], "unverified is neither true nor false")])
def test_what_is_wrong_ends_the_start(tmp_path, fake, lines, says):
    env = {"A": "key-one", "SAME": "key-one", **{f"K{i}": f"key-{i}" for i in range(17)}}
    s = start(tmp_path, fake, ("lab", "openai-compatible", "generic", lines), env=env, wait=False)
    assert s.process.wait(20) == 1
    s.reader.join(5)
    text = "".join(s.lines)
    assert says in text and "key-one" not in text
