"""The flag of commands that write files, --output, and where these lie."""

import tempfile
from pathlib import Path

from absl import flags

OUTPUT = flags.DEFINE_string("output", None, "path of the new files, without their suffix")
flags.register_validator(
    OUTPUT,
    lambda path: path is None or not (path.endswith("/") or Path(path).is_dir()),
    "that is a directory: give the files' name in it, too",
)

FILES = {".json": "numbers", ".npz": "arrays", ".png": "picture", ".gif": "animation", "_sequence.png": "sequence"}
"""All files that commands leave under one path: by their suffix what they hold."""


def make_room(path: Path, otherwise: str = "") -> None:
    """Before anything is computed: no file `beside` the path is there, and files can be written there.

    Raises:
        ValueError: one exists, or they cannot; `otherwise` is what else may help if one exists.
    """
    for file in (beside(path, suffix) for suffix in FILES):
        if file.exists():
            raise ValueError(f"{file} exists already: remove it or give another --output{otherwise}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as error:
        raise ValueError(f"output {path} cannot be written: {error.strerror}") from error


def beside(path: Path, suffix: str = ".png") -> Path:
    """The file of a figure with this suffix: names may have dots."""
    return path.with_name(path.name + suffix)


def tell(path: Path) -> None:
    """Print where the files are that lie `beside` the path."""
    for suffix, what in FILES.items():
        if beside(path, suffix).exists():
            print(f"{what}: {beside(path, suffix)}")
