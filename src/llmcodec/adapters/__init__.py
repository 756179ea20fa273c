"""Other people's codecs behind `protocol.Codec`, by name: `load.load_codec("facebook/encodec_24khz")`.

To add a codec, write one file and add one line:

1. `adapters/mycodec.py`: a subclass of `base.CodecAdapterWithFeatures` (or `base.CodecAdapter`, where the model does
   not show its latents). Its `__init__(model, num_codebooks)` reads the rates off the model; it writes `codes_of`,
   `audio_of` and `latents_of` over clips of equal length. Lengths, masks, batches and checks are the base class's.
   At the end of the file `FAMILY = CodecFamily(...)`, or `transformers_family(...)` for a model of transformers: how
   the model is built and loaded, what has to be installed, how its config.json is recognised, the published sizes.
2. `registry.FAMILIES`: its line.

Then a line in `catalogue.ENTRIES`, of which the table of docs/codecs.md is made, a miniature in
tests/adapters/tiny_codecs.py, which runs the checks that all adapters share, and a test against the model called
directly. docs/codecs.md shows an adapter in 40 lines.
"""
