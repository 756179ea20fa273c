"""The common tests of transformers on our codec, with DacModel, MimiModel and EncodecModel as controls.

    make hf-common                                        # LLMCodec, its configuration and its feature extractor
    python -m tests.hf_common --model dac -k export       # a control; further arguments go to pytest

The tests are those of the installed version of transformers, from its source distribution, which pip fetches into a
cache (`LLMCODEC_HF_COMMON`); none of them is in this repository. `stub_*.py` stand in for modules that the distribution
lacks. No test is left out; `suite.EXPECTED` names two that fail, as they do for DacModel and MimiModel, and why.
"""
