"""The media process's cage as the kernel sees it: with all that root may have, as another user, and where a container withholds it."""
import os
import shutil
import sys
import tempfile
import time
import zlib

import pytest

from media_socket import Media
from serving import BIN, VLM, Server
from test_media_pictures import png

ROOT = os.geteuid() == 0
PICTURE = png(1, 1, zlib.compress(b"\0" * 4))
NOT_ROOT = 64999  # a user that owns nothing here


def ids(media, key):
    return media.status(key).split()


def check_decodes(media):
    assert media.ask(PICTURE)[0] == "none"
    assert media.close() == 0


def check_common(media):
    """What holds everywhere."""
    assert media.code == "none", media.notes
    assert media.status("Seccomp") == "2" and media.status("NoNewPrivs") == "1"
    assert all(int(media.status(f"Cap{s}"), 16) == 0 for s in ("Inh", "Prm", "Eff", "Amb"))
    limits = {line[:25].strip(): line[25:].split()[0] for line in open(f"/proc/{media.process.pid}/limits")}
    assert (limits["Max open files"], limits["Max processes"], limits["Max core file size"], limits["Max address space"]) == ("6", "0", "0", str(1 << 30))
    assert limits["Max file size"] == str(256 << 20) and limits["Max cpu time"] == "600"
    if ROOT:  # it may not be dumped, so that nobody else can look
        fds = {int(f): os.readlink(f"/proc/{media.process.pid}/fd/{f}") for f in os.listdir(f"/proc/{media.process.pid}/fd")}
        assert sorted(fds) == [0, 1, 2, 3] and fds[0] == fds[1] == "/dev/null" and fds[3].startswith("socket:")


def namespaces(pid):
    return {n: os.readlink(f"/proc/{pid}/ns/{n}") for n in ("net", "ipc", "uts", "mnt")}


@pytest.mark.skipif(not ROOT, reason="needs root")
def test_t31_cage_of_root():
    m = Media()
    check_common(m)
    assert m.notes == ""
    assert ids(m, "Uid") == ids(m, "Gid") == ["65534"] * 4 and m.status("Groups").strip() == ""
    assert int(m.status("CapBnd"), 16) == 0
    ours = namespaces("self")
    assert all(theirs != ours[n] for n, theirs in namespaces(m.process.pid).items())
    assert os.listdir(f"/proc/{m.process.pid}/root") == []
    with pytest.raises(OSError):
        open(f"/proc/{m.process.pid}/root/x", "w")
    check_decodes(m)


@pytest.fixture
def binary():
    """Where another user can run it, too."""
    with tempfile.TemporaryDirectory(prefix="spillway-bin-") as d:
        os.chmod(d, 0o755)
        copy = shutil.copy(BIN, d)
        os.chmod(copy, 0o755)
        yield copy


def test_t31_cage_of_a_user(binary):
    m = Media(binary, user=NOT_ROOT if ROOT else None)
    check_common(m)
    if "user namespace" not in m.notes:  # some systems keep them for root
        assert m.notes == "" and int(m.status("CapBnd"), 16) == 0
        if ROOT:
            ours = namespaces("self")
            assert all(theirs != ours[n] for n, theirs in namespaces(m.process.pid).items())
            assert os.listdir(f"/proc/{m.process.pid}/root") == []
    check_decodes(m)


@pytest.mark.skipif(not ROOT or not shutil.which("setpriv"), reason="needs root and setpriv")
@pytest.mark.parametrize("kept, missing", [("-sys_admin", ["network namespace", "mount namespace"]), ("-all", ["network namespace", "mount namespace", "chroot", "user nobody"])])
def test_t31_cage_without_what_a_container_withholds(kept, missing):
    """Root without the right to make namespaces, or with no right at all: said in the hello, and pictures are decoded all the same."""
    m = Media(prefix=["setpriv", f"--bounding-set={kept}", "--inh-caps=-all"])
    check_common(m)
    assert all(f"{name}: Operation not permitted" in m.notes for name in missing), m.notes
    if kept == "-sys_admin":
        assert "user nobody" not in m.notes and "chroot" not in m.notes and ids(m, "Uid") == ["65534"] * 4
        assert os.readlink(f"/proc/{m.process.pid}/root").endswith("/fdinfo")
    check_decodes(m)


@pytest.fixture
def script():
    """An executable file of the given text, which stands in for the program."""
    with tempfile.TemporaryDirectory(prefix="spillway-script-") as d:
        def make(text):
            path = os.path.join(d, "spillway")
            with open(path, "w") as f:
                f.write(text)
            os.chmod(path, 0o700)
            return path
        yield make


@pytest.mark.skipif(not ROOT or not shutil.which("setpriv"), reason="needs root and setpriv")
def test_t31_what_the_kernel_withholds_is_said_once(script):
    s = Server(VLM, "--no-auth", "--media-processes=3", program=script(f'#!/bin/sh\nexec setpriv --bounding-set=-sys_admin --inh-caps=-all {BIN} "$@"\n'))
    try:
        end = time.monotonic() + 10
        while len(s.children("media")) < 3 and time.monotonic() < end:
            time.sleep(0.02)
        time.sleep(0.5)
        said = [line for line in s.lines if "the cage does without" in line]
        assert len(said) == 1 and " info " in said[0] and "network namespace: Operation not permitted" in said[0], s.lines
    finally:
        assert s.stop() == 0


# The kernel's filter is told to refuse further filters, as an old kernel or a strict container would.
REFUSE = """#!{python}
import ctypes, os, sys
lib = ctypes.CDLL("libseccomp.so.2")
lib.seccomp_init.restype = ctypes.c_void_p
lib.seccomp_syscall_resolve_name.restype = ctypes.c_int
f = ctypes.c_void_p(lib.seccomp_init(0x7FFF0000))
class Arg(ctypes.Structure):
    _fields_ = [("arg", ctypes.c_uint), ("op", ctypes.c_int), ("a", ctypes.c_uint64), ("b", ctypes.c_uint64)]
refuse = ctypes.c_uint32(0x00050000 | 1)
assert lib.seccomp_rule_add_array(f, refuse, lib.seccomp_syscall_resolve_name(b"seccomp"), 0, None) == 0
prctl = (Arg * 1)(Arg(0, 4, 22, 0))  # PR_SET_SECCOMP
assert lib.seccomp_rule_add_array(f, refuse, lib.seccomp_syscall_resolve_name(b"prctl"), 1, prctl) == 0
assert lib.seccomp_load(f) == 0
os.execv({binary!r}, ["spillway"] + sys.argv[1:])
"""


def test_t31_without_seccomp_there_is_no_server(script):
    s = Server(VLM, "--no-auth", wait=False, program=script(REFUSE.format(python=sys.executable, binary=BIN)))
    try:
        assert s.process.wait(20) == 1
    finally:
        s.stop()
    text = "".join(s.lines)
    assert "spillway: the picture decoder cannot be caged: seccomp, which pictures are not decoded without: " in text, text
    assert "Ready in" not in text
