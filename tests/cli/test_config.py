"""The configuration file: faults with line and column, precedence, --print-config, and what a hostile file may not do."""
import time

import pytest
import re


@pytest.fixture
def check(spillway, tmp_path):
    """check(text) -> (exit code, faults as 'line:column: text')."""
    def run(text):
        path = tmp_path / "spillway.yaml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        r = spillway("config", "check", path)
        return r.returncode, [line.removeprefix(f"spillway: {path}").removeprefix(":") for line in r.stderr.splitlines()]
    return run


@pytest.fixture
def effective(spillway, tmp_path):
    """effective(text, *args) -> what --print-config prints."""
    def run(text, *args):
        path = tmp_path / "in.yaml"
        path.write_text(text)
        r = spillway("serve", "--config", path, *args, "--print-config")
        assert r.returncode == 0, r.stderr
        return r.stdout
    return run


# ---- what is wrong, and where ----

@pytest.mark.parametrize("text,fault", [
    ("nonsense: 1\n", "1:1: nonsense: unknown key"),
    ("listne: x\n", "1:1: listne: unknown key; did you mean listen?"),
    ("no-auth: true\n", "1:1: no-auth: unknown key; did you mean no_auth?"),
    ("max_headers: 12\n", "1:1: max_headers: belongs under limits:"),
    ("limits:\n  max_heders: 12\n", "2:3: max_heders: unknown key; did you mean max_headers?"),
    ("log_level: info\nlog_level: warn\n", "2:1: log_level: is there twice (first in line 1)"),
    ("limits:\n  max_headers: 7\n", "2:16: max_headers: '7' is not a whole number from 8 to 1024"),
    ("limits:\n  max_body_bytes: 20XB\n", "2:19: max_body_bytes: '20XB' is not a size from 1KiB to 1GiB"),
    ("limits:\n  header_timeout: -1s\n", "2:19: header_timeout: '-1s' is not a time from 100ms to 1h"),
    ("limits: [1]\n", "1:9: limits: must be keys with values"),
    ("limits:\n  max_headers: [8]\n", "2:16: max_headers: must be one value"),
    ("listen: 127.0.0.1:99999\n", "1:9: listen: '127.0.0.1:99999' is not HOST:PORT with a numeric address"),
    ("listen:\n", "1:8: listen: has no value"),
    ("tls_cert: ~\n", "1:11: tls_cert: has no value"),
    ("no_auth: maybe\n", "1:10: no_auth: 'maybe' is neither true nor false"),
    ("log_level: loud\n", "1:12: log_level: 'loud' is not one of error|warn|info|debug"),
    ("threads: 1e3\n", "1:10: threads: '1e3' is not a whole number from 0 to 1024"),
    ("trusted_proxy: 10.0.0.0/8\n", "1:16: trusted_proxy: must be a list of values"),
    ("trusted_proxy: [10.0.0.0/8, 10.0.0.1/8]\n", "1:29: trusted_proxy: '10.0.0.1/8' has bits set beyond its prefix"),
    ("trusted_proxy: [[x]]\n", "1:17: trusted_proxy: each item must be one value"),
    ("allow_origin: [example.org]\n", "1:16: allow_origin: 'example.org' is not an origin such as https://example.org"),
    ("models: [demo]\n", "1:10: models: each item must be a group of keys"),
    ("models:\n  - name: x\n", "2:5: models: this one has no path"),
    ("models:\n  - path: demo\n    size: 1\n", "3:5: size: unknown key"),
    ("providers:\n  - name: x\n", "2:5: providers: this one has no provider"),
    ("providers:\n  - provider: groq\n    key: secret\n", "3:5: key: unknown key"),
    ("providers:\n  - {provider: groq, key_env: A, key_file: b}\n", "2:5: providers: this one has both key_env and key_file"),
    ("providers: [" + "{provider: groq}," * 33 + "]\n", "1:557: providers: more than 32"),
    ("tls_cert: c.pem\n", " --tls-cert and --tls-key belong together"),
    ("no_auth: true\nlisten: 0.0.0.0:80\n", " --no-auth: only on a loopback address, not on 0.0.0.0"),
    ('listen: "127.0.0.1:1\\nx"\n', "1:9: listen: has line ends or control characters in it"),
])
def test_a_fault_is_told_with_its_place(check, text, fault):
    assert check(text) == (1, [fault])


def test_all_faults_are_told_in_one_pass_and_in_order(check):
    code, faults = check("listen: x\nlimits:\n  max_headers: 1\n  nope: 2\nlog_level: loud\nmodels:\n  - {}\n")
    assert code == 1 and [f.split(" ")[0] for f in faults] == ["1:9:", "3:16:", "4:3:", "5:12:", "7:5:"]


def test_very_many_faults_are_counted(check):
    code, faults = check("".join(f"k{i}: 1\n" for i in range(50)))
    assert code == 1 and len(faults) == 21 and faults[-1] == " and 30 more"


@pytest.mark.parametrize("text,line", [("a: 'x\n", 2), ("listen: [\n", 2), ("\tlisten: 1\n", 1), ("listen: a: b\n", 1), ("@\n", 1), ("x: %\n - y", 1)])
def test_what_is_no_yaml_is_told_with_its_line(check, text, line):
    code, faults = check(text)
    assert code == 1 and any(f.startswith(f"{line}:") and "YAML" in f for f in faults)


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "{}\n", "limits:\nmodels:\ntrusted_proxy:\n", "limits: {}\nmodels: []\n"])
def test_an_empty_file_and_empty_groups_are_fine(check, text):
    assert check(text) == (0, [])


def test_a_good_file_says_ok_on_standard_output(spillway, tmp_path):
    (tmp_path / "f").write_text("listen: '[::1]:0'\nlimits: {max_body_bytes: 30MB, header_timeout: 500ms}\n")
    r = spillway("config", "check", tmp_path / "f")
    assert (r.returncode, r.stdout, r.stderr) == (0, f"{tmp_path}/f: ok\n", "")


@pytest.mark.parametrize("args", [[], ["check"], ["chekc", "f"], ["check", "a", "b"], ["check", "--frob"]])
def test_config_tells_wrong_usage(spillway, args):
    assert spillway("config", *args).returncode == 2


# ---- hostile files ----

@pytest.mark.parametrize("text,says", [
    ("a: &a [x]\n", "anchors, aliases and tags"), ("listen: *a\n", "anchors, aliases and tags"), ("listen: !!str x\n", "anchors, aliases and tags"),
    ("a: &a [x,x]\nb: &b [*a,*a]\nc: &c [*b,*b]\n", "anchors, aliases and tags"),
    ("x: " + "[" * 100000, "nested too deeply"), ("x: " + "{a: " * 100000, "nested too deeply"), ("- " * 100000, "must be keys with values"),
    ("listen: a\n--- \nlisten: b\n", "a second document"), ("? [a]\n: b\n", "a key must be one word"), ("x", "must be keys with values"),
    (b"listen: \xff\xfe\n", "is not UTF-8"), (b"listen: a\0b\n", "is not UTF-8"), ("l\x01: 2\n", "characters"),
    ("#" * (1 << 20) + "\n", "larger than 1 MiB"), ("allow_host: [" + "x," * 100000 + "]\n", "too many keys and values"),
    ("k" * 100 + ": 1\n", "a key is empty, too long"), ("data: " + "x" * 5000 + "\n", "longer than 4096 bytes"),
    ("allow_host: [" + "x," * 65 + "]\n", "at most 64"), ("models: [" + "{path: demo}," * 65 + "]\n", "more than 64"),
], ids=range(19))
def test_a_hostile_file_is_refused_at_once(check, text, says):
    begin = time.monotonic()
    code, faults = check(text)
    assert code == 1 and any(says in f for f in faults), faults
    assert time.monotonic() - begin < 5


def test_every_prefix_of_a_file_ends_in_an_answer(check):
    text = "models:\n  - path: demo\n    name: 'd'\ntrusted_proxy: [10.0.0.0/8]\nlimits: {max_headers: \"12\"}\n"
    assert {check(text[:i])[0] for i in range(len(text))} == {0, 1}


@pytest.mark.parametrize("path,says", [("/dev/zero", "is not a regular file"), ("/nonexistent/f", "No such file"), ("/tmp", "is not a regular file")])
def test_a_file_that_cannot_be_read_is_named(spillway, path, says):
    r = spillway("config", "check", path, timeout=10)
    assert r.returncode == 1 and r.stderr.startswith(f"spillway: {path}: ") and says in r.stderr


# ---- what comes of it ----

def test_the_command_line_wins_over_the_file_and_the_file_over_defaults(effective):
    out = effective("listen: 127.0.0.1:1\nlog_level: warn\nlimits: {max_headers: 12, max_json_depth: 9}\n", "--listen", "127.0.0.1:2", "--max-headers=20")
    for line in ("listen: 127.0.0.1:2\n", "log_level: warn\n", "  max_headers: 20\n", "  max_json_depth: 9\n", "  max_url_bytes: 8KiB\n"):
        assert line in out


def test_a_list_of_the_command_line_takes_the_place_of_the_files(effective):
    out = effective("allow_host: [a, b]\nmodels: [{path: /x}]\n", "/y", "--allow-host", "c")
    assert "allow_host:\n  - c\n" in out and "/x" not in out and "  - path: /y\n" in out


def test_a_value_of_the_file_is_checked_even_if_the_command_line_wins(spillway, tmp_path):
    (tmp_path / "f").write_text("limits: {max_headers: 1}\n")
    r = spillway("serve", "--config", tmp_path / "f", "--max-headers", "20", "--print-config")
    assert r.returncode == 1 and ":1:23: max_headers:" in r.stderr


@pytest.mark.parametrize("text", [
    "", "listen: '[::1]:0'\ntls_cert: 'a: b'\ntls_key: \"\\\"\\\\ # ü\"\n", "models:\n  - {path: 'true', name: '~'}\n  - path: -x\n    name: 'a b'\n",
    "models: [{path: demo, stand_ins: 'a/b, c/d:e'}]\nproviders:\n  - {provider: azure, name: eu, resource: r, api_version: '2024-10-21', header: 'X: y', prices: p.json, auth: bearer, unverified: true, key_env: 'A, B'}\n",
    "overflow_usd_per_hour: '2.50'\n",
    "allow_host: [a, 'no', '*', '#', '- x', ' ']\nallow_origin: ['*', 'https://a.example']\nno_auth: yes\n",
    "limits: {max_connections_per_ip: 64, max_body_bytes: 1500000, idle_timeout: 90s, drain_timeout: 0}\ndata: \"\\u2028\\u00a0\\uFFFE\"\n"])
def test_the_printed_configuration_reads_back_to_the_same(effective, text):
    once = effective(text)
    assert effective(once) == once


def test_sizes_and_times_take_units_on_the_command_line_and_in_the_file(effective):
    out = effective("limits: {max_body_bytes: 2MB, body_timeout: 1500ms}\n", "--max-queue-bytes", "1GiB", "--header-timeout", "2m")
    for line in ("max_body_bytes: 2000000", "body_timeout: 1500ms", "max_queue_bytes: 1GiB", "header_timeout: 2m"):
        assert f"  {line}\n" in out


def test_a_limit_that_counts_only_when_given_is_not_given_by_printing(effective):
    assert "\n  # max_connections_per_ip: 64 " in effective("") and "\n  max_connections_per_ip: 64\n" in effective("", "--max-connections-per-ip", "64")


def test_no_model_is_none_and_not_some(effective, spillway):
    assert not re.search("^models:", effective("", "--no-model"), re.M) and effective("no_model: true\n").startswith("no_model: true\n")
    r = spillway("serve", "demo", "--no-model")
    assert r.returncode != 0 and "--no-model: models are named as well" in r.stderr


def test_each_option_and_limit_of_serve_is_a_key(spillway):
    flags = set(re.findall(r"^  --([a-z-]+)", spillway("serve", "--help-all").stdout, re.M))
    printed = spillway("serve", "--print-config").stdout
    keys = {k.replace("_", "-") for k in re.findall(r"^(?:  )?(?:# )?([a-z_]+):", printed, re.M)}
    assert flags - keys == {"name", "config", "print-config", "help", "help-all"} and keys - flags == {"models", "limits"}


def test_no_key_is_printed(program, tmp_path):
    import os
    import subprocess
    (tmp_path / "key").write_text("sk-spillway-secretsecretsecretsecretsecret")
    r = subprocess.run([program, "serve", "--api-key-file", tmp_path / "key", "--print-config"], capture_output=True, text=True,
                       env={**os.environ, "SPILLWAY_API_KEY": "sk-canary"}, timeout=20)
    assert r.returncode == 0 and "secretsecret" not in r.stdout and "canary" not in r.stdout and f"api_key_file: {tmp_path}/key\n" in r.stdout


def test_serve_tells_the_faults_of_its_file_and_exits_1(spillway, tmp_path):
    (tmp_path / "f").write_text("listen: x\nfoo: 1\n")
    r = spillway("serve", "--config", tmp_path / "f")
    assert r.returncode == 1 and r.stderr.count(str(tmp_path / "f")) == 2 and r.stdout == ""
