"""One request with one failure, and what must hold afterwards: the answer is right or an error in our format, the process lives, nothing is
lost, and the same request again is answered as before."""
import time

from failer import CALLS, ROLES, FailingServer, ask
from scripts import LEAVE_AFTER, SCRIPTS

SETTLE_S, MAX_STARTS = 2.0, 3
OUR_FAULT = {(429, "queue_full"), (500, "internal_error"), (503, "worker_down"), (503, "accounts_unavailable")}
# SQLite keeps blocks of its own (cursors, buffers of rows) and lets go of some when memory was short: so many of the gateway's may come and go, and so
# many more than at first may be held in all: a block that is lost with each failure is found by the latter.
SLACK, MOST_IN_ALL = [24, 0, 0, 0, 0], 64


class Torture:
    def __init__(self, *args, env=None, tls=None):
        self.args, self.env, self.tls, self.server, self.sent = args or ("demo",), env, tls, None, 0
        self.begin()
        self.start()

    def start(self):
        self.server = FailingServer(*self.args, "--settle-timeout", "300ms", env=self.env)
        self.known, self.first = {}, {}

    def stop(self):
        self.server.calm()
        return self.server.stop()

    def alive(self):
        return self.server.process.poll() is None

    def send(self, name, within_s=10.0):
        self.sent += 1
        script = SCRIPTS[name].replace(b"NEW-EACH-TIME", b"%08d" % self.sent).replace(b"KEY", (self.server.key or "none").encode())
        return ask(self.server.port, script, LEAVE_AFTER.get(name), within_s, self.tls)

    def held(self):
        """Exact, unlike bytes: blocks of gateway and worker, and descriptors of all."""
        r = self.server.roles
        return [r["gateway"].blocks, r["gateway"].fds(), r["worker"].blocks, r["worker"].fds(), r["media"].fds()]

    def settled(self, limit):
        """Held, once it is within the limit; at the latest after SETTLE_S."""
        end = time.monotonic() + SETTLE_S
        while True:
            try:
                held = self.held()
            except (FileNotFoundError, ProcessLookupError):  # a child is being replaced
                held = None
            if (held and all(h <= m + s for h, m, s in zip(held, limit, SLACK))) or time.monotonic() > end:
                return held
            time.sleep(0.001)

    def learn(self, name):
        """How the script is answered, what is held after it, and how many allocations and calls of each role it takes."""
        if name in self.known:
            return self.known[name]
        replies, held, counts = [], [], []
        for _ in range(4):
            before = self.count()
            replies.append(self.send(name))
            time.sleep(0.01)
            held.append(self.settled([1 << 62] * 5))
            counts.append({k: n - before[k] for k, n in self.count().items()})
        good = replies[-1]
        assert name in LEAVE_AFTER or (good.kind in ("ok", "error") and all(r.what == good.what for r in replies[1:])), (name, replies)
        self.first.setdefault(name, max(h[0] for h in held))
        self.known[name] = good, [max(h) for h in zip(*held)], {k: max(c[k] for c in counts) for k in counts[0]}
        return self.known[name]

    def count(self):
        """(role, "alloc" or a call's name): how many so far."""
        roles = self.server.roles.items()
        return {(n, "alloc"): r.allocs for n, r in roles} | {(n, c): r.called(c) for n, r in roles for c in CALLS}

    def find(self, case, what):
        self.findings.append((case, what))

    def run(self, name, role, case, arm):
        """arm(role's orders) sets the failure. True if it came to it."""
        good, limit, _ = self.learn(name)
        r, starts = self.server.roles[role], {n: self.server.roles[n].starts for n in ROLES}
        self.runs += 1
        arm(r)
        reply = self.send(name)
        failed = r.alloc_failed + r.call_failed
        self.server.calm()
        kind = reply.kind if name not in LEAVE_AFTER else "left"
        self.kinds[kind] = self.kinds.get(kind, 0) + 1
        if name not in LEAVE_AFTER:
            right = (reply.kind == good.kind and reply.what == good.what and reply.status == good.status) or reply.kind == "closed" or \
                (reply.status == good.status and reply.code == good.code and reply.kind == "error") or \
                (reply.kind == "error" and reply.status == 200) or (reply.status, reply.code) in OUR_FAULT
            if not right:
                self.find(case, f"answer {reply}")
        again = self.again(name, good)
        if not self.alive():
            self.find(case, f"the gateway ended: {self.server.process.poll()}: {''.join(self.server.lines[-3:])}")
            self.server.stop()
            self.start()
            return failed
        if name not in LEAVE_AFTER and (again.kind, again.what) != (good.kind, good.what):
            self.find(case, f"next answer {again}")
        died = [n for n in ROLES if self.server.roles[n].starts != starts[n]]
        self.deaths += len(died)
        held = self.settled(limit)
        if held is None or any(h > m + s for h, m, s in zip(held, limit, SLACK)) or held[0] > self.first[name] + MOST_IN_ALL:
            if not died:
                self.find(case, f"held {held} > {limit}")
            self.known.pop(name)  # what is held now is where to start from
        if self.server.roles["worker"].starts > MAX_STARTS:  # who dies again and again is started ever later
            self.stop()
            self.start()
        if died and role not in died:
            self.find(case, f"ended: {died}")
        return failed

    def again(self, name, good):
        """As a client with Retry-After would: a process may be coming back."""
        end = time.monotonic() + 5
        while True:
            reply = self.send(name)
            if (reply.kind, reply.what) == (good.kind, good.what) or (reply.status, reply.code) not in OUR_FAULT or time.monotonic() > end:
                return reply
            time.sleep(0.02)

    def begin(self):
        self.findings, self.kinds, self.runs, self.deaths = [], {}, 0, 0

    def report(self):
        kinds = ", ".join(f"{n} {k}" for k, n in sorted(self.kinds.items()))
        return f"{self.runs} runs: {kinds}; {self.deaths} worker or media processes replaced"
