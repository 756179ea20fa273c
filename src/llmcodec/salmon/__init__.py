"""SALMon: build a suite of pairs from any corpus, check its splices, score a language model on it."""
