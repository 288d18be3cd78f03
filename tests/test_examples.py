"""The examples run and meet the published numbers, and every code block of the documentation does what it says."""

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import references

ROOT = references.ROOT
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("[0-9]*.py"))
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
# As a user runs them: in a process of their own, where XLA optimises all and executables are kept. A small model, and a
# large one where its data are. The others share this process and what is compiled in it.
APART = ("01_pulp.py", "04_psid.py", "pulp_page.py")
# A block of Python and, where one follows at once, the text that it prints.
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n?```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """What an example prints, which ends without an error and warns of nothing."""

    def printed(name: str, **environment: str) -> str:
        for variable, value in environment.items():
            monkeypatch.setenv(variable, value)
        if name in APART:
            out, err = run_apart(name)
        else:
            monkeypatch.syspath_prepend(ROOT / "examples")
            runpy.run_path(str(ROOT / "examples" / name), run_name="__main__")
            out, err = capsys.readouterr()
        assert "Warning" not in err
        return out

    return printed


def run_apart(name: str) -> tuple[str, str]:
    """What it prints and its errors, in a process of its own."""
    env = {k: v for k, v in os.environ.items() if k not in ("JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS")}
    done = subprocess.run(
        [sys.executable, f"examples/{name}"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout, done.stderr


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_meets_the_published_numbers(name: str, run: Callable[..., str]) -> None:
    """Those of the notes meet what is printed there; the others check themselves and draw a picture."""
    environment = {"LMMJAX_DATA_DIR": references.psid_folder()} if "psid" in name else {}
    draws = "matplotlib" in (ROOT / "examples" / name).read_text(encoding="utf-8")
    if draws:
        pytest.importorskip("matplotlib", reason="the picture needs the extra `plots`")
    printed = run(name, **environment)
    assert ("Checks met" if draws else "Published numbers met to their printed digits") in printed
    assert "missed" not in printed


def test_the_page_of_the_demo_has_its_pictures(run: Callable[..., str]) -> None:
    pytest.importorskip("matplotlib", reason="the pictures need the extra `plots`")
    page = Path(run("pulp_page.py").strip().split(": ", 1)[1]).read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 3
    assert "REML criterion" in page


def test_psid_example_says_what_to_do_without_the_data(tmp_path: Path, run: Callable[..., str]) -> None:
    assert "Nothing to show without the data" in run("04_psid.py", LMMJAX_DATA_DIR=str(tmp_path))


def test_a_missed_number_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    from published import Published

    table = Published()
    table.check("tie", "40.23", 40.225)
    table.check("small p", "3.065e-12", 3.06479e-12)
    table.slip("printed wrong", "4.03", "4.02", 4.0249, "why")
    table.report()
    assert "Slips of the notes, marked: 1" in capsys.readouterr().out
    table.check("wrong", "1.45", 1.4449)
    with pytest.raises(AssertionError, match="wrong: published 1.45"):
        table.report()


@pytest.mark.parametrize("page", PAGES)
def test_code_blocks_run_and_print_what_follows_them(page: str, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / page).read_text(encoding="utf-8")
    blocks = list(BLOCK.finditer(text))
    assert len(blocks) == text.count("```python")
    namespace: dict[str, Any] = {}
    for block in blocks:
        line = text.count("\n", 0, block.start()) + 1
        exec(compile("\n" * line + block[1], page, "exec"), namespace)
        printed = capsys.readouterr().out
        if block[2] is not None:
            assert printed.rstrip() == block[2].rstrip(), f"{page}:{line} prints something else"
