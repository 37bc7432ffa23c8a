"""The weights that are made from recipes: the same bytes as the reference computed with, and an error if they ever are not."""
import json
import shutil

import numpy as np
import pytest

from golden_io import safetensors_load
from oracle import weights

NAME = "model.safetensors"


@pytest.fixture
def folder(golden, tmp_path):
    """A model folder without its weights."""
    recipe = golden / "models" / "smollm2-bf16" / weights.RECIPE
    if not recipe.exists():
        pytest.skip("these goldens were not made from recipes")
    shutil.copy(recipe, tmp_path)
    return tmp_path


def edit(folder, change):
    path = folder / weights.RECIPE
    recipe = json.loads(path.read_text())
    change(recipe)
    path.write_text(json.dumps(recipe))


def test_restored_weights_are_the_golden_ones(golden, folder):
    weights.restore(folder)
    assert (folder / NAME).read_bytes() == (golden / "models" / "smollm2-bf16" / NAME).read_bytes()


@pytest.mark.parametrize("change", [
    pytest.param(lambda r: r.update(seed=r["seed"] + 1), id="another seed"),
    pytest.param(lambda r: r.update(dtype="F32"), id="another type"),
    pytest.param(lambda r: r["files"][0]["tensors"].pop(), id="a tensor less"),
])
def test_weights_that_are_not_the_recipes_are_an_error(folder, change):
    edit(folder, change)
    with pytest.raises(ValueError, match="not those of the recipe"):
        weights.restore(folder)
    assert not (folder / NAME).exists()


def test_bf16_rounds_to_nearest_even():
    one = np.array([1.0], np.float32).view(np.uint32)[0]
    halfway, above, odd_halfway = one + 0x8000, one + 0x8001, one + 0x18000
    x = np.array([one, halfway, above, odd_halfway], np.uint32).view(np.float32)
    assert weights.to_bf16(x).tolist() == [0x3F80, 0x3F80, 0x3F81, 0x3F82]


def test_weights_are_roughly_normal():
    """Mean, deviation and tails of the sum of four uniform numbers."""
    x = weights.normal(weights.bits64(1, "model", "tensor", 100000))
    assert abs(x.mean()) < 0.02 and abs(x.std() - 1) < 0.01 and 3 < np.abs(x).max() < np.sqrt(12) + 1e-3


def test_every_weight_file_of_a_restored_set_is_readable(golden):
    files = sorted((golden / "models").glob("*/model*.safetensors"))
    assert files
    for f in files:
        if "quantization_config" not in json.loads((f.parent / "config.json").read_text()):
            assert all(np.isfinite(x).all() for x in safetensors_load(f).values())
