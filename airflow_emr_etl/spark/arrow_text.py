"""Texts in Arrow as dictionaries: what is asked of a text is asked once for each that there is."""

from __future__ import annotations

from typing import Any, Callable, List, Optional, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


def flags(booleans: Any) -> Any:
    """An Arrow array of booleans without NULL in numpy."""
    return booleans.to_numpy(zero_copy_only=False)


def known(texts: Any) -> Any:
    """NULL for the logs' way to say "nothing"; see ``line_parser.known``."""
    return pc.if_else(pc.is_in(texts, pa.array(["-", ""])), pa.scalar(None, texts.type), texts)


def dictionary_at(texts: Any, places: Any) -> Any:
    """``texts`` at ``places`` (NULL at NULL), as a dictionary without repetition."""
    each = texts.dictionary_encode()
    return pa.DictionaryArray.from_arrays(each.indices.take(places), each.dictionary)


def width_fits(texts: Any, width: Optional[int]) -> Any:
    """For each of ``texts``, a dictionary, whether it has at most ``width`` bytes; True for NULL."""
    lengths = pc.binary_length(texts.dictionary).to_numpy(zero_copy_only=False)
    if not len(lengths) or lengths.max() <= width:
        return np.ones(len(texts), bool)
    return flags(pc.fill_null(pa.array(lengths <= width).take(texts.indices), True))


def places(texts: Any) -> Any:
    """For each of ``texts``, a dictionary, its place in it, in numpy; one behind the last for NULL."""
    return pc.fill_null(texts.indices, len(texts.dictionary)).to_numpy(zero_copy_only=False)


def asked(texts: Any, answer: Callable[[str], bool], of_null: bool = False) -> Any:
    """For each of ``texts``, a dictionary, what ``answer`` says to it, in numpy."""
    answers = [answer(text) for text in texts.dictionary.to_pylist()]
    return np.array([*answers, of_null], bool)[places(texts)]


def told(texts: Any, answer: Callable[[str], Sequence[Optional[str]]], count: int) -> List[Any]:
    """For each of ``texts``, a dictionary, the ``count`` texts that ``answer`` gives to it; NULL for NULL."""
    answers = [answer(text) for text in texts.dictionary.to_pylist()]
    columns = zip(*answers) if answers else ([] for _ in range(count))
    return [dictionary_at(pa.array(list(column), pa.string()), texts.indices) for column in columns]
