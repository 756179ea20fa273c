"""Metrics: functions of two signals or of token sequences. Nothing here knows about codecs or clips."""
