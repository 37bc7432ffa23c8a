"""spillway doctor: each finding seen on a machine or folder that has the fault, as far as a test can make one."""
import json
import os
import pathlib
import re
import resource
import socket
import subprocess
import sys

import pytest

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1]))
import serving  # noqa: E402
from screen import Screen


@pytest.fixture
def doctor(program, tmp_path):
    """Runs it with --json on a data directory of its own; returns (findings by name, exit code)."""
    def run(*args, env=None, before=None):
        env = {**os.environ, "XDG_DATA_HOME": str(tmp_path / "home"), **(env or {})}
        args = args if "--listen" in args else (*args, "--listen", "127.0.0.1:0")
        r = subprocess.run([program, "doctor", "--json", *map(str, args)], capture_output=True, text=True, timeout=60, env=env, preexec_fn=before)
        assert r.stderr == ""
        report = json.loads(r.stdout)
        assert report["ok"] == all(c["status"] != "problem" for c in report["checks"]) == (r.returncode == 0)
        assert all((c["advice"] is None) == (c["status"] == "ok") for c in report["checks"])
        return {c["name"]: c for c in report["checks"]}, r.returncode
    return run


def test_a_sound_machine_has_no_problem_and_nothing_is_made(doctor, tmp_path):
    found, code = doctor("demo")
    assert code == 0 and set(found) == {"processor", "memory", "gpu", "open files", "kernel", "decoder", "clock", "port", "data", "disk", "model"}
    assert "Idefics3ForConditionalGeneration, 3.6 M parameters in BF16" in found["model"]["message"]
    assert "will be made at the first start" in found["data"]["message"]
    assert list(tmp_path.iterdir()) == []


def test_lines_are_words_and_advice(spillway, tmp_path):
    r = spillway("doctor", "--listen", "127.0.0.1:0", "--data", tmp_path, "/nonexistent/model")
    assert r.returncode == 1 and "\x1b" not in r.stdout
    assert "problem  model        /nonexistent/model: /nonexistent/model: No such file or directory: the folder must be a whole copy" in r.stdout
    assert r.stdout.rstrip().endswith("1 problem")


def test_the_processor_and_the_kernel_set_are_those_that_serve(doctor):
    said = doctor()[0]["processor"]["message"]
    flags = next(line for line in open("/proc/cpuinfo") if line.startswith("flags")).split()
    assert f"AVX2 {'yes' if 'avx2' in flags else 'no'}" in said and f"AVX-512 {'yes' if 'avx512f' in flags else 'no'}" in said
    s = serving.Server("demo", "--no-auth")
    s.stop()
    [kernels] = [m[1] for line in s.lines if (m := re.search(r"worker ready on cpu \(\d+ threads, (\w+)\)", line))]
    assert f"{len(os.sched_getaffinity(0))} core" in said and f"kernels '{kernels}' will be used" in said


def test_a_port_in_use_is_told_with_its_holder(doctor):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        found, code = doctor("--listen", f"127.0.0.1:{s.getsockname()[1]}")
    assert code == 1 and found["port"]["status"] == "problem"
    assert f"is in use by {open('/proc/self/comm').read().strip()} (process {os.getpid()})" in found["port"]["message"]


def test_an_address_that_this_machine_does_not_have(doctor):
    assert doctor("--listen", "203.0.113.9:8080")[0]["port"]["status"] == "problem"


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1:99999"])
def test_an_address_that_is_none_is_wrong_usage(spillway, address):
    assert spillway("doctor", "--listen", address).returncode == 2


def test_open_data_and_key_files_are_warned_about(doctor, tmp_path):
    data, key = tmp_path / "data", tmp_path / "key"
    data.mkdir(mode=0o700)
    key.write_text("sk-x\n")
    key.chmod(0o644)
    found, code = doctor("--data", data, "--api-key-file", key)
    assert code == 0 and found["data"]["status"] == "ok" and found["key file"]["status"] == "warning" and "0644" in found["key file"]["message"]
    (data / "secret").write_text("x")
    (data / "secret").chmod(0o640)
    key.chmod(0o600)
    found, _ = doctor("--data", data, "--api-key-file", key)
    assert found["key file"]["status"] == "ok" and found["data"]["status"] == "warning" and "secret" in found["data"]["message"]
    data.chmod(0o755)
    assert "0755" in doctor("--data", data)[0]["data"]["message"]
    assert doctor("--api-key-file", tmp_path / "none")[1] == 1


def test_a_data_directory_that_is_a_file(doctor, tmp_path):
    (tmp_path / "file").write_text("")
    found, code = doctor("--data", tmp_path / "file")
    assert code == 1 and "is not a directory" in found["data"]["message"]


def test_few_descriptors(doctor):
    def few(n):
        return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (n, n))
    assert doctor(before=few(1024))[0]["open files"]["status"] == "warning"
    found, code = doctor(before=few(128))
    assert code == 1 and "128" in found["open files"]["message"]


def test_a_cuda_backend_that_cannot_be_opened_is_a_problem_with_its_reason(doctor, tmp_path):
    (tmp_path / "text.so").write_text("no library\n" * 100)
    found, code = doctor("--device", "cuda", "--cuda-library", tmp_path / "text.so")
    assert code == 1 and found["gpu"]["status"] == "problem"
    assert found["gpu"]["message"] == f"cuda: the backend cannot be opened: {tmp_path}/text.so: invalid ELF header"


def test_the_device_that_the_backend_opens_is_told(doctor, program):
    simulated = pathlib.Path(program).parent / "tests/cuda/libspillway_cuda_sim.so"
    if not simulated.exists():
        pytest.skip("no simulated device in this build")
    found = doctor("--device", "cuda", "--cuda-library", simulated)[0]["gpu"]
    assert found["status"] == "ok" and re.match(r"cuda:0 \(.+, \d+ SMs, sm_\d+\), \d+\.\d GiB of its memory are free$", found["message"])


def damage(folder, kind, safetensors):
    if kind == "no weights":
        (folder / "model.safetensors").unlink()
    elif kind == "cut weights":
        path = folder / "model.safetensors"
        path.write_bytes(path.read_bytes()[:-100])
    elif kind == "no tokenizer":
        (folder / "tokenizer.json").unlink()
    elif kind == "a layer less":
        st = safetensors(folder)
        st.header["other"] = st.header.pop("model.layers.1.mlp.up_proj.weight")
        st.write()
    elif kind == "another family":
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "architectures": ["MambaForCausalLM"]}))


@pytest.mark.parametrize("kind,why", [("no weights", "model.safetensors"), ("cut weights", "model.safetensors"), ("no tokenizer", "tokenizer.json"),
                                      ("a layer less", "model.layers.1.mlp.up_proj.weight is missing"), ("another family", "MambaForCausalLM")])
def test_a_folder_that_is_not_whole(doctor, broken, safetensors, kind, why):
    folder = broken()
    damage(folder, kind, safetensors)
    found, code = doctor(folder)
    assert code == 1 and found["model"]["status"] == "problem" and why in found["model"]["message"]


def test_a_base_model_is_a_warning(doctor, broken):
    folder = broken()
    config = json.loads((folder / "tokenizer_config.json").read_text())
    del config["chat_template"]
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    found, code = doctor(folder)
    assert code == 0 and found["model"]["status"] == "warning" and "no chat template" in found["model"]["message"]


def test_the_memory_that_is_said_is_near_what_a_worker_takes(doctor):
    found, _ = doctor("demo")
    said = float(re.search(r"needs about ([\d.]+) GiB", found["model"]["message"])[1]) * 1024
    s = serving.Server("demo", "--no-auth")
    [worker] = s.children("worker")
    status = open(f"/proc/{worker}/status").read()
    s.stop()
    took = int(re.search(r"VmRSS:\s+(\d+) kB", status)[1]) / 1024
    assert took <= said <= took + 100


def test_names_of_files_cannot_steer_the_terminal(program, tmp_path):
    s = Screen(program, "doctor", "--listen", "127.0.0.1:0", "--data", tmp_path, "/x\x1b[31mred\x07")
    assert s.end() == 1
    assert b"\x1b[31mred" not in s.raw and "/x␛[31mred␇" in s.text
    assert b"\x1b[32mok" in s.raw


def test_no_color_is_honoured(program, tmp_path):
    s = Screen(program, "doctor", "--listen", "127.0.0.1:0", "--data", tmp_path, env={"NO_COLOR": "1"})
    assert s.end() == 0 and b"\x1b" not in s.raw
