"""The public addresses that records hold: one builder for each field (REC-4).

Every other form of these addresses, found on an existing record, is drift of the same item. Rules: aesthetic-computer
facts, sections 7 and 13. A code is checked before it comes here (`fields.code`), so nothing needs percent-encoding.
"""

from __future__ import annotations

_SITE = "https://aesthetic.computer"


def painting_page(code: str) -> str:
    return f"{_SITE}/#{code}"


def painting_image(code: str) -> str:
    return f"{_SITE}/media/paintings/{code}"


def painting_recording(code: str) -> str:
    return f"{_SITE}/media/paintings/{code}.zip"


def kidlisp_page(code: str) -> str:
    return f"{_SITE}/${code}"


def tape_page(code: str) -> str:
    return f"{_SITE}/!{code}"


def piece_page(code: str) -> str:
    return f"{_SITE}/{code}"


def mood_page(handle: str, rkey: str) -> str:
    """The page of a mood; its record key is part of it, so that key has to stay."""
    return f"{_SITE}/moods~{handle}~{rkey}"
