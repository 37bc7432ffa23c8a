"""T61 through the gateway, with the real engine: an account with 100 streams and nine with four each share what the engine serves. Counted in tokens, never in time."""
import http.client
import json
import random
import threading

from http_raw import wait_until
from serving import BIN, DEMO, Server
from test_cache_scope import words
from test_keys import answer, keys

MANY, FEW, ACCOUNTS, MAX_TOKENS = 100, 4, 9, 24


class Account:
    """Streams of one key, each asking again when it is answered. served is what the engine's fairness counts: a prompt's tokens, and two for each that is made."""

    def __init__(self, contest, name, n_streams):
        self.contest, self.served, self.before, self.errors = contest, 0, 0, []
        self.key = keys(contest.server.data.name, "add", name)
        self.threads = [threading.Thread(target=self.stream, args=(f"{name}/{i}",), daemon=True) for i in range(n_streams)]

    def stream(self, seed):
        r, c = random.Random(seed), http.client.HTTPConnection("127.0.0.1", self.contest.server.port, timeout=120)
        try:
            while not self.contest.over.is_set():
                self.ask(c, r)
        except (OSError, http.client.HTTPException) as e:
            if not self.contest.over.is_set():
                self.errors.append(repr(e))

    def ask(self, c, r):
        body = {"model": "demo", "messages": [{"role": "user", "content": words(r.random(), 12)}], "max_tokens": MAX_TOKENS, "ignore_eos": True, "stream": True, "temperature": 0,
                "stream_options": {"include_usage": True}}
        c.request("POST", "/v1/chat/completions", json.dumps(body), {"Authorization": f"Bearer {self.key}", "Content-Type": "application/json"})
        reply = c.getresponse()
        if reply.status != 200:
            self.errors.append((reply.status, reply.read()))
            return
        told = 0  # of this answer, to what has been added already
        for line in reply:
            if line.startswith(b"data: {"):
                event = json.loads(line[6:])
                if event.get("usage"):
                    u = event["usage"]
                    self.contest.add(self, u["prompt_tokens"] - u["prompt_tokens_details"]["cached_tokens"] + 2 * u["completion_tokens"] - told, u["prompt_tokens"] + 2 * u["completion_tokens"])
                elif event["choices"] and event["choices"][0]["delta"].get("content"):
                    told += 2
                    self.contest.add(self, 2, 0)


class Contest:
    def __init__(self, server, until):
        self.server, self.until, self.lock, self.over, self.sum, self.max_cost = server, until, threading.Lock(), threading.Event(), 0, 0
        self.accounts = []

    def add(self, account, cost, request_cost):
        with self.lock:
            if self.over.is_set():
                return
            account.served += cost
            self.sum += cost
            self.max_cost = max(self.max_cost, request_cost)
            if self.sum < self.until / 5:
                account.before += cost  # not all of them are there yet
            if self.sum >= self.until:
                self.over.set()


def test_t61_a_hundred_streams_get_no_more_than_another_accounts_few(figure, size):
    """Few, but more than run at once: all accounts always have something waiting, and then what they were served differs by two requests at most. The cache
    holds so little that about eight sequences run. Counted from when all have come."""
    s = Server(DEMO, "--name", "demo", "--kv-tokens", 512, "--first-token-target", "60s")
    try:
        c = Contest(s, size(20000, 400000))
        c.accounts = [Account(c, f"few {i}", FEW) for i in range(ACCOUNTS)] + [Account(c, "many", MANY)]
        for a in c.accounts:
            assert wait_until(lambda: answer(s, a.key).status == 200, 5) is not None  # taken over by the server
        for a in c.accounts:
            for t in a.threads:
                t.start()
        assert c.over.wait(size(120, 900)), ([a.served for a in c.accounts], [a.errors[:1] for a in c.accounts])
        served = [a.served - a.before for a in c.accounts]
        figure("T61 served", str(served))
        figure("T61 gap", max(served) - min(served), f"(two requests cost at most {2 * c.max_cost})")
        assert not any(a.errors for a in c.accounts), [a.errors[:1] for a in c.accounts]
        assert max(served) - min(served) <= 2 * c.max_cost
    finally:
        assert s.stop() == 0, "".join(s.lines[-20:])
