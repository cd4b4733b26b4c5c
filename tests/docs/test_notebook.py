"""The notebook runs from its first cell to its last, small, in a folder of its own."""

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
