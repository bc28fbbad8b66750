"""Make a result of finished runs: json, picture and package weights.

    python -m experiments.publish --workdirs=runs/rnn_em_seed0,runs/rnn_em_seed1
    python -m experiments.publish --workdirs=runs/rnn_em_seed2 --join       # a third, on another machine perhaps

A seed that is published already is replaced if the new run ended by itself or has at least as many epochs; with --join
if it has more epochs, and both were runs of that seed alone.

The runs must differ in their seeds alone. One that went on from published weights, its own configuration's or another's
of its experiment (`--config.training.init_from=flying_shapes_rnn_em_3_3`; where the weights stayed with their run, its
directory), must be of one seed and one stage and is published by itself; its result tells of all these trainings.

Writes experiments/<experiment>/results/<name>.json, .png and .npz (the picture's arrays), the weights of the seed with
the best validation loss as nem_jax/pretrained/<experiment>_<name>.safetensors, unless the configuration is one of its
experiment's `WITHOUT_WEIGHTS`, and the table in experiments/README.md.
"""

import shutil
from pathlib import Path
from typing import NamedTuple

import jax
import numpy as np
from absl import flags

from experiments import table
from experiments.command_line import launch
from experiments.lineage import earlier_training
from experiments.recipe import config_module
from experiments.record import (
    Record,
    as_named,
    best_seed,
    joined,
    learning_curves,
    of_result,
    total_epochs,
    weights_name,
    without_continued,
)
from experiments.shared_flags import define_mnist_dir
from experiments.subject import evaluate_subject, load_subject
from nem_jax.evaluation import summarise
from nem_jax.files import read_json, write_json
from nem_jax.pretrained import DIRECTORY
from nem_jax.training.workdir import OVERVIEW, WEIGHTS, read_result
from nem_jax.types import Params
from nem_jax.weights import read_weights, weights_sha256, write_weights

LARGE_WEIGHTS, MAX_AMI_CHANGE = 2_000_000, 0.001
"""Bytes, from which on weights are packaged in float16 unless that moves AMI so much."""

MAX_PACKAGE_SIZE = 25_000_000
"""Bytes of all weights that come with the package."""


def package(workdir: Path, mnist_dir: str | None = None) -> tuple[Params, float | None]:
    """A run's weights as they come with the package, and by how much float16 moves its AMI, if that was measured.

    Large weights are rounded to float16 if that moves the AMI of the test set by less than `MAX_AMI_CHANGE`; MNIST is
    read where the training found it, or in `mnist_dir`.
    """
    params = read_weights(workdir / WEIGHTS)
    if sum(leaf.nbytes for leaf in jax.tree.leaves(params)) < LARGE_WEIGHTS:
        return params, None
    half = jax.tree.map(lambda leaf: leaf.astype(np.float16), params)
    subject = load_subject(str(workdir), {"data.mnist_dir": mnist_dir})
    rounded = subject._replace(params=jax.tree.map(lambda leaf: leaf.astype(np.float32), half))
    before, after = (summarise(evaluate_subject(one))["ami_max_mean"] for one in (subject, rounded))
    return half if abs(after - before) < MAX_AMI_CHANGE else params, after - before


def check_room(place: Path, params: Params) -> None:
    """The package has room for these weights, in the place of any that lie at `place`.

    Raises:
        ValueError: it has not.
    """
    others = sum(file.stat().st_size for file in place.parent.glob("*") if file.stem != place.stem)
    size = others + sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    if size > MAX_PACKAGE_SIZE:
        raise ValueError(
            f"with {place.stem} the weights in {place.parent} would take {size / 1e6:.1f} MB, at most "
            f"{MAX_PACKAGE_SIZE / 1e6:.0f}: remove some, and list them in their experiment's WITHOUT_WEIGHTS"
        )


def result_file(experiment: str, name: str, root: Path = Path(__file__).parent) -> Path:
    """Where the result of a configuration lies."""
    return root / experiment / "results" / f"{name}.json"


def check_seeds(file: Path, seeds: int) -> None:
    """A result is not replaced by one of fewer seeds.

    Raises:
        ValueError: it has more.
    """
    if file.exists() and len(read_json(file)["seeds"]) > seeds:
        raise ValueError(
            f"{file} has more seeds than the {seeds} given: add to it by experiments.publish --join, or remove it"
        )


def check_epochs(file: Path, record: Record) -> None:
    """No seed of a result is replaced by one that was ended by hand after fewer epochs, earlier training included.

    Raises:
        ValueError: one would be.
    """
    if not file.exists():
        return
    present = total_epochs(read_json(file))
    for (seed, count), stopped_early in zip(total_epochs(record).items(), record["stopped_early"], strict=True):
        if count < present.get(seed, 0) and not stopped_early:
            raise ValueError(
                f"{file} has {present[seed]} epochs of seed {seed}, this run {count}: to replace it, remove it"
            )


class Source(NamedTuple):
    """A record, and the finished run that it is of; None: it is published already."""

    record: Record
    workdir: Path | None


def gather(workdirs: list[Path], root: Path, join: bool = False) -> list[Source]:
    """The finished runs of one named configuration; `join`: after its seeds that are published under `root`.

    Raises:
        ValueError: a run is not finished, its configuration is not the one its name says, or there are published seeds
            that cannot be joined, or more of them, or of more epochs, than would replace them.
    """
    read = [read_result(path) for path in workdirs]
    experiment, name = read[0]["config"]["experiment"], read[0]["config"]["name"]
    file = result_file(experiment, name, root)
    earlier = [earlier_training(result, file.parent) for result in read]
    if any(earlier) and (join or len(read) > 1):
        raise ValueError("a run that goes on from published weights is published alone: name one workdir")
    found = []
    for path, result in zip(workdirs, read, strict=True):
        result, different = as_named(result)
        if different:
            raise ValueError(
                f"workdir {path} differs from the configuration {result['config']['name']!r} whose name it bears: "
                + "; ".join(different)
            )
        curves = learning_curves(path, max(1, len(result["config"]["stages"])))
        found.append(Source(of_result(result, curves), path))
    if any(earlier):
        found[0].record["earlier_training"] = earlier[0]
    if not join:
        check_seeds(file, sum(len(source.record["seeds"]) for source in found))
        for source in found:
            check_epochs(file, source.record)
        return found
    present = without_continued(published(file), [source.record for source in found])
    return [*([Source(present, None)] if present["seeds"] else []), *found]


def published(file: Path) -> Record:
    """The record in `file`, to be joined by other seeds.

    Raises:
        ValueError: there is none, or its run went on from published weights.
    """
    if not file.exists():
        raise ValueError(f"--join: there is no {file}")
    record = read_json(file)
    if record.get("earlier_training"):
        raise ValueError(f"--join: the training of {file} went on from published weights: no other seed has its like")
    return record


def publish(
    workdirs: list[Path],
    root: Path = Path(__file__).parent,
    weights: Path = DIRECTORY,
    mnist_dir: str | None = None,
    join: bool = False,
) -> None:
    """Write what `gather` finds as one record under `root`, and the best seed's weights to `weights`; see `package`.

    Of a configuration `WITHOUT_WEIGHTS`, those that an earlier result put there are removed.

    Raises:
        ValueError: see `gather` and `check_room`; nothing is written.
    """
    sources = gather(workdirs, root, join)
    record = joined([source.record for source in sources])
    experiment, name = record["experiment"], record["config"]["name"]
    module = config_module(experiment)
    record["paper"] = module.PAPER.get(name, {})
    file = result_file(experiment, name, root)
    place = weights / f"{weights_name(experiment, name)}.safetensors"
    packaged = name not in module.WITHOUT_WEIGHTS
    file.parent.mkdir(parents=True, exist_ok=True)
    best = min(sources, key=lambda source: min(source.record["best_valid_loss"]))
    if best.workdir:
        params, change = package(best.workdir, mnist_dir) if packaged else (read_weights(best.workdir / WEIGHTS), None)
        record["weights_sha256"], record["ami_change_by_float16"] = weights_sha256(params), change
        if packaged:
            check_room(place, params)
            weights.mkdir(exist_ok=True)
            write_weights(place, params)
            write_json(place.with_suffix(".json"), {**record["config"], "seed": best_seed(record)})
        for suffix in (".npz", ".png"):
            shutil.copyfile((best.workdir / OVERVIEW).with_suffix(suffix), file.with_suffix(suffix))
    elif packaged and weights_sha256(read_weights(place)) != record["weights_sha256"]:
        raise ValueError(f"--join: {place} is not what {file} tells of: publish all of its runs anew")
    if not packaged:
        for stale in (place, place.with_suffix(".json")):
            stale.unlink(missing_ok=True)
    write_json(file, record)
    print(f"published {file}, weights of seed {best_seed(record)}{'' if packaged else ' stay with its run'}")


def publish_in_table(workdirs: list[Path], mnist_dir: str | None, join: bool = False) -> None:
    """`publish`, and the table brought up to date."""
    if not workdirs:
        raise ValueError("give the runs to publish: --workdirs=runs/a,runs/b")
    publish(workdirs, mnist_dir=mnist_dir, join=join)
    table.write()


if __name__ == "__main__":
    named = flags.DEFINE_list("workdirs", [], "directories of finished runs, of different seeds")
    mnist = define_mnist_dir()
    join_published = flags.DEFINE_boolean("join", False, "keep the seeds that are published, and add these")
    launch(lambda: publish_in_table([Path(path) for path in named.value], mnist.value, join_published.value))
