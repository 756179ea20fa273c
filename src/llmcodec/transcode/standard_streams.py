"""`-` as input or output: standard input is kept in a temporary file, and so is what goes to standard output.

A temporary file, because audio formats want to seek; memory stays constant. Imports no torch.
Test: tests/transcode/test_standard_streams.py.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

from llmcodec.transcode.inputs import STANDARD_STREAM


class StandardStreams:
    """Inside it, `inputs` and `output` are ordinary paths; a result for standard output is copied there at the end.

    Args:
        inputs: as given; `-` stands alone.
        output: as given; None with standard input means standard output.
        ending: of a result that goes to standard output.

    Raises:
        ValueError: `-` among other inputs, binary output to a terminal.
    """

    def __init__(self, inputs: Sequence[str], output: str | None, ending: str) -> None:
        self.reads_input = STANDARD_STREAM in inputs
        if self.reads_input and len(inputs) > 1:
            raise ValueError("- (standard input) stands alone, without other inputs")
        self.writes_output = output == STANDARD_STREAM or (output is None and self.reads_input)
        if self.writes_output and sys.stdout.isatty():
            raise ValueError("standard output is a terminal: name a file with --output, or pipe it on")
        self.inputs, self.output, self.ending = list(inputs), output, ending
        self._folder: tempfile.TemporaryDirectory[str] | None = None

    @property
    def folder(self) -> Path | None:
        """Where results go, where that is a folder or will be one."""
        return None if self.output is None or self.writes_output else Path(self.output)

    def readable(self, text: str) -> str:
        """`text` without the place of the temporary files."""
        return text.replace(f"{self._folder.name}/", "") if self._folder else text

    def __enter__(self) -> StandardStreams:
        if self.reads_input or self.writes_output:
            self._folder = tempfile.TemporaryDirectory(prefix="llmcodec-")
        if self.reads_input:
            assert self._folder is not None
            spooled = Path(self._folder.name) / "standard input"
            with open(spooled, "wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
            self.inputs = [str(spooled)]
        if self.writes_output:
            assert self._folder is not None
            self.output = str(Path(self._folder.name) / f"standard output{self.ending}")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._folder is None:
            return
        try:
            if kind is None and self.writes_output and self.output is not None:
                with open(self.output, "rb") as file:
                    shutil.copyfileobj(file, sys.stdout.buffer)
                sys.stdout.buffer.flush()
        finally:
            self._folder.cleanup()
