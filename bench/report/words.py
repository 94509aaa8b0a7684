"""The languages the answer is told in: English as the code has it, others as a file's phrases for it."""

from __future__ import annotations

from pathlib import Path

import msgspec
from msgspec import Struct


class Words(Struct, frozen=True, forbid_unknown_fields=True):
    """What a language says for the program's English; what it has no phrase for stays English."""

    phrases: dict[str, str] = {}
    checks: dict[str, str] = {}  # a check's name -> its statement
    reasons: dict[str, str] = {}  # why a check does not hold
    rules: str = ""  # of the answer

    def __call__(self, english: str, **values: object) -> str:
        """A phrase, with values in its {places}."""
        said = self.phrases.get(english, english)
        return said.format(**values) if values else said

    def statement(self, name: str, english: str) -> str:
        """A check's statement."""
        return self.checks.get(name, english)

    def reason(self, english: str) -> str:
        """Why a check does not hold."""
        return self.reasons.get(english, english)


ENGLISH = Words()
CHINESE = msgspec.toml.decode((Path(__file__).parent / "chinese.toml").read_text("utf-8"), type=Words)
LANGUAGES = {"en": ENGLISH, "zh": CHINESE}
