"""The program in a pseudo-terminal, and what stands on its screen: pexpect runs it, pyte is the terminal."""
import os
import time

import pexpect
import pyte

COLUMNS, LINES = 100, 40


class Screen:
    def __init__(self, program, *args, env=None, columns=COLUMNS, lines=LINES):
        self.screen = pyte.HistoryScreen(columns, lines, history=2000)
        self.stream = pyte.ByteStream(self.screen)
        self.raw = b""
        env = {**os.environ, "TERM": "xterm-256color", "LANG": "C.UTF-8", **(env or {})}
        env = {k: v for k, v in env.items() if v is not None}
        self.child = pexpect.spawn(program, list(map(str, args)), env=env, dimensions=(lines, columns), timeout=20)

    def pump(self, seconds=0.05):
        """Feeds what has been printed to the terminal; True while there was something."""
        try:
            data = self.child.read_nonblocking(65536, seconds)
        except pexpect.TIMEOUT:
            return False
        except pexpect.EOF:
            return False
        self.raw += data
        self.stream.feed(data)
        return True

    @property
    def text(self):
        return "\n".join(line.rstrip() for line in self.screen.display).rstrip()

    def wait(self, what, seconds=20):
        """Until a text is on the screen, or a function of the screen's text is true."""
        end = time.monotonic() + seconds
        hit = what if callable(what) else lambda text: what in text
        while time.monotonic() < end:
            self.pump()
            if hit(self.text):
                return self.text
        raise AssertionError(f"not seen: {what}\n--- screen ---\n{self.text}\n---")

    def prompt(self, seconds=20):
        """Until the cursor stands behind an empty prompt."""
        self.wait(lambda text: text.split("\n")[-1].rstrip() == ">" and self.screen.cursor.x == 2, seconds)
        return self.text

    def type(self, text):
        self.child.send(text)

    def enter(self, text):
        self.child.send(text + "\r")

    def end(self, seconds=10):
        """The exit code; None if a signal ended it."""
        stop = time.monotonic() + seconds
        while self.child.isalive() and time.monotonic() < stop:
            self.pump()
        while self.pump():
            pass
        assert not self.child.isalive(), f"still running\n{self.text}"
        return self.child.exitstatus

    def close(self):
        self.child.close(force=True)
