"""The notebooks are kept without outputs, and run from top to bottom, meeting the numbers that they assert."""

import os
import warnings
from pathlib import Path
from typing import Any

import pytest
import references

nbformat = pytest.importorskip("nbformat", reason="needs the extra `test`")
nbclient = pytest.importorskip("nbclient", reason="needs the extra `test`")
pytest.importorskip("ipykernel", reason="needs the extra `test`")

ROOT = references.ROOT
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
ALWAYS = ("01_pulp", "04_split_plot", "07_how_lmer_works", "08_gibbs")
SECONDS = 600  # for a cell
notebooks = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def read(path: Path) -> Any:
    return nbformat.read(path, as_version=4)


def execute(notebook: Any, **environment: str) -> None:
    """Runs every cell in a new kernel, in the root of the repository, and keeps the outputs in `notebook`.

    Raises CellExecutionError.
    """
    env = {**os.environ, "JAX_PLATFORMS": "cpu", **environment}
    for name in ("JAX_DISABLE_MOST_OPTIMIZATIONS", "PYTHONWARNINGS"):  # as for a user
        env.pop(name, None)
    where = {"metadata": {"path": str(ROOT)}}
    client = nbclient.NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=where)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Jupyter and its sockets
        client.execute(env=env)


def test_those_that_always_run_are_there() -> None:
    assert set(ALWAYS) <= {path.stem for path in NOTEBOOKS}


@notebooks
def test_kept_without_outputs(path: Path) -> None:
    notebook = read(path)
    nbformat.validate(notebook)
    assert (notebook.nbformat, notebook.nbformat_minor) == (4, 5)
    assert notebook.metadata.kernelspec.name == "python3"
    for cell in notebook.cells:
        if cell.cell_type == "code":
            assert cell.outputs == []
            assert cell.execution_count is None


@notebooks
def test_text_is_markdown_with_one_title(path: Path) -> None:
    text = [line for cell in read(path).cells if cell.cell_type == "markdown" for line in cell.source.splitlines()]
    assert [line for line in text if line.startswith("# ")] == [text[0]]
    assert "#" not in text  # an empty comment of a script, not yet made text


@notebooks
def test_runs_from_top_to_bottom(path: Path) -> None:
    if path.stem not in ALWAYS and os.environ.get("LMMJAX_TEST_NOTEBOOKS") != "all":
        pytest.skip(reason="half a minute each; set LMMJAX_TEST_NOTEBOOKS=all to run every notebook")
    pytest.importorskip("matplotlib", reason="the pictures need the extra `plots`")
    if path.stem == "08_gibbs":
        pytest.importorskip("arviz", reason="needs the extra `bayes`")
    environment = {"LMMJAX_DATA_DIR": references.psid_folder()} if "psid" in path.stem else {}
    execute(read(path), **environment)


def test_psid_notebook_says_what_to_do_without_the_data(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="the pictures need the extra `plots`")
    notebook = read(ROOT / "notebooks" / "06_psid_longitudinal.ipynb")
    with pytest.raises(nbclient.exceptions.CellExecutionError):
        execute(notebook, LMMJAX_DATA_DIR=str(tmp_path))
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    text = "".join(output.text for output in outputs if output.output_type == "stream" and output.name == "stdout")
    (error,) = (output for output in outputs if output.output_type == "error")
    assert "Nothing to show without the data" in text
    assert (error.ename, error.traceback) == ("Stop", [])
