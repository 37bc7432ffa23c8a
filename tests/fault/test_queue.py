"""Queue bounds (T60's counts; its speed is bench/overload.py): what a model's queue takes follows from how fast its worker says that it reads, what does not
fit is refused at once and is told when to come again."""
import concurrent.futures
import time

import pytest
import requests

from http_raw import wait_until
from serving import DEMO, FakeServer


@pytest.fixture
def serve():
    servers = []

    def call(*options, **script):
        servers.append(FakeServer(DEMO, "--name", "demo", "--no-auth", *options, script=script))
        return servers[-1]
    yield call
    for s in servers:
        assert s.stop() == 0, "".join(s.lines[-30:])


def ask(server, timeout_ms=None, **changes):
    body = {"model": "demo", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 5, **changes}
    headers = {"X-Request-Timeout-Ms": str(timeout_ms)} if timeout_ms else {}
    return requests.post(server.url + "/v1/chat/completions", json=body, headers=headers, timeout=60)


def assert_full(answer, least_s, most_s):
    assert answer.status_code == 429 and answer.json()["error"]["code"] == "queue_full", answer.text
    assert least_s <= int(answer.headers["retry-after"]) <= most_s, answer.headers


def learn(server, **script):
    """One answer, so that a prediction has come; returns how many tokens the prompt has."""
    server.script(**script)
    assert ask(server, max_tokens=1).status_code == 200
    return server.recorded("submit")[-1]["n_ids"]


def n_submits(server):
    """While it is being written the last line may be half there."""
    return server.record.read_text().count('"submit"')


def fill(server, pool, timeout_ms):
    """Asks until a prompt is refused; (those that wait, the refusal)."""
    before, waiting = n_submits(server), []
    while True:
        f = pool.submit(ask, server, timeout_ms=timeout_ms)
        assert wait_until(lambda: f.done() or n_submits(server) == before + len(waiting) + 1, 10) is not None
        if f.done():
            return waiting, f.result()
        waiting.append(f)


def test_t60_prompts_wait_only_as_long_as_the_target_allows_where_answers_are_short(serve):
    """At 10 ms a token and a target of 4 s, 400 tokens may wait."""
    s = serve("--first-token-target", "4s", "--max-queue-requests", "1000")
    n_ids = learn(s, submit="answer", prediction={"prompt_token_ms": 10})
    s.script(submit="queue", prediction={"prompt_token_ms": 10})
    with concurrent.futures.ThreadPoolExecutor(100) as pool:
        waiting, refused = fill(s, pool, 6000)
        assert len(waiting) == 400 // n_ids
        assert_full(refused, 3, 8)
        for _ in range(5):
            assert_full(ask(s, timeout_ms=6000), 3, 8)
        assert len(s.recorded("submit")) == 1 + len(waiting)
        assert all(f.result().status_code == 504 for f in waiting)
    s.script(prediction={"prompt_token_ms": 10})
    assert ask(s).status_code == 200  # room again


@pytest.mark.parametrize("answer_s,least,most", [(3, 1200, 2000), (5, 2000, 2000)], ids=["as long as an answer takes", "twice the target at most"])
def test_t60_prompts_wait_as_long_as_answers_take(serve, answer_s, least, most):
    """At 2 ms a token and a target of 2 s the bounds are 1,000 and 2,000 tokens; between them it is the time of answers, which a busy machine stretches."""
    s = serve("--drain-timeout", "1s", "--first-token-target", "2s", "--max-queue-requests", "1000")
    prediction = {"prompt_token_ms": 2}
    s.script(submit="answer", prediction=prediction, tokens_per_s=10)
    assert ask(s, max_tokens=1 + 10 * answer_s).status_code == 200
    n_ids = s.recorded("submit")[-1]["n_ids"]
    s.script(submit="queue", prediction=prediction)
    with concurrent.futures.ThreadPoolExecutor(300) as pool:
        waiting, refused = fill(s, pool, 30000)
        assert least // n_ids <= len(waiting) <= most // n_ids
        assert_full(refused, 1, 8)
        s.process.terminate()


def test_t60_a_prompt_that_has_its_first_token_waits_no_longer(serve):
    s = serve("--first-token-target", "100ms")
    n_ids = learn(s, prediction={"prompt_token_ms": 10}, tokens_per_s=20)
    fit = max(40 // n_ids, 4)
    with concurrent.futures.ThreadPoolExecutor(50) as pool:
        first = [pool.submit(ask, s, max_tokens=20) for _ in range(fit)]
        assert wait_until(lambda: len(s.recorded("submit")) == 1 + fit, 10) is not None
        time.sleep(0.3)  # their first tokens come
        second = ask(s)
        assert second.status_code == 200
        assert not any(f.done() for f in first)
        assert all(f.result().status_code == 200 for f in first)


def test_t60_four_prompts_are_always_taken(serve):
    s = serve("--drain-timeout", "1s", "--first-token-target", "100ms")
    learn(s, prediction={"prompt_token_ms": 1000})
    s.script(submit="queue", prediction={"prompt_token_ms": 1000})
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for n in range(4):
            pool.submit(ask, s, timeout_ms=300000)
            assert wait_until(lambda: len(s.recorded("submit")) == 2 + n, 10) is not None
        assert_full(ask(s, timeout_ms=300000), 2, 60)
        s.process.terminate()


def test_t60_retry_after_is_the_predicted_wait_and_at_most_a_minute(serve):
    s = serve("--drain-timeout", "1s", "--max-queue-requests", "1")
    learn(s, prediction={"first_token_ms": 20000, "prompt_token_ms": 0.001})
    s.script(submit="queue", prediction={"first_token_ms": 20000, "prompt_token_ms": 0.001})
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        held = pool.submit(ask, s, timeout_ms=60000)
        assert wait_until(lambda: len(s.recorded("submit")) == 2, 10) is not None
        seconds = {int(ask(s).headers["retry-after"]) for _ in range(40)}
        assert min(seconds) >= 20 and max(seconds) <= 31
        assert len(seconds) > 3  # not all at once
        s.process.terminate()
        assert held.result().status_code in (503, 504)


def test_a_request_whose_turn_comes_after_its_deadline_is_refused_at_once(serve):
    s = serve()
    learn(s, prediction={"first_token_ms": 90000, "prompt_token_ms": 0.001})
    before = len(s.recorded("submit"))
    assert_full(ask(s, timeout_ms=5000), 60, 60)
    assert len(s.recorded("submit")) == before
    assert ask(s, timeout_ms=500000).status_code == 200


@pytest.mark.parametrize("target,taken", [("2s", 18), ("600s", 40)], ids=["none slower than it must", "all that end in time"])
def test_t60_no_more_are_answered_side_by_side_than_half_as_many_again_as_make_nine_tenths(serve, target, taken):
    """Twelve make nine tenths of the most, so the 19th would only make each of them slower; where the target gives it time it is taken."""
    s = serve("--drain-timeout", "1s", "--first-token-target", target, "--max-queue-requests", "1000")
    prediction = {"prompt_token_ms": 0.001, "side_by_side": 12}
    s.script(submit="answer", prediction=prediction, tokens_per_s=20)
    assert ask(s, max_tokens=100).status_code == 200  # five seconds
    s.script(submit="queue", prediction=prediction)
    with concurrent.futures.ThreadPoolExecutor(60) as pool:
        before = n_submits(s)
        answers = [pool.submit(ask, s, timeout_ms=30000) for _ in range(40)]
        assert wait_until(lambda: n_submits(s) - before + sum(f.done() for f in answers) == 40, 20) is not None
        refused = [f.result() for f in answers if f.done()]
        assert len(refused) == 40 - taken
        for answer in refused:
            assert_full(answer, 1, 8)
        s.process.terminate()
