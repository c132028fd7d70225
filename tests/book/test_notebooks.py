"""`scripts/notebooks.py`: no edit is lost, no half notebook is written, runs leave no trace."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import nbformat
import pytest

from scripts import notebooks
from scripts.notebooks import Chapter, Trouble

TEXT = """# %% [markdown]
# # Title

# %% mystnb={"image": {"alt": "One dot"}} tags=["hide-input"]
x = 1

# %%
print(x)

# %%
print(x)
"""


@pytest.fixture
def chapter(tmp_path: Path) -> Chapter:
    """A small chapter in a book of its own: the text, and the notebook as it would be written."""
    (tmp_path / "notebooks" / "src").mkdir(parents=True)
    shutil.copy(notebooks.ROOT / "_config.yml", tmp_path)
    chapter = Chapter("01_small", tmp_path)
    chapter.text.write_text(TEXT, "utf-8")
    nbformat.write(notebooks.from_text(chapter), chapter.ipynb)
    return chapter


def edit_notebook(chapter: Chapter, source: str, seconds: int) -> None:
    """Change the last cell and make the notebook younger (or older) than its text."""
    notebook = nbformat.read(chapter.ipynb, as_version=4)
    notebook.cells[-1].source = source
    nbformat.write(notebook, chapter.ipynb)
    now = chapter.text.stat().st_mtime
    os.utime(chapter.ipynb, (now + seconds, now + seconds))


def test_text_and_notebook_carry_the_same_cells(chapter: Chapter) -> None:
    notebook = notebooks.from_text(chapter)
    assert [cell.cell_type for cell in notebook.cells] == ["markdown", "code", "code", "code"]
    assert notebook.cells[1].metadata == {
        "tags": ["hide-input"],
        "mystnb": {"image": {"alt": "One dot"}},
    }
    assert notebooks.in_sync(chapter)


def test_blank_lines_of_the_text_leave_no_metadata(chapter: Chapter) -> None:
    chapter.text.write_text(TEXT + "\n# %%\ndef f():\n    pass\n\n\n# %%\nf()\n", "utf-8")
    kept = {key for cell in notebooks.from_text(chapter).cells for key in cell.metadata}
    assert kept == {"tags", "mystnb"}


def test_cell_ids_are_deterministic_unique_and_follow_the_content(chapter: Chapter) -> None:
    first, again = notebooks.from_text(chapter), notebooks.from_text(chapter)
    ids = [cell.id for cell in first.cells]
    assert ids == [cell.id for cell in again.cells] and len(set(ids)) == len(ids)
    chapter.text.write_text("# %%\ny = 0\n\n" + TEXT, "utf-8")
    assert [cell.id for cell in notebooks.from_text(chapter).cells][1:] == ids


def test_an_edit_of_the_text_wins(chapter: Chapter) -> None:
    edit_notebook(chapter, "print(2)", seconds=-10)
    assert not notebooks.in_sync(chapter)
    notebooks.settle(chapter)
    assert chapter.text.read_text("utf-8") == TEXT


def test_an_edit_of_the_notebook_is_never_lost_silently(chapter: Chapter) -> None:
    edit_notebook(chapter, "print(2)", seconds=10)
    with pytest.raises(Trouble, match="is newer: keep its edits with .*01_small --from-ipynb"):
        notebooks.settle(chapter)
    notebooks.settle(chapter, "ipynb")
    assert chapter.text.read_text("utf-8") == TEXT[: TEXT.rindex("print")] + "print(2)\n"
    assert notebooks.in_sync(chapter)


def test_an_edit_of_the_notebook_is_dropped_on_demand(chapter: Chapter) -> None:
    edit_notebook(chapter, "print(2)", seconds=10)
    notebooks.settle(chapter, "text")
    assert chapter.text.read_text("utf-8") == TEXT


def test_changed_tags_count_as_an_edit(chapter: Chapter) -> None:
    chapter.text.write_text(TEXT.replace("hide-input", "hide-cell"), "utf-8")
    assert not notebooks.in_sync(chapter)


def test_a_notebook_without_text_is_not_overwritten(chapter: Chapter) -> None:
    chapter.text.unlink()
    assert not notebooks.in_sync(chapter)
    with pytest.raises(Trouble, match="has no text"):
        notebooks.settle(chapter)
    notebooks.settle(chapter, "ipynb")
    assert chapter.text.read_text("utf-8") == TEXT


@pytest.mark.slow
def test_execution_is_reproducible_to_the_byte(chapter: Chapter) -> None:
    loud = "_ = [print(i, flush=True) for i in range(9)]\n"
    loud += "import os\nos.environ['OMP_NUM_THREADS']"
    chapter.text.write_text(TEXT + f"\n# %%\n{loud}\n", "utf-8")
    cost = notebooks.execute(chapter)
    first = chapter.ipynb.read_bytes()
    assert 0 < cost.seconds < 60 and 10 < cost.MB < 2000 and cost.kB == len(first) / 1000
    notebooks.execute(chapter)
    assert chapter.ipynb.read_bytes() == first
    cells = nbformat.read(chapter.ipynb, as_version=4).cells
    assert [cell.execution_count for cell in cells[1:]] == [1, 2, 3, 4]
    assert [output.output_type for output in cells[-1].outputs] == ["stream", "execute_result"]
    assert cells[-1].outputs[1].data["text/plain"] == "'1'"


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="Linux's own trap")
@pytest.mark.slow
def test_the_memory_of_the_caller_is_not_counted(chapter: Chapter) -> None:
    fat = bytearray(1_500_000_000)  # a bytearray of zeros costs nothing until it is touched
    fat[::4096] = b"x" * len(fat[::4096])
    cost = notebooks.execute(chapter)
    assert 10 < cost.MB < 1000 < len(fat) / 1e6


def test_an_error_is_told_and_the_notebook_stays_whole(chapter: Chapter) -> None:
    before = chapter.ipynb.read_bytes()
    chapter.text.write_text(TEXT + "\n# %%\nx / 0\n\n# %%\nnever()\n", "utf-8")
    with pytest.raises(Trouble) as failure:
        notebooks.execute(chapter)
    message = str(failure.value)
    assert "stopped in the cell that begins at notebooks/src/01_small.py:13" in message
    assert "ZeroDivisionError: division by zero" in message and "\x1b" not in message
    assert chapter.ipynb.read_bytes() == before
    assert [path.name for path in chapter.ipynb.parent.iterdir() if path.is_file()] == [
        "01_small.ipynb"
    ]


def test_over_budget_is_said() -> None:
    assert "OVER" not in str(notebooks.Cost(100.0, 59.0, 1999.0, 599.0))
    assert str(notebooks.Cost(1.0, 61.0, 2.0, 601.0)).endswith("OVER BUDGET: seconds, kB")


def test_selection_by_a_part_of_the_name(chapter: Chapter) -> None:
    other = Chapter("02_other", chapter.root)
    other.text.write_text(TEXT, "utf-8")
    assert notebooks.select([], chapter.root) == [chapter, other]
    assert notebooks.select(["02"], chapter.root) == [other]
    assert notebooks.select(["notebooks/01_small.ipynb"], chapter.root) == [chapter]
    for name in ("0", "elbo"):
        with pytest.raises(Trouble, match="fits"):
            notebooks.select([name], chapter.root)


def test_a_new_chapter_has_everything(chapter: Chapter) -> None:
    new = notebooks.create("04_elbo", "The evidence lower bound", chapter.root)
    text = new.text.read_text("utf-8")
    assert notebooks.badge("04_elbo") in text and notebooks.setup_cell() in text
    assert "# # 4. The evidence lower bound" in text and "@" not in text
    assert not notebooks.refresh(new)
    for name in ("04_again", "4_elbo", "05-elbo"):
        with pytest.raises(Trouble):
            notebooks.create(name, "No", chapter.root)


def test_refresh_renews_badge_and_setup_cell_and_nothing_else(chapter: Chapter) -> None:
    new = notebooks.create("04_elbo", "Title", chapter.root)
    right = new.text.read_text("utf-8")
    stale = right.replace("plots.style()", "plots.old_style()").replace("/blob/main/", "/blob/old/")
    draft = right.replace(notebooks.setup_cell(), "").replace(notebooks.badge(new.name), "@BADGE@")
    for text in (stale, draft):
        new.text.write_text(text, "utf-8")
        assert notebooks.refresh(new)
        assert new.text.read_text("utf-8") == right


def test_refresh_renews_the_notebook_too_and_keeps_its_outputs(chapter: Chapter) -> None:
    new = notebooks.create("04_elbo", "Title", chapter.root)
    notebook = notebooks.from_text(new)
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs = [nbformat.v4.new_output("stream", text="kept")]
    new.ipynb.write_text(nbformat.writes(notebook) + "\n", "utf-8")
    right, digest = new.ipynb.read_text("utf-8"), new.digest
    stale = right.replace("plots.style()", "plots.old_style()").replace("/blob/main/", "/blob/old/")
    assert stale != right and "kept" in right
    new.ipynb.write_text(stale, "utf-8")
    text = new.text.read_text("utf-8")
    old = text.replace("plots.style()", "plots.old_style()").replace("/blob/main/", "/blob/old/")
    new.text.write_text(old, "utf-8")
    assert new.digest == digest  # what was measured is not out of date
    assert notebooks.refresh(new) and not notebooks.refresh(new)
    assert new.ipynb.read_text("utf-8") == right and notebooks.in_sync(new)
    new.text.write_text(text + "\n# %%\nprint(3)\n", "utf-8")
    assert new.digest != digest


def test_the_command_reports_what_differs(
    chapter: Chapter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(notebooks, "select", lambda names: [chapter])
    assert notebooks.main(["--check"]) == 0
    edit_notebook(chapter, "print(2)", seconds=10)
    assert notebooks.main(["--check"]) == 1
    assert "01_small: text and notebook differ; run `make notebooks`." in capsys.readouterr().err
    assert notebooks.main(["--from-ipynb"]) == 1
    assert "wants the name of a chapter" in capsys.readouterr().err
