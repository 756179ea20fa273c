"""Other formats of the same network: AUV checkpoints and ONNX graphs."""
