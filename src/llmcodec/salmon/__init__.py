"""SALMon: build a suite of pairs from any corpus, prove its cut, score a language model on it."""
