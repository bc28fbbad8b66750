"""Strictness of the whole suite, and the one small problem that most tests of the core share.

The settings live here, so that they hold however pytest is started. Every jaxtyping annotation of nem_jax is a live
check in the suite (`test_em.py` shows that it is on); users pay nothing for it.
"""

import contextlib
import os
import sys
from typing import Any, NamedTuple

import forked
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jaxtyping import install_import_hook

if "nem_jax" in sys.modules:
    raise RuntimeError("nem_jax was imported before its shape checks were installed")
install_import_hook("nem_jax", "beartype.beartype")

EMITTERS = "xla_cpu_use_fusion_emitters"
"""Half of the work of compiling, unless one does without them; later versions of XLA cannot."""
HAS_CHOICE = jax.__version_info__ < (0, 11)


def pytest_configure(config):
    """XLA reads its flags at the first computation. Benchmarks measure what users have."""
    if config.option.markexpr == "benchmark":
        from experiments.benchmark import contests  # once nem_jax is under the hook

        contests.use_cpu()
        return
    jax.config.update("jax_num_cpu_devices", 8)  # simulated, for the tests of several; the others see one
    if HAS_CHOICE:
        os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --{EMITTERS}=false"


jax.config.update("jax_numpy_rank_promotion", "raise")


LONGEST = (
    "test_sequences", "test_kill", "test_launch", "test_devices", "test_results", "test_seeds", "test_training",
    "test_convolution", "test_evaluation", "test_unrolling", "test_docs", "test_config", "test_golden", "test_model",
)  # fmt: skip


def pytest_collection_modifyitems(items):
    """The longest modules first: a worker that begins one at the end leaves the other idle."""
    forked.collect_rarely()
    order = {name: place for place, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.stem, len(LONGEST)))


@pytest.fixture(scope="session", autouse=True)
def compilation_cache(tmp_path_factory):
    """Many tests and processes run the same small programs; a cached one computes the same numbers."""
    ours = tmp_path_factory.getbasetemp()
    directory = str((ours.parent if "PYTEST_XDIST_WORKER" in os.environ else ours) / "compilation_cache")
    jax.config.update("jax_compilation_cache_dir", directory)
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.2)
    jax.config.update("jax_persistent_cache_min_entry_size_bytes", -1)
    return directory


def has_marker(request, name):
    return request.node.get_closest_marker(name) is not None


@pytest.fixture(scope="module", autouse=True)
def _quick_compilation(request):
    """XLA's optimisations take half the time of a module of many small programs that run once."""
    jax.config.update("jax_disable_most_optimizations", has_marker(request, "compiled_quickly"))
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.fixture(scope="session")
def users_compiler():
    """Options of `jax.jit`: what this suite leaves out for the sake of speed."""
    return {EMITTERS: True} if HAS_CHOICE else {}


@pytest.fixture
def use_devices(monkeypatch):
    """`use_devices(count)` lets the library see so many."""
    from nem_jax import devices

    def use(count):
        monkeypatch.setattr(devices, "available", lambda: jax.devices()[:count])

    return use


@pytest.fixture(scope="session", autouse=True)
def _one_device(pytestconfig):
    """Not of benchmarks: they measure what users have."""
    if pytestconfig.option.markexpr == "benchmark":
        return
    from nem_jax import devices

    devices.available = lambda: jax.devices()[:1]


@pytest.fixture(scope="module", autouse=True)
def _dtype_promotion(request):
    """Not everywhere: optax's Adam (0.2.8) raises a float to an integer count."""
    with jax.numpy_dtype_promotion("strict" if has_marker(request, "strict_dtypes") else "standard"):
        yield


@pytest.fixture(scope="session")
def begin(compilation_cache, tmp_path_factory):
    """`begin(module, *arguments)` begins `python -m module`, in a process that compiles quickly."""
    forked.prepare(
        {
            "JAX_DISABLE_MOST_OPTIMIZATIONS": "1",
            "JAX_COMPILATION_CACHE_DIR": compilation_cache,
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
            "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
        }
    )
    return lambda *arguments, **options: forked.Command(tmp_path_factory.mktemp("said"), *arguments, **options)


@pytest.fixture(scope="session")
def launch(begin):
    """`launch(module, *arguments)` runs `python -m module` to its end."""
    return lambda *arguments: begin(*arguments).end(timeout=200)


@pytest.fixture(scope="session")
def begin_two(begin):
    """`with begin_two(module, *arguments, of_second=()) as commands:` two processes, one program; both are ended."""

    @contextlib.contextmanager
    def begun(*arguments, of_second=()):
        several = (f"--coordinator=127.0.0.1:{forked.free_port()}", "--num_processes=2", "--timeout=60")
        commands = [
            begin(*arguments, *several, f"--process_id={number}", *own, num_devices=2)
            for number, own in enumerate([(), of_second])
        ]
        try:
            yield commands
        finally:
            for command in commands:
                command.kill()

    return begun


@pytest.fixture(scope="session")
def assert_one_sentence():
    """Of a process: it refused its input so."""

    def check(done, sentence):
        assert done.returncode == 1
        assert done.stderr.startswith("error: ")
        assert sentence in done.stderr
        assert "Traceback" not in done.stderr
        assert len(done.stderr.strip().splitlines()) == 1

    return check


@pytest.fixture
def stop_at_checkpoint(monkeypatch):
    """`stop_at_checkpoint(step, train)` ends `train()` just before it saves a checkpoint of a later step."""
    from nem_jax.training.checkpoint import Checkpoints

    def stop(step, train):
        save = Checkpoints.save

        def stopping(self, state):
            if state.step.max() > step:
                raise KeyboardInterrupt
            save(self, state)

        monkeypatch.setattr(Checkpoints, "save", stopping)
        with pytest.raises(KeyboardInterrupt):
            train()
        monkeypatch.setattr(Checkpoints, "save", save)

    return stop


class Problem(NamedTuple):
    """One example with every axis of a different length, so that no transposed axis goes unnoticed."""

    cell: Any
    params: Any
    state: Any
    """Not the initial one: theta and psi are random."""
    x: jax.Array
    """Binary, [T, H, W, C]."""
    x_noisy: jax.Array


@pytest.fixture(scope="module")
def problem():
    from nem_jax import em
    from nem_jax.distributions import Bernoulli
    from nem_jax.networks.cells import RNNEMCell

    num_steps, num_components, image_shape, hidden_size = 4, 3, (5, 6, 2), 7
    keys = jax.random.split(jax.random.key(0), 6)
    module = RNNEMCell(hidden_size, Bernoulli().activation)
    params = module.init(keys[0], jnp.zeros(image_shape), jnp.zeros(hidden_size))["params"]
    # Six times the usual weights: the components differ, and so do the EM steps.
    params = jax.tree.map(lambda w: 6 * w, params)
    state = em.EMState(
        theta=jax.random.uniform(keys[1], (num_components, hidden_size)),
        psi=jax.random.uniform(keys[2], (num_components, *image_shape), minval=0.1, maxval=0.9),
        gamma=em.init_state(
            keys[3], num_components=num_components, hidden_size=hidden_size, image_shape=image_shape
        ).gamma,
    )
    x, x_noisy = (jax.random.bernoulli(key, 0.4, (num_steps, *image_shape)).astype(jnp.float32) for key in keys[4:])
    return Problem(lambda p, residual, theta: module.apply({"params": p}, residual, theta), params, state, x, x_noisy)


@pytest.fixture(scope="session")
def relative_error():
    """max|difference| / max|reference|, the measure of every comparison with a reference implementation."""

    def measure(value, reference):
        value, reference = np.asarray(value, np.float64), np.asarray(reference, np.float64)
        assert value.shape == reference.shape
        return np.max(np.abs(value - reference)) / np.max(np.abs(reference))

    return measure
