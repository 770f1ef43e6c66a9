"""Numbers that say to which partition a row goes: what Spark's hash partitioning makes of them is known beforehand."""

from __future__ import annotations

from typing import Dict, List


def partition_keys(count: int) -> List[int]:
    """For each of ``count`` partitions a key that Spark's hash partitioning sends there, and to no other.

    Numbers 0, 1, 2 … would collide: some partitions get two of them, and others none.
    """
    found: Dict[int, int] = {}
    key = 0
    while len(found) < count:
        found.setdefault(spark_hash(key) % count, key)
        key += 1
    return [found[place] for place in range(count)]


def spark_hash(value: int) -> int:
    """Spark's ``hash`` of one INT: Murmur3 for 32 bits with the seed 42, as a signed number."""

    def rotated(word: int, by: int) -> int:
        return (word << by | word >> (32 - by)) & 0xFFFFFFFF

    mixed = rotated((value & 0xFFFFFFFF) * 0xCC9E2D51 & 0xFFFFFFFF, 15) * 0x1B873593 & 0xFFFFFFFF
    found = (rotated(42 ^ mixed, 13) * 5 + 0xE6546B64) & 0xFFFFFFFF
    found ^= 4
    for factor, shift in ((0x85EBCA6B, 16), (0xC2B2AE35, 13)):
        found = (found ^ found >> shift) * factor & 0xFFFFFFFF
    found ^= found >> 16
    return found - (1 << 32) if found >> 31 else found
