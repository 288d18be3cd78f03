"""Published measurements, small enough to be typed in.

Each function gives the columns of one data set, in the usual order of its rows; `registry` says where they come from.
"""

Columns = dict[str, list]

_PULP = {
    "a": (59.8, 60.0, 60.8, 60.8, 59.8),
    "b": (59.8, 60.2, 60.4, 59.9, 60.0),
    "c": (60.7, 60.7, 60.5, 60.9, 60.3),
    "d": (61.0, 60.8, 60.6, 60.5, 60.5),
}

# One line a field: the irrigation method it received, then the yields of varieties v1 and v2.
_IRRIGATION = (
    ("i1", 35.4, 37.9),
    ("i2", 36.7, 38.2),
    ("i3", 34.8, 36.4),
    ("i4", 39.5, 40.0),
    ("i1", 41.6, 40.3),
    ("i2", 42.7, 41.6),
    ("i3", 43.6, 42.8),
    ("i4", 44.5, 47.6),
)

# One line a laboratory: technician one with sample G (twice) and H (twice), then technician two.
_EGGS = {
    "I": (0.62, 0.55, 0.34, 0.24, 0.80, 0.68, 0.76, 0.65),
    "II": (0.30, 0.40, 0.33, 0.43, 0.39, 0.40, 0.29, 0.18),
    "III": (0.46, 0.38, 0.27, 0.37, 0.37, 0.42, 0.45, 0.54),
    "IV": (0.18, 0.47, 0.53, 0.32, 0.40, 0.37, 0.31, 0.43),
    "V": (0.35, 0.39, 0.37, 0.33, 0.42, 0.36, 0.20, 0.41),
    "VI": (0.37, 0.43, 0.28, 0.36, 0.18, 0.20, 0.26, 0.06),
}


def pulp() -> Columns:
    """Brightness of paper pulp under four shift operators, five sheets each."""
    return {
        "bright": [value for sheets in _PULP.values() for value in sheets],
        "operator": [operator for operator, sheets in _PULP.items() for _ in sheets],
    }


def irrigation() -> Columns:
    """Yields of the split-plot irrigation experiment: eight fields, two varieties in each."""
    fields = [f"f{i + 1}" for i in range(len(_IRRIGATION))]
    return {
        "field": [field for field in fields for _ in range(2)],
        "irrigation": [method for method, *_ in _IRRIGATION for _ in range(2)],
        "variety": ["v1", "v2"] * len(_IRRIGATION),
        "yield": [value for _, *yields in _IRRIGATION for value in yields],
    }


def eggs() -> Columns:
    """Fat in dried egg: six laboratories, two technicians in each, two samples for each, measured twice."""
    return {
        "Fat": [value for values in _EGGS.values() for value in values],
        "Lab": [lab for lab, values in _EGGS.items() for _ in values],
        "Technician": (["one"] * 4 + ["two"] * 4) * len(_EGGS),
        "Sample": ["G", "G", "H", "H"] * 2 * len(_EGGS),
    }
