"""What stays word for word, what the summary is told, and what is put behind it."""

from __future__ import annotations

from typing import Any

from hostler.domain.compaction import Compaction
from hostler.engine.kept_words import Kept, Said, instructions, is_tagged, note, said, to_keep

FACTS = ("The budget is 40 euros.", "Vera decides.")


def user(text: str, at: str = "2026-11-01T00:00:00.000000Z") -> Said:
    return Said(at, "user", text)


def policy(**fields: Any) -> Compaction:
    return Compaction.model_validate(fields)


def test_tag_is_a_word_of_a_user() -> None:
    for text in ("#keep this", "this is\n#keep.", "(#keep)"):
        assert is_tagged(user(text), ["keep"]), text
    for text in ("#keeper", "##keep", "a#keep", "keep", "#keep-not"):
        assert not is_tagged(user(text), ["keep"]), text
    assert not is_tagged(Said("", "agent", "#keep"), ["keep"])


def test_message_without_text_is_none_and_other_blocks_are_named() -> None:
    image = {"type": "image", "source": {}}
    event = {"type": "user.message", "processed_at": "t", "content": [{"type": "text", "text": "See:"}, image]}
    assert said(event) == Said("t", "user", "See:\n[image]")
    assert said({"type": "agent.message", "content": [{"type": "text", "text": " "}]}) is None


def test_the_newest_stay_when_there_is_no_room_for_all() -> None:
    long = [user(f"{number} " + "x" * 15_000) for number in (3, 2, 1)]
    kept = to_keep(policy(keep_tags=["keep"]), [], long)
    assert [message.text[0] for message in kept.recent] == ["2", "3"]
    assert kept.left_out == 1
    # A small threshold must not be filled by what stays: it would be reached again at once.
    assert len(to_keep(policy(threshold_tokens=20_000), [], long).recent) == 1


def test_message_that_is_tagged_and_recent_stays_once() -> None:
    tagged = user("#keep blue")
    kept = to_keep(policy(), [tagged], [user("later"), tagged])
    assert (kept.tagged, [message.text for message in kept.recent]) == ((tagged,), ["later"])


def test_only_what_the_summary_lacks_is_put_behind_it() -> None:
    kept = Kept(FACTS, (user("Use blue\npaint. #keep"), user("Never red. #keep")))
    summary = "In arch_1: Vera   decides.\n> Use blue\n> paint. #keep"
    text, counts = note(kept, "arch_1", summary)
    assert text is not None
    assert "40 euros" in text
    assert "Never red." in text
    assert "Vera decides" not in text
    assert "Use blue" not in text
    assert (counts["facts_added"], counts["tagged_added"]) == (1, 1)
    whole = summary + " The budget is 40 euros. Never red. #keep"
    assert note(kept, "arch_1", whole)[0] is None
    assert "arch_1" in str(note(kept, "arch_1", None)[0])


def test_each_strategy_asks_for_what_it_is_named_after() -> None:
    recent = (user("lately"),)
    everything = instructions(policy(), Kept(recent=recent), "arch_1", "Mind the plums.")
    assert "arch_1" in everything
    assert "behind your summary word for word" in everything
    assert everything.endswith("Mind the plums.")
    smart = policy(strategy="smart_retention", facts=list(FACTS))
    told = instructions(smart, Kept(FACTS, (user("x #keep"),)), "arch_1", None)
    assert "- Vera decides." in told
    assert "#keep" in told
    assert "at most about 2000 tokens" in instructions(policy(strategy="hybrid"), Kept(), "arch_1", None)
    assert (policy().days_kept, policy(strategy="hybrid").days_kept) == (3, 0)
    assert policy(strategy="smart_retention", keep_tags=[]).tags_kept == ()
