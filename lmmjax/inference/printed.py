"""R's layout of an analysis of variance table."""

import numpy as np
import pandas as pd

from ..tables import DIGITS, format_numbers, p_cells, stars, text_table

_HEADERS = {
    "df": "Df",
    "sumsq": "Sum Sq",
    "meansq": "Mean Sq",
    "numdf": "NumDF",
    "dendf": "DenDF",
    "F": "F value",
    "p": "Pr(>F)",
}


def anova_text(table: pd.DataFrame) -> str:
    """The rows and columns of `table` with R's digits and stars; F and p are left out where no row has a residual."""
    shown = {" ": [str(name) for name in table.index]}
    for name in table.columns:
        shown[_HEADERS.get(name, name)] = _cells(name, table[name])
    if "df" in table and "Residuals" not in table.index:
        del shown["F value"], shown["Pr(>F)"]
    elif table["p"].notna().any():
        shown["  "] = [m.ljust(3) for m in stars(table["p"].to_numpy())]
    lines = text_table(shown, left=(" ", "denominator")).splitlines()
    return "\n".join(line.rstrip() for line in lines)


def _cells(name: str, column: pd.Series) -> list[str]:
    if name in ("denominator", "exact"):
        return [{True: "yes", False: "no"}.get(v, "" if pd.isna(v) else v) for v in column]
    values = column.to_numpy(float)
    if name == "p":
        return p_cells(values)
    if name in ("sumsq", "meansq"):
        return format_numbers(zapped(values))
    return format_numbers(values.round(DIGITS - 1) if name == "F" else values)


def zapped(values: np.ndarray) -> np.ndarray:
    """R's zapsmall: rounded to the decimals that the largest shows."""
    largest = np.abs(values).max()
    return values.round(max(0, int(np.floor(DIGITS + 0.5 - np.log10(largest))))) if largest > 0 else values
