"""The function ``xxhash64`` of Spark for a column of texts in Arrow: the same 64 bits, without a way through the JVM.

The algorithm is XXH64 of the xxHash specification (https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md) with
Spark's seed. Texts of one length are hashed together, a step for all of them at a time.
"""

from __future__ import annotations

from typing import Any

import numpy as np

SEED = 42

_P1 = np.uint64(0x9E3779B185EBCA87)
_P2 = np.uint64(0xC2B2AE3D27D4EB4F)
_P3 = np.uint64(0x165667B19E3779F9)
_P4 = np.uint64(0x85EBCA77C2B2AE63)
_P5 = np.uint64(0x27D4EB2F165667C5)
_STRIPE = 32
_AT_ONCE = 1 << 16
"""Texts, so that what a step makes is still in the processor's cache for the next."""


def xxhash64(texts: Any) -> Any:
    """An int64 for each of ``texts``, a pyarrow array of strings; that of NULL is the seed, as in Spark."""
    found = np.full(len(texts), SEED, np.int64)
    if not len(texts):
        return found
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, np.int32)[texts.offset : texts.offset + len(texts) + 1]
    content = np.frombuffer(data, np.uint8) if data is not None else np.zeros(0, np.uint8)
    lengths = np.diff(ends)
    there = texts.is_valid().to_numpy(zero_copy_only=False) if texts.null_count else None
    shortest, longest = int(lengths.min()), int(lengths.max())
    if shortest == longest and there is None:
        # Ids, mostly: they lie side by side.
        whole = content[ends[0] : ends[-1]].reshape(len(texts), longest)
        for begin in range(0, len(texts), _AT_ONCE):
            found[begin : begin + _AT_ONCE] = _hash(whole[begin : begin + _AT_ONCE])
        return found
    starts = ends[:-1]
    by_length = np.argsort(lengths, kind="stable")
    if there is not None:
        by_length = by_length[there[by_length]]
    in_order = lengths[by_length]
    bounds = np.flatnonzero(np.append(in_order[:1] >= 0, in_order[1:] != in_order[:-1]))
    for begin, end in zip(bounds.tolist(), np.append(bounds[1:], len(in_order)).tolist()):
        length = int(in_order[begin])
        for first in range(begin, end, _AT_ONCE):
            rows = by_length[first : min(first + _AT_ONCE, end)]
            found[rows] = _hash(content[starts[rows][:, None] + np.arange(length)])
    return found


def _hash(rows: Any) -> Any:
    """The hashes of the rows of a matrix of bytes."""
    count, length = rows.shape
    rows = np.ascontiguousarray(rows)
    place = 0
    with np.errstate(over="ignore"):
        if length >= _STRIPE:
            seed = np.uint64(SEED)
            states = [seed + _P1 + _P2, seed + _P2, seed, seed - _P1]
            lanes: Any = [np.full(count, state, np.uint64) for state in states]
            while place + _STRIPE <= length:
                for number in range(4):
                    lanes[number] = _round(lanes[number], _words(rows, place + 8 * number, "<u8"))
                place += _STRIPE
            found = sum(_rotated(lane, by) for lane, by in zip(lanes, (1, 7, 12, 18)))
            for lane in lanes:
                found = (found ^ _round(np.uint64(0), lane)) * _P1 + _P4
        else:
            found = np.full(count, np.uint64(SEED) + _P5, np.uint64)
        found = found + np.uint64(length)
        while place + 8 <= length:
            found = _rotated(found ^ _round(np.uint64(0), _words(rows, place, "<u8")), 27) * _P1 + _P4
            place += 8
        if place + 4 <= length:
            found = _rotated(found ^ (_words(rows, place, "<u4").astype(np.uint64) * _P1), 23) * _P2 + _P3
            place += 4
        while place < length:
            found = _rotated(found ^ (rows[:, place].astype(np.uint64) * _P5), 11) * _P1
            place += 1
        found = (found ^ (found >> np.uint64(33))) * _P2
        found = (found ^ (found >> np.uint64(29))) * _P3
        return (found ^ (found >> np.uint64(32))).view(np.int64)


def _words(rows: Any, place: int, kind: str) -> Any:
    width = np.dtype(kind).itemsize
    return np.ascontiguousarray(rows[:, place : place + width]).view(kind)[:, 0]


def _round(state: Any, word: Any) -> Any:
    return _rotated(state + word * _P2, 31) * _P1


def _rotated(value: Any, by: int) -> Any:
    return (value << np.uint64(by)) | (value >> np.uint64(64 - by))
