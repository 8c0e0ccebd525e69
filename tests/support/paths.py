"""Places of the checkout."""

from pathlib import Path

ROOT = Path(__file__).parent.parent.parent
STORED = Path(__file__).parent / "stored"  # files that tests read
