"""The income panel is not part of the package: find it on disk or download it once."""

import os
from pathlib import Path

import pandas as pd

from ..errors import DataError

COLUMNS = ("age", "educ", "sex", "income", "year", "person")
URL = (
    "https://raw.githubusercontent.com/ffranchina/faraway_csv/"
    "d2ac718a8137ba238b6be73acb0f40ca45da8657/datasets/psid.csv"
)
SHA256 = "c6ad2d1f6b39d7edee51fc5f12bfb53da56c9044e3e0c45e4c7a4097cf03b7f0"
_BY_HAND = "Or save R's data frame faraway::psid as psid.csv and name its folder in the variable LMMJAX_DATA_DIR."


def read() -> pd.DataFrame:
    """The six columns of the panel as text, from LMMJAX_DATA_DIR, else from pooch's cache, else downloaded.

    Other columns of the file, such as row names, are left out.

    Raises:
        DataError: no file is to be had, or it lacks one of the columns; the message says what to do.
    """
    path = _local_file() or _cached_download()
    table = pd.read_csv(path, dtype=str)
    missing = [name for name in COLUMNS if name not in table.columns]
    if missing:
        raise DataError(f"{path} is not the psid data: it has no column {', '.join(missing)}")
    return table[list(COLUMNS)]


def _local_file() -> Path | None:
    folder = os.environ.get("LMMJAX_DATA_DIR")
    if not folder:
        return None
    path = Path(folder).expanduser() / "psid.csv"
    if not path.is_file():
        raise DataError(f"LMMJAX_DATA_DIR is set, but there is no file {path}")
    return path


def _cached_download() -> Path:
    try:
        import pooch
    except ImportError as error:
        raise DataError(f'downloading psid needs pooch: pip install "lmmjax[datasets]". {_BY_HAND}') from error
    try:
        return Path(pooch.retrieve(URL, known_hash=f"sha256:{SHA256}", fname="psid.csv", path=pooch.os_cache("lmmjax")))
    except (OSError, ValueError) as error:
        raise DataError(f"psid could not be downloaded ({error}). {_BY_HAND}") from error
