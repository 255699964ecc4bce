"""How are sessions' folders kept as snapshots? The part behind `engine.snapshot_port`.

`scan` looks through a tree, `remembered` knows what it looked like before, `packs` makes pieces and packs of what is
new, `manifest` is the format, `restoring` lays out, `reading` fetches and verifies, `service` is the port, `sweeping`
removes what nobody uses. See `docs/explanation/hibernation.md`.
"""
