"""The examples run and meet the published numbers, and every code block of the documentation does what it says."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import references

ROOT = references.ROOT
EXAMPLES = sorted(path.name for path in (ROOT / "examples").glob("[0-9]*.py"))
PAGES = ["README.md", *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md"))]
# Most of their time is compilation: for these XLA need not optimise. 05_soybean runs the same functions as for a user.
UNOPTIMISED = ("03_eggs.py", "09_custom_covariance.py")
# A block of Python and, where one follows at once, the text that it prints.
BLOCK = re.compile(r"^```python\n(.*?)^```\n(?:\n?```text\n(.*?)^```\n)?", re.MULTILINE | re.DOTALL)


def run(name: str, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, **environment}
    if name not in UNOPTIMISED:
        env.pop("JAX_DISABLE_MOST_OPTIMIZATIONS", None)  # as for a user
    return subprocess.run(
        [sys.executable, f"examples/{name}"],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_meets_the_published_numbers(name: str) -> None:
    """Those of the notes meet what is printed there; the others check themselves and draw a picture."""
    environment = {"LMMJAX_DATA_DIR": references.psid_folder()} if "psid" in name else {}
    draws = "matplotlib" in (ROOT / "examples" / name).read_text(encoding="utf-8")
    if draws:
        pytest.importorskip("matplotlib", reason="the picture needs the extra `plots`")
    done = run(name, **environment)
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert ("Checks met" if draws else "Published numbers met to their printed digits") in done.stdout
    assert "missed" not in done.stdout


def test_the_page_of_the_demo_has_its_pictures() -> None:
    pytest.importorskip("matplotlib", reason="the pictures need the extra `plots`")
    done = run("pulp_page.py")
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    page = Path(done.stdout.strip().split(": ", 1)[1]).read_text(encoding="utf-8")
    assert page.count("data:image/png;base64,") == 3
    assert "REML criterion" in page


def test_psid_example_says_what_to_do_without_the_data(tmp_path: Path) -> None:
    done = run("04_psid.py", LMMJAX_DATA_DIR=str(tmp_path))
    assert done.returncode == 0, done.stderr
    assert "Nothing to show without the data" in done.stdout


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
