"""The clouds, rehearsed: servers that speak as Bedrock and Vertex AI do, in front of a rehearsal model.

They check what the clouds check (signatures, tokens, betas, the form of the body) and answer as they do. For tests of
whatever talks to a cloud: the gateway, or the official clients. No account, no network.
"""

from hostler.testing.clouds.bedrock import BedrockFront
from hostler.testing.clouds.vertex import VertexFront

__all__ = ["BedrockFront", "VertexFront"]
