"""spillway chat: in a pseudo-terminal as a user sees it, from a pipe, and against servers that misbehave."""
import http.server
import json
import os
import pathlib
import re
import signal
import subprocess
import threading
import time

import pytest

from screen import Screen

SHAPES = pathlib.Path(__file__).resolve().parents[2] / "weights/demo/samples/shapes.png"


@pytest.fixture
def run(tmp_path):
    """Directories of its own, so that what is left behind is seen."""
    return {"XDG_RUNTIME_DIR": str(tmp_path), "SPILLWAY_API_KEY": None, "NO_COLOR": None}


@pytest.fixture
def screen(program, run):
    opened = []

    def start(*args, env=None, **more):
        opened.append(Screen(program, "chat", *args, env={**run, **(env or {})}, **more))
        return opened[-1]
    yield start
    for s in opened:
        s.close()


@pytest.fixture
def pipe(program, run):
    def start(*args, stdin, env=None, timeout=60):
        env = {k: v for k, v in {**os.environ, **run, **(env or {})}.items() if v is not None}
        return subprocess.run([program, "chat", *map(str, args)], input=stdin, capture_output=True, text=True, timeout=timeout, env=env)
    return start


class Fake:
    """An OpenAI server whose answers a test writes: `answer(handler, body)` for chats."""

    def __init__(self, answer, models=("fake-1", "fake-2")):
        self.requests = fake_requests = []

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def send(self, status, body, kind="application/json"):
                self.send_response(status)
                self.send_header("content-type", kind)
                self.send_header("content-length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def stream(self):
                self.send_response(200)
                self.send_header("content-type", "text/event-stream; charset=utf-8")
                self.send_header("connection", "close")
                self.end_headers()
                self.close_connection = True

            def event(self, value):
                self.wfile.write(b"data: " + (value if isinstance(value, bytes) else json.dumps(value).encode()) + b"\n\n")

            def delta(self, text):
                self.event({"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": None}]})

            def last(self, reason="stop", usage=None):
                self.event({"choices": [{"index": 0, "delta": {}, "finish_reason": reason}]})
                if usage:
                    self.event({"choices": [], "usage": usage})
                self.event(b"[DONE]")

            def do_GET(self):
                fake_requests.append((self.path, dict(self.headers), None))
                self.send(200, json.dumps({"data": [{"id": m} for m in models]}).encode())

            def do_POST(self):
                body = json.loads(self.rfile.read(int(self.headers["content-length"])))
                fake_requests.append((self.path, dict(self.headers), body))
                try:
                    answer(self, body)
                except (BrokenPipeError, ConnectionResetError):
                    fake_requests.append(("left", {}, None))

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def chats(self):
        return [body for path, _, body in self.requests if body]


@pytest.fixture
def fake():
    made = []

    def start(answer, **more):
        made.append(Fake(answer, **more))
        return made[-1]
    yield start
    for f in made:
        f.server.shutdown()
        f.server.server_close()


def echo(h, body):
    text = body["messages"][-1]["content"]
    h.stream()
    h.delta("You said: " + (text if isinstance(text, str) else text[-1]["text"]))
    h.last(usage={"prompt_tokens": 3, "completion_tokens": 7, "total_tokens": 10})


def long_answer(h, body):
    h.stream()
    for i in range(2000):
        h.delta(f"word{i} ")
        h.wfile.flush()
        time.sleep(0.02)


# ---- on a terminal, with the demo ----

def test_a_new_user_talks_to_the_demo(screen, tmp_path):
    s = screen("--temperature", "0")
    assert s.prompt().startswith("Talking to demo. /help tells the commands, Ctrl-D leaves.")
    s.enter(f"/image {SHAPES}")
    s.wait("image/png: 320 x 220; goes with your next message")
    s.prompt()
    s.enter("Describe the picture.")
    text = s.wait("first after")
    assert "> Describe the picture.\nA red circle and a blue square.\n" in text
    assert re.search(r"^8 tokens, \d+\.\d tokens/s, first after \d+ ms$", text, re.M)
    s.prompt()
    s.type("\x04")
    assert s.end() == 0
    assert list(tmp_path.iterdir()) == []


def folder_like_demo(path, without):
    path.mkdir()
    for f in (SHAPES.parents[1] / "model").iterdir():
        if f.name != without:
            (path / f.name).write_bytes(f.read_bytes())
    return path


def test_loading_is_shown_and_wiped(screen, tmp_path):
    slow = folder_like_demo(tmp_path / "slow", "tokenizer.json")
    os.mkfifo(slow / "tokenizer.json")  # a pipe that nobody writes: loading never ends
    s = screen(slow)
    s.wait(lambda text: re.search(r"^[|/\\-] Loading .*slow  \d\.\d s$", text, re.M))
    s.type("\x03")
    assert s.end() == 1
    assert "Loading" not in s.text and "stopped" in s.text


def test_serve_shows_loading_on_a_terminal_and_not_in_a_log(program, tmp_path):
    slow = folder_like_demo(tmp_path / "slow", "tokenizer.json")
    os.mkfifo(slow / "tokenizer.json")
    for form, shown in (("text", True), ("json", False)):
        s = Screen(program, "serve", slow, "--no-auth", "--listen", "127.0.0.1:0", "--log-format", form)
        s.wait("accounts: none")
        if shown:
            s.wait(lambda text: re.search(r"^[|/\\-] Loading slow  \d\.\d s$", text, re.M))
        else:
            time.sleep(0.5)
            s.pump()
        (slow / "tokenizer.json").write_bytes((SHAPES.parents[1] / "model/tokenizer.json").read_bytes())
        text = s.wait(lambda text: "Ready in" in text or '"msg":"ready"' in text.replace("\n", ""))
        assert "Loading" not in text and (b"Loading" in s.raw) == shown
        s.type("\x03")
        assert s.end() == 0


def test_a_model_that_cannot_load_says_why(screen, tmp_path):
    s = screen(folder_like_demo(tmp_path / "empty", "model.safetensors"))
    assert s.end() == 1
    assert "model.safetensors" in s.text.replace("\n", "")


def test_help_lists_the_commands(screen):
    s = screen()
    s.prompt()
    s.enter("/help")
    text = s.wait("Ctrl-C stops an answer.")
    assert all(c in text for c in ("/image", "/system", "/save", "/clear", "/help", "/quit"))
    s.prompt()
    s.enter("/quit")
    assert s.end() == 0


def test_an_unknown_command_is_told_and_the_talk_goes_on(screen, fake):
    f = fake(echo)
    s = screen(f.url)
    s.prompt()
    s.enter("/nope x")
    s.wait("/nope: there is no such command")
    s.prompt()
    s.enter("//nope x")
    s.wait("You said: /nope x")


# ---- input ----

def test_lines_go_on_after_a_backslash_and_in_quotes(screen, fake):
    f = fake(echo)
    s = screen(f.url)
    s.prompt()
    s.enter("one\\")
    s.wait(lambda text: text.endswith("\n."))
    s.enter("two")
    s.wait("7 tokens")
    s.prompt()
    s.enter('"""')
    s.enter("three")
    s.enter("")
    s.enter('four"""')
    s.wait(lambda text: text.count("7 tokens") == 2)
    assert [b["messages"][-1]["content"] for b in f.chats] == ["one\ntwo", "three\n\nfour"]


def test_the_line_is_edited_and_history_comes_back(screen, fake):
    f = fake(echo)
    s = screen(f.url)
    s.prompt()
    s.type("wrld\x1b[D\x1b[D\x1b[Do\x01hello \x05!")  # arrows, Ctrl-A, Ctrl-E
    s.wait("> hello world!")
    s.enter("")
    s.wait("You said: hello world!")
    s.prompt()
    s.type("\x1b[A")
    s.wait(lambda text: text.endswith("> hello world!"))
    s.type("\x15né 小 😀")
    s.wait("né")
    s.enter("")
    s.wait("You said: né 小")
    assert f.chats[-1]["messages"][-1]["content"] == "né 小 😀"


def test_ctrl_c_drops_the_line_then_warns_then_leaves(screen, fake):
    s = screen(fake(echo).url)
    s.prompt()
    s.type("half a line")
    s.wait("> half a line")
    s.type("\x03")
    s.prompt()
    s.type("\x03")
    s.wait("Ctrl-C again or Ctrl-D leaves")
    s.prompt()
    s.type("\x03")
    assert s.end() == 0


def test_ctrl_c_stops_the_answer_and_what_came_stays(screen, fake):
    f = fake(lambda h, body: long_answer(h, body) if len(body["messages"]) == 1 else echo(h, body))
    s = screen(f.url)
    s.prompt()
    s.enter("tell me")
    s.wait("word9 ")
    before = time.monotonic()
    s.type("\x03")
    s.wait("stopped; ")
    assert time.monotonic() - before < 2
    s.prompt()
    s.enter("go on")
    s.wait("You said: go on")
    said = f.chats[-1]["messages"]
    assert [m["role"] for m in said] == ["user", "assistant", "user"] and said[1]["content"].startswith("word0 word1 ")


def test_the_local_server_hears_nothing_of_ctrl_c(screen):
    s = screen("--temperature", "0")
    s.prompt()
    s.type("\x03")
    s.wait("leaves")
    s.prompt()
    s.enter("Hello")
    s.wait("first after")


# ---- what reaches the terminal ----

EVIL = "a\x1b[31mred\x1b]0;title\x07\x9b2J\u202eb\rc\x00\x7f"


def test_no_escape_sequence_of_a_model_reaches_the_terminal(screen, fake):
    def evil(h, body):
        h.stream()
        h.delta(EVIL)
        h.last()
    s = screen(fake(evil, models=["m\x1b[32m"]).url)
    s.prompt()
    s.enter("x")
    text = s.wait("first after")
    assert "a␛[31mred␛]0;title␇�2J�bc␀␡" in text
    assert "Talking to m␛[32m." in text
    assert b"\x1b[31mred" not in s.raw and b"\x1b]" not in s.raw and b"\xc2\x9b" not in s.raw


def test_an_error_of_a_server_is_harmless_too(screen, fake):
    s = screen(fake(lambda h, body: h.send(400, json.dumps({"error": {"message": "no \x1b[2Jway"}}).encode())).url)
    s.prompt()
    s.enter("x")
    s.wait("the server answers 400: no ␛[2Jway")
    s.prompt()


def test_no_color_is_honoured(screen, fake):
    f = fake(echo)
    plain, coloured = screen(f.url, env={"NO_COLOR": "1"}), screen(f.url)
    for s in (plain, coloured):
        s.prompt()
        s.enter("x")
        s.wait("first after")
        s.prompt()
    assert not re.search(rb"\x1b\[[0-9;]*m", plain.raw)
    assert b"\x1b[2m7 tokens" in coloured.raw


# ---- from a pipe ----

def test_questions_from_a_pipe_are_answered_plainly(pipe, tmp_path):
    r = pipe("--temperature", "0", stdin=f"Hello\n/clear\n/image {SHAPES}\nDescribe the picture.\n")
    assert (r.returncode, r.stderr) == (0, "")
    assert r.stdout.split("\n") == ["Hello! Show me a picture or ask me about Spillway.", "A red circle and a blue square.", ""]
    assert list(tmp_path.iterdir()) == []


def test_image_option_goes_with_the_first_question(pipe):
    r = pipe("demo", "--temperature", "0", "--image", SHAPES, stdin="Describe the picture.")
    assert r.stdout == "A red circle and a blue square.\n"


def test_a_failed_question_is_an_exit_code_and_the_next_is_asked(pipe, fake):
    def one_fails(h, body):
        if "bad" in body["messages"][-1]["content"]:
            h.send(500, b"{}")
        else:
            echo(h, body)
    r = pipe(fake(one_fails).url, stdin="bad\ngood\n")
    assert r.returncode == 1 and r.stdout == "You said: good\n" and r.stderr == "spillway: the server answers 500\n"


def test_options_reach_the_request(pipe, fake):
    f = fake(echo)
    r = pipe(f.url + "/v1/", "--system", "Be brief.", "--temperature", "0.5", "--max-tokens", "9", "--name", "other", stdin="Hi",
             env={"SPILLWAY_API_KEY": "sk-from-env"})
    assert r.returncode == 0
    [body] = f.chats
    assert body == {"model": "other", "stream": True, "stream_options": {"include_usage": True}, "temperature": 0.5, "max_tokens": 9,
                    "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]}
    path, headers, _ = f.requests[-1]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer sk-from-env"


def test_key_file_wins_and_the_first_model_is_asked(pipe, fake, tmp_path):
    f = fake(echo)
    (tmp_path / "key").write_text("sk-from-file\n")
    assert pipe(f.url, "--api-key-file", tmp_path / "key", stdin="Hi", env={"SPILLWAY_API_KEY": "sk-from-env"}).returncode == 0
    assert f.chats[0]["model"] == "fake-1"
    assert all(headers["Authorization"] == "Bearer sk-from-file" for _, headers, _ in f.requests)


def test_proxies_are_not_asked_about_this_machine(pipe, fake):
    f = fake(echo)
    r = pipe(f.url, stdin="Hi", env={"http_proxy": "http://127.0.0.1:9", "ALL_PROXY": "http://127.0.0.1:9"})
    assert r.stdout == "You said: Hi\n"


@pytest.mark.parametrize("args,why", [
    (["http://127.0.0.1:1"], "127.0.0.1:1"), (["ftp://x"], "is no http:// or https:// address"), (["/nonexistent/model"], "/nonexistent/model"),
    (["http://u:p@h/"], "is not a server's address"), (["http://"], "is not a server's address"), (["demo", "--image", "/nonexistent.png"], "/nonexistent.png"),
])
def test_what_cannot_begin_says_why(pipe, args, why, tmp_path):
    r = pipe(*args, stdin="Hi")
    assert (r.returncode, r.stdout) == (1, "") and why in r.stderr, r
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("args", [["a", "b"], ["demo", "--name", "x"], ["--temperature", "9"]])
def test_wrong_usage_of_chat_exits_2(pipe, args):
    assert pipe(*args, stdin="").returncode == 2


# ---- servers that misbehave ----

def broken_event(h, body):
    h.stream()
    h.delta("so far ")
    h.event(b"{nonsense")


def error_event(h, body):
    h.stream()
    h.delta("so far ")
    h.event({"error": {"message": "worker died"}})


def cut_stream(h, body):
    h.stream()
    h.delta("so far ")


def endless_line(h, body):
    h.stream()
    h.wfile.write(b"data: ")
    for _ in range(64):
        h.wfile.write(b"x" * 65536)


@pytest.mark.parametrize("answer,why", [
    (broken_event, "the server's event"), (error_event, "the server stopped: worker died"), (cut_stream, "in the middle of the answer"),
    (endless_line, "a line or an event of more than 1048576 bytes"), (lambda h, b: h.send(200, b"{}"), "does not stream"),
    (lambda h, b: h.send(401, b'{"error":"no"}'), "401: no (give the key"), (lambda h, b: h.send(302, b""), "the server answers 302"),
])
def test_a_broken_answer_is_an_error(pipe, fake, answer, why):
    r = pipe(fake(answer).url, stdin="Hi")
    assert r.returncode == 1 and why in r.stderr
    assert r.stdout in ("", "so far \n")


def test_a_server_that_dies_is_told(screen, run):
    s = screen()
    s.prompt()
    [server] = [p for p in children(s.child.pid) if cmdline(p)[1:2] == ["serve"]]
    os.kill(server, signal.SIGKILL)
    s.enter("Hello?")
    s.wait("127.0.0.1")
    s.prompt()
    s.type("\x04")
    assert s.end() == 0


def children(pid):
    found = []
    for stat in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            if int(stat.read_text().rsplit(")", 1)[1].split()[1]) == pid:
                found.append(int(stat.parent.name))
        except OSError:
            pass
    return found


def cmdline(pid):
    return pathlib.Path(f"/proc/{pid}/cmdline").read_text().split("\0")


def gone(pid, within_s=5):
    end = time.monotonic() + within_s
    while time.monotonic() < end:
        try:
            if pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.02)
    return False


@pytest.mark.parametrize("sig", [signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
def test_the_private_server_ends_with_the_chat(screen, sig, tmp_path):
    s = screen()
    s.prompt()
    [server] = [p for p in children(s.child.pid) if cmdline(p)[1:2] == ["serve"]]
    workers = children(server)
    assert workers and "sk-chat-" not in "".join(cmdline(server))
    os.kill(s.child.pid, sig)
    assert all(gone(p) for p in [server, *workers])
    s.end()
    left = list(tmp_path.iterdir())
    assert len(left) == (1 if sig == signal.SIGKILL else 0)
    if left:  # the next chat tidies up
        t = screen()
        t.prompt()
        assert left[0] not in tmp_path.iterdir()


# ---- pictures, transcripts ----

@pytest.mark.parametrize("name,data,why", [
    ("x.png", b"", "is not a PNG"), ("x.png", b"\x89PNG\r\n\x1a\n" + b"\0" * 40, "x.png"), ("x.jpg", b"hello world", "is not a PNG, JPEG, WebP or GIF"),
    ("big.png", b"\x89PNG\r\n\x1a\n" + b"\0" * (15 << 20), "MB can be sent"),
])
def test_a_file_that_is_no_picture_is_refused_at_once(pipe, fake, tmp_path, name, data, why):
    (tmp_path / name).write_bytes(data)
    f = fake(echo)
    r = pipe(f.url, stdin=f"/image {tmp_path / name}\nHi\n")
    assert r.returncode == 1 and why in r.stderr and r.stdout == "You said: Hi\n"
    assert f.chats[0]["messages"][-1]["content"] == "Hi"


def test_file_names_with_blanks(pipe, fake, tmp_path):
    picture = tmp_path / "my picture.png"
    picture.write_bytes(SHAPES.read_bytes())
    for written in (f'"{picture}"', f"'{picture}'", str(picture).replace(" ", "\\ "), "~/my picture.png"):
        f = fake(echo)
        assert pipe(f.url, stdin=f"/image {written}\nHi\n", env={"HOME": str(tmp_path)}).returncode == 0
        content = f.chats[0]["messages"][-1]["content"]
        assert [p["type"] for p in content] == ["image_url", "text"]
        assert content[0]["image_url"]["url"].startswith("data:image/png;base64,iVBOR")


def test_save_writes_messages_that_are_the_talk(pipe, fake, tmp_path):
    f = fake(echo)
    r = pipe(f.url, "--system", "Be brief.", stdin=f"Hi\n/image {SHAPES}\nAnd now?\n/save {tmp_path}/a.json\n/save {tmp_path}/a.md\n/save {tmp_path}/a.json\n")
    assert (r.returncode, r.stderr) == (1, f"spillway: {tmp_path}/a.json: is there already\n")  # saved last: a.md
    talk = json.loads((tmp_path / "a.json").read_text())
    assert [m["role"] for m in talk] == ["system", "user", "assistant", "user", "assistant"]
    assert talk[:4] == f.chats[-1]["messages"] and talk[4]["content"] == "You said: And now?"
    text = (tmp_path / "a.md").read_text()
    assert text.startswith("## System\n\nBe brief.\n\n## You\n\nHi\n\n## Model\n\nYou said: Hi\n\n## You\n\n![picture](")
    assert (tmp_path / "a.md").stat().st_mode & 0o777 == 0o600


def test_clear_keeps_the_system_message(pipe, fake):
    f = fake(echo)
    pipe(f.url, stdin="/system Be brief.\nOne\n/clear\nTwo\n/system\nThree\n")
    assert [len(b["messages"]) for b in f.chats] == [2, 2, 3]
    assert f.chats[1]["messages"][0]["content"] == "Be brief." and f.chats[2]["messages"][0]["role"] == "user"


def test_pictures_of_a_failed_question_go_with_the_next(pipe, fake):
    tries = []

    def once(h, body):
        tries.append(1)
        h.send(503, b"{}") if len(tries) == 1 else echo(h, body)
    f = fake(once)
    pipe(f.url, stdin=f"/image {SHAPES}\nOne\nTwo\n")
    assert [len(b["messages"]) for b in f.chats] == [1, 1] and f.chats[1]["messages"][0]["content"][0]["type"] == "image_url"
