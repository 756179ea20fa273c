"""`python -m llmcodec` is the console script `llmcodec`; `torchrun -m llmcodec train ...` starts several processes."""

import sys

from llmcodec.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
