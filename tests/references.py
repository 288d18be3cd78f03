"""Where the numbers computed by R lie, and how tests read them.

`bundled()` is committed with the tests and always there. `shared()` is larger and lies beside the repository (or in the
folder LMMJAX_REFERENCE); a test that needs it skips where it is absent. Both have the same layout.
"""

import json
import os
from functools import cache
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
BUNDLED = ROOT / "tests" / "reference"


def shared_folder() -> Path:
    """The folder that would hold the larger reference, whether it exists or not."""
    return Path(os.environ.get("LMMJAX_REFERENCE") or ROOT.parent / "shared" / "reference").expanduser()


def shared_models() -> list[str]:
    """Names of the models in the larger reference, for `parametrize`; empty where it is absent."""
    path = shared_folder() / "reference.json"
    return list(_read(path)["models"]) if path.is_file() else []


def shared() -> dict[str, Any]:
    """The larger reference, or skip the test that asks for it."""
    return _read(_present(shared_folder() / "reference.json"))


def shared_data(name: str) -> Path:
    """A data file of the larger reference, or skip the test that asks for it."""
    return _present(shared_folder() / "data" / name)


def psid_folder() -> str:
    """A folder with psid.csv, or skip the test that asks for it."""
    return os.environ.get("LMMJAX_DATA_DIR") or str(shared_data("psid.csv").parent)


def bundled(name: str = "reference.json") -> dict[str, Any]:
    """The reference that is committed with the tests, or another file beside it."""
    return _read(BUNDLED / name)


@cache
def _read(path: Path) -> dict[str, Any]:
    return json.loads(path.read_text(encoding="utf-8"))


def _present(path: Path) -> Path:
    if not path.exists():
        pytest.skip(reason=f"no {path}: put the reference beside the repository or name its folder in LMMJAX_REFERENCE")
    return path
