"""docs/security.md: every test, file and fuzz target that a claim names is there."""
import pathlib
import re

ROOT = pathlib.Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/security.md").read_text()
SOURCES = "\n".join(p.read_text(errors="replace") for folder in ("tests", "bench") for p in (ROOT / folder).rglob("*")
                    if p.suffix in (".py", ".c") and p != pathlib.Path(__file__))
FILES = {p.name for p in (ROOT / "tests").rglob("*")}


def there(name):
    """A file, a unit test program, a test, or a row's tests (test_t13_*)."""
    if "/" in name:
        return (ROOT / name).is_file()
    if name in FILES or name + ".c" in FILES:
        return True
    name = re.escape(name).replace("\\*", r"\w+")
    return re.search(rf"(def|void) {name}\(", SOURCES) is not None


def claims():
    return [line for line in PAGE.splitlines() if line.startswith("| ") and "claim | test" not in line]


def test_every_claim_names_a_test():
    assert len(claims()) > 40
    for line in claims():
        assert "`" in line.rsplit("|", 2)[1], line


def test_every_named_test_is_there():
    for line in claims():
        cell = line.rsplit("|", 2)[1]
        for target in re.findall(r"fuzz targets? `(\w+)`", cell):
            assert (ROOT / f"tests/fuzz/fuzz_{target}.c").is_file(), target
        for name in re.findall(r"`([^`]+)`", re.sub(r"fuzz targets? `\w+`", "", cell)):
            assert there(name), name


def test_the_search_misses_what_is_not_there():
    assert not there("test_t99_*") and not there("test_nothing_of_the_kind") and not there("bench/nothing.c")
