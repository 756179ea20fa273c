"""Frozen speech encoders as teachers of the codec, by name: `load.load_teacher("wavlm:microsoft/wavlm-base-plus:9")`.

A new kind is one file with a subclass of `base.Teacher`, and its line in `load.KINDS`.
"""
