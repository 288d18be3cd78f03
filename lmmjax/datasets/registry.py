"""What every data set holds, in which units, and where it comes from."""

from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase

FLOAT, INTEGER, FACTOR, ORDERED = "float64", "int64", "factor", "ordered factor"


@dataclass(frozen=True)
class Column:
    """One column: its kind, its meaning with the unit, and for a factor its levels in R's order."""

    name: str
    kind: str
    meaning: str
    levels: tuple[str, ...] = ()

    def __str__(self) -> str:
        count = f", {len(self.levels)} levels" if self.levels else ""
        return f"  {self.name:<12} {self.kind}{count}: {self.meaning}"


@dataclass(frozen=True, repr=False)
class DataSet:
    """The documentation of one data set; prints as a text."""

    name: str
    title: str
    rows: int
    columns: tuple[Column, ...]
    source: str
    licence: str

    def __repr__(self) -> str:
        head = f"{self.name}: {self.title}\n\n{self.rows} rows"
        body = "\n".join(map(str, self.columns))
        return f"{head}\n{body}\n\nSource: {self.source}\nLicence: {self.licence}"


def _numbered(n: int, prefix: str = "") -> tuple[str, ...]:
    return tuple(f"{prefix}{i}" for i in range(1, n + 1))


_FACTS = "published measurements, typed in; facts carry no licence"
_LME4 = "published measurements, public; values exported from R's lme4 1.1-31 (Debian's r-cran-lme4)"
_DAVIES = "O. L. Davies, P. L. Goldsmith (eds), Statistical Methods in Research and Production, 4th ed., 1972, section"
_SUBJECTS = "308 309 310 330 331 332 333 334 335 337 349 350 351 352 369 370 371 372"
_BATCH = Column("Batch", FACTOR, "batch of the intermediate product", tuple("ABCDEF"))

PULP = DataSet(
    "pulp",
    "brightness of paper pulp under four shift operators",
    20,
    (
        Column("bright", FLOAT, "brightness on a reflectance meter (its own scale)"),
        Column("operator", FACTOR, "shift operator", tuple("abcd")),
    ),
    "F. Sheldon, Statistical techniques applied to production situations, Industrial and Engineering Chemistry 52, "
    "1960, 507-509; as in J. Faraway, Extending the Linear Model with R, and in the PyPI package faraway (MIT)",
    _FACTS,
)
IRRIGATION = DataSet(
    "irrigation",
    "a split-plot experiment: irrigation on whole fields, crop varieties on the two halves of each",
    16,
    (
        Column("field", FACTOR, "field (whole plot)", _numbered(8, "f")),
        Column("irrigation", FACTOR, "irrigation method, one a field", _numbered(4, "i")),
        Column("variety", FACTOR, "crop variety, both in every field", _numbered(2, "v")),
        Column("yield", FLOAT, "yield (unit not published)"),
    ),
    "J. Faraway, Extending the Linear Model with R, section on split plots",
    _FACTS,
)
EGGS = DataSet(
    "eggs",
    "consistency of fat measurements of dried egg between laboratories, technicians and samples",
    48,
    (
        Column("Fat", FLOAT, "fat content (per cent, as published)"),
        Column("Lab", FACTOR, "laboratory", ("I", "II", "III", "IV", "V", "VI")),
        Column("Technician", FACTOR, "technician, two different people in each laboratory", ("one", "two")),
        Column("Sample", FACTOR, "label of the sample, different for each technician", ("G", "H")),
    ),
    "C. I. Bliss, Statistics in Biology, 1967; as in J. Faraway, Extending the Linear Model with R",
    _FACTS,
)
PSID = DataSet(
    "psid",
    "income of 85 heads of household, 1968 to 1990: a small part of the Panel Study of Income Dynamics",
    1661,
    (
        Column("age", INTEGER, "age in 1968 (years)"),
        Column("educ", INTEGER, "education (years)"),
        Column("sex", FACTOR, "sex", ("F", "M")),
        Column("income", INTEGER, "income in that year (US dollars)"),
        Column("year", INTEGER, "calendar year (minus 1900)"),
        Column("person", INTEGER, "person, 1 to 85"),
    ),
    "M. S. Hill, The Panel Study of Income Dynamics: A User's Guide, 1992; the extract of R's package faraway",
    "not part of lmmjax: read from the folder LMMJAX_DATA_DIR, or downloaded once and kept in the cache folder",
)
SLEEPSTUDY = DataSet(
    "sleepstudy",
    "reaction times of 18 people over ten days with three hours in bed each night",
    180,
    (
        Column("Reaction", FLOAT, "average reaction time of the day (ms)"),
        Column("Days", INTEGER, "day of the study, 0 to 9; sleep was restricted after day 2"),
        Column("Subject", FACTOR, "subject number", tuple(_SUBJECTS.split())),
    ),
    "G. Belenky and others, Patterns of performance degradation and restoration during sleep restriction and "
    "subsequent recovery: a sleep dose-response study, Journal of Sleep Research 12, 2003, 1-12",
    _LME4,
)
DYESTUFF = DataSet(
    "Dyestuff",
    "yield of a dyestuff from six batches of an intermediate product, five preparations each",
    30,
    (_BATCH, Column("Yield", FLOAT, "yield (grams of standard colour)")),
    f"{_DAVIES} 6.4",
    _LME4,
)
DYESTUFF2 = DataSet(
    "Dyestuff2",
    "constructed numbers in the design of Dyestuff, with less variation between batches than within",
    30,
    (_BATCH, Column("Yield", FLOAT, "yield (no unit: constructed)")),
    "G. E. P. Box and G. C. Tiao, Bayesian Inference in Statistical Analysis, 1973, section 5.1.2",
    _LME4,
)
PENICILLIN = DataSet(
    "Penicillin",
    "six penicillin samples assayed on each of 24 plates",
    144,
    (
        Column("diameter", FLOAT, "diameter of the zone where growth is inhibited (mm)"),
        Column("plate", FACTOR, "assay plate", tuple(ascii_lowercase[:24])),
        Column("sample", FACTOR, "penicillin sample", tuple(ascii_uppercase[:6])),
    ),
    f"{_DAVIES} 6.6",
    _LME4,
)
PASTES = DataSet(
    "Pastes",
    "strength of a chemical paste: ten deliveries, three casks from each, two assays of each cask",
    60,
    (
        Column("strength", FLOAT, "strength of the paste (unit not published)"),
        Column("batch", FACTOR, "delivery", tuple(ascii_uppercase[:10])),
        Column("cask", FACTOR, "cask within its delivery", tuple("abc")),
        Column("sample", FACTOR, "delivery and cask", tuple(f"{b}:{c}" for b in ascii_uppercase[:10] for c in "abc")),
    ),
    f"{_DAVIES} 6.5",
    _LME4,
)
CAKE = DataSet(
    "cake",
    "the angle at which chocolate cakes break: three recipes, six baking temperatures within each replicate",
    270,
    (
        Column("replicate", FACTOR, "replicate within its recipe, in order of time", _numbered(15)),
        Column("recipe", FACTOR, "recipe", tuple("ABC")),
        Column("temperature", ORDERED, "baking temperature (degrees F)", ("175", "185", "195", "205", "215", "225")),
        Column("angle", INTEGER, "angle at which the cake broke (degrees)"),
        Column("temp", INTEGER, "baking temperature as a number (degrees F)"),
    ),
    "F. E. Cook, Chocolate cake, I: Optimum baking temperature, Master's thesis, Iowa State College, 1938; in W. G. "
    "Cochran and G. M. Cox, Experimental Designs, 2nd ed., 1957, p. 300",
    _LME4,
)
SOYBEAN_SIM = DataSet(
    "soybean_sim",
    "a simulated soybean trial: genotypes in plots, leaves of the plots measured on disks, seven days",
    3309,
    (
        Column("AqE", FLOAT, "apparent quantum efficiency (standardised, no unit)"),
        Column("ID", FACTOR, "genotype; RC is the check", ("RC", *(f"G{i:02d}" for i in range(1, 41)))),
        Column("days", FLOAT, "day of measurement (standardised)"),
        Column("Precip", FLOAT, "precipitation of the day (standardised)"),
        Column("Precip_7day", FLOAT, "precipitation of the seven days before (standardised)"),
        Column("plot_number", FACTOR, "plot; it grows one genotype", _numbered(200)),
        Column("disk", FACTOR, "measuring disk; used on one day, for many plots", _numbered(101)),
        Column("day", INTEGER, "days since the first measurement"),
    ),
    "simulated by lmmjax.datasets.soybean with a fixed seed; sd 0.22 (plot), 0.13 (disk), 0.73 (residual)",
    "Apache-2.0, with the package",
)
ONE_WAY = DataSet(
    "one_way",
    "the simulated example of the lecture notes' Gibbs sampler: seven subjects, mean 2, effects -3 to 3, variance 1",
    158,
    (Column("y", FLOAT, "response (simulated, no unit)"), Column("subject", FACTOR, "subject", _numbered(7))),
    "simulated by R 4.2 with set.seed(13) as in the notes: T <- rpois(7, 20), then rnorm(T[i], 2 + a[i], 1) by subject",
    "simulated numbers carry no licence",
)

REGISTRY = {
    data_set.name: data_set
    for data_set in (
        PULP,
        IRRIGATION,
        EGGS,
        PSID,
        SLEEPSTUDY,
        DYESTUFF,
        DYESTUFF2,
        PENICILLIN,
        PASTES,
        CAKE,
        SOYBEAN_SIM,
        ONE_WAY,
    )
}
