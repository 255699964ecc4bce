"""Identifiers: their shape, that they differ, and the order of those that have one."""

from __future__ import annotations

from collections import Counter
from itertools import islice, pairwise

from hostler.domain.ids import ids_in_order, new_id

ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZabcdefghjkmnpqrstvwxyz"


def test_an_identifier_is_a_prefix_and_24_letters_and_no_two_are_the_same() -> None:
    made = [new_id("sesn") for _ in range(20_000)]
    assert len(set(made)) == len(made)
    assert all(one.startswith("sesn_") and len(one) == 29 and set(one[5:]) <= set(ALPHABET) for one in made)


def test_every_letter_is_drawn_as_often_as_the_others() -> None:
    drawn = Counter(letter for _ in range(20_000) for letter in new_id("x")[2:])
    expected = 20_000 * 24 / len(ALPHABET)
    assert set(drawn) == set(ALPHABET)
    # A draw by remainder would give some letters a fourth more; seven standard deviations of a fair one are 7.5 %.
    assert all(abs(count - expected) < 0.1 * expected for count in drawn.values())


def test_ordered_identifiers_sort_behind_those_of_every_earlier_moment() -> None:
    moments = [0.0, 1.0, 1_700_000_000.0, 1_700_000_000.000002, 1_700_000_000.5, 1_700_000_001.0, 3_800_000_000.0]
    groups = [list(islice(ids_in_order("egr", moment), 50)) for moment in moments]
    for earlier, later in pairwise(groups):
        assert max(earlier) < min(later)
    everything = [one for group in groups for one in group]
    assert len(set(everything)) == len(everything)
    assert all(one.startswith("egr_") and len(one) == 28 and set(one[4:]) <= set(ALPHABET) for one in everything)
