"""The outcomes of a check on a plane."""

from __future__ import annotations

from typing import Literal

Outcome = Literal["pass", "fail", "skip", "error"]
"""What was observed: the semantic holds, does not hold, does not apply, or could not be observed."""
Expected = Literal["pass", "fail", "skip"]
"""What is expected. Nobody expects an error."""
