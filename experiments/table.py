"""Bring the results table in experiments/README.md up to date.

python -m experiments.table           # write it
python -m experiments.table --check   # fail if it is not what the files say
"""

from absl import flags

from experiments import results_table
from nem_jax.launch import launch

_CHECK = flags.DEFINE_boolean("check", False, "compare instead of writing")


def main() -> None:
    """Write or check."""
    if not _CHECK.value:
        results_table.write()
    elif results_table.README.read_text() != results_table.generate():
        raise ValueError("experiments/README.md is not what the json files say: run python -m experiments.table")


if __name__ == "__main__":
    launch(main)
