"""Files that are written as a whole: a kill leaves the old one or the new one."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any


def replace_bytes(path: Path, content: bytes) -> None:
    """Write atomically."""
    temporary = path.with_name(temporary_name(path.name))
    temporary.write_bytes(content)
    os.replace(temporary, path)


def temporary_name(name: str) -> str:
    """Name of the file that a kill may leave beside the one called `name`."""
    return f".{name}.tmp"


def replace_text(path: Path, text: str) -> None:
    """`replace_bytes` in UTF-8."""
    replace_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """`replace_text` by JSON."""
    replace_text(path, json.dumps(content, indent=2) + "\n")


def file_sha256(path: Path) -> str:
    """The hash of its content, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def read_json(path: Path) -> Any:
    """What `write_json` wrote.

    Raises:
        ValueError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} holds no JSON that can be read: {error}") from error
