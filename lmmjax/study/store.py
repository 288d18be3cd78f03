"""Where a study keeps its results: a folder of Parquet parts, each written whole or not at all, and a manifest."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pandas as pd

from ..errors import DataError
from ..files import UNFINISHED, write_whole
from ..formula.hints import listed

MANIFEST = "study.json"


class DamagedPart(Exception):
    """A part that cannot be read, or is not what was written."""


@dataclass(frozen=True)
class Store:
    """A folder with study.json, parts/<scenario>-<block>-<digest of its content>.parquet and errors/<scenario>.txt.

    A file appears under its name only when all of it is on the disk.
    """

    folder: Path

    @classmethod
    def open(cls, folder: str | os.PathLike, manifest: Mapping[str, Any]) -> "Store":
        """The store of this study, made where there is none.

        Raises DataError where the folder holds another study, or other files; OSError where it cannot be written to.
        """
        store = cls(Path(folder))
        known = store.manifest()
        if known is None:
            if store.folder.exists() and any(store.folder.iterdir()):
                raise DataError(f"{folder} holds other files and no {MANIFEST}: give an empty or a new folder")
            for name in ("parts", "errors"):
                (store.folder / name).mkdir(parents=True, exist_ok=True)
            write_whole(store.folder / MANIFEST, json.dumps(manifest, indent=1).encode())
            return store
        _check_same(known, json.loads(json.dumps(manifest)), store.folder)
        for left in store.folder.rglob(f"*{UNFINISHED}"):  # of a run that was killed while it wrote
            left.unlink(missing_ok=True)
        return store

    @classmethod
    def there(cls, folder: str | os.PathLike) -> tuple["Store", dict[str, Any]]:
        """A store that is there, and its manifest. Raises DataError where there is none."""
        store = cls(Path(folder))
        if not store.folder.is_dir():
            raise DataError(f"there is no folder {folder}")
        if (known := store.manifest()) is None:
            raise DataError(f"{folder} holds no study")
        return store, known

    def manifest(self) -> dict[str, Any] | None:
        """What study.json says, or None where there is none. Raises DataError where it cannot be read."""
        path = self.folder / MANIFEST
        try:
            return json.loads(path.read_text())
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError as error:
            raise DataError(f"{path} is damaged ({error}): restore it, or start in a new folder") from None

    def parts(self) -> dict[tuple[int, int], Path]:
        """The files that are there, by (scenario, block)."""
        paths = sorted((self.folder / "parts").glob("*-*-*.parquet"))
        return {(int(scenario), int(block)): p for p in paths for scenario, block, _ in [p.stem.split("-")]}

    def write(self, scenario: int, block: int, table: pd.DataFrame) -> None:
        """Keeps the rows of a block. Raises OSError, which says that what was done before is kept."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        sink = pa.BufferOutputStream()
        pq.write_table(pa.Table.from_pandas(table, preserve_index=False), sink)
        content = sink.getvalue().to_pybytes()
        try:
            write_whole(self.folder / f"parts/{scenario:05}-{block:06}-{_digest(content)}.parquet", content)
        except OSError as error:
            text = f"{error.strerror}; what was done before is kept, and another run goes on there"
            raise OSError(error.errno, text, str(self.folder)) from None

    def read(self, path: Path) -> pd.DataFrame:
        """The rows of a part. Raises DamagedPart."""
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            content = path.read_bytes()
        except OSError as error:
            raise DamagedPart(f"{path}: {error}") from None
        if _digest(content) != path.stem.split("-")[-1]:
            raise DamagedPart(f"{path}: its content is not what was written")
        return pq.read_table(pa.BufferReader(content)).to_pandas()

    def errors(self) -> dict[int, str]:
        """By scenario what went wrong with it."""
        return {int(p.stem): p.read_text() for p in sorted((self.folder / "errors").glob("*.txt"))}

    def note(self, scenario: int, error: str | None) -> None:
        """Keeps the error of a scenario, or forgets it."""
        path = self.folder / "errors" / f"{scenario:05}.txt"
        if error is None:
            path.unlink(missing_ok=True)
        else:
            write_whole(path, error.encode())


def _digest(content: bytes) -> str:
    return sha256(content).hexdigest()[:16]


def _check_same(known: Mapping[str, Any], wanted: Mapping[str, Any], folder: Path) -> None:
    other = [name for name in wanted if known.get(name) != wanted[name]]
    if not other:
        return
    details = [f"{name}: {_difference(known.get(name), wanted[name])}" for name in other]
    raise DataError(
        f"{folder} holds another study, which differs in {listed(other)} ({'; '.join(details)}). Nothing was changed: "
        "run the study that it holds, or give a new folder"
    )


def _difference(before: Any, now: Any) -> str:
    if isinstance(before, list) and isinstance(now, list):
        if len(before) != len(now):
            return f"{len(before)} there, {len(now)} now"
        place = next(i for i, (a, b) in enumerate(zip(before, now, strict=True)) if a != b)
        return f"number {place} is {before[place]} there, {now[place]} now"
    return f"{str(before)[:60]} there, {str(now)[:60]} now"
