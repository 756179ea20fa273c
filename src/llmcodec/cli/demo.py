"""`llmcodec demo`: a page on this machine to hear codecs on one's own voice. Test: tests/demo/test_app.py."""

from __future__ import annotations

from importlib.util import find_spec

from llmcodec.cli.options import DeviceOptions


def run_demo(
    codec: list[str] | None = None,
    lm: str | None = None,
    port: int | None = None,
    device: DeviceOptions = DeviceOptions(),
) -> None:
    """Open a page on this machine: record or drop a file, hear it through codecs, change a token, continue it.

      llmcodec demo
      llmcodec demo --codec mine=runs/rate --codec dac=descript/dac_16khz --lm runs/lm_small

    Plays the original, the nearest codes and the search of the bundled codec (with --lm: of the LM's codec) and every
    further codec in step, also blind. The server listens to this machine only; nothing is sent anywhere, and recordings
    are deleted when it stops. Needs the extra `demo`: pip install 'llmcodec[demo]'.

    Args:
        codec: further codec: a folder, a hub id, or NAME=one of these; may be repeated.
        lm: folder of `llmcodec lm train` or `lm export`, or a hub id, to continue recordings; without it the page does
            not continue.
        port: of the server; null takes a free one from 7860 on.
    """
    if find_spec("gradio") is None:
        raise ValueError("the demo needs the package gradio: pip install 'llmcodec[demo]'")
    from llmcodec.demo.app import private_files, serve
    from llmcodec.demo.studio import Studio

    studio = Studio.open(codec or [], lm, device.torch_device())
    with private_files():
        serve(studio, port)
