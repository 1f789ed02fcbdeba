"""HTML made of elements, so that nothing that a name says can become markup."""

from __future__ import annotations

import base64
import functools
import hashlib
import unicodedata
from importlib import resources
from xml.etree import ElementTree

__all__ = ["Element", "add", "data_file", "digest_of", "element", "serialized", "visible"]

Element = ElementTree.Element
Child = Element | str | None


def element(tag: str, *children: Child, **attributes: str | int | float | bool | None) -> Element:
    """An element.

    Args:
        tag: its name.
        children: elements and texts; None is left out.
        attributes: `_` at the end of a name is dropped and inside it means `-`; None and False leave one
            out, True gives it no value.
    """
    made = Element(tag)
    for key, value in attributes.items():
        if value is not None and value is not False:
            made.set(key.rstrip("_").replace("_", "-"), "" if value is True else visible(str(value)))
    return add(made, *children)


def add(parent: Element, *children: Child) -> Element:
    """Put children at the end of an element; the element."""
    for child in children:
        if child is None:
            continue
        if not isinstance(child, str):
            parent.append(child)
        elif len(parent):
            parent[-1].tail = (parent[-1].tail or "") + visible(child)
        else:
            parent.text = (parent.text or "") + visible(child)
    return parent


@functools.lru_cache(4096)
def visible(text: str) -> str:
    """The text with what cannot be seen spelled out: controls, marks that turn the direction, surrogates.

    A name that shows as another one would have people trust the wrong layer.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(_spelled(letter) for letter in text)


def _spelled(letter: str) -> str:
    if letter == "\n" or unicodedata.category(letter) not in ("Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"):
        return letter
    return f"\\u{{{ord(letter):x}}}"


def serialized(root: Element) -> str:
    """A whole document."""
    return "<!DOCTYPE html>\n" + ElementTree.tostring(root, encoding="unicode", method="html") + "\n"


def data_file(name: str) -> str:
    """A text that stands beside this module in the package."""
    return resources.files("converter.report").joinpath(name).read_text(encoding="utf-8")


def digest_of(text: str) -> str:
    """What a Content-Security-Policy calls an inline script or style by (CSP level 2)."""
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
