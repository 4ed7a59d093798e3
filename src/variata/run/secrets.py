"""What is by its name a secret is neither stored nor sent."""

import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

SECRET = re.compile(  # the end of a key and what follows it
    r"(?<![a-z])((auth|access|api)?token|secrets?|passw(or)?ds?|passphrase|credentials?|(api|access|auth|private|secret)_?keys?)"
    r"['\"]?\s*[=:]",
    re.IGNORECASE,
)

SHORTEST = 6  # characters of a secret


def secret(key: str) -> bool:
    """Whether a key is by its name one of a secret: token, hf_token, apiKey, password, ..."""
    return holds_secret(f"{key}=")


def holds_secret(word: str) -> bool:
    """Whether a word of a command line gives a secret's key a value."""
    return bool(SECRET.search(re.sub("(?<=[a-z0-9])(?=[A-Z])", "_", word)))


def public(config: dict[str, Any]) -> dict[str, Any]:
    """A configuration without its secrets, null in their place: whatever is stored or sent passes through here.

    A secret is what stands below a key of that name, in the configuration or in the environment, and every text that
    holds it, however it came there.
    """
    return _public(config, [*_environment(), *_texts(config)])


def public_words(words: Iterable[str]) -> list[str]:
    """Words of a command line, without the values of those that hold a secret."""
    words = list(words)
    known = [*_environment(), *(word.partition("=")[2].strip("'\"") for word in words if holds_secret(word))]
    return [f"{word.partition('=')[0]}=null" if holds_secret(word) or _tells(word, known) else word for word in words]


def _environment() -> list[str]:
    """What the environment holds under the names of secrets."""
    return [value for name, value in os.environ.items() if secret(name)]


def _texts(value: Any, below: bool = False) -> Iterator[str]:
    """Every value below a secret's key, as text."""
    if isinstance(value, dict):
        for name, item in value.items():
            yield from _texts(item, below or secret(str(name)))
    elif isinstance(value, list):
        for item in value:
            yield from _texts(item, below)
    elif below and value is not None:
        yield str(value)


def _public(value: Any, known: list[str]) -> Any:
    if isinstance(value, dict):
        return {name: None if secret(str(name)) else _public(item, known) for name, item in value.items()}
    if isinstance(value, list):
        return [_public(item, known) for item in value]
    return None if _tells(str(value), known) else value


def _tells(text: str, known: list[str]) -> bool:
    """Whether a text holds one of the known secrets; shorter ones are words like any other."""
    return any(len(one) >= SHORTEST and one in text for one in known)
