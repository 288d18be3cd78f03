"""Files that are there whole or not at all."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

UNFINISHED = ".tmp"  # how the name of a file ends while it is written


def write_whole(path: Path, content: bytes) -> None:
    """Written beside its place, brought to the disk and renamed: a kill leaves no half of it. Raises OSError."""
    with tempfile.NamedTemporaryFile(dir=path.parent, suffix=UNFINISHED, delete=False) as part:
        try:
            part.write(content)
            part.flush()
            os.fsync(part.fileno())
        except BaseException:
            with suppress(OSError):
                os.unlink(part.name)
            raise
    os.replace(part.name, path)
