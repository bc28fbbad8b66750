"""Workdirs: who may write, and what a kill leaves behind."""

import errno
import fcntl
import json
import os
import re
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest
from tensorboardX.proto.event_pb2 import Event

from experiments.static_shapes.config import get_config
from nem_jax import provenance
from nem_jax.files import write_json
from nem_jax.training import logs, workdir
from nem_jax.training.loop import Training
from nem_jax.training.run import run
from nem_jax.training.workdir import CONFIG, LOCK, PROVENANCE, RESULT, WorkdirError, owned

FIRST, LATER = {"git_revision": "first"}, {"git_revision": "later"}


def open_workdir(path, config, provenance=FIRST):
    with owned(path, config, provenance):
        pass


def contents(path):
    return {file.name: file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_new_directory_gets_the_configuration(tmp_path):
    open_workdir(tmp_path / "a" / "b", get_config("smoke"))
    assert json.loads((tmp_path / "a" / "b" / CONFIG).read_text())["name"] == "smoke"
    assert workdir.read_provenance(tmp_path / "a" / "b") == {"git_revision": "first"}


def test_the_configuration_is_written_after_what_a_run_with_one_needs(tmp_path, monkeypatch):
    written = []
    monkeypatch.setattr(workdir, "write_json", lambda path, _: written.append(path.name))
    open_workdir(tmp_path / "run", get_config("smoke"))
    assert written == [PROVENANCE, CONFIG]


def test_the_same_configuration_resumes_and_changes_nothing(tmp_path):
    open_workdir(tmp_path, get_config("smoke"))
    before = contents(tmp_path)
    open_workdir(tmp_path, get_config("smoke"))
    assert contents(tmp_path) == before


def test_a_start_by_other_code_is_recorded(tmp_path):
    open_workdir(tmp_path, get_config("smoke"))
    open_workdir(tmp_path, get_config("smoke"))
    assert workdir.read_provenance(tmp_path) == FIRST
    open_workdir(tmp_path, get_config("smoke"), LATER)
    assert workdir.read_provenance(tmp_path) == {**LATER, "earlier_starts": [FIRST]}


def refused(path, config, match):
    before = contents(path) if path.is_dir() else path.read_bytes() if path.exists() else None
    with pytest.raises(WorkdirError, match=match) as error:
        open_workdir(path, config)
    assert "\n" not in str(error.value)
    after = contents(path) if path.is_dir() else path.read_bytes() if path.exists() else None
    assert after == before


def test_another_configuration_is_refused_by_its_fields(tmp_path):
    open_workdir(tmp_path, get_config("smoke"))
    other = get_config("smoke")
    other.model.num_components = 7
    refused(tmp_path, other, "another configuration: config.model.num_components is 4 there and 7 here")


def test_a_run_resumes_with_less_memory_but_not_with_another_batch(tmp_path):
    open_workdir(tmp_path, get_config("smoke"))
    smaller = get_config("smoke")
    smaller.training.remat, smaller.training.scan_unroll, smaller.training.num_microbatches = "all", 1, 4
    smaller.training.update({"seed_devices": 2, "seed_mapping": "vmap"})  # another machine
    smaller.training.update({"log_interval": 3, "figure_interval": 7})
    open_workdir(tmp_path, smaller)
    smaller.training.batch_size = 32
    refused(tmp_path, smaller, "another configuration: config.training.batch_size is 64 there and 32 here")


def test_a_finished_run_is_refused(tmp_path):
    open_workdir(tmp_path, get_config("smoke"))
    write_json(tmp_path / RESULT, {})
    refused(tmp_path, get_config("smoke"), "holds a finished run")


def test_a_directory_of_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    refused(tmp_path, get_config("smoke"), "exists and holds no run")


@pytest.mark.parametrize("address", ["gs://bucket/run", "s3://bucket", "file:///run"])
def test_a_bucket_is_no_directory(tmp_path, monkeypatch, address):
    """To pathlib it is one, under the current directory."""
    monkeypatch.chdir(tmp_path)
    refused(Path(address), get_config("smoke"), "workdir must be a directory of this machine, maybe a mounted one")
    assert not contents(tmp_path)


def test_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("precious")
    refused(tmp_path / "file", get_config("smoke"), "exists and holds no run")


@pytest.mark.parametrize(
    ("text", "what"), [("{", "JSON"), ('{"training": 3}', "configuration"), ('{"data": [1]}', "configuration")]
)
def test_a_broken_configuration_is_refused(tmp_path, text, what):
    (tmp_path / CONFIG).write_text(text)
    refused(tmp_path, get_config("smoke"), f"{CONFIG} holds no {what}")


def test_a_run_that_has_lost_its_provenance_says_so(tmp_path):
    open_workdir(tmp_path, get_config("smoke"))
    (tmp_path / PROVENANCE).unlink()
    with pytest.raises(WorkdirError, match=rf"{PROVENANCE} holds no JSON that can be read: .*No such file"):
        open_workdir(tmp_path, get_config("smoke"))


@pytest.mark.parametrize("text", ["{}", "[]", "[1]"])
def test_a_damaged_provenance_is_refused(tmp_path, text):
    open_workdir(tmp_path, get_config("smoke"))
    (tmp_path / PROVENANCE).write_text(text)
    with pytest.raises(WorkdirError, match=rf"{PROVENANCE} is damaged: it lists no start of the run"):
        open_workdir(tmp_path, get_config("smoke"))


@pytest.mark.parametrize(
    "text",
    ["[]", '{"runs": []}', '{"runs": [], "config": []}', '{"runs": [1], "config": {"stages": [1, 2]}}',
     '{"runs": [{}], "config": {"stages": []}}'],
)  # fmt: skip
def test_a_damaged_result_is_refused(tmp_path, text):
    (tmp_path / RESULT).write_text(text)
    with pytest.raises(WorkdirError, match=rf"{RESULT} was written by another version, or is damaged"):
        workdir.read_result(tmp_path)


def test_a_file_system_without_locks_is_not_another_process(tmp_path, monkeypatch):
    def unsupported(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(workdir.fcntl, "flock", unsupported)
    with pytest.raises(WorkdirError, match=r"cannot be locked: Function not implemented$"):
        open_workdir(tmp_path, get_config("smoke"))


def test_an_unwritable_place_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(WorkdirError, match="cannot be written"):
        open_workdir(tmp_path / "file" / "workdir", get_config("smoke"))


def test_a_kill_before_the_configuration_leaves_a_usable_directory(tmp_path):
    (tmp_path / PROVENANCE).write_text("{}")
    (tmp_path / f".{CONFIG}.tmp").write_text("{")
    open_workdir(tmp_path, get_config("smoke"))
    assert json.loads((tmp_path / CONFIG).read_text())["name"] == "smoke"


def test_two_processes_cannot_train_in_one_directory(tmp_path):
    """What is refused leaves no record, else the result would name a command that never ran."""
    with owned(tmp_path, get_config("smoke"), FIRST):
        with pytest.raises(WorkdirError, match="another process"):
            open_workdir(tmp_path, get_config("smoke"), LATER)
        assert workdir.read_provenance(tmp_path) == FIRST
    open_workdir(tmp_path, get_config("smoke"), LATER)


def test_a_directory_in_use_is_refused_before_data_are_loaded(tmp_path, monkeypatch):
    monkeypatch.setattr(Training, "of", lambda *_: pytest.fail("data are loaded"))
    with owned(tmp_path, get_config("smoke"), FIRST), pytest.raises(WorkdirError, match="another process is training"):
        run(get_config("smoke"), tmp_path)


def test_a_look_at_the_lock_does_not_refuse_a_start(tmp_path, monkeypatch):
    """`check_free` of another start holds it for a moment."""
    open_workdir(tmp_path, get_config("smoke"))
    looking = (tmp_path / LOCK).open()
    fcntl.flock(looking, fcntl.LOCK_SH)
    pauses = []
    monkeypatch.setattr(workdir.time, "sleep", lambda seconds: pauses.append(seconds) or looking.close())
    open_workdir(tmp_path, get_config("smoke"))
    assert len(pauses) == 1
    assert pauses[0] > 0


@pytest.mark.parametrize(("meanwhile", "sentence"), [("begun", "another configuration"), ("finished", "finished run")])
def test_what_another_process_did_just_before_the_lock_was_taken_counts(tmp_path, monkeypatch, meanwhile, sentence):
    ours, flock = get_config("smoke"), workdir.fcntl.flock
    ours.model.noise_prob = 0.3

    def first_the_other(*args):
        monkeypatch.undo()
        open_workdir(tmp_path / "other", get_config("smoke") if meanwhile == "begun" else ours)
        for name in (CONFIG, PROVENANCE):
            (tmp_path / "other" / name).rename(tmp_path / "run" / name)
        if meanwhile == "finished":
            write_json(tmp_path / "run" / RESULT, {})
        flock(*args)

    monkeypatch.setattr(workdir.fcntl, "flock", first_the_other)
    with pytest.raises(WorkdirError, match=sentence):
        open_workdir(tmp_path / "run", ours, LATER)
    assert workdir.read_provenance(tmp_path / "run") == FIRST


def test_without_git_the_revision_is_unknown(monkeypatch):
    monkeypatch.setenv("PATH", "")
    assert provenance.git_revision() == "unknown"


@pytest.mark.parametrize("damaged", ["3", '{"epoch": 2}', '{"step": 4'])
def test_metrics_end_at_a_damaged_line(tmp_path, damaged):
    first, later = (json.dumps({"step": step}) for step in (10, 20))
    (tmp_path / logs.METRICS).write_text(f"{first}\n{damaged}\n{later}\n")
    with logs.Logs(tmp_path, step=20, seeds=range(1)) as log:
        assert [record["step"] for record in log.records] == [10]


def test_metrics_are_cut_back_to_the_checkpoint(tmp_path):
    lines = [json.dumps({"step": step}) + "\n" for step in (10, 20, 30)]
    (tmp_path / logs.METRICS).write_text("".join(lines) + '{"step": 4')  # the last line was being written
    with logs.Logs(tmp_path, step=20, seeds=range(1)) as log:
        assert [record["step"] for record in log.records] == [10, 20]
    assert (tmp_path / logs.METRICS).read_text() == "".join(lines[:2])
    (events,) = (tmp_path / logs.TENSORBOARD).iterdir()
    starts = [event.step for event in read_events(events) if event.session_log.status]
    assert starts == [21]  # TensorBoard forgets what it has of later steps


def test_tensorboard_has_each_number_of_each_seed(tmp_path):
    values = {"train_total": [2.0, 4.0], "valid_total": [1.0, 3.0], "valid_ami_max_mean": [0.5, 0.75]}
    with logs.Logs(tmp_path, step=0, seeds=range(3, 5)) as log:
        for step, active in ((8, [True, True]), (16, [True, False])):
            log.epoch(step, step // 8, {name: np.array(value) for name, value in values.items()}, np.array(active))
    (events,) = (tmp_path / logs.TENSORBOARD).iterdir()
    scalars = {
        (event.step, value.tag): value.simple_value for event in read_events(events) for value in event.summary.value
    }
    assert {tag: number for (step, tag), number in scalars.items() if step == 8} == {
        "step": 8, "epoch": 1, "train/total": 3, "valid/total": 2, "valid/ami_max_mean": 0.625,
        "seed_3/train_total": 2, "seed_3/valid_total": 1, "seed_3/valid_ami_max_mean": 0.5,
        "seed_4/train_total": 4, "seed_4/valid_total": 3, "seed_4/valid_ami_max_mean": 0.75,
    }  # fmt: skip
    later = {tag: number for (step, tag), number in scalars.items() if step == 16}
    assert (later["train/total"], later["seed_3/train_total"]) == (2, 2) and "seed_4/train_total" not in later


def read_events(path):
    """TensorFlow's records: length (8 bytes), checksum (4), content, checksum (4)."""
    content = path.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        yield Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]


def test_json_is_replaced_as_a_whole(tmp_path, monkeypatch):
    write_json(tmp_path / "a.json", {"old": 1})

    def killed(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_json(tmp_path / "a.json", {"new": 2})
    assert json.loads((tmp_path / "a.json").read_text()) == {"old": 1}


def test_the_revision_says_whether_files_differ_from_it(tmp_path, monkeypatch):
    file = tmp_path / "provenance.py"
    file.write_text("1")
    git = ["git", "-C", str(tmp_path), "-c", "user.name=n", "-c", "user.email=e"]
    for command in (["init"], ["add", "."], ["commit", "-m", "m"]):
        subprocess.run([*git, *command], check=True, capture_output=True)
    monkeypatch.setattr(provenance, "__file__", str(file))
    clean = provenance.git_revision()
    assert re.fullmatch("[0-9a-f]{12}", clean)
    file.write_text("2")
    assert provenance.git_revision() == f"{clean}-dirty"


def test_the_cores_on_record_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3})
    assert provenance.hardware().startswith("1 core of ")
