"""Wide-band PESQ (ITU-T P.862.2) over arrays."""
