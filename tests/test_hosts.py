"""Several processes as one program: over loopback, with two simulated devices each."""

import os
import socket
import threading
import time

import jax
import pytest
from forked import free_port

from experiments.static_shapes.config import get_config
from nem_jax import hosts, rendezvous
from nem_jax.config import build_experiment
from nem_jax.training import trained

pytestmark = pytest.mark.compiled_quickly


def test_processes_of_different_configurations_are_refused(begin_two, tmp_path):
    command = ("experiments.static_shapes.run", "--config=experiments/static_shapes/config.py:smoke")
    different = ["--config.training.learning_rate=0.5"]
    with begin_two(*command, f"--workdir={tmp_path / 'run'}", of_second=different) as commands:
        for command in commands:
            done = command.end(timeout=60)
            assert done.returncode == 1
            assert "all processes must have the same configuration, workdir and code, but [1] differ" in done.stderr
            assert "Traceback" not in done.stderr
    assert not (tmp_path / "run").exists()


def test_an_error_without_words_is_reported_too(capsys):
    hosts._report(MemoryError())
    assert capsys.readouterr().err.endswith(
        "error: MemoryError(): if another process ended, start all of them again, the run resumes\n"
    )


def test_a_process_that_fails_among_others_ends_at_once(monkeypatch, capsys):
    """Leaving in order would wait for them."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    with hosts.ending_together():
        raise RuntimeError("connection lost")
    assert ended == [1]
    assert "error: connection lost: if another process ended, start all of them again" in capsys.readouterr().err


def test_an_interrupted_process_among_others_ends_at_once(monkeypatch, capsys):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    ended = []
    monkeypatch.setattr(os, "_exit", ended.append)
    monkeypatch.setattr(hosts, "_report", lambda error: None)
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    with hosts.ending_together():
        raise KeyboardInterrupt
    assert ended[0] == 130
    assert capsys.readouterr().err == "interrupted: start all of the processes again, the run resumes\n"


@pytest.mark.parametrize(
    ("told", "sentence"),
    [(["", "no such file"], "process 1: no such file"), (["no space", ""], "no space"), (["", ""], None)],
)
def test_what_fails_on_one_process_fails_on_all(monkeypatch, told, sentence):
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts, "_tell_all", lambda words: said.append(words) or told)
    said = []
    if sentence is None:
        assert hosts.together(lambda: 7) == 7
    else:
        with pytest.raises(ValueError, match=f"^{sentence}$"):
            hosts.together(lambda: 7)
    assert said == [""]
    with pytest.raises(OSError, match=r"^mine$"):
        hosts.together(lambda: (_ for _ in ()).throw(OSError("mine")))
    assert said == ["", "mine"]


def test_initial_weights_that_another_process_does_not_see_stop_all(monkeypatch):
    """Before this one waits for it to load them."""
    config = get_config("smoke")
    config.training.init_from = "static_shapes_rnn_em"
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(hosts, "_tell_all", lambda words: ["", "there is no run"])
    monkeypatch.setattr(trained, "load_trained", lambda source: pytest.fail("loaded"))
    with pytest.raises(ValueError, match=r"^training\.init_from: process 1: there is no run$"):
        trained.initial_params(build_experiment(config))


@pytest.fixture
def connected(monkeypatch):
    """What JAX was told, instead of telling it."""
    calls = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda *args, **kwargs: calls.append((args, kwargs)))
    return calls


def connect_all(port, process_ids, num_processes, timeout=20):
    """`hosts.connect` for each; returns the sentences of those that were refused."""
    refused = []

    def connect(process_id):
        try:
            hosts.connect(f"127.0.0.1:{port}", num_processes, process_id, timeout)
        except ValueError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=connect, args=(process_id,)) for process_id in process_ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    return refused


def test_processes_wait_for_each_other(connected):
    assert not connect_all(free_port(), [2, 1, 0], 3)
    assert sorted(args[2] for args, _ in connected) == [0, 1, 2]


def test_a_process_that_stays_away_is_named(connected):
    (sentence,) = connect_all(free_port(), [0], 3, timeout=1)
    assert sentence == "--num_processes: processes [1, 2] did not come within 1 s"
    assert not connected


def test_a_coordinator_that_does_not_answer_is_named(connected):
    port = free_port()
    (sentence,) = connect_all(port, [1], 2, timeout=1)
    assert sentence == f"--coordinator: 127.0.0.1:{port} does not answer within 1 s: is process 0 running there?"
    with socket.create_server(("127.0.0.1", 0)) as another:  # which listens, and says nothing
        (sentence,) = connect_all(another.getsockname()[1], [1], 2, timeout=1)
    assert "does not answer within 1 s" in sentence
    assert not connected


def test_strangers_are_sent_away_and_one_started_again_takes_its_place(connected, monkeypatch):
    monkeypatch.setattr(rendezvous, "_ANSWER_SECONDS", 0.2)
    port = free_port()
    main = threading.Thread(target=hosts.connect, args=(f"127.0.0.1:{port}", 3, 0, 20))
    main.start()
    strangers = (b"", b"GET /", b"7")  # silent, another program, a number that nobody has
    for words in (*strangers, b"1"):  # the last is gone before the others come
        with _connection(port) as stranger:
            stranger.sendall(words)
            time.sleep(0.3)
    second = threading.Thread(target=hosts.connect, args=(f"127.0.0.1:{port}", 3, 2, 20))
    second.start()
    second.join(1)
    assert not connected, "the dead process 1 was counted"
    assert not connect_all(port, [1], 3)
    for thread in (main, second):
        thread.join(60)
    assert len(connected) == 3


def _connection(port):
    for _ in range(100):
        try:
            return socket.create_connection(("127.0.0.1", port), timeout=1)
        except OSError:
            time.sleep(0.05)
    raise AssertionError("nobody listens")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("10.0.0.1", 2, 0), "--coordinator must be an address with a port"),
        (("10.0.0.1:port", 2, 0), "--coordinator must be an address with a port"),
        (("10.0.0.1:0", 2, 0), "--coordinator must be an address with a port"),
        (("10.0.0.1:65536", 2, 1), "--coordinator must be an address with a port"),
        (("10.0.0.1:8476", 2, 2), "--process_id must be from 0 to --num_processes - 1, got 2 of 2"),
    ],
)
def test_wrong_addresses_and_numbers_are_refused(connected, arguments, sentence):
    with pytest.raises(ValueError, match=sentence):
        hosts.connect(*arguments, timeout=1)
    assert not connected


INDEXED_JOB = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "0"}


@pytest.mark.parametrize(
    ("environ", "name"),
    [
        ({}, None),
        ({"SLURM_STEP_NUM_TASKS": "1"}, None),
        ({"SLURM_STEP_NUM_TASKS": "2"}, "Slurm"),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, None),
        (INDEXED_JOB, "Kubernetes"),
    ],
)
def test_who_started_several_processes(monkeypatch, environ, name):
    monkeypatch.setattr(hosts, "find_spec", lambda module: module == "kubernetes")
    assert hosts.find_launcher(environ) == name


def test_one_of_a_kubernetes_job_does_not_train_alone_for_want_of_a_package(monkeypatch):
    monkeypatch.setattr(hosts, "find_spec", lambda module: None)
    with pytest.raises(ValueError, match="needs Python's package kubernetes to find the others: install it"):
        hosts.find_launcher(INDEXED_JOB)


@pytest.mark.parametrize("error", [ValueError, RuntimeError, ImportError, type("ConfigException", (Exception,), {})])
def test_others_that_jax_does_not_find_are_told_of(monkeypatch, error):
    """A TPU without its metadata server, say, or Slurm's variables outside of Slurm."""

    def fail(**_):
        raise error("no metadata\n  here")

    monkeypatch.setattr(jax.distributed, "initialize", fail)
    reason = r"that Slurm seems to have started \(no metadata\): give --nodistributed if there"
    with pytest.raises(ValueError, match=reason):
        hosts.connect_by_launcher(1, {"SLURM_STEP_NUM_TASKS": "2"})


def test_a_tpu_host_is_known_by_its_library_and_its_devices(monkeypatch, tmp_path):
    monkeypatch.setattr(hosts, "find_spec", lambda module: module == "libtpu")
    monkeypatch.setattr(hosts, "_TPU_DEVICES", (str(tmp_path / "accel0"),))
    assert hosts.find_launcher({}) is None
    (tmp_path / "accel0").touch()
    assert hosts.find_launcher({}) == "TPU"


def test_distributed_needs_somebody_who_started_the_others(monkeypatch, connected):
    monkeypatch.setattr(hosts, "find_spec", lambda module: None)
    with pytest.raises(ValueError, match="give --coordinator, --num_processes and --process_id"):
        hosts.connect_by_launcher(7, {})
    slurm = {"SLURM_STEP_NUM_TASKS": "4", "SLURM_STEP_TASKS_PER_NODE": "2(x2)"}
    hosts.connect_by_launcher(7, slurm)
    hosts.connect_by_launcher(7, {**slurm, "SLURM_STEP_TASKS_PER_NODE": "1(x4)"})
    hosts.connect_by_launcher(7, {**slurm, "SLURM_STEP_TASKS_PER_NODE": "1(x2),2"})
    assert [kwargs["local_device_ids"] for _, kwargs in connected] == [None, [], None]
    assert {kwargs["initialization_timeout"] for _, kwargs in connected} == {7}
