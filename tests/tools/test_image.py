"""Dockerfile.cuda against the program as it was built: its second stage installs Debian's package of each library that the program names."""
import os
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
BIN = os.environ.get("SPILLWAY_BIN", ROOT / "build/spillway")
NO_LIBRARIES = {"ca-certificates", "curl"}  # for the hub, and for HEALTHCHECK
EVERYWHERE = {"libc6"}


def output(*command):
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(not Path(BIN).exists(), reason="the program is not built")
@pytest.mark.skipif('VERSION_ID="12"' not in Path("/etc/os-release").read_text(), reason="the image is of Debian 12, whose packages have other names here")
def test_the_image_installs_the_libraries_that_the_program_names_and_no_others():
    last = (ROOT / "Dockerfile.cuda").read_text().split("\nFROM ")[-1].replace("\\\n", " ")
    installed = re.search(r"apt-get install -y --no-install-recommends ([^&]*)", last)[1].split()
    named = re.findall(r"\(NEEDED\).*\[(.*)\]", output("readelf", "-d", BIN))
    folder = output("gcc", "-print-multiarch").strip()
    packages = {line.split(":")[0] for line in output("dpkg", "-S", *(f"*/{folder}/{library}" for library in named)).splitlines()}
    assert set(installed) - NO_LIBRARIES == packages - EVERYWHERE
