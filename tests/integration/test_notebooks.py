"""examples/notebooks run from the first cell to the last in an empty folder, without a network, and keep no output."""

from __future__ import annotations

from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
pytestmark = pytest.mark.slow
NOTEBOOKS = sorted((Path(__file__).parents[2] / "examples/notebooks").glob("*.ipynb"))
SAID = {
    "code_and_search": "of the tokens differ",
    "train_a_codec": " -> ",
    "token_lm": "bits a token",
}
"""What a cell prints when all before it did its work."""


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs_offline(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nbclient = pytest.importorskip("nbclient")
    notebook = nbformat.read(path, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code), "clear the outputs"
    for name in ("HF_HUB_OFFLINE", "OMP_NUM_THREADS"):
        monkeypatch.setenv(name, "1")
    for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")  # whoever asks another host fails
    nbclient.NotebookClient(notebook, timeout=900, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = [one.get("text", "") for cell in code for one in cell.outputs]
    assert any(SAID[path.stem] in text for text in said)
    assert any(
        "image/png" in one.get("data", {}) or "text/html" in one.get("data", {}) for c in code for one in c.outputs
    )
