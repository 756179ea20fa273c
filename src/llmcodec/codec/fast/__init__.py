"""The codec packed for inference: fused layers and our own CPU kernels."""
