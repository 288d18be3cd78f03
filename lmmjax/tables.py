"""Text and HTML of results, from arrays and names; numbers are printed with R's rules for significant digits."""

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

import numpy as np
import pandas as pd

DIGITS = 4  # what print(summary(lmer)) uses
HEADERS = {"estimate": "Estimate", "se": "Std. Error", "df": "df"}  # formatted with common decimals
LEGEND = "---\nSignif. codes:  0 '***' 0.001 '**' 0.01 '*' 0.05 '.' 0.1 ' ' 1"
MARKS = np.array(["***", "**", "*", ".", ""])


def format_numbers(values: Sequence[float] | np.ndarray, digits: int = DIGITS) -> list[str]:
    """R's format(): one number of decimals for all, so that each shows `digits` significant ones at least.

    Scientific where that is shorter; NaN prints as an empty string.
    """
    finite = [float(v) for v in values if np.isfinite(v)]
    parts = [_scientific(v, digits) for v in finite if v != 0]
    decimals = max((max(0, significant - 1 - exponent) for significant, exponent in parts), default=0)
    whole = max((max(0, exponent) + 1 for _, exponent in parts), default=1)
    mantissa = max((significant for significant, _ in parts), default=1)
    fixed = whole + decimals + (decimals > 0) <= mantissa + (mantissa > 1) + 4
    style = f".{decimals}f" if fixed else f".{mantissa - 1}e"
    return ["" if np.isnan(v) else format(float(v), style) for v in values]


def _scientific(value: float, digits: int) -> tuple[int, int]:
    """How many significant digits (up to `digits`) a number needs, and its decimal exponent."""
    mantissa, exponent = f"{abs(value):.{digits - 1}e}".split("e")
    return max(1, len(mantissa.replace(".", "").rstrip("0"))), int(exponent)


def text_table(columns: dict[str, list[str]], left: Sequence[str] = ()) -> str:
    """Columns of strings under their headers; those named in `left` or not at all are aligned to the left."""
    out = []
    for header, cells in columns.items():
        width = max(map(len, [header.strip(), *cells]))
        align = str.ljust if header in left or not header.strip() else str.rjust
        out.append([align(c, width) for c in [header.strip(), *cells]])
    return "\n".join(" ".join(row) for row in zip(*out, strict=True))


def coefficient_columns(table: pd.DataFrame) -> dict[str, list[str]]:
    """The columns of a coefficient table as R's printCoefmat formats them; with df and p as lmerTest's summary."""
    together = [c for c in HEADERS if c in table]
    block = table[together].to_numpy()
    sizes = np.abs(block[np.isfinite(block) & (block != 0)])
    before = 1 + np.floor(np.log10(sizes.min())) if sizes.size else 0
    cells = np.reshape(format_numbers(np.round(block, int(max(1, DIGITS - before))).ravel()), block.shape)
    t = format_numbers(np.round(table["t"].to_numpy(), max(1, min(5, DIGITS - 1))))
    out = {" ": list(table.index), **{HEADERS[c]: list(column) for c, column in zip(together, cells.T, strict=True)}}
    out["t value"] = t
    if "p" in table:
        p = table["p"].to_numpy()
        out["Pr(>|t|)"], out["  "] = p_cells(p), [s.ljust(3) for s in stars(p)]
    return out


def p_cells(p: np.ndarray) -> list[str]:
    """R's format.pval with three digits; empty for a missing p."""
    known = ~np.isnan(p)
    zero = known & (p < np.finfo(float).eps)
    fixed = known & (p >= 1e-4)
    out = np.full(len(p), "", dtype=object)
    for group in (fixed, known & ~zero & ~fixed):
        out[group] = format_numbers(p[group], DIGITS - 1)
    out[zero] = "<2e-16" if max(map(len, out), default=0) <= 6 else "< 2e-16"
    return list(out)


def legend(*tables: pd.DataFrame) -> str:
    """What the stars mean, after a line break; empty where no table has one."""
    return f"\n{LEGEND}" if any((table["p"] < 0.1).any() for table in tables) else ""


def stars(p: np.ndarray) -> np.ndarray:
    """R's marks of significance; none for a missing p."""
    return MARKS[np.where(np.isnan(p), 4, np.searchsorted([0.001, 0.01, 0.05, 0.1], p))]


def varcorr_columns(varcorr: pd.DataFrame) -> dict[str, list[str]]:
    """lme4's table of variances, standard deviations and correlations, from the long form."""
    variances = varcorr[varcorr["name2"].isna()]
    groups, names = list(variances["group"]), [n or "" for n in variances["name1"].fillna("")]
    columns = {
        "Groups": [g if i == 0 or groups[i - 1] != g else "" for i, g in enumerate(groups)],
        "Name": names,
        "Variance": _padded(format_numbers(variances["vcov"].to_numpy())),
        "Std.Dev.": _padded(format_numbers(variances["sdcor"].to_numpy())),
    }
    for position, cells in enumerate(_correlations(varcorr, list(zip(groups, names, strict=True)))):
        columns["Corr" if position == 0 else " " * (position + 1)] = cells  # blank headers, but different keys
    return columns


def varcorr_rows(group: str, columns: list[str], t: np.ndarray) -> list[tuple]:
    """(group, name1, name2, vcov, sdcor) of one term from its covariance factor t (p, p): variances, then pairs."""
    cov = t @ t.T
    sd = np.sqrt(np.diag(cov))
    rows: list[tuple] = [(group, c, None, cov[i, i], sd[i]) for i, c in enumerate(columns)]
    with np.errstate(invalid="ignore"):  # no correlation with what does not vary
        corr = cov / np.outer(sd, sd)
    pairs = [(i, j) for i in range(len(columns)) for j in range(i + 1, len(columns))]
    return rows + [(group, columns[i], columns[j], cov[i, j], corr[i, j]) for i, j in pairs]


def _correlations(varcorr: pd.DataFrame, rows: list[tuple[str, str]]) -> list[list[str]]:
    """Correlation cells: row by row the correlations with the group's earlier columns."""
    pairs = varcorr[varcorr["name2"].notna()]
    found = {(g, a, b): r for g, a, b, r in pairs[["group", "name1", "name2", "sdcor"]].itertuples(index=False)}
    width = 5 if (pairs["sdcor"] < 0).any() else 4
    cells: list[list[str]] = []
    for i, (group, name) in enumerate(rows):
        earlier = [n for g, n in rows[:i] if g == group]
        for position, other in enumerate(e for e in earlier if (group, e, name) in found):
            if position == len(cells):
                cells.append([""] * len(rows))
            cells[position][i] = f"{found[group, other, name]:{width}.2f}"
    return cells


def _padded(cells: list[str]) -> list[str]:
    width = max(map(len, cells), default=0)
    return [c.rjust(width) for c in cells]


def quantile_lines(values: np.ndarray) -> str:
    """Minimum, quartiles and maximum in one common width."""
    quantiles = np.quantile(values, [0, 0.25, 0.5, 0.75, 1])
    cells = format_numbers(np.round(quantiles, _zap_digits(quantiles)) + 0.0)  # R prints no negative zero
    return named_line(dict(zip(["Min", "1Q", "Median", "3Q", "Max"], cells, strict=True)))


def named_line(cells: dict[str, str]) -> str:
    """Names above values, all in one width, as R prints a named vector."""
    width = max(len(text) for pair in cells.items() for text in pair)
    return "\n".join(" ".join(c.rjust(width) for c in row) for row in (cells.keys(), cells.values()))


def _zap_digits(values: np.ndarray) -> int:
    """Decimals that R's zapsmall(values, DIGITS + 1) keeps."""
    largest = np.abs(values).max()
    return DIGITS + 1 if largest == 0 else max(0, int(np.floor(DIGITS + 1.5 - np.log10(largest))))


@dataclass(frozen=True)
class Summary:
    """A printed fit. coefficients : estimate, se, t, with degrees of freedom df and p, by column of X. varcorr :
    variances and correlations, long form. structure, phi : of the residuals, its text and its parameters."""

    heading: str
    criteria: pd.Series
    scaled_residuals: str
    varcorr: pd.DataFrame
    sizes: str
    coefficients: pd.DataFrame
    notes: tuple[str, ...] = ()
    structure: str = ""
    phi: pd.Series | None = None

    @property
    def text(self) -> str:
        """The summary in lme4's layout and digits."""
        residuals = f"Scaled residuals:\n{self.scaled_residuals}"
        parts = [self.heading, self._criteria(), residuals, f"{self._variances()}\n{self.sizes}"]
        if self.structure:
            parts.append(f"Residual structure: {self.structure}\n{text_table(self._phi())}")
        if len(self.coefficients):
            stars_mean = legend(self.coefficients) if "p" in self.coefficients else ""
            parts.append("Fixed effects:\n" + text_table(coefficient_columns(self.coefficients)) + stars_mean)
        text = "\n\n".join(parts)
        text = "\n".join(line.rstrip() for line in text.splitlines())
        return "\n".join([text, *self.notes])

    def _variances(self) -> str:
        if len(self.varcorr) == 1:
            return f"Residual standard deviation: {format_numbers(self.varcorr['sdcor'])[0]}"
        columns = varcorr_columns(self.varcorr)
        return "Random effects:\n" + text_table({" ": [""] * len(columns["Groups"]), **columns}, LEFT)

    def _phi(self) -> dict[str, list[str]]:
        """The parameters of the residual structure."""
        phi = pd.Series(dtype=float) if self.phi is None else self.phi
        return {" ": list(phi.index), "Estimate": format_numbers(phi.to_numpy())}

    def _criteria(self) -> str:
        if len(self.criteria) == 1:
            return f"{self.criteria.index[0]} at convergence: {round(self.criteria.iloc[0], 1):.15g}"
        return named_line({str(k): f"{v:.{0 if k == 'df.resid' else 1}f}" for k, v in self.criteria.items()})

    def __repr__(self) -> str:
        return self.text

    def _repr_html_(self) -> str:
        notes = "".join(f"<p>{escape(n)}</p>" for n in self.notes)
        random = pd.DataFrame({k: v for k, v in varcorr_columns(self.varcorr).items()})
        phi = ""
        if self.structure:
            table = pd.DataFrame(self._phi()).set_index(" ").to_html(border=0)
            phi = f"<p>Residual structure: {escape(self.structure)}</p>{table}"
        shown = coefficient_columns(self.coefficients) if len(self.coefficients) else {" ": []}
        fixed = pd.DataFrame(shown).set_index(" ")
        return (
            f"<p><b>{escape(self.heading)}</b><br>{escape(self._criteria())}</p>"
            f"<p>Random effects</p>{random.to_html(index=False, border=0)}<p>{escape(self.sizes)}</p>{phi}"
            f"<p>Fixed effects</p>{fixed.to_html(border=0)}{notes}"
        )


LEFT = ("Groups", "Name", "Variance", "Std.Dev.", "Corr")
