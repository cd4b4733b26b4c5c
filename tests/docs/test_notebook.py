"""The notebook runs from its first cell to its last, small, in a folder of its own."""

import re

import nbformat
from doc_pages import ROOT
from nbclient import NotebookClient

NOTEBOOK = nbformat.read(ROOT / "examples" / "demo.ipynb", as_version=4)
SMALL = """folder = "runs/notebook"
demonstrations, warm_start_steps = 200, 40
questions, held_out = 40, 9
threads = 1"""


def shown(notebook):
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    small = nbformat.from_dict(NOTEBOOK)
    (parameters,) = [cell for cell in small.cells if "parameters" in cell.metadata.get("tags", ())]
    parameters.source = SMALL
    NotebookClient(small, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert (tmp_path / "runs" / "notebook" / "rl" / "model" / "config.json").is_file()
    said = "".join(output.get("text", "") for output in shown(small))
    assert "of 40 questions are in the ladder" in said and "accuracy before" in said
    for ours, stored in zip(small.cells, NOTEBOOK.cells, strict=True):
        kinds = {output.output_type for output in ours.get("outputs", ()) if output.get("name") != "stderr"}
        assert kinds <= {output.output_type for output in stored.get("outputs", ())}, (
            f"run scripts/notebook.py: {stored.id}"
        )


def test_what_the_notebook_stores_is_small_and_names_no_folder_of_a_machine():
    outputs = shown(NOTEBOOK)
    assert {output.output_type for output in outputs} == {"stream", "display_data"}
    assert all(output.get("name", "stdout") == "stdout" for output in outputs)
    texts = [output.get("text") or output.data.get("text/plain", "") for output in outputs]
    assert not re.search(r"/(tmp|home|root|Users|work|var)/|[A-Z]:\\\\", "".join(texts))
    assert len((ROOT / "examples" / "demo.ipynb").read_bytes()) < 400_000
    assert not any("execution" in cell.metadata for cell in NOTEBOOK.cells)
