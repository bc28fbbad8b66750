"""kill -9: of one process at any moment, and of one of two. The next start finishes the run, with the same numbers."""

import json
import random
import signal
import time

import numpy as np
import pytest

from nem_jax.training.logs import METRICS, read_records
from nem_jax.training.workdir import LOCK, RESULT

MAX_EPOCHS, STEPS_PER_EPOCH = 12, 8
COMMAND = (
    "experiments.static_shapes.run",
    "--config=experiments/static_shapes/config.py:smoke",
    "--config.data.num_training=128",
    "--config.data.num_validation=32",
    "--config.data.num_test=32",
    "--config.training.batch_size=16",
    "--config.training.figure_interval=100",
    f"--config.training.max_epochs={MAX_EPOCHS}",
)


@pytest.fixture(scope="module")
def whole(begin, tmp_path_factory):
    """The workdir of a run that nothing disturbs, on two devices."""
    path = tmp_path_factory.mktemp("whole") / "run"
    done = begin(*COMMAND, f"--workdir={path}", num_devices=2).end(timeout=200)
    assert done.returncode == 0, done.stderr
    return path


def num_epochs(workdir):
    return (workdir / METRICS).read_text().count("\n") if (workdir / METRICS).exists() else 0


def await_that(happened):
    """Until `happened()`."""
    deadline = time.monotonic() + 120
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def runs_of(workdir):
    return json.loads((workdir / RESULT).read_text())["runs"]


def test_ctrl_c_says_how_to_go_on(begin, tmp_path):
    endless = "--config.training.max_epochs=10000"  # twelve are over within a second
    command = begin(*COMMAND, endless, f"--workdir={tmp_path / 'run'}")
    await_that(lambda: num_epochs(tmp_path / "run") > 0)
    command.interrupt()
    done = command.end(timeout=60)
    assert done.returncode == -signal.SIGINT
    assert done.stderr.endswith(
        "\nthe same command resumes the run; once an epoch is finished, --stop_now scores the best weights so far\n"
        "interrupted\n"
    )
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "run" / RESULT).exists()


def test_killed_at_any_moment_it_resumes_to_the_same_numbers(begin, whole, tmp_path):
    """kill -9 five times, at random moments: while it starts, after the start's first epoch, after the run's last."""
    run, moments = tmp_path / "run", random.Random(0)
    for kill in range(5):
        before = num_epochs(run)
        (run / LOCK).unlink(missing_ok=True)
        command = begin(*COMMAND, f"--workdir={run}", num_devices=2)
        if kill == 2:  # it has taken its directory, and is about to read its checkpoint
            await_that((run / LOCK).exists)
        elif kill == 4:  # it scores what it trained
            await_that(lambda: (run / "checkpoints" / str(MAX_EPOCHS * STEPS_PER_EPOCH)).exists())
        else:
            await_that(lambda before=before: num_epochs(run) > before)
        time.sleep(moments.uniform(0.0, 0.1))  # an epoch takes longer
        command.kill()
        assert not (run / RESULT).exists()
    done = begin(*COMMAND, f"--workdir={run}", num_devices=2).end(timeout=200)
    assert done.returncode == 0, done.stderr
    assert "epoch" not in done.stdout  # the last kill found all of them trained
    assert read_records(run) == read_records(whole)
    assert runs_of(run) == runs_of(whole)


def test_two_processes_resume_after_kill_9_of_one(begin_two, whole, tmp_path):
    """And reach the numbers of one process."""
    run = tmp_path / "run"
    command = (*COMMAND, "--config.training.figure_interval=6", f"--workdir={run}")
    with begin_two(*command) as commands:
        await_that(lambda: num_epochs(run) >= 2)  # one checkpoint
        commands[1].kill()
        survivor = commands[0].end(timeout=150)
        if survivor.returncode != -signal.SIGABRT:  # the kill came while both saved: JAX ends what waits, after 100 s
            assert survivor.returncode == 1
            assert "start all of them again, the run resumes" in survivor.stderr
        assert not (run / RESULT).exists()

    with begin_two(*command) as commands:
        done = [command.end(timeout=200) for command in commands]
        assert [process.returncode for process in done] == [0, 0], done
        assert "epoch    1 " not in done[0].stdout
        assert f"epoch   {MAX_EPOCHS:2} " in done[0].stdout
        assert "AMI" not in done[1].stdout  # process 0 alone draws, too: every sixth epoch
    assert num_epochs(run) == MAX_EPOCHS
    for ours, theirs in zip(read_records(run), read_records(whole), strict=True):
        for name in ("step", "epoch", "train_total", "valid_total"):
            np.testing.assert_allclose(ours[name], theirs[name], rtol=1e-5)
    (ours,), (theirs,) = runs_of(run), runs_of(whole)
    np.testing.assert_allclose(ours["scores"]["total"], theirs["scores"]["total"], rtol=1e-5)


def test_seeds_of_different_processes_have_the_numbers_of_one(launch, begin_two, tmp_path):
    """Each process has a seed to itself, of which the other sees the result alone; process 0 writes of both."""
    command = (*COMMAND, "--config.num_seeds=2", "--config.training.max_epochs=2")
    one = launch(*command, f"--workdir={tmp_path / 'one'}")
    assert one.returncode == 0, one.stderr
    with begin_two(*command, f"--workdir={tmp_path / 'two'}") as commands:
        done = [command.end(timeout=200) for command in commands]
    assert [process.returncode for process in done] == [0, 0], done
    for ours, theirs in zip(runs_of(tmp_path / "two"), runs_of(tmp_path / "one"), strict=True):
        assert ours["seed"] == theirs["seed"]
        np.testing.assert_allclose(ours["best_valid_loss"], theirs["best_valid_loss"], rtol=1e-5)
        np.testing.assert_allclose(ours["scores"]["total"], theirs["scores"]["total"], rtol=1e-5)
        np.testing.assert_allclose(ours["scores"]["ami_max_mean"], theirs["scores"]["ami_max_mean"], atol=0.01)
    assert {file.name for file in (tmp_path / "two").iterdir()} == {file.name for file in (tmp_path / "one").iterdir()}
