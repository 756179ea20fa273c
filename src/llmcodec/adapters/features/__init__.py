"""Speech encoders by name, frozen: `load.load_encoder("wavlm:microsoft/wavlm-base-plus:9")`; units made of them; CLAP.

A new kind is one file with a subclass of `base.SpeechEncoder`, and its line in `load.KINDS`.
"""
