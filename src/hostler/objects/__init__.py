"""Where are the bytes kept that must outlive every host? Adapters of `engine.object_port`.

`folder` is a folder of this host, `s3` is a bucket. See `docs/how-to/keep-files-in-object-storage.md`.
"""
