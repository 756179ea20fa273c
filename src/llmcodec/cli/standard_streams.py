"""`-` as input or output: both standard input and what goes to standard output pass through a temporary file.

Audio formats need to seek, and memory stays constant. Imports no torch.
Test: tests/cli/test_standard_streams.py.
"""

from __future__ import annotations

import shutil
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

STANDARD_STREAM = "-"
CLOSED_INPUT = "standard input is closed: name files, or pipe something in"


@dataclass(frozen=True)
class Streams:
    """Inputs and output as ordinary paths."""

    inputs: list[str]
    output: str | None
    writes_output: bool
    """The output is a temporary file, which goes to standard output in the end."""
    folder: str
    """Of temporary files."""

    def readable(self, text: str) -> str:
        """`text` without the path of the temporary files."""
        return text.replace(f"{self.folder}/", "")


def read_text() -> str:
    """All of standard input. Raises ValueError if the shell has closed it."""
    if sys.stdin is None:
        raise ValueError(CLOSED_INPUT)
    return sys.stdin.read()


def check_output(advice: str) -> None:
    """Raises ValueError with the advice if standard output is a terminal, or the shell has closed it (`>&-`)."""
    if sys.stdout is None or sys.stdout.isatty():
        raise ValueError(f"standard output is {'closed' if sys.stdout is None else 'a terminal'}: {advice}")


@contextmanager
def standard_streams(inputs: Sequence[str], output: str | None, ending: str) -> Iterator[Streams]:
    """Ordinary paths for `inputs` and `output`; a result for standard output is copied there after the `with` block.

    Args:
        inputs: as given; `-` must be the only one.
        output: as given; None with standard input means standard output.
        ending: of a result that goes to standard output.

    Raises:
        ValueError: `-` among other inputs, binary output to a terminal, a stream that the shell has closed.
    """
    reads_input = STANDARD_STREAM in inputs
    if reads_input and len(inputs) > 1:
        raise ValueError("- (standard input) must be the only input")
    writes_output = output == STANDARD_STREAM or (output is None and reads_input)
    if reads_input and sys.stdin is None:
        raise ValueError(CLOSED_INPUT)
    if writes_output:
        check_output("name a file with --output, or pipe it on")
    with tempfile.TemporaryDirectory(prefix="llmcodec-") as folder:
        given, result = Path(folder) / "standard input", Path(folder) / f"standard output{ending}"
        if reads_input:
            with open(given, "wb") as file:
                shutil.copyfileobj(sys.stdin.buffer, file)
        yield Streams(
            [str(given)] if reads_input else list(inputs),
            str(result) if writes_output else output,
            writes_output,
            folder,
        )
        if writes_output:
            with open(result, "rb") as file:
                shutil.copyfileobj(file, sys.stdout.buffer)
            sys.stdout.buffer.flush()
