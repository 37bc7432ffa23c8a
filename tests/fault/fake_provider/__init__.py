"""A hosted provider that is ours: the OpenAI, Anthropic and Gemini wires with each host's own dialect, faults by script, and a ledger of
the truth.

    python -m fake_provider --port 0        (in tests/fault) prints {"port": ..., "url": ...} as one line of JSON and serves until ended
    with FakeProvider() as p: ...           the same in a thread of this process (a pytest fixture's form)

The base URL of a host is p.base(NAME): http://127.0.0.1:PORT/NAME and then that provider's own path prefix. Every key that begins with
"key-" is good. Nothing leaves the machine and no model runs: an answer is a function of the request (answer.py), and so is what it costs
(tokens.py).

    profiles.py   one row a host: path, credential, dialect, headers, what ends on a disconnect
    errors.py     what goes wrong, once per host: status, code, words, shape of the body
    answer.py     a request in common terms (Ask) and what is said to it; tokens.py: the one counting rule, pictures, prompt caches
    *_wire.py     a request and an answer in one wire's words; a stream as frames that know what they made and told
    script.py     rules that say what goes wrong; connection.py: bytes, cuts, departed clients
    ledger.py     what was really made, told and owed; server.py puts it together and has the control plane:

    POST /_script {"rules": [...], "append": false}    GET /_requests  what came in, heads and bodies
    POST /_prices {"openai/gpt-4o": {...}}             GET /_ledger    one line of JSON a request
    POST /_reset  forgets all of it                    GET /_profiles  the hosts and their base paths
"""
from .fixture import FakeProvider

__all__ = ["FakeProvider"]
