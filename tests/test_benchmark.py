"""What `experiments.benchmark` measures, on a small model; times themselves are not asserted."""

import gzip
import itertools
import json

import numpy as np
import pytest

from experiments.benchmark import contests, measure
from experiments.benchmark.agreement import largest_difference
from experiments.benchmark.contest import OURS, Memory, peak_ratio, time_ratio, working_ratio
from experiments.static_shapes.config import get_config

pytestmark = pytest.mark.compiled_quickly


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setattr(measure, "TURN_SECONDS", 0.01)
    monkeypatch.setattr(measure, "NUM_TURNS", 3)
    small = get_config("smoke")
    small.training.batch_size = 8
    return small


def test_the_work_of_an_example_is_that_of_its_matrix_products(config):
    """RNN-EM: three products a step and component, each again for both gradients, 2 FLOP per weight; and some noise."""
    pixels, hidden = 28 * 28, config.model.hidden_size
    weights = pixels * hidden + hidden * hidden + hidden * pixels
    for num_steps in (3, 6):
        config.model.num_steps = num_steps
        products = 3 * 2 * weights * config.model.num_components * num_steps
        assert products < measure.flop_per_example(config) < 1.4 * products


def test_a_step_is_timed_and_its_memory_grows_with_k(config):
    told = []
    found = measure.growth(config, {"K": ("model.num_components", [2, 8])}, told.append)["K"]
    assert [line.split(":")[0] for line in told] == ["K = 2", "K = 8"]
    assert min(found["min_ms"]) > 0
    assert 2 < found["megabytes"][1] / found["megabytes"][0] < 6


@pytest.mark.parametrize("count", [1, 2])
def test_the_peak_is_of_all_devices_at_once(use_devices, monkeypatch, count):
    """By a clock of one second a look, each of three products, on every device, takes a third of one."""
    use_devices(count)
    monkeypatch.setattr(measure.time, "perf_counter", itertools.count().__next__)
    assert measure._matmul_speed(8) == pytest.approx(count * 2 * 8**3 * 3)


@pytest.fixture
def command(monkeypatch, config):
    """`python -m experiments.benchmark` in this process, on the small model: its `measure` with the flags' values."""
    from absl import flags

    from experiments.benchmark import __main__ as benchmark

    if not flags.FLAGS.is_parsed():
        flags.FLAGS.mark_as_parsed()
    monkeypatch.setattr(benchmark, "models", lambda: {"small": config})
    monkeypatch.setattr(benchmark, "VARIED", {"K": ("model.num_components", [4])})
    monkeypatch.setattr(benchmark, "static_shapes", lambda name: config.copy_and_resolve_references())
    monkeypatch.setattr(measure, "_matmul_speed", lambda size: 1e9)
    return benchmark


def test_the_command_measures_its_parts_and_draws_growth(command, config, tmp_path):
    config.num_seeds = 2
    command.flags.FLAGS.parts = ["models", "growth"]
    record, arrays = command.measure()
    assert not arrays
    step = record["models"]["steps"]["small"]
    assert step["share_of_peak"] == pytest.approx(step["flop_per_example"] * step["examples_per_second"] / 1e9)
    assert step["examples_per_second"] == pytest.approx(2 * 8 / (step["ms"] / 1e3))
    assert step["compile_seconds"] > 0
    command.draw(record, {}, tmp_path / "picture")
    assert (tmp_path / "picture.png").stat().st_size > 5_000
    command.flags.FLAGS.parts = ["speed"]
    with pytest.raises(ValueError, match="--parts must be some of models, growth"):
        command.measure()


def test_five_seeds_are_measured_in_either_mapping(command, monkeypatch):
    timed = []
    monkeypatch.setattr(
        command,
        "training_step",
        lambda config: timed.append((config.num_seeds, config.training.seed_mapping)) or {"min_ms": 1.0},
    )
    command.flags.FLAGS.parts = ["seeds"]
    record, _ = command.measure()
    for cell in ("rnn_em", "n_em"):
        assert set(record["seeds"][cell]["min_ms"]) == {"one", "sequence", "vmap"}
    assert timed == [(1, None), (5, "sequence"), (5, "vmap")] * 2


def test_remat_is_measured_in_every_form(command, monkeypatch):
    """Of the convolutional model not with its steps laid out: that takes minutes to compile."""
    seen = []

    def measured(config, *_):
        seen.append((config.experiment, config.training.remat, config.training.scan_unroll))
        return {"T": {"values": command.LONG}, "ms": 1.0, "megabytes": 2.0}

    monkeypatch.setattr(command, "growth", measured)
    monkeypatch.setattr(command, "training_step", measured)
    command.flags.FLAGS.parts = ["remat"]
    found = command.measure()[0]["remat"]
    loops = [("none", 1), ("elementwise", 1), ("all", 1)]
    assert [form[1:] for form in seen if form[0] == "static_shapes"] == [("none", None), *loops]
    assert [form[1:] for form in seen if form[0] == "flying_shapes"] == loops
    assert {form: "flying" in lines for form, lines in found.items()} == {
        "laid out": False, "none": True, "elementwise": True, "all": True
    }  # fmt: skip


def test_an_unknown_contest_is_one_sentence():
    with pytest.raises(
        SystemExit, match="the contest must be one of static_shapes, flying_shapes, flying_mnist, got 'mnist'"
    ):
        contests.main("mnist")


def test_tensorboard_and_perfetto_find_a_trace(command, tmp_path):
    command.profile(str(tmp_path))
    assert list(tmp_path.rglob("*.xplane.pb"))
    (trace,) = tmp_path.rglob("perfetto_trace.json.gz")
    assert json.loads(gzip.decompress(trace.read_bytes()))["traceEvents"]


def test_ratios_are_of_the_best_of_the_others():
    assert time_ratio({OURS: [1.0, 2.0, 9.0], "a": [4.0], "b": [8.0]}) == 0.5
    memories = {OURS: Memory(2, 9), "a": Memory(4, 18), "b": Memory(8, 36)}
    assert (working_ratio(memories), peak_ratio(memories)) == (0.5, 0.5)


def test_the_peak_is_the_best_size_and_the_difference_the_worst_array(monkeypatch):
    monkeypatch.setattr(measure, "_matmul_speed", float)
    assert measure.matmul_peak() == 2048
    pairs = [(np.ones(2), np.ones(2)), (np.array([1.0, 3.0]), np.array([1.0, 4.0]))]
    assert largest_difference(pairs) == 0.25
