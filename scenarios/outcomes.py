"""The outcomes of a check on a plane."""

from __future__ import annotations

from typing import Literal

Outcome = Literal["pass", "fail", "skip", "error"]
"""An observed outcome: the semantic holds, does not hold, does not apply, or could not be observed."""
Expected = Literal["pass", "fail", "skip"]
"""An expected outcome. No error is ever expected."""
