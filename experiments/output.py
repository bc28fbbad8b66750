"""The flag of commands that write files, --output, and where these lie."""

from pathlib import Path

from absl import flags

OUTPUT = flags.DEFINE_string("output", None, "path of the new files, without their suffix")


def make_room(file: Path) -> None:
    """Before anything is computed: `file` is not there, its directory is.

    Raises:
        ValueError: it exists, or its directory cannot be made.
    """
    if file.exists():
        raise ValueError(f"{file} exists already: remove it first (a figure is drawn again by --redraw)")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ValueError(f"output {file} cannot be written: {error.strerror}") from error


def beside(path: Path, suffix: str = ".png") -> Path:
    """The file of a figure with this suffix: names may have dots."""
    return path.with_name(path.name + suffix)
