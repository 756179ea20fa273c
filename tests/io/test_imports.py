"""io/ stands below everything: it loads neither torch nor transformers, whatever of it is imported."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import importlib, pkgutil, sys, llmcodec.io
for module in pkgutil.iter_modules(llmcodec.io.__path__, "llmcodec.io."):
    importlib.import_module(module.name)
print(sorted({"torch", "transformers", "pyarrow", "yaml"} & set(sys.modules)))
"""


def test_the_package_loads_no_torch():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"
