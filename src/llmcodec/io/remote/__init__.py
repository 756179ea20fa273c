"""Paths that are URLs (s3://, gs://, hf://, memory://, ...): `paths` for everybody, `store` talks to fsspec."""


class StoreError(Exception):
    """A store does not do what is asked, also after the last try.

    Neither a ValueError nor an OSError, so that nobody takes it for a bad clip and leaves that out.
    """
