"""How are secrets kept at rest, so that whoever has the database has none of them?

`envelope` is the form of one sealed secret, `masterkeys` is where the keys come from, `rotation` changes them. See
`docs/explanation/sealing.md`.
"""
