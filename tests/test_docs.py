"""What the documents tell people to type works."""

import functools
import importlib
import importlib.util
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

import nem_jax

ROOT = Path(__file__).parents[1]
DOCUMENTS = [ROOT / "README.md", ROOT / "experiments" / "README.md"]


def blocks(text):
    """Indented code blocks."""
    return re.findall(r"(?:^    .*\n(?:^\s*$\n(?=    ))?)+", text, flags=re.MULTILINE)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.parent.name)
def test_every_module_configuration_and_file_named_exists(document):
    text = document.read_text()
    modules = set(re.findall(r"python -m ((?:experiments|nem_jax)[\w.]*)", text))
    assert modules
    for module in modules:
        spec = importlib.util.find_spec(module)  # not imported: their flags would collide
        assert spec, module
        source = Path(spec.origin).with_name("__main__.py") if spec.submodule_search_locations else Path(spec.origin)
        assert 'if __name__ == "__main__":' in source.read_text(), module
    for path, name in re.findall(r"--config=(experiments/\w+/config\.py):(\w+)", text):
        importlib.import_module(path.removesuffix(".py").replace("/", ".")).get_config(name)
    for link in re.findall(r"(?:\]\(|<img src=\")([\w./]+)[)\"]", text):
        assert (document.parent / link).exists(), link


def test_every_make_target_named_exists():
    named = set(
        re.findall(
            r"make ([a-z]+)\b",
            "\n".join(re.findall(r"`make [a-z]+`|^    make .*$", (ROOT / "README.md").read_text(), flags=re.MULTILINE)),
        )
    )
    targets = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert named >= {"demo", "test"}
    assert named <= targets


def test_the_architecture_names_every_module():
    text = (ROOT / "README.md").read_text()
    for module in (ROOT / "nem_jax").glob("[a-z]*.py"):
        assert f"{module.name} " in text, module.name


def run_blocks(names, *beginnings):
    """README's code blocks that contain these, one after the other, as they stand."""
    for beginning in beginnings:
        (code,) = [block for block in blocks((ROOT / "README.md").read_text()) if beginning in block]
        exec(re.sub("^    ", "", code, flags=re.MULTILINE), names)


@pytest.mark.smoke
def test_the_readmes_own_cell_runs():
    keys = jax.random.split(jax.random.key(0), 5)
    shapes = {"encoder": (784, 64), "recurrent": (64, 64), "decoder": (64, 784)}
    params = {
        name: 0.05 * jax.random.normal(key, shape) for (name, shape), key in zip(shapes.items(), keys, strict=False)
    }
    images = jax.random.bernoulli(keys[3], 0.2, (2, 1, 28, 28, 1)).astype(jnp.float32)
    x = jnp.tile(images[0], (15, 1, 1, 1))
    names = {"nem_jax": nem_jax, "functools": functools, "jax": jax, "jnp": jnp, "params": params, "key": keys[4],
             "x": x, "x_noisy": x, "init": lambda key: params, "keys": keys[:2], "images": images}  # fmt: skip
    run_blocks(names, "def cell(", "def objective(")
    assert names["trajectory"].gamma.shape == (15, 4, 28, 28, 1)
    assert jnp.isfinite(names["loss"].total)
    assert all(jnp.any(grad != 0) for grad in names["grads"].values())


def test_the_readmes_trained_weights_group_an_image():
    names = {}
    run_blocks(names, "load_pretrained(")
    assert names["segmentation"].shape == (28, 28, 1)
    scores = nem_jax.segmentation_scores(names["trajectory"].gamma[-1], names["example"].groups[0], num_groups=3)
    assert scores.ami_max > 0.3
