"""T70, B1 over HTTP: 64 clients spend one dollar, a cent a request, through one gateway on SQLite and through two on PostgreSQL. A hundred succeed,
whoever comes first; the others are told that there is no money, or that others hold it."""
import collections
import http.client
import itertools
import json
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from postgres import Postgres
from test_charges import MODEL, fake  # noqa: F401
from test_kills import OnPostgres, Sqlite

CLIENTS, ASKS, CENT = 64, 3, 10_000_000
TOKENS = 10  # of an answer, which is all that is paid for: the hold is what it costs
NEXT_TO_NOTHING = [1, 1_000_000]  # nano-dollars for so many tokens: it rounds to 0
REFUSED = {(402, "budget_exhausted"), (429, "budget_held")}


def price(place):
    path = place.config.with_name("lab.json")
    table = json.loads(path.read_text())
    table["models"][0]["prices"] = [{"in_uncached": NEXT_TO_NOTHING, "in_cache_read": NEXT_TO_NOTHING, "out_text": [CENT // TOKENS, 1]}]
    path.write_text(json.dumps(table))


def load(fake):  # noqa: F811
    fake.reset()
    fake.script({"tokens": TOKENS})
    fake.prices({"generic": {"out_text": {"nusd": CENT // TOKENS, "units": 1}}})


class Clients:
    """They keep their connections, and go by turns to each gateway."""

    def __init__(self, gateways):
        self.gateways, self.local = gateways, threading.local()
        self.pool, self.barrier = ThreadPoolExecutor(CLIENTS), threading.Barrier(CLIENTS)

    def ask(self, place, stream):
        if not hasattr(self.local, "connections"):
            self.local.connections = {}
        c = self.local.connections.setdefault(place.host.port, http.client.HTTPConnection(place.host.hostname, place.host.port, timeout=60))
        body = {"model": f"lab/{MODEL}", "max_tokens": TOKENS, "stream": stream, "messages": [{"role": "user", "content": "hello"}],
                **({"stream_options": {"include_usage": True}} if stream else {})}
        c.request("POST", "/v1/chat/completions", json.dumps(body), {"authorization": f"Bearer {place.key}"})
        r = c.getresponse()
        data = r.read()
        if r.status != 200:
            return r.status, json.loads(data)["error"]["code"]
        assert not stream or data.endswith(b"data: [DONE]\n\n")
        usage = json.loads(data)["usage"] if not stream else json.loads(data.split(b"\n\n")[-3].removeprefix(b"data: "))["usage"]
        return 200, usage["cost_nusd"]

    def spend(self, i):
        self.barrier.wait()
        return [self.ask(self.gateways[(i + n) % len(self.gateways)], (i + n) % 2 == 0) for n in range(ASKS)]

    def all(self):
        return collections.Counter(itertools.chain(*self.pool.map(self.spend, range(CLIENTS))))


@pytest.fixture(params=["sqlite", "postgres"])
def gateways(request, tmp_path, fake):  # noqa: F811
    store = Postgres() if request.param == "postgres" else None
    places = [Sqlite(tmp_path, fake)]
    if store:
        for name in "ab":
            (tmp_path / name).mkdir()
        places = [OnPostgres(tmp_path / name, fake, store) for name in "ab"]
    for place in places:
        price(place)
    places[0].start()
    for place in places[1:]:
        place.data.mkdir()
        shutil.copy(places[0].data / "secret", place.data / "secret")
        place.key = places[0].key
        place.start()
    yield places
    for place in places:
        place.server.stop()
    places[0].check()
    if store:
        store.close()


def test_t70_a_dollar_is_spent_to_the_cent(gateways, fake, size, figure):  # noqa: F811
    first, clients = gateways[0], Clients(gateways)
    first.accounts("prepaid", 2, 0)
    n = size(2, 1000 if len(gateways) == 1 else 200)
    for i in range(1, n + 1):
        load(fake)
        first.accounts("deposit", 2, 1)
        told = clients.all()
        assert told.pop((200, CENT)) == 100
        assert set(told) <= REFUSED and told.total() == CLIENTS * ASKS - 100
        assert first.rows("SELECT posted, pending FROM balances WHERE account = 2") == [(0, 0)]
        assert first.rows("SELECT b.posted FROM balances b JOIN accounts a ON a.id = b.account WHERE a.name = 'lab'") == [(i * 100 * CENT,)]
        assert [t["cost_nusd"] for t in fake.ledger(100)] == [CENT] * 100
        if i % 50 == 0 or i == n:
            first.check()
            figure("rounds", i)
