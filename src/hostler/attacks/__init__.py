"""Do the attacks that the product must survive fail on this host? The corpus, and what runs it.

`docs/explanation/attack-corpus.md` says how it is built. Adapters (sandboxes, the proxy, the gateway) are given to it
by `compose`; it knows their ports only.
"""
