"""A caged `spillway media` driven over its socket (engine/media/media_wire.h), as the gateway does: packets as they lie in memory."""
import array
import fcntl
import os
import re
import socket
import struct
import subprocess
import sys
import time

from serving import BIN

MAGIC, VERSION, PROBE, DECODE = 0x5350574D, 2, 1, 2
F_ADD_SEALS, SEALS = 1033, 1 | 2 | 4 | 8
REQUEST = struct.Struct("@IIQ5I4i6fdq")
REPLY = struct.Struct("@IIQI96s512s9iII2080s")
MAX_PIXELS = 1 << 26
CODES = ["none", "input", "unsupported", "limit", "context", "not_found", "denied", "memory", "io", "busy", "gone", "timeout", "numeric", "internal"]


def sealed(data):
    fd = os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.write(fd, data)
    fcntl.fcntl(fd, F_ADD_SEALS, SEALS)
    return fd


class Media:
    """ask(bytes) -> (code's name, message, hashes); seconds of the last answer in .took_s, memory in peak_kib()."""

    def __init__(self, binary=BIN, prefix=(), user=None):
        """prefix: a command that runs it, such as setpriv. user: whose it is, instead of ours."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(60)
        ours.send(struct.pack("@IIq", MAGIC, VERSION, MAX_PIXELS))
        launch = "import os, sys; os.dup2(int(sys.argv[1]), 3)\n"  # the socket becomes descriptor 3
        if user is not None:
            launch += f"os.setgroups([]); os.setgid({user}); os.setuid({user})\n"
        launch += "os.execv(sys.argv[2], ['spillway', 'media'])"
        self.process = subprocess.Popen([*prefix, sys.executable, "-c", launch, str(theirs.fileno()), binary], pass_fds=[theirs.fileno()])
        theirs.close()
        self.socket, self.id, self.took_s = ours, 0, 0.0
        _, _, code, text = struct.unpack("@III512s", ours.recv(4096))
        self.code, self.notes = CODES[code], text.split(b"\0")[0].decode()

    def ask(self, data, call=DECODE, edge=256, tile=64, cpu_ms=2000, wall_ms=15000):
        self.id += 1
        packet = REQUEST.pack(MAGIC, VERSION, self.id, call, 0, 1, cpu_ms, wall_ms, edge, tile, 4, 1, *[0.5] * 6, 1 / 255, MAX_PIXELS)
        fd = sealed(data)
        start = time.monotonic()
        self.socket.sendmsg([packet], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
        got, control, _, _ = self.socket.recvmsg(8192, 256)
        self.took_s = time.monotonic() - start
        os.close(fd)
        for _, _, fds in control:
            for other in array.array("i", fds):
                os.close(other)
        if not got:
            return "gone", "", None
        fields = REPLY.unpack(got)
        assert fields[0] == MAGIC and fields[2] == self.id
        return CODES[fields[3]], fields[5].split(b"\0")[0].decode(), fields[-1]

    def ask_timed(self, data, call=DECODE):
        """As ask, and the decoder's processor time for it in .cpu_s: it has one thread and waits for nothing, so that this is the time on
        a machine that does nothing else. Without the kernel's figure it is the time on the clock."""
        before = self._cpu_ns()
        answer = self.ask(data, call)
        self.cpu_s = (self._cpu_ns() - before) / 1e9 if before else self.took_s
        return answer

    def _cpu_ns(self):
        try:
            with open(f"/proc/{self.process.pid}/schedstat") as f:
                return int(f.read().split()[0])
        except FileNotFoundError:
            return 0

    def status(self, key):
        text = open(f"/proc/{self.process.pid}/status").read()
        return re.search(rf"^{key}:[ \t]*(.*)$", text, re.M)[1]

    def peak_kib(self):
        return int(self.status("VmHWM").split()[0])

    def close(self):
        self.socket.close()
        return self.process.wait(20)
