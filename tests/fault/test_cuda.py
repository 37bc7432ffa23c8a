"""T50-T55 with the CUDA backend's own errors: the simulated device (tests/sim/cuda) in a real worker behind a real gateway. What its runtime is told to fail
is in SIM_CUDA_FAIL (tests/sim/cuda/device.cpp), what NVML reports in FAKE_NVML (fake_nvml.c)."""
import concurrent.futures
import json
import os
import pathlib
import shutil
import signal
import struct
import subprocess
import time

import pytest
import requests
from http_raw import wait_until
from serving import BIN, GOLDEN, LLM, Server

LIBRARY = pathlib.Path(BIN).parent / "tests/cuda/libspillway_cuda_sim.so"
NVML = os.environ.get("SPILLWAY_FAKE_NVML_DIR", str(pathlib.Path(BIN).parent / "tests/fault/fake_nvml"))
UNTIED = GOLDEN / "models/idefics3-bf16"  # whose head is not its embedding
pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason="the simulated device is not built")


class CudaServer(Server):
    def __init__(self, *args, model=LLM, folder, env=None, **kw):
        self.order, self.event = folder / "order", folder / "event"
        more = {"SIM_CUDA_FAIL": f"@{self.order}", "FAKE_NVML": str(self.event), "LD_LIBRARY_PATH": NVML, **(env or {})}
        super().__init__(model, "--no-auth", "--name", "m", "--device", "cuda", "--cuda-library", LIBRARY, "--kv-tokens", "2048", *args, env=more, **kw)

    def fail(self, what):
        """The next worker that calls the runtime has it fail so."""
        new = self.order.with_suffix(".new")
        new.write_text(what)
        new.rename(self.order)

    def report(self, gpu, xid):
        new = self.event.with_suffix(".new")
        new.write_text(f"0000:{gpu + 1:02x}:00.0 {xid}\n")
        new.rename(self.event)
        assert wait_until(lambda: not self.event.exists()) is not None

    def readyz(self):
        r = requests.get(self.url + "/readyz", timeout=5)
        return r.status_code, r.text

    def workers(self):
        return requests.get(self.url + "/admin/models/m", timeout=5).json()["workers"]


@pytest.fixture
def start(tmp_path):
    servers = []

    def begin(*args, **kw):
        servers.append(CudaServer(*args, folder=tmp_path, **kw))
        return servers[-1]
    yield begin
    for s in servers:
        assert s.stop() == 0, "".join(s.lines)


def body(prompt, **more):
    return {"model": "m", "max_tokens": 4, "temperature": 0, "ignore_eos": True, "messages": [{"role": "user", "content": prompt}], **more}


def ask(s, prompt="hi", timeout=60, **more):
    r = requests.post(s.url + "/v1/chat/completions", timeout=timeout, json=body(prompt, **more))
    return r.status_code, "" if r.status_code == 200 else r.json()["error"]["code"]


def ends(tmp_path, *args, **env):
    """A start that must fail: its log."""
    s = CudaServer(*args, folder=tmp_path, env=env, wait=False)
    assert s.process.wait(60) == 1
    s.stop()
    log = "".join(s.lines)
    assert "Ready in" not in log and "cpu (" not in log
    return log


GOOD = (200, "")


# --- T50: memory ---

def test_t50_what_does_not_fit_ends_the_start_with_its_numbers(tmp_path):
    log = ends(tmp_path, SIM_CUDA_MEMORY_MB="1")
    assert "its worker could not start" in log and "of device memory" in log and "of 1 MiB are free" in log and "starting again" not in log


def test_t50_once_it_has_served_it_is_tried_again_until_it_fits(start):
    s = start()
    assert ask(s) == GOOD
    for _ in range(2):
        s.fail("cudaMalloc:1:cudaErrorMemoryAllocation")
        os.kill(s.children("worker")[0], signal.SIGKILL)
        assert wait_until(lambda: s.readyz()[0] == 503) is not None and s.readyz()[1].startswith("worker_down")
        assert wait_until(lambda: s.readyz()[0] == 200, 20) is not None
    assert s.log_has("MiB are free") and "cuda:0" in s.readyz()[1]
    assert ask(s) == GOOD and requests.get(s.url + "/livez", timeout=5).status_code == 200
    assert s.workers()[0]["worker"]["restarts"] == 4  # each time one that did not fit and one that did


# --- T51: errors that stay ---

@pytest.mark.parametrize("error, says", [("cudaErrorIllegalAddress", "an illegal memory access was encountered"), ("cudaErrorLaunchFailure", "unspecified launch failure")])
def test_t51_an_error_that_stays_costs_what_was_in_flight(start, error, says):
    s = start()
    assert ask(s) == GOOD
    s.fail(f"cudaStreamSynchronize:2:{error}")
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        results = list(pool.map(lambda i: ask(s, f"number {i}", max_tokens=30), range(3)))
    lost = [r for r in results if r != GOOD]
    assert lost and all(r == (503, "worker_down") for r in lost)
    assert s.log_has(says) and s.log_has("worker m: ended ")  # by itself, or by signal 9 where it took long to
    assert ask(s) == GOOD  # it waits for the next worker
    assert s.workers()[0]["worker"]["restarts"] == 1 and "device: cuda:0" in s.readyz()[1]


def test_an_error_that_passes_costs_its_step_alone(start):
    s = start()
    assert ask(s) == GOOD
    s.fail("cudaMemcpyAsync:1:cudaErrorInvalidValue")
    assert ask(s)[0] == 500
    assert ask(s) == GOOD and s.workers()[0]["worker"]["restarts"] == 0


# --- T52: a kernel that never ends ---

def test_t52_what_never_ends_is_killed(start, figure):
    s = start()
    assert ask(s) == GOOD
    s.fail("cudaStreamSynchronize:2:hang")
    with concurrent.futures.ThreadPoolExecutor(1) as pool:
        before = time.monotonic()
        hung = pool.submit(ask, s)
        unready = wait_until(lambda: s.readyz() == (503, "worker_stalled\n"), 25)
        assert hung.result() == (503, "worker_down") and s.log_has("hangs: no progress")
        took = time.monotonic() - before
    assert unready is not None and unready < took and 2 <= took < 25  # 2.5 s is the figure
    figure("t52 cuda: readyz 503 after", unready, "s")
    figure("t52 cuda: killed after", took, "s")
    assert ask(s) == GOOD and "device: cuda:0" in s.readyz()[1]


# --- T53: numbers that are none ---

def with_nan(model, to, words):
    """A copy of it whose embedding has a NaN in the rows of the tokens of these words and of no others."""
    shutil.copytree(model, to)

    def ids(text):
        r = subprocess.run([BIN, "tokenize", model, "--text", text], capture_output=True, text=True, timeout=60, check=True)
        return {int(w) for w in r.stdout.replace(",", " ").replace("[", " ").replace("]", " ").split()}
    bad = ids(words) - ids("hello there, this is one") - ids("hi")
    assert bad
    path = to / "model.safetensors"
    data = bytearray(path.read_bytes())
    n = struct.unpack("<Q", data[:8])[0]
    header = json.loads(data[8:8 + n])
    (name,) = [k for k in header if k.endswith("text_model.embed_tokens.weight")]
    assert header[name]["dtype"] == "BF16" and any("lm_head" in k for k in header)
    first, width = 8 + n + header[name]["data_offsets"][0], 2 * header[name]["shape"][1]
    for i in bad:
        data[first + i * width:first + i * width + 2] = struct.pack("<H", 0x7FC0)
    path.write_bytes(data)
    return to


def test_t53_nan_is_an_error_of_its_request_alone(start, tmp_path, size):
    s = start(model=with_nan(UNTIED, tmp_path / "nan", "ZQZ ZQ"))
    assert ask(s, "hello there") == GOOD
    for i in range(size(2, 20)):
        with concurrent.futures.ThreadPoolExecutor(3) as pool:
            good = [pool.submit(ask, s, "hello there", max_tokens=12) for _ in range(2)]
            assert ask(s, "ZQZ ZQ") == (500, "numeric_error")
            assert [g.result() for g in good] == [GOOD] * 2
    assert s.workers()[0]["worker"]["restarts"] == 0


# --- T54: the same request again ---

def test_t54_a_request_that_kills_twice_is_refused_the_third_time(start):
    s = start()
    for _ in range(2):
        s.fail("cudaStreamSynchronize:2:cudaErrorIllegalAddress")
        assert ask(s, "the killer") == (503, "worker_down")
        assert ask(s, "another") == GOOD
    assert ask(s, "the killer") == (422, "request_quarantined")
    assert s.workers()[0]["worker"]["restarts"] == 2


# --- T55: no device ---

@pytest.mark.parametrize("env, args, says", [
    ({"SIM_CUDA_DEVICES": "0"}, (), "cuda: no device: no CUDA-capable device is detected"),
    ({"SIM_CUDA_DRIVER": "0"}, (), "cuda: no device: NVIDIA's driver is not there"),
    ({"SIM_CUDA_DRIVER": "12040"}, (), "cuda: the driver is too old: it is for CUDA 12.4, and 13.0 is needed"),
    ({"SIM_CUDA_CC": "75"}, (), "has compute capability 7.5; 8.0 is the least"),
    ({"SIM_CUDA_DEVICES": "2"}, ("--gpus", "0,3"), "cuda: --gpus: 3 is not there, 2 devices are"),
    ({"SIM_CUDA_DEVICES": "1"}, ("--gpus", "1"), "cuda: --gpus: 1 is not there, 1 device is"),
], ids=["none", "no driver", "old driver", "old device", "no such GPU", "only one"])
def test_t55_no_device_is_refused_and_never_the_cpu_taken(tmp_path, env, args, says):
    assert says in ends(tmp_path, *args, **env)


def test_doctor_looks_at_each_gpu():
    def doctor(gpus, **env):
        r = subprocess.run([BIN, "doctor", "--json", "--cuda-library", LIBRARY, "--gpus", gpus], capture_output=True, text=True, timeout=60, env={**os.environ, **env})
        return [(c["status"], c["message"]) for c in json.loads(r.stdout)["checks"] if c["name"] == "gpu"]
    found = doctor("1,0", SIM_CUDA_DEVICES="2")
    assert [s for s, _ in found] == ["ok", "ok"] and found[0][1].startswith("cuda:1 (Simulated GPU") and found[1][1].startswith("cuda:0 (")
    found = doctor("0,2", SIM_CUDA_DEVICES="2")
    assert [s for s, _ in found] == ["ok", "problem"] and "2 is not there, 2 devices are" in found[1][1]


# --- several ---

@pytest.fixture
def two(start):
    return start("--gpus", "0,1", env={"SIM_CUDA_DEVICES": "2"})


def test_two_gpus_share_the_requests_and_what_was_read_is_found_again(two):
    said = two.readyz()[1]
    assert "device: cuda:0 (Simulated GPU" in said and "device: cuda:1 (Simulated GPU" in said

    def cached(talk, text):
        messages = [{"role": "system", "content": f"{talk} " + "some word or other " * 20}, {"role": "user", "content": text}]
        usage = requests.post(two.url + "/v1/chat/completions", timeout=60, json=body("", messages=messages)).json()["usage"]
        return usage["prompt_tokens_details"]["cached_tokens"]
    assert [cached(talk, "first") for talk in range(2)] == [0, 0]
    assert [w["worker"]["routed"] for w in two.workers()] == [1, 1]
    assert all(cached(talk, text) >= 64 for text in ("and", "or") for talk in range(2))
    assert [w["worker"]["routed"] for w in two.workers()] == [3, 3]


def test_a_killed_gpu_worker_leaves_the_other_serving(two):
    results = []
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        jobs = [pool.submit(lambda i=i: results.append(ask(two, f"request {i}", max_tokens=12))) for i in range(16)]
        assert wait_until(lambda: len(results) >= 4, 60) is not None
        os.kill([pid for pid in two.children("worker") if on_gpu(pid) == "1"][0], signal.SIGKILL)
        assert two.readyz()[0] == 200
        for j in jobs:
            j.result()
    lost = [r for r in results if r != GOOD]
    assert len(results) == 16 and len(lost) <= 4 and all(r == (503, "worker_down") for r in lost), lost
    assert wait_until(lambda: [w["worker"]["state"] for w in two.workers()] == ["ready", "ready"], 20) is not None


def on_gpu(pid):
    words = pathlib.Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
    return words[len(words) - 1 - words[::-1].index("--gpus") + 1]


# --- what the driver reports ---

def test_a_lost_gpu_takes_its_worker_alone_and_for_good(two):
    two.report(1, 79)
    assert wait_until(lambda: two.workers()[1]["worker"]["state"] == "lost", 10) is not None
    assert two.workers()[1]["worker"]["reason"] == "Xid 79: it has fallen off the bus" and len(two.children("worker")) == 1
    status, text = two.readyz()
    assert status == 200 and "device: cuda:1 (Simulated GPU, 132 SMs, sm_90), lost: Xid 79: it has fallen off the bus" in text
    for i in range(3):
        assert ask(two, f"request {i}") == GOOD
    two.report(0, 48)
    assert wait_until(lambda: two.readyz()[0] == 503, 10) is not None
    assert two.readyz()[1].startswith("device_lost\n") and "lost: Xid 48" in two.readyz()[1]
    before = time.monotonic()
    assert ask(two) == (503, "worker_down") and time.monotonic() - before < 1.5  # it does not wait for a worker that never comes
    time.sleep(0.5)
    assert two.children("worker") == [] and requests.get(two.url + "/livez", timeout=5).status_code == 200


def test_after_a_contained_error_the_worker_is_started_again(start):
    s = start()
    old = s.children("worker")
    s.report(0, 94)
    assert s.log_has("its GPU reports Xid 94") and wait_until(lambda: s.children("worker") not in ([], old), 10) is not None
    assert ask(s) == GOOD and s.workers()[0]["worker"]["restarts"] == 1


def test_what_programs_did_wrong_ends_nothing(start):
    s = start("--log-level", "debug")
    for xid in (13, 31, 43, 45, 63):
        s.report(0, xid)
        assert s.log_has(f"the GPU reports Xid {xid}")
    time.sleep(0.5)
    assert ask(s) == GOOD and s.workers()[0]["worker"]["restarts"] == 0 and s.readyz()[0] == 200


@pytest.mark.parametrize("env, says", [({"LD_LIBRARY_PATH": ""}, "NVML: libnvidia-ml.so.1: cannot open"), ({"FAKE_NVML_FAILS": "1"}, "NVML: Driver Not Loaded")], ids=["none", "fails"])
def test_without_nvml_it_serves_and_says_so_at_debug(start, env, says):
    s = start("--log-level", "debug", env=env)
    assert s.log_has(says) and ask(s) == GOOD
