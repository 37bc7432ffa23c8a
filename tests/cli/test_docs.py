"""What is made of the tables: help, the manual page, completions, docs/configuration.md."""
import pathlib
import shutil
import subprocess

import pytest

ROOT = pathlib.Path(__file__).resolve().parents[2]
SHELLS = ("bash", "zsh", "fish")


@pytest.fixture(scope="module")
def needs():
    """The command's path; what is missing fails here, as tools/setup --tests installs it."""
    def find(name):
        assert shutil.which(name), f"{name} is not there: tools/setup --tests"
        return shutil.which(name)
    return find


def test_the_committed_reference_is_what_the_program_prints(spillway):
    assert (ROOT / "docs/configuration.md").read_text() == spillway("--reference").stdout, "renew it: make reference"


# ---- help ----

@pytest.mark.parametrize("args", [["--help"], ["serve", "--help"], ["serve", "--help-all"], ["keys", "--help"], ["config", "--help"]])
def test_help_fits_80_columns(spillway, args):
    assert max(map(len, spillway(*args).stdout.splitlines())) <= 90  # an option's own words may be longer


@pytest.mark.parametrize("command", ["serve", "generate", "tokenize", "keys", "pull", "config"])
def test_help_shows_examples(spillway, command):
    assert f"  spillway {command}" in spillway(command, "--help").stdout.split("Examples:")[1]


def test_limits_are_listed_only_when_asked_for(spillway):
    assert "--max-headers" not in spillway("serve", "--help").stdout and "--max-headers" in spillway("serve", "--help-all").stdout


@pytest.mark.parametrize("args", [["keys", "-h"], ["help", "keys"]])
def test_other_ways_to_ask_for_help(spillway, args):
    assert spillway(*args).stdout == spillway("keys", "--help").stdout


# ---- manual page ----

def test_the_manual_page_is_without_faults(spillway, needs, tmp_path):
    (tmp_path / "spillway.1").write_text(spillway("--man").stdout)
    r = subprocess.run([needs("mandoc"), "-T", "lint", "-W", "warning", tmp_path / "spillway.1"], capture_output=True, text=True)
    assert r.returncode == 0 and r.stdout == "", r.stdout


def test_mandoc_finds_a_planted_fault(spillway, needs, tmp_path):
    (tmp_path / "spillway.1").write_text(spillway("--man").stdout + ".SH\n.XX what\n")
    assert subprocess.run([needs("mandoc"), "-T", "lint", "-W", "warning", tmp_path / "spillway.1"], capture_output=True).returncode != 0


def test_the_manual_page_has_every_option(spillway, needs, tmp_path):
    (tmp_path / "spillway.1").write_text(spillway("--man").stdout)
    page = subprocess.run([needs("mandoc"), "-T", "ascii", tmp_path / "spillway.1"], capture_output=True, text=True).stdout.replace("\b", "")
    plain = "".join(c for i, c in enumerate(page))
    for line in spillway("serve", "--help-all").stdout.splitlines():
        if line.startswith("  --"):
            flag = line.split()[0]
            assert flag in plain or "".join(2 * c for c in flag) in plain, flag


# ---- completions ----

@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_takes_its_completions(spillway, needs, shell, tmp_path):
    (tmp_path / "c").write_text(spillway("--completion", shell).stdout)
    r = subprocess.run([needs(shell), "-n", tmp_path / "c"], capture_output=True, text=True)
    assert r.returncode == 0 and r.stderr == "", r.stderr


def test_completion_of_another_shell_is_wrong_usage(spillway):
    assert spillway("--completion", "tcsh").returncode == 2 and spillway("--completion").returncode == 2


@pytest.mark.parametrize("words,wanted", [
    (["spillway", "ge"], ["generate"]), (["spillway", "serve", "--max-head"], ["--max-header-bytes", "--max-headers"]),
    (["spillway", "serve", "--log-level", "w"], ["warn"]), (["spillway", "keys", "ro"], ["rotate"]),
    (["spillway", "--completion", ""], ["bash", "zsh", "fish"])])
def test_bash_completes(spillway, needs, words, wanted, tmp_path):
    (tmp_path / "c").write_text(spillway("--completion", "bash").stdout)
    quoted = " ".join(f"'{w}'" for w in words)
    script = f"source {tmp_path}/c; cd {tmp_path}; COMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _spillway 2>/dev/null; printf '%s\\n' \"${{COMPREPLY[@]}}\""
    r = subprocess.run([needs("bash"), "-c", script], capture_output=True, text=True)
    assert r.stdout.split() == wanted


@pytest.mark.parametrize("line,wanted", [("spillway serve --log-level ", {"error", "warn", "info", "debug"}), ("spillway serve --drain", {"--drain-timeout"})])
def test_fish_completes(spillway, needs, line, wanted, tmp_path):
    (tmp_path / "c.fish").write_text(spillway("--completion", "fish").stdout)
    r = subprocess.run([needs("fish"), "--no-config", "-c", f"source {tmp_path}/c.fish; complete -C '{line}'"], capture_output=True, text=True,
                       env={"HOME": str(tmp_path), "PATH": "/usr/bin:/bin"})
    assert {row.split("\t")[0] for row in r.stdout.splitlines()} == wanted
