"""Architectures of published codecs whose own code is in no package that installs beside ours.

Written from the papers and configurations, layer by layer equal to the public code; the adapters beside this folder
drive them. Parameters have the published names, without what only training needs, so that checkpoints can be read
(`folder.py`).
"""
