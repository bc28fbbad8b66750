"""All trained weights that bear a configuration's name.

They are those of every seed of the finished runs `<directory>/<configuration>` and
`<directory>/<configuration>_seed<number>`, or else those that come with the package.
"""

import re
from pathlib import Path
from typing import Any, NamedTuple

from experiments.record import as_named, weights_name
from nem_jax.files import read_json
from nem_jax.pretrained import pretrained_names
from nem_jax.training.workdir import CONFIG, RESULT, read_result

TRAINING = ("seed", "epochs", "best_epoch", "stopped_early", "failed_at_step")


class TrainedWeights(NamedTuple):
    """One set of weights that bears a configuration's name."""

    path: str
    """A run's directory, or a name of the package's."""
    training: dict[str, Any]
    """What the run's result says of this seed: empty for the package's."""
    changes: tuple[str, ...] = ()
    """In what the run's configuration differs from the one whose name it bears, initial weights apart."""
    began_with: dict[str, str] | None = None
    """Source and hash of the given weights with which the run began; None: random ones, or these are the package's."""

    @property
    def seed(self) -> int | None:
        """None: the only one."""
        return self.training.get("seed")

    @property
    def described(self) -> str:
        """What distinguishes these weights from others of the same name, apart from the seed."""
        changes = "; ".join(self.changes) or "as named"
        if self.began_with is None:
            return changes
        return f"{changes}, begun with {self.began_with['source']} ({self.began_with['weights_sha256'][:8]})"


def find_weights(experiment: str, name: str, directory: Path) -> list[TrainedWeights]:
    """The weights of a configuration: every seed of its finished runs in `directory`, or else the package's.

    Other experiments' runs, whose configurations may have the same name, are passed over, and so are, with a line on
    the console, unfinished ones.

    Raises:
        ValueError: a run is of another configuration than its directory says, or the runs have a seed in common, or
            differ in more than their seeds, or in the weights that they began with.
    """
    paths = sorted(path for path in directory.glob(f"{name}*") if re.fullmatch(rf"{name}(_seed\d+)?", path.name))
    found = []
    for path in paths:
        if not (path / CONFIG).exists():
            continue
        trained = read_json(path / CONFIG)
        if trained["experiment"] != experiment:
            continue
        if not (path / RESULT).exists():
            print(f"passed over, as it is not finished: {path}")
            continue
        if trained["name"] != name:
            raise ValueError(f"{path} holds weights of {trained['name']}, not of {name}")
        result, changes = as_named(read_result(path))
        began_with = result.get("initial_weights")
        for run in result["runs"]:
            training = {key: run[key] for key in TRAINING if key in run}
            found.append(TrainedWeights(str(path), training, tuple(changes), began_with))
    if len({(weights.changes, (weights.began_with or {}).get("weights_sha256")) for weights in found}) > 1:
        described = " / ".join(dict.fromkeys(weights.described for weights in found))
        raise ValueError(
            f"the runs of {name} in {directory} must be of one configuration and begin alike, seeds apart: {described}"
        )
    seeds = [weights.seed for weights in found]
    if len(set(seeds)) < len(seeds):
        raise ValueError(f"the runs of {name} in {directory} must hold different seeds, got {seeds}")
    packaged = weights_name(experiment, name)
    if not found and packaged in pretrained_names():
        return [TrainedWeights(packaged, {})]
    return found
