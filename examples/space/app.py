"""`llmcodec demo` as a Hugging Face Space. The container is the boundary, so the server listens on all its addresses.

python app.py                                # then open the address that it prints
"""

from __future__ import annotations

import os

from llmcodec.demo.app import private_files, serve
from llmcodec.demo.studio import Studio

if __name__ == "__main__":
    studio = Studio.open(os.environ.get("CODECS", "").split(), os.environ.get("LM", "bundled") or None)
    with private_files():
        serve(studio, port=int(os.environ.get("GRADIO_SERVER_PORT", "7860")), host="0.0.0.0")
