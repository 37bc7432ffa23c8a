"""A PostgreSQL server for tests: a data directory of its own, on 127.0.0.1 and a free port, stopped by its pid. It does not wait for the disk unless
it is started with fsync="on": what tests kill are processes, not the machine.

    python postgres.py COMMAND ...    runs the command with SPILLWAY_STORE set to the server's URL
"""
import glob
import os
import pathlib
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

PROGRAMS = sorted(glob.glob("/usr/lib/postgresql/*/bin"), key=lambda p: float(pathlib.Path(p).parent.name))


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Postgres:
    """PostgreSQL does not run as root: there it is another user's, who owns the data directory."""

    def __init__(self, standby_of=None):
        self.bin = pathlib.Path(PROGRAMS[-1])
        self.dir = tempfile.mkdtemp(prefix="spillway-pg-")
        self.data = self.dir + "/data"
        self.user = {}
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            os.chown(self.dir, owner.pw_uid, owner.pw_gid)
            self.user = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        make = [self.bin / "initdb", "-D", self.data, "-U", "spillway", "-A", "trust", "-E", "UTF8", "--no-locale"]
        if standby_of:
            make = [self.bin / "pg_basebackup", "-D", self.data, "-d", standby_of.url, "-X", "stream", "-c", "fast", "-R"]
        subprocess.run(make, check=True, stdout=subprocess.DEVNULL, cwd=self.dir, **self.user)
        self.process = None
        self.start()

    def start(self, **settings):
        self.port = getattr(self, "port", None) or free_port()
        self.url = f"postgresql://spillway@127.0.0.1:{self.port}/postgres"
        options = {"listen_addresses": "127.0.0.1", "port": self.port, "unix_socket_directories": "", "max_connections": 50, "fsync": "off", **settings}
        command = [self.bin / "postgres", "-D", self.data] + [x for k, v in options.items() for x in ("-c", f"{k}={v}")]
        self.log = open(self.dir + "/log", "ab")
        self.process = subprocess.Popen(command, stdout=self.log, stderr=self.log, cwd=self.dir, **self.user)
        for _ in range(600):
            if self.process.poll() is not None:
                raise RuntimeError("PostgreSQL ended:\n" + pathlib.Path(self.dir, "log").read_text())
            if subprocess.run([self.bin / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(self.port)]).returncode == 0:
                return
            time.sleep(0.05)
        raise RuntimeError("PostgreSQL does not answer")

    def stop(self, how=signal.SIGINT):
        """SIGINT: a fast shutdown; SIGQUIT: as in a crash."""
        if self.process and self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(30)
        self.log.close()

    def promote(self):
        subprocess.run([self.bin / "pg_ctl", "promote", "-D", self.data, "-w"], check=True, stdout=subprocess.DEVNULL, cwd=self.dir, **self.user)

    def close(self):
        self.stop()
        shutil.rmtree(self.dir, ignore_errors=True)


if __name__ == "__main__":
    server = Postgres()
    try:
        code = subprocess.run(sys.argv[1:], env={**os.environ, "SPILLWAY_STORE": server.url}).returncode
    finally:
        server.close()
    sys.exit(code)
