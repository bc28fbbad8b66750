"""What the documents tell people to type works."""

import functools
import importlib
import importlib.util
import re
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from ml_collections import config_flags

import nem_jax
from experiments.flying_mnist import config as flying_mnist
from experiments.recipe import base_config
from experiments.static_shapes import config as static_shapes
from experiments.static_shapes.config import get_config
from nem_jax.config import build_experiment, build_stages
from nem_jax.config.checks import value
from nem_jax.training.run import run
from nem_jax.training.workdir import WEIGHTS
from nem_jax.weights import read_weights, weights_sha256

pytestmark = pytest.mark.compiled_quickly

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


def test_each_equation_is_where_the_readme_says():
    table = (ROOT / "README.md").read_text().split("## Where each equation is")[1].split("\n\n")[1]
    seen = 0
    for cell in re.findall(r"\| ([^|]+) \|$", table, flags=re.MULTILINE)[2:]:
        module = None
        for file, name in re.findall(r"`(?:([\w/.{},*]+/[\w/.{},*]*)(?:: )?)?(\w+)?`", cell):
            module = ROOT / file if file else module
            if name:
                assert re.search(rf"^(def|class) {name}\b", module.read_text(), flags=re.MULTILINE), (module, name)
            else:
                before, options, after = re.fullmatch(r"([^{]*)(?:\{(.*)\})?(.*)", file).groups()
                assert all(list(ROOT.glob(f"{before}{option}{after}")) for option in (options or "").split(",")), file
            seen += 1
    assert seen == table.split("\n", 2)[2].count("`") / 2


def test_the_architecture_names_every_module():
    text = (ROOT / "README.md").read_text().split("## Architecture")[1]
    for folder in ("nem_jax", "nem_jax/networks", "experiments"):
        modules = {module.name for module in (ROOT / folder).glob("[a-z]*.py")}
        assert modules
        assert modules <= set(re.findall(r"\w+\.py\b", text)), folder


def test_every_flag_in_a_command_exists(launch):
    """Among those of that very command, and every field in the configurations; in the documents and in docstrings."""

    @functools.cache
    def flags_of(module):
        return set(re.findall(r"^ +--(?:\[no\])?(\w+):", launch(module, "--help").stdout, flags=re.MULTILINE))

    config, seen = base_config("any", "any", ("any",)), 0
    for document in [*DOCUMENTS, *sorted((ROOT / "experiments").rglob("*.py"))]:
        text = re.sub(r"\\\\?\n", "", document.read_text()).replace("$RUN", "python -m experiments.flying_shapes.run")
        for module, arguments in re.findall(r"python -m (experiments[\w.]*)([^`|\n]*)", text):
            for flag, field in re.findall(r" --(?:no)?(\w+)(?:\.([\w.]+))?", arguments):
                assert flag in flags_of(module), f"{module} --{flag}, in {document}"
                if field:
                    value(config, field)
                seen += 1
    assert seen > 60


def run_blocks(names, *beginnings):
    """README's code blocks that contain these, one after the other, as they stand."""
    for beginning in beginnings:
        (code,) = [block for block in blocks((ROOT / "README.md").read_text()) if beginning in block]
        exec(re.sub("^    ", "", code, flags=re.MULTILINE), names)


@pytest.mark.smoke
def test_the_readmes_code_runs():
    names = {}
    run_blocks(names, "load_pretrained(", "plots.overview(", "split.fetch(", "def cell(", "def objective(")
    assert names["segmentation"].shape == (28, 28, 1)
    assert names["ami"] == names["scores"].ami_max
    assert names["figure"].axes
    assert names["trajectories"].gamma.shape == (64, 15, 4, 28, 28, 1)
    assert names["trajectory"].gamma.shape == (15, 4, 28, 28, 1)
    assert jnp.isfinite(names["loss"].total)
    assert all(jnp.any(grad != 0) for grad in names["grads"].values())


def test_the_readmes_own_model_trains_and_its_trained_weights_load(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(ROOT)
    monkeypatch.chdir(tmp_path)
    config = get_config("smoke")
    config.data.num_training, config.training.max_epochs = 128, 1
    monkeypatch.setattr(static_shapes, "get_config", lambda name: config)
    run(config, "runs/k5")
    names = {}
    run_blocks(names, "load_pretrained(")
    scores = nem_jax.segmentation_scores(names["example"].groups[0], names["trajectory"].gamma[-1], num_groups=3)
    assert scores.ami_max > 0.3
    run_blocks(names, "load_trained(")
    trained = names["params"]
    assert weights_sha256(trained) == weights_sha256(read_weights(tmp_path / "runs" / "k5" / WEIGHTS))
    run_blocks(names, "def cell(", "def objective(", "Training.of(")
    assert names["state"].best_params["encoder"].shape == (1, 784, 64)
    run_blocks(names, "summarise(evaluate(")
    assert -0.01 < names["scores"]["ami_max_last"] < 1  # of a few steps of training: by chance AMI is as often below 0
    assert all(jnp.isfinite(score) for score in names["scores"].values())
    assert names["scores"]["total"] > 0


def test_the_readmes_own_configuration_is_one():
    names = {}
    run_blocks(names, "def get_config():")
    assert build_experiment(names["get_config"]()).model.num_components == 5


def test_the_readmes_stages_are_set():
    (stages,) = re.findall(r'--config\.stages="(.+?)"', (ROOT / "README.md").read_text())
    # beside them fields that have no value, whose types a flag cannot see
    others = ("data.digit_pool=9", "training.clip_norm=2.0", "training.scan_unroll=2", "training.seed_mapping=vmap")
    arguments = ["run", *(f"--config.{field}" for field in (f"stages={stages}", *others))]
    given, config = flags.FlagValues(), flying_mnist.get_config("smoke")
    config_flags.DEFINE_config_dict("config", config, flag_values=given, sys_argv=arguments)
    given(arguments)
    assert (config.data.digit_pool, config.training.clip_norm) == (9, 2.0)
    assert (config.training.scan_unroll, config.training.seed_mapping) == (2, "vmap")
    config.data.digit_pool = None  # as the last stage has it
    pools = [stage.load_data().splits["training"].source.pictures.shape[0] for stage in build_stages(config)]
    assert pools == [7, 1250]


def test_the_readmes_own_data_are_read(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    images = np.random.default_rng(0).random((1, 3, 28, 28, 1)).astype(np.float32)
    groups = (images > 0.5).astype(np.float32)
    run_blocks({"splits": dict.fromkeys(("training", "validation", "test"), (images, groups))}, "h5py.File(")
    dataset = nem_jax.load_hdf5(tmp_path / "mine.h5", (3, 2, 1), num_frames=1)
    example = dataset.sample(dataset.splits["validation"].source, jnp.int32(1))
    np.testing.assert_array_equal(example.x, images[:, 1])
