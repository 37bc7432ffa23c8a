"""T36 through the gateway, with the real engine: who finds what was computed for another before (--cache-scope)."""
import base64
import json
import random
import subprocess

import pytest
import requests

from http_raw import wait_until
from serving import BIN, DEMO, ROOT, Server

BLOCK, BLOCKS = 16, 64
PICTURE = "data:image/png;base64," + base64.b64encode((ROOT / "weights/demo/samples/shapes.png").read_bytes()).decode()


class Accounts:
    """A server and its accounts: new() makes one, second() another key of it (rotating leaves the former valid)."""

    def __init__(self, *options):
        self.server = Server(DEMO, "--name", "demo", "--kv-tokens", BLOCK * BLOCKS, *options)

    def keys(self, *args):
        made = json.loads(subprocess.run([BIN, "keys", *map(str, args), "--json", "--data", self.server.data.name], capture_output=True, text=True, timeout=30, check=True).stdout)
        assert wait_until(lambda: requests.get(self.server.url + "/v1/models", headers={"authorization": "Bearer " + made["key"]}).status_code == 200, 5) is not None
        return made

    def new(self):
        made = self.keys("add", "someone")
        return made["id"], made["key"]

    def second(self, account):
        return self.keys("rotate", account[0])["key"]

    def cached(self, key, content, model="demo"):
        """Asks; (cached tokens, prompt tokens)."""
        body = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": 1, "temperature": 0, "ignore_eos": True}
        answer = requests.post(self.server.url + "/v1/chat/completions", json=body, headers={"authorization": "Bearer " + key}, timeout=60)
        assert answer.status_code == 200, answer.text
        usage = answer.json()["usage"]
        return usage["prompt_tokens_details"]["cached_tokens"], usage["prompt_tokens"]


def words(seed, n=40):
    r = random.Random(seed)
    return " ".join(r.choice(["red", "green", "circle", "square", "left", "above", "two", "heart"]) for _ in range(n))


def with_picture(seed):
    return [{"type": "image_url", "image_url": {"url": PICTURE}}, {"type": "text", "text": words(seed)}]


@pytest.fixture
def serve():
    made = []

    def call(*options):
        made.append(Accounts(*options))
        return made[-1]
    yield call
    for a in made:
        assert a.server.stop() == 0, "".join(a.server.lines)


def whole_blocks(n_prompt):
    return (n_prompt - 1) // BLOCK * BLOCK  # the last token is always computed


@pytest.mark.parametrize("content", [words(1), with_picture(1)], ids=["text", "picture"])
def test_t36_one_account_finds_nothing_of_anothers(serve, content):
    s = serve()
    a, b = s.new(), s.new()
    first, n = s.cached(a[1], content)
    assert first == 0 and whole_blocks(n) > BLOCK
    assert s.cached(b[1], content) == (0, n)
    assert s.cached(a[1], content) == (whole_blocks(n), n)
    assert s.cached(s.second(a), content) == (whole_blocks(n), n)
    assert s.cached(s.second(b), content) == (whole_blocks(n), n)  # what b has computed itself


@pytest.mark.parametrize("content", [words(1), with_picture(1)], ids=["text", "picture"])
def test_t36_with_a_shared_cache_all_find_all(serve, content):
    s = serve("--cache-scope", "shared")
    a, b = s.new(), s.new()
    first, n = s.cached(a[1], content)
    assert first == 0
    assert s.cached(b[1], content) == (whole_blocks(n), n)


def test_t36_accounts_blocks_survive_anothers_flood_up_to_its_share(serve):
    """a fills the cache, b floods it: of a's prompts, newest first, as many are there as half the cache holds."""
    s = serve()
    a, b = s.new(), s.new()
    sizes = [s.cached(a[1], words(seed, 100))[1] for seed in range(12)]
    assert sum(map(whole_blocks, sizes)) > BLOCK * BLOCKS
    flood = [s.cached(b[1], words(1000 + seed, 100))[1] for seed in range(24)]
    assert sum(map(whole_blocks, flood)) > 2 * BLOCK * BLOCKS
    left = 0
    for seed in reversed(range(12)):
        found, _ = s.cached(a[1], words(seed, 100))
        if found == 0:
            break
        left += found
    share, longest = BLOCK * BLOCKS / 2, max(sizes) + BLOCK
    assert share - longest <= left <= share + longest
    assert s.cached(b[1], words(1023, 100))[0] > 0


def test_t36_prompt_within_its_accounts_share_survives_whole(serve):
    s = serve()
    a, b = s.new(), s.new()
    _, n = s.cached(a[1], words(1, 100))
    for seed in range(24):
        s.cached(b[1], words(1000 + seed, 100))
    assert s.cached(a[1], words(1, 100)) == (whole_blocks(n), n)


def test_scope_is_each_models_own(serve):
    """POST /admin/models says it for one model; the server's own stays as it was."""
    s = serve("--model-root", DEMO)
    a, b, admin = s.new(), s.new(), subprocess.run([BIN, "keys", "add", "ops", "--admin", "--data", s.server.data.name], capture_output=True, text=True, timeout=30, check=True).stdout.strip()
    headers = {"authorization": "Bearer " + admin}
    assert wait_until(lambda: requests.get(s.server.url + "/admin/models", headers=headers).status_code == 200, 5) is not None
    made = requests.post(s.server.url + "/admin/models", json={"model": "demo", "name": "open", "cache_scope": "shared", "wait": True}, headers=headers, timeout=60)
    assert made.status_code == 201 and made.json()["options"]["cache_scope"] == "shared", made.text
    assert requests.get(s.server.url + "/admin/models/demo", headers=headers).json()["options"]["cache_scope"] == "account"
    _, n = s.cached(a[1], words(1), "open")
    s.cached(a[1], words(1))
    assert s.cached(b[1], words(1), "open") == (whole_blocks(n), n)
    assert s.cached(b[1], words(1)) == (0, n)
    bad = requests.post(s.server.url + "/admin/models", json={"model": "demo", "name": "worse", "cache_scope": "everyone"}, headers=headers, timeout=60)
    assert bad.status_code == 400 and bad.json()["error"]["param"] == "cache_scope"
