"""Many clips through a codec: numpy in, numpy out, by torch or ONNX Runtime. Importing it loads no torch."""
