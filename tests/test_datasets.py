"""The data sets: facts that a reader can check, levels in R's order, and equality with what R has."""

import bz2
import hashlib
import sys
from importlib.util import find_spec
from io import StringIO
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import references

from lmmjax import datasets
from lmmjax.datasets import psid
from lmmjax.errors import DataError

IN_PACKAGE = [name for name in datasets.available() if name != "psid"]
REAL = [name for name in IN_PACKAGE if name not in ("soybean_sim", "one_way")]
RESPONSE_SUMS = {
    "pulp": ("bright", 1208.0),
    "irrigation": ("yield", 643.6),
    "eggs": ("Fat", 18.6),
    "sleepstudy": ("Reaction", 53731.4205),
    "Dyestuff": ("Yield", 45825.0),
    "Dyestuff2": ("Yield", 169.968),
    "Penicillin": ("diameter", 3308.0),
    "Pastes": ("strength", 3603.2),
    "cake": ("angle", 8673.0),
    "one_way": ("y", 313.355443),
}
SOYBEAN_SUM, SOYBEAN_PLOT_CODES = -121.084492, 330331


@pytest.mark.parametrize("name", IN_PACKAGE)
def test_columns_are_as_described(name):
    data, described = datasets.load(name), datasets.describe(name)
    assert data.shape == (described.rows, len(described.columns))
    assert list(data.columns) == [column.name for column in described.columns]
    assert not data.isna().any(axis=None)
    for column in described.columns:
        dtype = data[column.name].dtype
        if column.levels:
            assert tuple(dtype.categories) == column.levels
            assert all(type(level) is str for level in dtype.categories)
            assert dtype.ordered == (column.kind == "ordered factor")
            assert set(data[column.name]) == set(column.levels)
        else:
            assert dtype == column.kind


@pytest.mark.parametrize(("name", "fact"), RESPONSE_SUMS.items())
def test_sums_of_the_responses(name, fact):
    response, total = fact
    assert datasets.load(name)[response].sum() == pytest.approx(total, abs=1e-6)


@pytest.mark.parametrize("name", datasets.available())
def test_description_prints_source_and_licence(name):
    text = str(datasets.describe(name))
    assert "Source: " in text
    assert "Licence: " in text
    assert all(column.name in text for column in datasets.describe(name).columns)


def test_load_gives_a_new_frame_each_time():
    first = datasets.load("pulp")
    first.loc[0, "bright"] = 0.0
    assert datasets.load("pulp").loc[0, "bright"] == 59.8


@pytest.mark.parametrize(
    ("wrong", "right"), [("Pulp", "pulp"), ("sleepstudies", "sleepstudy"), ("dyestuf", "Dyestuff"), ("?", "irrigation")]
)
def test_unknown_name_is_answered_with_close_ones(wrong, right):
    with pytest.raises(DataError, match=right):
        datasets.load(wrong)


@pytest.mark.parametrize("name", REAL)
def test_values_and_levels_equal_those_of_r(name, reference):
    data = datasets.load(name)
    columns = reference["datasets"][name]["columns"]
    ours = pd.read_csv(StringIO(data.to_csv(index=False)), dtype=str)
    theirs = pd.read_csv(references.shared_data(f"{name}.csv"), dtype=str)
    for column, described in columns.items():
        if described["type"] == "numeric":
            assert np.array_equal(data[column], theirs[column].astype(float))
        else:
            assert ours[column].tolist() == theirs[column].tolist()
            assert data[column].cat.categories.tolist() == described["levels"]
            assert data[column].cat.ordered == (described["type"] == "ordered")


def test_pulp_equals_the_faraway_package():
    spec = find_spec("faraway")
    if spec is None or not spec.submodule_search_locations:
        pytest.skip(reason="the PyPI package faraway is not installed")
    path = Path(spec.submodule_search_locations[0]) / "datasets" / "pulp" / "pulp.csv.bz2"
    theirs = pd.read_csv(StringIO(bz2.decompress(path.read_bytes()).decode()))
    ours = datasets.load("pulp")
    assert ours["bright"].tolist() == theirs["bright"].tolist()
    assert ours["operator"].tolist() == theirs["operator"].tolist()


class TestSoybean:
    def test_is_the_same_everywhere(self):
        # Of another NumPy or platform the last rounded digit may differ, the draws may not.
        data = datasets.load("soybean_sim")
        assert data["AqE"].sum() == pytest.approx(SOYBEAN_SUM, abs=1e-3)
        assert data["plot_number"].cat.codes.sum() == SOYBEAN_PLOT_CODES

    def test_plots_have_one_genotype_and_are_crossed_with_disks(self):
        data = datasets.load("soybean_sim")
        assert (data.groupby("plot_number", observed=True)["ID"].nunique() == 1).all()
        assert (data.groupby("disk", observed=True)["day"].nunique() == 1).all()
        assert not data.duplicated(["plot_number", "disk"]).any()
        assert data.groupby("plot_number", observed=True)["day"].nunique().min() >= 3

    @pytest.mark.parametrize("covariate", ["days", "Precip", "Precip_7day"])
    def test_covariates_are_standardised_and_constant_within_a_day(self, covariate):
        data = datasets.load("soybean_sim")
        assert data[covariate].mean() == pytest.approx(0, abs=1e-8)
        assert data[covariate].std() == pytest.approx(1, abs=1e-8)
        assert (data.groupby("day")[covariate].nunique() == 1).all()

    def test_fixed_effects_can_be_told_apart(self):
        data = datasets.load("soybean_sim")
        dummies = pd.get_dummies(data["ID"], drop_first=True, dtype=float)
        by_day = data[["days", "Precip", "Precip_7day"]].assign(square=data["days"] ** 2, one=1.0)
        assert np.linalg.matrix_rank(np.column_stack([dummies, by_day])) == 45


class TestPsid:
    """The panel is read from a folder or downloaded; nothing here touches the network but the marked test."""

    def check(self, data):
        assert data.shape == (1661, 6)
        assert data["sex"].cat.categories.tolist() == ["F", "M"]
        assert data.drop(columns="sex").dtypes.eq("int64").all()
        assert data["person"].nunique() == 85
        assert data.iloc[0].tolist() == [31, 12, "M", 6000, 68, 1]
        assert data["income"].sum() == pd.read_csv(references.shared_data("psid.csv"))["income"].sum()

    def as_downloaded(self):
        """The text of the file that the loader downloads, rebuilt from the reference's data."""
        data = pd.read_csv(references.shared_data("psid.csv"))
        row_name = (data["person"] - 1) * 23 + data["year"] - 67
        lines = [
            f'"{row_name[i]}",{r.age},{r.educ},"{r.sex}",{r.income},{r.year},{r.person}'
            for i, r in enumerate(data.itertuples())
        ]
        return "\n".join(['"","age","educ","sex","income","year","person"', *lines, ""])

    def test_from_a_folder(self, monkeypatch):
        monkeypatch.setenv("LMMJAX_DATA_DIR", str(references.shared_data("psid.csv").parent))
        self.check(datasets.load("psid"))

    def test_from_the_downloaded_file(self, monkeypatch, tmp_path):
        pooch = pytest.importorskip("pooch")
        path = tmp_path / "psid.csv"
        path.write_bytes(self.as_downloaded().encode())
        assert hashlib.sha256(path.read_bytes()).hexdigest() == psid.SHA256
        monkeypatch.delenv("LMMJAX_DATA_DIR", raising=False)
        monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path)
        self.check(datasets.load("psid"))

    @pytest.mark.network
    def test_from_the_network(self, monkeypatch, tmp_path):
        pooch = pytest.importorskip("pooch")
        monkeypatch.delenv("LMMJAX_DATA_DIR", raising=False)
        monkeypatch.setattr(pooch, "os_cache", lambda name: tmp_path)
        self.check(datasets.load("psid"))

    def test_folder_without_the_file(self, monkeypatch, tmp_path):
        monkeypatch.setenv("LMMJAX_DATA_DIR", str(tmp_path))
        with pytest.raises(DataError, match="LMMJAX_DATA_DIR is set, but there is no file"):
            datasets.load("psid")

    def test_file_that_is_something_else(self, monkeypatch, tmp_path):
        (tmp_path / "psid.csv").write_text("age,educ,sex\n31,12,M\n")
        monkeypatch.setenv("LMMJAX_DATA_DIR", str(tmp_path))
        with pytest.raises(DataError, match="no column income, year, person"):
            datasets.load("psid")

    def test_without_pooch(self, monkeypatch):
        monkeypatch.delenv("LMMJAX_DATA_DIR", raising=False)
        monkeypatch.setitem(sys.modules, "pooch", None)
        with pytest.raises(DataError, match=r"lmmjax\[datasets\].*LMMJAX_DATA_DIR"):
            datasets.load("psid")

    def test_without_a_network(self, monkeypatch):
        pooch = pytest.importorskip("pooch")

        def unreachable(*args, **kwargs):
            raise ConnectionError("no route to host")

        monkeypatch.delenv("LMMJAX_DATA_DIR", raising=False)
        monkeypatch.setattr(pooch, "retrieve", unreachable)
        with pytest.raises(DataError, match=r"could not be downloaded \(no route to host\).*LMMJAX_DATA_DIR"):
            datasets.load("psid")
