"""Make a result of finished runs: json, picture and package weights.

    python -m experiments.publish --workdirs=runs/rnn_em_seed0,runs/rnn_em_seed1

The runs must differ in their seeds alone. Writes experiments/<experiment>/results/<name>.json, .png and .npz (the
picture's arrays), the weights of the seed with the best validation loss as
nem_jax/pretrained/<experiment>_<name>.safetensors, and the table in experiments/README.md.
"""

from pathlib import Path

from absl import flags

from experiments import results_table
from experiments.publishing import publish
from experiments.shared_flags import define_mnist_dir
from nem_jax.launch import launch

_WORKDIRS = flags.DEFINE_list("workdirs", [], "directories of finished runs, of different seeds")
_MNIST_DIR = define_mnist_dir()


def main() -> None:
    """Publish the runs that the flags name, and bring the table up to date."""
    if not _WORKDIRS.value:
        raise ValueError("give the runs to publish: --workdirs=runs/a,runs/b")
    publish([Path(workdir) for workdir in _WORKDIRS.value], mnist_dir=_MNIST_DIR.value)
    results_table.write()


if __name__ == "__main__":
    launch(main)
