"""Files that are written as a whole: a kill leaves the old one or the new one."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

_ENDS = 2**20


def replace_bytes(path: Path, content: bytes) -> None:
    """Write atomically."""
    temporary = path.with_name(temporary_name(path.name))
    temporary.write_bytes(content)
    os.replace(temporary, path)


def temporary_name(name: str) -> str:
    """Of what a kill may leave beside the file called `name`."""
    return f".{name}.tmp"


def replace_text(path: Path, text: str) -> None:
    """`replace_bytes` in UTF-8."""
    replace_bytes(path, text.encode())


def write_json(path: Path, content: Any) -> None:
    """`replace_text` by JSON."""
    replace_text(path, json.dumps(content, indent=2) + "\n")


def fingerprint(path: Path) -> dict[str, Any]:
    """What tells a file, maybe a large one, from another: its size and the hash of its first and last MiB."""
    size = path.stat().st_size
    with path.open("rb") as file:
        content = file.read(_ENDS)
        file.seek(max(0, size - _ENDS))
        content += file.read()
    return {"bytes": size, "ends_sha256": hashlib.sha256(content).hexdigest()}


def read_json(path: Path) -> Any:
    """What `write_json` wrote.

    Raises:
        ValueError: it cannot be read, or is no JSON.
    """
    try:
        return json.loads(path.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} holds no JSON that can be read: {error}") from error
