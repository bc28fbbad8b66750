"""The flags that say where things lie."""

from absl import flags

DIRECTORY = flags.DEFINE_string("directory", "runs", "holds the runs, by their configurations' names")
MNIST_DIR = flags.DEFINE_string("mnist_dir", None, "holds MNIST's IDX files, if not where the training found them")
