"""The notebook of examples/, run from its first cell to its last."""

from __future__ import annotations

from pathlib import Path

import nbformat
from nbclient import NotebookClient
from turns import run, turn

NOTEBOOK = Path(__file__).parents[2] / "examples" / "steering.ipynb"


@turn("every cell runs, and plots")
def runs() -> None:
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    NotebookClient(notebook, timeout=120, kernel_name="python3").execute()
    outputs = [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]
    assert any("image/png" in output.get("data", {}) for output in outputs), "there is no plot"


if __name__ == "__main__":
    run()
