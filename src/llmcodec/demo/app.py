"""The demo's page: record or drop a file, hear it through codecs, change a token, let a language model go on.

Gradio draws it and is imported here alone, inside the functions. Nothing leaves the machine: no share link, no
analytics, no fonts or scripts from elsewhere; recordings live in a temporary folder that goes with the process.
Test: tests/demo/test_app.py.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmcodec.assets import speech_manifest
from llmcodec.data.manifest import read_manifest
from llmcodec.demo.studio import MOST_SECONDS, NO_LM, Studio, Take
from llmcodec.report.player import MOST_BITS, Example, Track, part, player_html

if TYPE_CHECKING:
    from gradio import Blocks

LOOPBACK = "127.0.0.1"
CSS = """
.gradio-container{max-width:64rem!important;margin:0 auto!important}
footer{display:none!important}
.said p{margin:0}
ab-player *{margin-top:0;margin-bottom:0}
ab-player .ab-bar{margin-bottom:.7rem}
ab-player figcaption{margin-bottom:.35rem}
ab-player .ab-axis{margin:.15rem 0 .4rem}
ab-player .ab-strip{margin-top:3px}
"""
FORWARD_TOKENS = """
element.addEventListener("ab-token", (event) => trigger("select", event.detail));
"""
HEAD = """
<style>.no-microphone-said{display:none!important} .no-microphone .no-microphone-said{display:block!important}</style>
<script>
const page = document.documentElement.classList, devices = navigator.mediaDevices;
if (devices) {
  const ask = devices.getUserMedia.bind(devices);
  devices.getUserMedia = (wanted) => ask(wanted).then(
    (stream) => { page.remove("no-microphone"); return stream; },
    (error) => { page.add("no-microphone"); throw error; });
} else page.add("no-microphone");  // another machine's address without HTTPS
// A file that is dropped beside the upload area would replace the page: it is uploaded instead.
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  if (event.defaultPrevented) return;
  event.preventDefault();
  const files = event.dataTransfer.files, choose = document.querySelector('[aria-label="Upload file"]');
  if (!files.length || !choose) return;
  choose.click();
  setTimeout(() => {
    const input = document.querySelector("input[type=file]");
    if (!input) return;
    input.files = files;
    input.dispatchEvent(new Event("change", { bubbles: true }));
  }, 200);
});
</script>
"""
NO_MICROPHONE = (
    "**The browser gives this page no microphone.** Allow it beside the address and record again, or choose a file."
)
PLAYER_HELP = (
    "*Nearest codes* is the codec as it is; *search* takes codes that sound alike and are easier to predict, on "
    "average. A button or a number key changes the version that is heard, without a gap; a click on a picture seeks. "
    "Under a coded version a strip shows its tokens by their surprisal under a small language model, dark 0 bits, "
    f"bright {MOST_BITS} bits or more; a click on it takes a token for the change below."
)


@contextmanager
def private_files() -> Iterator[Path]:
    """Gradio's settings for this process: no analytics, and a folder for recordings that is removed at the end."""
    with tempfile.TemporaryDirectory(prefix="llmcodec-demo-") as folder:
        settings = {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder, "HF_HUB_DISABLE_TELEMETRY": "1"}
        before = {name: os.environ.get(name) for name in settings}
        os.environ.update(settings)
        try:
            yield Path(folder)
        finally:
            for name, value in before.items():
                os.environ.pop(name) if value is None else os.environ.update({name: value})


def serve(studio: Studio, port: int | None = None, host: str = LOOPBACK, wait: bool = True) -> tuple[Blocks, str]:
    """Start the page inside `private_files`; returns it and its address, at once or when it is stopped.

    Args:
        studio: what it plays.
        port: of the server; None: a free one from 7860 on.
        host: the loopback address, unless the page runs in a container that is a boundary itself.
        wait: until a signal.

    Raises:
        ValueError: the port is taken.
    """
    page = build_page(studio)
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            inbrowser=False,
            quiet=True,
            prevent_thread_lock=True,
            footer_links=[],
            run_history=False,
            enable_monitoring=False,
            pwa=False,
            mcp_server=False,
            ssr_mode=False,
            max_file_size="100mb",
            allowed_paths=[str(_bundled_recording().parent)],
            theme=_theme(),
            css=part("player.css") + CSS,
            head=f"<script>{part('player.js')}</script>{HEAD}",
        )
    except OSError as error:
        raise ValueError(f"port {port} cannot be used ({error}); name another with --port") from error
    if wait:
        print(f"{address}  (stop with Ctrl-C; recordings are deleted then)", flush=True)
        try:
            threading.Event().wait()  # Gradio's own waiting swallows the signal
        finally:
            page.close(verbose=False)
    return page, address


def _theme() -> Any:
    import gradio

    system = ("system-ui", "-apple-system", "Segoe UI", "Roboto", "sans-serif")
    return gradio.themes.Default(font=system, font_mono=("ui-monospace", "monospace"))


def build_page(studio: Studio) -> Blocks:
    """The page, not started."""
    import gradio

    with gradio.Blocks(title="llmcodec demo", analytics_enabled=False, delete_cache=(600, 3600)) as page:
        takes = gradio.State({})
        gradio.Markdown("# llmcodec\nYour voice through codecs, token by token. Nothing leaves this machine.")
        recording = gradio.Audio(
            sources=["microphone", "upload"],
            type="filepath",
            label=f"Record, or choose a file with the arrow (at most {MOST_SECONDS:.0f} s)",
            buttons=[],
        )
        gradio.Markdown(NO_MICROPHONE, elem_classes="no-microphone-said")
        with gradio.Row():
            names = gradio.CheckboxGroup(studio.names, value=studio.names, label="Versions", scale=3)
            example = gradio.Button("Take a bundled recording", scale=1)
        said = gradio.Markdown(elem_classes="said")
        player = gradio.HTML(js_on_load=FORWARD_TOKENS, label="Versions")
        gradio.Markdown("## Change a token")
        with gradio.Row():
            version = gradio.Dropdown(studio.names, value=studio.names[0], label="Version", min_width=200)
            frame, codebook, code = (
                gradio.Number(0, label=label, precision=0, minimum=0, min_width=90)
                for label in ("Frame", "Codebook", "Code")
            )
        change = gradio.Button("Hear it changed")
        changed_said, changed = gradio.Markdown(elem_classes="said"), gradio.HTML(js_on_load=FORWARD_TOKENS)
        gradio.Markdown("## Continue" + ("" if studio.lm is not None else f"\nNot here: {NO_LM}."))
        if studio.lm is not None:
            with gradio.Row():
                seconds = gradio.Slider(1, 10, 4, step=1, label="Seconds at most", min_width=120)
                warmth = gradio.Slider(0, 1.5, 0.9, step=0.1, label="Temperature", min_width=120)
                seed = gradio.Number(0, label="Seed", precision=0, minimum=0, min_width=90)
            go_on = gradio.Button("Let the token LM go on")
        went_said, went = gradio.Markdown(elem_classes="said"), gradio.HTML(js_on_load=None)

        private: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}

        def hear(path: str | None, chosen: list[str]) -> Iterator[tuple[Any, ...]]:
            if path is None:
                yield {}, "", "", "", "", "", ""
                return
            yield {}, "Reading …", gradio.skip(), "", "", "", ""
            made: dict[str, Take] = {}
            try:
                wav_S, rate = studio.read(path)
                for name in (name for name in studio.names if name in chosen):
                    yield {}, f"Encoding: {name} …", gradio.skip(), "", "", "", ""
                    made[name] = studio.take(wav_S, rate, name)
                tracks = [Track("original", wav_S, rate), *(take.track() for take in made.values())]
            except ValueError as error:
                yield {}, _line(error, path), "", "", "", "", ""
                return
            yield made, PLAYER_HELP, player_html(Example("Your recording", tracks)), "", "", "", ""

        heard = [takes, said, player, changed_said, changed, went_said, went]
        recording.change(hear, [recording, names], heard, **private)
        names.input(hear, [recording, names], heard, **private)
        example.click(lambda: str(_bundled_recording()), None, recording, **private)

        def pick(event: gradio.EventData) -> tuple[str, int, int, int]:
            return event.name, event.frame, event.codebook, event.code

        pick.__annotations__["event"] = gradio.EventData  # Gradio looks names up among globals
        player.select(pick, None, [version, frame, codebook, code], **private)

        def hear_changed(made: dict[str, Take], name: str, *place: int) -> tuple[str, str]:
            try:
                take = _chosen(made, name)
                other = studio.change(take, *(int(number) for number in place))
            except (ValueError, TypeError) as error:
                return _line(error), ""
            at = int(place[0]) / take.version.runtime.identity.frame_rate
            told = f"Token {int(place[0])}, {at:.2f} s after the beginning, has another code in *{other.name}*."
            return told, player_html(Example("One token changed", [take.track(), other.track()]))

        change.click(hear_changed, [takes, version, frame, codebook, code], [changed_said, changed], **private)

        def hear_more(made: dict[str, Take], seconds: float, temperature: float, seed: int) -> tuple[str, str]:
            try:
                begun = _chosen(made, studio.speaker)
                longer = studio.go_on(begun, seconds, temperature, int(seed or 0))
            except ValueError as error:
                return _line(error), ""
            spoken = begun.codes_QT.shape[1] / begun.version.runtime.identity.frame_rate
            return f"The token LM goes on from {spoken:.1f} s.", player_html(
                Example("Your recording, continued", [longer.track()])
            )

        if studio.lm is not None:
            go_on.click(hear_more, [takes, seconds, warmth, seed], [went_said, went], **private)
    return page  # type: ignore[no-any-return]


def _chosen(made: dict[str, Take], name: str) -> Take:
    if name not in made:
        raise ValueError(f"record or drop a file first, with the version {name!r}")
    return made[name]


def _line(error: Exception, path: str = "") -> str:
    """An error for the page: one line, without the place where the server keeps the recording."""
    text = " ".join(str(error).split())
    text = text.replace(path, Path(path).name) if path else text
    return f"**{text[:1].upper()}{text[1:]}.**"


def _bundled_recording() -> Path:
    """A sentence of the bundled speech."""
    clips = [clip for clip in read_manifest(speech_manifest("test")) if clip.text]
    return Path(str(min(clips, key=lambda clip: abs(clip.duration - 4.0)).path))
