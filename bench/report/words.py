"""The languages of the answer: English is in the code, and the others have a file of phrases for it."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct


class Words(Struct, frozen=True, forbid_unknown_fields=True):
    """A language's phrases for the program's English. A phrase that it lacks stays English."""

    phrases: dict[str, str] = {}
    checks: dict[str, str] = {}  # the name of a check -> its statement
    reasons: dict[str, str] = {}  # the reason why a check does not hold
    rules: str = ""  # the rules of the answer

    def __call__(self, english: str, **values: object) -> str:
        """Return a phrase, with values in its {places}."""
        said = self.phrases.get(english, english)
        return said.format(**values) if values else said

    def statement(self, name: str, english: str) -> str:
        """Return a check's statement."""
        return self.checks.get(name, english)

    def reason(self, english: str) -> str:
        """Return the reason why a check does not hold."""
        return self.reasons.get(english, english)


ENGLISH = Words()
CHINESE = msgspec.toml.decode((Path(__file__).parent / "chinese.toml").read_text("utf-8"), type=Words)
LANGUAGES = {"en": ENGLISH, "zh": CHINESE}
