"""Paths that are URLs (s3://, gs://, hf://, memory://, ...): `paths` for everybody, `store` talks to fsspec."""
