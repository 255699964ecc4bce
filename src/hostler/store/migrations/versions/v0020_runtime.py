"""What sandboxes cost by the second, and what did not agree."""

from __future__ import annotations

revision = "0020"
down_revision = "0019"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """No tables yet."""
