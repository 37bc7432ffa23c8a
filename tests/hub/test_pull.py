"""spillway pull, against a hub that speaks the protocol, and misuses it (hub_server.py)."""
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import threading

import pytest
from conftest import FILES, Machine
from hub_server import Changed, Corrupt, Cut, Hold, Hub, Longer, NoRange, Status, WrongRange, git_sha1

MODEL = "model.safetensors"
WEIGHTS = FILES[MODEL]
TOKEN = "hf_testtokenthatnobodymaysee"


def whole(machine, repo, revision="main"):
    """The snapshot is there, byte for byte, and only links lie in it."""
    snapshot = machine.snapshot(repo)
    for name in FILES.keys() & repo.files.keys():
        path = snapshot / name
        assert os.readlink(path) == f"../../blobs/{repo.etag(name)}"
        assert path.read_bytes() == repo.files[name]
    assert revision is None or (machine.folder(repo.name) / "refs" / revision).read_text() == repo.commit
    assert not list(machine.folder(repo.name).rglob("*.incomplete"))
    return True


def nothing_linked(machine, repo, file=MODEL):
    assert not os.path.lexists(machine.snapshot(repo) / file) and not machine.blob(repo, file).exists()
    assert not (machine.snapshot(repo) / "config.json").exists() and not (machine.folder(repo.name) / "refs/main").exists()


def refused(r, *words, code=1):
    assert r.returncode == code and r.stdout == "", r
    for word in words:
        assert word in r.stderr, (word, r.stderr)
    assert TOKEN not in r.stderr and "do-not-tell" not in r.stderr
    return r.stderr


# ---- what comes ----

def test_pull_prints_the_snapshot_and_keeps_the_standard_layout(machine, repo):
    r = machine.pull()
    assert r.returncode == 0, r.stderr
    assert r.stdout == f"{machine.snapshot(repo)}\n" and whole(machine, repo)


def test_only_what_a_model_is_loaded_from_is_fetched(hub, machine, repo):
    assert machine.pull().returncode == 0
    assert {p.name for p in machine.snapshot(repo).iterdir()} == set(FILES)
    asked = {s.path.split("?")[0].rsplit("/", 1)[1] for s in hub.log if "/resolve/" in s.path}
    assert asked == set(FILES)


def test_shards_come_by_the_index(machine, sharded):
    r = machine.pull("owner/sharded")
    assert r.returncode == 0, r.stderr
    assert {p.name for p in machine.snapshot(sharded).iterdir()} == set(sharded.files) - {"pytorch_model-00001-of-00002.bin"}


def test_single_file_beside_an_index_is_left(hub, machine, sharded):
    sharded.files[MODEL] = WEIGHTS
    assert machine.pull("owner/sharded").returncode == 0
    assert not (machine.snapshot(sharded) / MODEL).exists()


def test_second_pull_transfers_nothing(hub, machine, repo):
    assert machine.pull().returncode == 0
    hub.log.clear()
    assert machine.pull().returncode == 0
    assert [s for s in hub.log if s.method == "GET" and "/api/" not in s.path] == [] and whole(machine, repo)


def test_new_commit_shares_the_blobs_that_stay(hub, machine, repo):
    assert machine.pull().returncode == 0
    hub.log.clear()
    new = hub.add("owner/model", {**repo.files, "generation_config.json": b'{"temperature": 0.5}'})
    assert new.commit != repo.commit and machine.pull().returncode == 0 and whole(machine, new)
    assert [s.path.rsplit("/", 1)[1] for s in hub.seen("GET") if "/api/" not in s.path] == ["generation_config.json"]
    assert machine.snapshot(repo).exists()


@pytest.mark.parametrize("revision", ["v1.0", "feature/x", "refs/pr/7"])
def test_revision_is_a_branch_or_a_tag(hub, machine, repo, revision):
    repo.refs[revision] = repo.commit
    r = machine.pull(f"owner/model@{revision}")
    assert r.returncode == 0, r.stderr
    assert whole(machine, repo, revision) and not (machine.folder() / "refs/main").exists()


def test_revision_is_a_commit(hub, machine, repo):
    assert machine.pull(f"owner/model@{repo.commit}").returncode == 0
    assert whole(machine, repo, None) and list((machine.folder() / "refs").iterdir()) == []


def test_empty_file_is_a_file(hub, machine):
    repo = hub.add("owner/model", {**FILES, "special_tokens_map.json": b""})
    assert machine.pull().returncode == 0 and (machine.snapshot(repo) / "special_tokens_map.json").read_bytes() == b""


def test_repository_that_has_moved_is_followed(hub, machine, repo):
    hub.add("former/name", FILES, moved="owner/model").commit
    assert machine.pull("former/name").returncode == 0
    assert (machine.folder("former/name") / "snapshots" / repo.commit / MODEL).read_bytes() == WEIGHTS


def test_damaged_size_in_the_cache_is_mended(machine, repo):
    assert machine.pull().returncode == 0
    with open(machine.blob(repo, MODEL), "ab") as f:
        f.write(b"x")
    assert machine.pull().returncode == 0 and whole(machine, repo)


# ---- the environment ----

def test_cache_folder_is_of_the_environment(machine, repo, tmp_path):
    cases = [({"HF_HUB_CACHE": str(tmp_path / "a")}, "a"), ({"HF_HUB_CACHE": "~/b"}, "b"), ({"HF_HOME": str(tmp_path / "c")}, "c/hub"),
             ({"HF_HOME": None, "XDG_CACHE_HOME": str(tmp_path / "d")}, "d/huggingface/hub"),
             ({"HF_HOME": None, "XDG_CACHE_HOME": None}, ".cache/huggingface/hub")]
    for env, folder in cases:
        r = machine.pull(**env)
        assert r.returncode == 0 and r.stdout.startswith(f"{tmp_path / folder}/models--owner--model/snapshots/"), (env, r)


@pytest.mark.parametrize("where", ["HF_TOKEN", "HF_TOKEN_PATH", "HF_HOME"])
def test_token_opens_a_private_repository(hub, machine, where):
    repo = hub.add("owner/model", FILES, token=TOKEN)
    env = {"HF_TOKEN": f" {TOKEN}\n"} if where == "HF_TOKEN" else {}
    if where != "HF_TOKEN":
        path = machine.home / "hf/token" if where == "HF_HOME" else machine.home / "my-token"
        path.parent.mkdir(exist_ok=True)
        path.write_text(TOKEN + "\n")
        env = {"HF_TOKEN_PATH": str(path)} if where == "HF_TOKEN_PATH" else {}
    r = machine.pull(**env)
    assert r.returncode == 0 and whole(machine, repo) and TOKEN not in r.stderr + r.stdout


def test_token_goes_to_the_hub_alone(hub, machine):
    hub.add("owner/model", FILES, token=TOKEN)
    assert machine.pull(HF_TOKEN=TOKEN).returncode == 0
    assert all(s.header("Authorization") == f"Bearer {TOKEN}" for s in hub.seen(server="hub"))
    assert hub.seen(server="cdn") and not any(s.header("Authorization") for s in hub.seen(server="cdn"))


def test_no_token_is_sent_without_one(hub, machine, repo):
    assert machine.pull().returncode == 0 and not any(s.header("Authorization") for s in hub.log)


def test_token_with_a_line_break_in_it_is_refused(hub, machine, repo):
    refused(machine.pull(HF_TOKEN=f"{TOKEN}\r\nX-Other: 1"), "token")
    assert hub.log == []


def test_offline_finds_what_is_there_and_asks_nobody(hub, machine, repo):
    assert machine.pull().returncode == 0
    hub.log.clear()
    r = machine.pull(HF_HUB_OFFLINE="1")
    assert r.returncode == 0 and r.stdout == f"{machine.snapshot(repo)}\n"
    refused(machine.pull("owner/other", HF_HUB_OFFLINE="YES"), "HF_HUB_OFFLINE", "owner/other@main", "not in the cache")
    assert hub.log == []


@pytest.mark.parametrize("file", ["config.json", "tokenizer.json", MODEL])
def test_offline_names_what_a_snapshot_lacks(machine, repo, file):
    assert machine.pull().returncode == 0
    (machine.snapshot(repo) / file).unlink()
    refused(machine.pull(HF_HUB_OFFLINE="1"), file)


def test_offline_names_the_missing_shard(machine, sharded):
    assert machine.pull("owner/sharded").returncode == 0
    machine.blob(sharded, "model-00002-of-00002.safetensors").unlink()
    refused(machine.pull("owner/sharded", HF_HUB_OFFLINE="1"), "model-00002-of-00002.safetensors")


@pytest.mark.parametrize("endpoint", ["ftp://127.0.0.1", "127.0.0.1:80", "http://user@127.0.0.1", "http://127.0.0.1/?q", "http://a b"])
def test_endpoint_must_be_a_plain_address(machine, repo, endpoint):
    refused(machine.pull(HF_ENDPOINT=endpoint), "endpoint")


# ---- what a hub refuses ----

def test_repository_that_is_not_there(machine, hub):
    refused(machine.pull("owner/none"), "owner/none: there is no such repository", "HF_TOKEN")
    hub.tokens.add(TOKEN)
    refused(machine.pull("owner/none", HF_TOKEN=TOKEN), "owner/none")


def test_private_repository_without_a_token(hub, machine):
    hub.add("owner/model", FILES, token=TOKEN)
    refused(machine.pull(), "private", "HF_TOKEN")


def test_wrong_token(hub, machine):
    hub.add("owner/model", FILES, token=TOKEN)
    assert "hf_wrong" not in refused(machine.pull(HF_TOKEN="hf_wrong"), "does not take the token")


@pytest.mark.parametrize("token", [None, TOKEN])
def test_gated_repository(hub, machine, token):
    repo = hub.add("owner/model", FILES, gated=True, access="hf_other")
    hub.tokens.add(TOKEN)
    refused(machine.pull(HF_TOKEN=token), "gated", f"{hub.url}/owner/model", "HF_TOKEN")
    assert machine.pull(HF_TOKEN="hf_other").returncode == 0 and whole(machine, repo)


def test_revision_that_is_not_there(machine, repo):
    refused(machine.pull("owner/model@v9"), "no revision 'v9'")


def test_listed_file_that_is_not_there(hub, machine, repo):
    repo.listing = {"sha": repo.commit, "siblings": [{"rfilename": f} for f in [*FILES, "special_tokens_map.json"]]}
    refused(machine.pull(), "special_tokens_map.json")


@pytest.mark.parametrize("name", ["model", "a/b/c", "/a", "a/", "../a/b", "a/..", "a/.b", "a--b/c", "a/b--c", "a/b.git", "a/-b", "a/b c", "a/b%2e", "o/" + "n" * 96,
                                  "owner/model@", "owner/model@..", "owner/model@a/../b", "owner/model@/a", "owner/model@a//b", "owner/model@.a",
                                  "owner/model@a\nb", "owner/model@a@b", "owner/model@" + "r" * 300])
def test_names_that_are_none_are_wrong_usage(hub, machine, name):
    refused(machine.pull(name), code=2)
    assert hub.log == [] and machine.names() == []


# ---- pickles, and nothing to serve ----

@pytest.mark.parametrize("weights", ["pytorch_model.bin", "model.pt", "m.pth", "last.ckpt", "a/b/data.pkl"])
def test_pickle_weights_are_refused_and_said(hub, machine, weights):
    hub.add("owner/model", {**{f: d for f, d in FILES.items() if f != MODEL}, weights: b"\x80\x02pickle"})
    refused(machine.pull(), "pickle", weights, "refused")
    assert hub.seen("GET", ending=weights) == [] and hub.seen("HEAD") == []


@pytest.mark.parametrize("gone,words", [(MODEL, "neither model.safetensors"), ("config.json", "no config.json"), ("tokenizer.json", "no tokenizer.json")])
def test_repository_without_what_is_needed(hub, machine, gone, words):
    hub.add("owner/model", {f: d for f, d in FILES.items() if f != gone})
    refused(machine.pull(), words)


def test_gguf_is_named(hub, machine):
    hub.add("owner/model", {"config.json": b"{}", "tokenizer.json": b"{}", "m.Q4_K.gguf": b"GGUF"})
    refused(machine.pull(), "GGUF", "m.Q4_K.gguf")


def test_index_that_names_pickles_is_refused(hub, machine, sharded):
    sharded.files["model.safetensors.index.json"] = b'{"weight_map": {"a": "pytorch_model-00001-of-00002.bin"}}'
    refused(machine.pull("owner/sharded"), "pytorch_model-00001-of-00002.bin", "not the name of a .safetensors file")


# ---- lines that are cut ----

def test_cut_connection_goes_on_where_it_was(hub, machine, repo):
    hub.faults[MODEL] = [Cut(3_000_000), Cut(2_000_000)]
    r = machine.pull()
    assert r.returncode == 0 and whole(machine, repo), r.stderr
    first, *more = hub.seen("GET", "cdn")
    assert first.header("Range") is None and len(more) == 2
    assert all(s.header("If-Range") == f'"{hashlib.md5(WEIGHTS).hexdigest()}"' for s in more)
    starts = [int(s.header("Range")[6:-1]) for s in more]
    assert 0 < starts[0] <= 3_000_000 and starts[0] < starts[1] <= 5_000_000


def test_cut_small_file_goes_on_too(hub, machine, repo):
    hub.faults["tokenizer.json"] = [Cut(10_000)]
    assert machine.pull().returncode == 0 and whole(machine, repo)


def test_tries_are_bounded_and_what_came_is_kept(hub, machine, repo):
    hub.faults[MODEL] = [Cut(1000)] * 50
    refused(machine.run("pull", "owner/model", "--retries", 2), MODEL)
    assert len(hub.seen("GET", "cdn")) == 3
    nothing_linked(machine, repo)
    kept = machine.blob(repo, MODEL).with_name(repo.etag(MODEL) + ".incomplete")
    assert kept.read_bytes() == WEIGHTS[:kept.stat().st_size] and kept.stat().st_size > 0


def test_later_pull_resumes(hub, machine, repo):
    hub.faults[MODEL] = [Cut(4_000_000), Cut(0), Cut(0)]
    refused(machine.pull(), MODEL)
    size = machine.blob(repo, MODEL).with_name(repo.etag(MODEL) + ".incomplete").stat().st_size
    hub.log.clear(), hub.faults.clear()
    assert machine.pull().returncode == 0 and whole(machine, repo)
    assert [s.header("Range") for s in hub.seen("GET", "cdn")] == [f"bytes={size}-"] and size > 0


def test_hub_without_ranges_sends_it_all_again(hub, machine, repo):
    hub.faults[MODEL] = [Cut(3_000_000), NoRange()]
    assert machine.pull().returncode == 0 and whole(machine, repo)


def test_file_that_changed_meanwhile_comes_anew(hub, machine, repo):
    hub.faults[MODEL] = [Cut(3_000_000), Changed()]
    assert machine.pull().returncode == 0 and whole(machine, repo)


def test_other_range_than_asked_for_is_refused(hub, machine, repo):
    hub.faults[MODEL] = [Cut(3_000_000), WrongRange()]
    refused(machine.pull(), MODEL, "another range")
    nothing_linked(machine, repo)


def test_range_that_is_not_satisfiable_begins_anew(hub, machine, repo):
    hub.faults[MODEL] = [Cut(3_000_000), Status(416)]
    assert machine.pull().returncode == 0 and whole(machine, repo)


@pytest.mark.parametrize("where", ["api", "head config.json", MODEL, "tokenizer.json"])
@pytest.mark.parametrize("code", [429, 500, 503])
def test_passing_errors_are_tried_again(hub, machine, repo, where, code):
    hub.faults[where] = [Status(code, {"Retry-After": "0"})]
    assert machine.pull().returncode == 0 and whole(machine, repo)


@pytest.mark.parametrize("where", ["api", "head config.json", MODEL])
def test_lasting_errors_are_told(hub, machine, repo, where):
    hub.faults[where] = [Status(503)] * 9
    refused(machine.pull(), "503", "owner/model")
    nothing_linked(machine, repo)


def test_hub_that_is_not_there(machine, repo):
    refused(machine.pull(HF_ENDPOINT="http://127.0.0.1:9"), "127.0.0.1:9")


# ---- bytes that are wrong ----

@pytest.mark.parametrize("file,hash_name", [(MODEL, "SHA-256"), ("tokenizer.json", "SHA-1")])
def test_corrupt_bytes_are_named_deleted_and_never_linked(hub, machine, repo, file, hash_name):
    hub.faults[file] = [Corrupt(20_000)] * 2
    refused(machine.pull(), file, hash_name, repo.etag(file), "deleted")
    nothing_linked(machine, repo, file)
    assert not list(machine.folder().rglob("*.incomplete"))
    hub.faults.clear()
    assert machine.pull().returncode == 0 and whole(machine, repo)


def test_damaged_rest_of_an_earlier_download_is_begun_anew(hub, machine, repo):
    hub.faults[MODEL] = [Cut(4_000_000), Cut(0)]
    refused(machine.pull(), MODEL)
    kept = machine.blob(repo, MODEL).with_name(repo.etag(MODEL) + ".incomplete")
    with open(kept, "r+b") as f:
        f.write(b"damaged")
    hub.faults.clear()
    r = machine.pull()
    assert r.returncode == 0 and "damaged" in r.stderr and whole(machine, repo)


def test_more_bytes_than_told_are_refused(hub, machine, repo):
    hub.faults[MODEL] = [Longer(5)]
    refused(machine.pull(), MODEL, "more than")
    nothing_linked(machine, repo)


def test_longer_rest_of_an_earlier_download_is_dropped(hub, machine, repo):
    blob = machine.blob(repo, MODEL)
    blob.parent.mkdir(parents=True)
    blob.with_name(blob.name + ".incomplete").write_bytes(WEIGHTS + b"x")
    assert machine.pull().returncode == 0 and whole(machine, repo)


# ---- a hostile hub ----

@pytest.mark.parametrize("metadata,words", [
    ({"X-Linked-Etag": '"' + "0" * 32 + '"'}, ["ETag"]), ({"X-Linked-Etag": '"../../../etc/passwd"'}, ["ETag"]), ({"X-Linked-Etag": '"' + "A" * 64 + '"'}, ["ETag"]),
    ({"X-Linked-Etag": '"' + "../" * 13 + '/"'}, ["ETag"]), ({"X-Linked-Size": "-1"}, ["size"]), ({"X-Linked-Size": "many"}, ["size"]),
    ({"X-Linked-Size": str(2 ** 64)}, ["size"]), ({"X-Linked-Size": str(2 ** 62)}, ["limit"]), ({"X-Linked-Size": str(60 << 40)}, ["MB are needed", "MB free"]),
    ({"X-Repo-Commit": "f" * 40}, ["commit"]), ({"X-Padding": "p" * 60000, "X-More": "q" * 60000}, ["headers"]),
])
def test_metadata_that_cannot_be_is_refused(hub, machine, repo, metadata, words):
    repo.metadata[MODEL] = metadata
    refused(machine.pull(), *words)
    nothing_linked(machine, repo)
    assert hub.seen("GET", "cdn") == []


def test_size_that_differs_from_what_is_sent(hub, machine, repo):
    repo.metadata[MODEL] = {"X-Linked-Size": "1000"}
    refused(machine.pull(), MODEL, "1000")
    nothing_linked(machine, repo)


@pytest.mark.parametrize("size", [101 << 20])
def test_small_files_are_bounded(machine, repo, size):
    repo.metadata["tokenizer.json"] = {"Content-Length": str(size)}
    refused(machine.pull(), "tokenizer.json", "limit")


@pytest.mark.parametrize("listing", [b"", b"{", b"[]", b"null", b'{"sha": 5, "siblings": []}', b'{"sha": "' + b"f" * 39 + b'", "siblings": []}',
                                     b'{"sha": "' + b"F" * 40 + b'", "siblings": []}', b'{"sha": "../../..", "siblings": []}',
                                     b'{"sha": "' + b"f" * 40 + b'"}', b'{"sha": "' + b"f" * 40 + b'", "siblings": {}}', b"[" * 1000, b'{"sha": "\xff"}',
                                     b" " * (33 << 20)], ids=range(13))
def test_list_that_is_none_is_refused(machine, repo, listing):
    repo.listing = listing
    refused(machine.pull(), "spillway: ")
    assert not (machine.folder() / "refs/main").exists() and list((machine.folder() / "snapshots").iterdir()) == []


HOSTILE = ["../config.json", "/etc/passwd", "..", ".", "", "a/../../config.json", "config.json/..", "con\0fig.json", "config.json\0", "a\\b", "~/x", "-rf", "\n",
           "\u202e.json", "x" * 5000, 7, None, True, [], {"rfilename": "config.json"}, "model.safetensors/", "./model.safetensors", "blobs", "C:\\x"]


def test_hostile_names_in_the_list_never_become_paths(machine, hub, repo, tmp_path):
    repo.listing = {"sha": repo.commit, "siblings": [{"rfilename": n} for n in HOSTILE] + HOSTILE + [{"rfilename": f} for f in FILES]}
    before = {p for p in tmp_path.rglob("*")}
    r = machine.pull()
    assert r.returncode == 0, r.stderr
    assert {p.name for p in machine.snapshot(repo).iterdir()} == set(FILES)
    assert all(machine.home / "hf" in (p, *p.parents) for p in set(tmp_path.rglob("*")) - before)
    assert {s.path.split("?")[0].rsplit("/", 1)[1] for s in hub.log if "/resolve/" in s.path} == set(FILES)


@pytest.mark.parametrize("name", [n for n in HOSTILE if isinstance(n, str)] + ["../model.safetensors", "a/model.safetensors", ".model.safetensors",
                                  "model.safetensors\0.safetensors", "-.safetensors", "m\u00f6del.safetensors", "m" * 200 + ".safetensors", 7, None, []])
def test_hostile_shards_in_an_index_are_refused(machine, sharded, name):
    sharded.files["model.safetensors.index.json"] = json.dumps({"weight_map": {"a": "model-00001-of-00002.safetensors", "b": name}}).encode()
    refused(machine.pull("owner/sharded"), "model.safetensors.index.json")
    assert {p.name for p in machine.snapshot(sharded).iterdir()} == {"model.safetensors.index.json"}


def test_shard_that_is_not_listed_is_refused(machine, sharded):
    sharded.files["model.safetensors.index.json"] = b'{"weight_map": {"a": "other.safetensors"}}'
    refused(machine.pull("owner/sharded"), "other.safetensors", "has not")


@pytest.mark.parametrize("where", ["file:///etc/passwd", "ftp://127.0.0.1/x", "gopher://127.0.0.1/x"])
def test_redirects_to_other_protocols_are_not_followed(hub, machine, repo, where):
    repo.location[MODEL] = where
    refused(machine.pull(), "rotocol")
    nothing_linked(machine, repo)


def test_redirects_are_bounded(hub, machine, repo):
    repo.location[MODEL] = f"{hub.url}/owner/model/resolve/{repo.commit}/{MODEL}"
    refused(machine.pull(), "redirects")
    assert len(hub.seen("GET", "hub", MODEL)) == 6


def test_redirect_home_from_elsewhere_brings_the_token_back_only_home(hub, machine):
    """Another origin sees no token even if it is but another port of this machine."""
    repo = hub.add("owner/model", FILES, token=TOKEN)
    repo.location["tokenizer.json"] = f"{hub.cdn_url}/owner/model/{repo.etag('tokenizer.json')}/tokenizer.json?X-Signature=do-not-tell"
    assert machine.pull(HF_TOKEN=TOKEN).returncode == 0
    assert len(hub.seen("GET", "cdn")) == 2 and not any(s.header("Authorization") for s in hub.seen(server="cdn"))


def test_links_that_lie_in_the_way_are_not_written_through(machine, repo, tmp_path):
    blob = machine.blob(repo, MODEL)
    blob.parent.mkdir(parents=True)
    (tmp_path / "victim").write_bytes(b"mine")
    blob.with_name(blob.name + ".incomplete").symlink_to(tmp_path / "victim")
    refused(machine.pull(), ".incomplete")
    assert (tmp_path / "victim").read_bytes() == b"mine"


# ---- TLS ----

@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """A certificate for 127.0.0.1 that only who is told trusts, and its key."""
    folder = tmp_path_factory.mktemp("tls")
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj", "/CN=localhost", "-addext",
                    "subjectAltName=IP:127.0.0.1", "-keyout", folder / "key", "-out", folder / "cert"], check=True, capture_output=True)
    return folder / "cert", folder / "key"


def test_https_from_end_to_end(pair, tmp_path):
    with Hub(tls=pair, cdn_tls=pair) as hub:
        repo, machine = hub.add("owner/model", FILES), Machine(hub, tmp_path)
        r = machine.pull(SSL_CERT_FILE=str(pair[0]))
        assert r.returncode == 0 and whole(machine, repo), r.stderr


def test_certificate_that_is_not_trusted_gets_no_token(pair, tmp_path):
    with Hub(tls=pair) as hub:
        hub.add("owner/model", FILES)
        refused(Machine(hub, tmp_path).pull(HF_TOKEN=TOKEN, SSL_CERT_FILE=None), hub.url, "ertificate")
        assert hub.log == []


def test_https_is_never_left_for_http(pair, tmp_path):
    with Hub(tls=pair) as hub:  # its CDN is http
        repo, machine = hub.add("owner/model", FILES), Machine(hub, tmp_path)
        refused(machine.pull(SSL_CERT_FILE=str(pair[0])), "rotocol")
        nothing_linked(machine, repo)
        assert hub.seen(server="cdn") == []


# ---- several at once, and signals ----

def test_two_pulls_at_once_download_each_file_once(hub, machine, repo):
    gate = Hold(1000, threading.Event())
    hub.faults[MODEL] = [gate]
    a = machine.start("pull", "owner/model")
    assert gate.reached.wait(30)
    b = machine.start("pull", "owner/model")
    for line in b.stderr:
        if "another process" in line:
            break
    gate.event.set()
    assert a.communicate(timeout=60)[0] == b.communicate(timeout=60)[0] == f"{machine.snapshot(repo)}\n"
    assert len(hub.seen("GET", "cdn")) == 1 and whole(machine, repo)


def test_lock_is_huggingface_hubs(hub, machine, repo):
    lock = machine.hub_folder / ".locks/models--owner--model" / f"{repo.etag(MODEL)}.lock"
    lock.parent.mkdir(parents=True)
    with open(lock, "w") as f:
        fcntl.flock(f, fcntl.LOCK_EX)
        p = machine.start("pull", "owner/model")
        for line in p.stderr:
            if "another process" in line:
                break
        assert hub.seen("GET", "cdn") == []
        lock.unlink()  # as its owner may when it is done: who waited must not take the nameless file for the lock
    assert p.communicate(timeout=60)[0] and p.returncode == 0 and lock.exists() and whole(machine, repo)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_pull_is_resumed(hub, machine, repo, number):
    gate = Hold(3_000_000, threading.Event())
    hub.faults[MODEL] = [gate]
    p = machine.start("pull", "owner/model")
    kept = machine.blob(repo, MODEL).with_name(repo.etag(MODEL) + ".incomplete")
    assert gate.reached.wait(30)
    while not kept.exists() or kept.stat().st_size < 1_000_000:
        assert p.poll() is None
    p.send_signal(number)
    out, err = p.communicate(timeout=30)
    gate.event.set()
    assert out == "" and (p.returncode == -9 or (p.returncode == 1 and "goes on where it was" in err))
    nothing_linked(machine, repo)
    size = kept.stat().st_size
    hub.log.clear()
    assert machine.pull().returncode == 0 and whole(machine, repo)
    assert [s.header("Range") for s in hub.seen("GET", "cdn")] == [f"bytes={size}-"]


def test_bar_on_a_terminal_shows_bytes_rate_and_time(hub, machine, repo):
    from screen import Screen
    gate = Hold(4_000_000, threading.Event())
    hub.faults[MODEL] = [gate]
    s = Screen(machine_bin(), "pull", "owner/model", env={**machine.env, "HF_TOKEN": None})
    text = s.wait(lambda t: "MB/s" in t and " left" in t and "[####" in t)
    assert "owner/model" in text and "of 7.2 MB" in text
    gate.event.set()
    assert s.end() == 0 and str(machine.snapshot(repo)) in s.text.replace("\n", "") and "MB/s" not in s.text


def machine_bin():
    from serving import BIN
    return BIN


def test_lines_without_a_terminal_are_few(machine, repo):
    r = machine.pull()
    assert "\r" not in r.stderr and "\x1b" not in r.stderr and len(r.stderr.splitlines()) <= 3


def test_full_disk_is_told_with_the_file(hub, machine, repo):
    """RLIMIT_FSIZE stands for the disk: SIGXFSZ is ignored, so the write fails."""
    import resource

    def limited():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000))
    r = subprocess.run([machine_bin(), "pull", "owner/model", "--retries", "0"], capture_output=True, text=True, env=machine.env, preexec_fn=limited, timeout=60)
    refused(r, ".incomplete", "File too large")
    assert machine.pull().returncode == 0 and whole(machine, repo)


def test_the_hub_of_the_tests_hashes_as_git_does():
    assert git_sha1(b"what is up, doc?") == "bd9dbf5aae1a3862dd1526723246b20206e5fc37"  # of the Git book
