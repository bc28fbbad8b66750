"""Several devices, simulated: the same numbers as one, each device its share, and no exchange but the gradients'."""

import dataclasses
import importlib
import os
import re
import subprocess
import sys
from types import SimpleNamespace
from typing import NamedTuple

import chex
import jax
import numpy as np
import pytest

from experiments.benchmark import contests
from experiments.benchmark.convolutional import paper_config
from experiments.cores import use_cores
from experiments.flying_shapes.config import get_config as flying_shapes
from experiments.static_shapes.config import get_config as static_shapes
from nem_jax import devices, evaluation
from nem_jax.config import build_experiment
from nem_jax.data.hdf5 import load_hdf5
from nem_jax.data.hdf5_writer import write_hdf5
from nem_jax.devices import make_mesh, place, training_mesh
from nem_jax.evaluation import evaluate
from nem_jax.losses import StepLoss
from nem_jax.training import loop
from nem_jax.training.checkpoint import Checkpoints
from nem_jax.training.loop import Training
from nem_jax.training.run import run
from nem_jax.training.state import TrainState
from nem_jax.training.step import train_steps

pytestmark = pytest.mark.compiled_quickly

NUM_STEPS, BATCH_SIZE = 20, 16
COLLECTIVE = re.compile(r"= (.*?) (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\(")


def tiny(get_config=static_shapes, num_seeds=1, **training):
    config = get_config("smoke")
    config.num_seeds = num_seeds
    config.data.num_training, config.data.num_validation, config.data.num_test = 96, 30, 20
    config.model.hidden_size = 8
    config.training.update({"batch_size": BATCH_SIZE, "log_interval": 4, **training})
    return build_experiment(config)


class Steps(NamedTuple):
    """`NUM_STEPS` of training, one compiled step after the other, and what came of them."""

    program: str
    """HLO of one device."""
    flops: float
    """Of one device, loops counted once."""
    state: TrainState
    loss: np.ndarray
    """Of each step and seed."""


def steps_of(experiment):
    training = Training.of(experiment)
    num_seeds = len(experiment.seeds)
    indices = np.arange(NUM_STEPS * BATCH_SIZE).reshape(1, NUM_STEPS, BATCH_SIZE) % 96
    batches, active = np.repeat(indices, num_seeds, axis=0), np.full(num_seeds, fill_value=True)
    state, compiled, losses = loop.create(training), None, []
    for batch in np.split(batches, NUM_STEPS, axis=1):
        arguments = loop.step_arguments(training, state, batch, active)
        compiled = compiled or train_steps.jitted.lower(*arguments).compile()
        state, progress = compiled(*arguments[1:])
        losses.append(jax.device_get(progress.loss.total))
    assert compiled is not None
    return Steps(compiled.as_text(), compiled.cost_analysis()["flops"], jax.device_get(state), np.array(losses))


@pytest.fixture(scope="module")
def alone():
    """Two seeds on one device."""
    return steps_of(tiny(num_seeds=2))


@pytest.mark.parametrize(
    ("count", "mapping", "mesh"),
    [(2, "sequence", (2, 1)), (4, "vmap", (2, 2)), (8, "sequence", (2, 4)), (4, "vmap", (1, 4))],
)
def test_the_numbers_do_not_depend_on_the_devices(alone, use_devices, count, mapping, mesh):
    """Of any step: seeds with devices of their own, or two on each."""
    use_devices(count)
    experiment = tiny(num_seeds=2, seed_mapping=mapping, seed_devices=mesh[0])
    assert Training.of(experiment).mesh.devices.shape == mesh
    shared = steps_of(experiment)
    np.testing.assert_allclose(shared.loss, alone.loss, rtol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(shared.state), jax.tree.leaves(alone.state), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())


@pytest.mark.parametrize("get_config", [static_shapes, flying_shapes])
def test_devices_of_a_batch_exchange_gradients_alone(use_devices, get_config):
    """Eight devices, two examples each: an eighth of the work but for the optimiser's, and one sum per weight and loss.

    Were a sum inside the EM scan, it would lie in another computation; were it of each EM step, it would be T times as
    large.
    """
    alone = steps_of(tiny(get_config))
    use_devices(8)
    shared = steps_of(tiny(get_config))
    computations = re.split(r"\n(?=%|ENTRY)", shared.program)
    found = [exchanged for exchanged in map(COLLECTIVE.findall, computations) if exchanged]
    assert len(found) == 1
    assert {kind for _, kind in found[0]} == {"all-reduce"}
    num_weights = sum(leaf.size for leaf in jax.tree.leaves(alone.state.params))
    assert sum(num_elements(shapes) for shapes, _ in found[0]) == num_weights + len(StepLoss._fields)
    assert shared.flops < alone.flops / 8 + 60 * num_weights
    np.testing.assert_allclose(shared.loss, alone.loss, rtol=1e-5)


def num_elements(shapes):
    """Of HLO such as `(f32[], f32[8,784]{1,0})`."""
    return sum(int(np.prod([int(n) for n in size.split(",") if n])) for size in re.findall(r"\w+\[([\d,]*)\]", shapes))


def test_a_batch_in_parts_has_the_gradient_of_the_whole(alone, use_devices):
    use_devices(2)
    parts = steps_of(tiny(num_seeds=2, seed_devices=1, num_microbatches=4))
    np.testing.assert_allclose(parts.loss, alone.loss, rtol=1e-5)
    for ours, theirs in zip(jax.tree.leaves(parts.state), jax.tree.leaves(alone.state), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4 * np.abs(theirs).max())  # Adam's moments among them
    assert parts.flops < 0.5 * alone.flops


def test_stored_data_train_on_several_devices(use_devices, tmp_path):
    """Resident on all devices, or streamed from the file: with the numbers of the generated data."""
    use_devices(4)
    training = Training.of(tiny(num_seeds=2))
    write_hdf5(tmp_path / "shapes.h5", training.dataset)
    _, expected = four_steps(training, loop.create(training))
    for max_bytes in (2**31, 0):
        stored = load_hdf5(tmp_path / "shapes.h5", (96, 30, 20), max_resident_bytes=max_bytes)
        splits = {
            name: split.moved(lambda source: place(source, training.mesh)) for name, split in stored.splits.items()
        }
        changed = training._replace(dataset=dataclasses.replace(stored, splits=splits))
        _, losses = four_steps(changed, loop.create(changed))
        np.testing.assert_allclose(losses, expected, rtol=1e-6)


def test_all_devices_share_an_evaluation(use_devices, monkeypatch):
    """A split of 30 in batches that the devices do not divide; examples that fill up the last count once."""
    experiment = tiny()
    model, dataset = experiment.model, experiment.load_data()
    arguments = (model, model.init(jax.random.key(1)), jax.random.key(2), dataset, "validation")
    one = evaluate(*arguments, batch_size=30)
    use_devices(8)
    evaluate_batch, shares = evaluation.evaluate_batch, []

    def watched(*arguments):
        index = arguments[5]
        shares.extend(shard.data.size / index.size for shard in index.addressable_shards)
        return evaluate_batch(*arguments)

    monkeypatch.setattr(evaluation, "evaluate_batch", watched)
    eight = evaluate(*arguments, batch_size=12, mesh=make_mesh(seed_devices=2))
    assert shares == [1 / 8] * 16  # of two batches
    for ours, theirs in zip(jax.tree.leaves(eight), jax.tree.leaves(one), strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=0.02)  # rounding decides some pixels of no component


def test_a_checkpoint_of_eight_devices_resumes_on_others(use_devices, tmp_path):
    experiment = tiny(num_seeds=2, seed_devices=2)
    use_devices(8)
    with Checkpoints(tmp_path) as checkpoints:
        training = Training.of(experiment)
        state, _ = four_steps(training, loop.create(training))
        checkpoints.save(state)
        saved = jax.device_get(state)
        _, loss = four_steps(training, state)
        for count in (1, 2, 4):
            use_devices(count)
            training = Training.of(tiny(num_seeds=2))
            state = checkpoints.restore(loop.create(training))
            chex.assert_trees_all_equal(jax.device_get(state), saved)
            np.testing.assert_allclose(four_steps(training, state)[1], loss, rtol=1e-5)


@pytest.mark.parametrize(("num_seeds", "count", "shape"), [(6, 4, (2, 2)), (3, 2, (1, 2)), (5, 5, (5, 1))])
def test_seeds_get_as_many_devices_as_divide_both(use_devices, num_seeds, count, shape):
    use_devices(count)
    assert training_mesh(num_seeds, 16, num_microbatches=1).devices.shape == shape


def four_steps(training, state):
    batches = np.arange(2 * 4 * BATCH_SIZE).reshape(2, 4, BATCH_SIZE) % 96
    return loop.take_steps(training, state, batches, np.array([True, True]))


@pytest.mark.parametrize(
    ("num_seeds", "options", "sentence"),
    [
        (1, {"batch_size": 12}, "training.batch_size must be a multiple of 8, got 12"),
        (1, {"num_microbatches": 4}, "training.batch_size must be a multiple of 32, got 16"),
        (2, {"seed_devices": 3}, r"training.seed_devices must divide num_seeds \(2\), got 3"),
        (3, {"seed_devices": 3}, r"training.seed_devices must divide both num_seeds \(3\) and .* \(8\), got 3"),
        (2, {"seed_devices": 4}, r"training.seed_devices must divide num_seeds \(2\), got 4"),
    ],
)
def test_what_the_devices_do_not_divide_is_refused(use_devices, tmp_path, num_seeds, options, sentence):
    use_devices(8)
    config = static_shapes("smoke")
    config.num_seeds = num_seeds
    config.training.update({"batch_size": BATCH_SIZE, **options})
    with pytest.raises(ValueError, match=sentence):
        run(config, str(tmp_path / "run"))
    assert not (tmp_path / "run").exists()


CORES = """
import jax
from nem_jax import devices
for num_examples, cores in [(64, 1), (64, 2), (64, 3), (64, 16), (96, 3), (33, 2), (31, 2), (8, 4)]:
    jax.config.update("jax_num_cpu_devices", -1)
    devices.num_cores = lambda: cores
    devices.make_cores_devices(num_examples)
    print(jax.config.values["jax_num_cpu_devices"], end=" ")
devices.num_cores = lambda: 2
devices.make_cores_devices(64)
print(len(jax.devices()))
"""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ({}, "1 2 2 4 3 1 1 1 1"),  # the last call finds the 1 of the one before, and leaves it
        ({"XLA_FLAGS": "--xla_force_host_platform_device_count=3"}, "-1 -1 -1 -1 -1 -1 -1 -1 3"),
    ],
)
def test_cores_are_devices_where_each_has_enough_to_do(given, expected):
    environ = {**os.environ, "JAX_PLATFORMS": "cpu", **given}
    environ.pop("JAX_NUM_CPU_DEVICES", None)
    done = subprocess.run([sys.executable, "-c", CORES], env=environ, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected


def test_what_the_user_has_set_stays(monkeypatch):
    monkeypatch.setattr(devices, "num_cores", lambda: 2)
    devices.make_cores_devices(64)
    assert jax.config.values["jax_num_cpu_devices"] == 8  # conftest's


def test_all_batches_of_a_run_can_be_split(monkeypatch):
    asked = []
    monkeypatch.setattr(devices, "make_cores_devices", asked.append)
    parts, staged = static_shapes("rnn_em"), static_shapes("rnn_em")
    parts.training.update({"batch_size": 144, "num_microbatches": 2})
    staged.training.batch_size = 160
    staged.stages = ({"training.batch_size": 96}, {"training.batch_size": 160})
    use_cores([parts])
    use_cores([staged])
    use_cores([parts, staged])
    assert asked == [72, 32, 8]


@pytest.mark.parametrize(
    ("module", "flags", "start", "names"),
    [
        ("sweep", {"EXPERIMENT": "static_shapes", "NAMES": ["smoke", "rnn_em"], "DIRECTORY": "none", "SEEDS": 1,
                   "MNIST_DIR": None, "PUBLISH": False}, "main", {"smoke", "rnn_em"}),
        ("static_shapes.demo", {"DIRECTORY": "none"}, "main", {"demo"}),
        ("static_shapes.ablation", {"DIRECTORY": "none", "EPOCHS": 2, "NUM_TEST": 9}, "measure", {"rnn_em_best"}),
        ("benchmark.__main__", {"PROFILE": None}, "main", {"rnn_em", "n_em", "rnn_em_3_3", "direct"}),
    ],
)  # fmt: skip
def test_every_command_that_trains_has_all_cores_before_it_does(monkeypatch, module, flags, start, names):
    class Asked(Exception):
        pass

    def ask(configs):
        raise Asked({config.name for config in configs})

    command = importlib.import_module(f"experiments.{module}")
    for flag, value in flags.items():
        monkeypatch.setattr(command, f"_{flag}", SimpleNamespace(value=value))
    monkeypatch.setattr(command, "use_cores", ask)
    for trains in {"run", "run_unless_finished", "training_step"} & set(vars(command)):
        monkeypatch.setattr(command, trains, None)  # a call would be another error
    with pytest.raises(Asked) as asked:
        getattr(command, start)()
    assert asked.value.args == (names,)


def test_contests_share_a_batch_size(monkeypatch):
    """PyTorch's are of one program, which sees as many devices as that of static shapes."""
    asked = []
    monkeypatch.setattr(contests, "use_cores", asked.extend)
    monkeypatch.setattr(jax.config, "update", lambda *_: None)
    contests.use_cpu()
    sizes = {config.training.batch_size for config in (*asked, *map(paper_config, ("flying_shapes", "flying_mnist")))}
    assert sizes == {64}
