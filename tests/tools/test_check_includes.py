"""tools/check_includes on this tree, and on small trees with one fault each."""
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent


def check(tree):
    done = subprocess.run([sys.executable, ROOT / "tools/check_includes", tree], capture_output=True, text=True)
    return done.returncode, done.stdout


def test_this_tree_keeps_its_shape():
    assert check(ROOT) == (0, "includes point downwards\n")


def plant(tree, name, text):
    (tree / name).parent.mkdir(parents=True, exist_ok=True)
    (tree / name).write_text(text)


GOOD = {
    "server/http.c": '#include "engine/prompt.h"\n#include "base/err.h"\n#include <stdio.h>\n',
    "engine/model.c": '#include "engine/text/tokenizer.h"\n#include "kernels/ops.h"\n',
    "engine/text/tokenizer.c": '#include "engine/text/tokenizer.h"\n#include "base/str.h"\n',
    "kernels/cuda/gemm.cu": "#include <cuda_runtime.h>\n",
    "server/cli/env.c": 'const char *env_get(void) { return getenv("X"); }\n',
}


@pytest.mark.parametrize("name, text, says", [
    ("engine/model.c", '#include "server/http.h"\n', "engine may not include server/http.h"),
    ("weights/files.c", ' # include "engine/model.h"\n', "weights may not include engine/model.h"),
    ("kernels/cpu/gemm.c", '\n#include "weights/config.h"\n', "kernels may not include weights/config.h"),
    ("base/json.c", '#include "kernels/ops.h"\n', "base may not include kernels/ops.h"),
    ("engine/text/template.c", '#include "engine/model.h"\n', "engine/text may not include engine/model.h"),
    ("engine/media/png.c", '#include "kernels/ops.h"\n', "engine/media may not include kernels/ops.h"),
    ("server/http.c", '#include "tests/unit/golden.h"\n', "server may not include tests/unit/golden.h"),
    ("server/providers/wire.c", '#include "server/completion.h"\n', "server/providers may not include server/completion.h"),
    ("kernels/cuda/gemm.cu", '#include "engine/model.h"\n', "kernels may not include engine/model.h"),
    ("engine/model.c", '#include "../server/http.h"\n', "engine may not include ../server/http.h"),
    ("engine/model.c", 'int x = getenv("X") != 0;\n', "getenv belongs to server/cli/env.c"),
    ("server/http.c", 'int x = secure_getenv ("X") != 0;\n', "getenv belongs to server/cli/env.c"),
    ("engine/model.c", "#include <cuda_runtime.h>\n", "CUDA headers belong under kernels/cuda"),
])
def test_a_planted_fault_is_found(tmp_path, name, text, says):
    for good, body in GOOD.items():
        plant(tmp_path, good, body)
    assert check(tmp_path)[0] == 0
    plant(tmp_path, name, text)
    code, found = check(tmp_path)
    assert code == 1
    assert found.count("\n") == 1 and name in found and says in found
