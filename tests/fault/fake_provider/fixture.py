"""The fake provider in a thread of this process with an event loop of its own, and a client of its control plane."""
import asyncio
import http.client
import json
import threading
import time

from .profiles import PROFILES
from .server import Server


class Control:
    """Speaks to a fake provider that runs anywhere."""

    def __init__(self, port):
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self.local = threading.local()  # a connection for each thread that asks

    def base(self, profile):
        """What a client of that host takes as its base URL."""
        return f"{self.url}/{profile}{PROFILES[profile].base}"

    def call(self, path, body=None):
        if not hasattr(self.local, "connection"):
            self.local.connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        self.local.connection.request("GET" if body is None else "POST", path, body if body is None else json.dumps(body))
        r = self.local.connection.getresponse()
        data = r.read()
        if r.status != 200:
            raise ValueError(json.loads(data)["error"])
        return data

    def script(self, *rules, append=False):
        """Each rule as in script.py; one without "do" is taken for the actions themselves."""
        self.call("/_script", {"rules": [r if "do" in r else {"do": r} for r in rules], "append": append})

    def prices(self, table):
        self.call("/_prices", table)

    def reset(self):
        self.call("/_reset", {})

    def requests(self):
        return json.loads(self.call("/_requests"))

    def ledger(self, n=None, within_s=5):
        """All rows; with n, once there are n and all have ended."""
        until = time.monotonic() + within_s
        while True:
            rows = [json.loads(line) for line in self.call("/_ledger").splitlines()]
            if n is None or (len(rows) >= n and all(r["ended_s"] is not None for r in rows)):
                return rows
            assert time.monotonic() < until, f"{n} rows wanted: {rows}"
            time.sleep(0.005)


class FakeProvider(Control):
    def __init__(self):
        started, self.loop = threading.Event(), asyncio.new_event_loop()
        self.server = Server()

        def run():
            asyncio.set_event_loop(self.loop)
            super(FakeProvider, self).__init__(self.loop.run_until_complete(self.server.start()))
            started.set()
            self.loop.run_forever()

        self.thread = threading.Thread(target=run, daemon=True, name="fake_provider")
        self.thread.start()
        assert started.wait(10), "the fake provider did not start"

    def close(self):
        async def end():
            self.server.listener.close()
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        asyncio.run_coroutine_threadsafe(end(), self.loop).result(10)
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join(10)
        self.loop.close()
        assert not self.server.bugs, "\n".join(self.server.bugs)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()
