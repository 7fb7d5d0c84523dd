r"""Which characters of a written-out conversation came from which message.

A chat template is a program, so nobody can say in advance. We ask the template itself: it is run a second time with a
marker in place of every content, and the text between two markers is the template's own. Where a message's own text
stops is found the same way, by running the template on the messages up to it.

    <bos>     <|im_start|>user\n   Hello     <|im_end|>\n   <|im_start|>assistant\n
    scaffold  header               content   footer         header of a turn nobody has written

Three things belong to no message: a leading BOS (`scaffold`), a system turn that the template adds on its own (role
`system`), and the opening of the assistant's next turn (role `assistant`).
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal, TypeAlias

from core.chat_template import ChatTemplate, Message

Section: TypeAlias = Literal["header", "content", "footer", "scaffold"]

_OPEN: Final = "\ue000"  # private-use characters: no template writes them
_CLOSE: Final = "\ue001"
_LONGEST_FOOTER: Final = 512
_MARKER: Final = re.compile(f"{_OPEN}([0-9]+){_CLOSE}")


@dataclass(frozen=True, slots=True)
class Region:
    """Characters `[start, end)` of the prompt and what its tokens are."""

    start: int
    end: int
    message_index: int | None
    role: str | None
    channel: str | None
    section: Section


def cut_regions(
    template: ChatTemplate,
    messages: Sequence[Message],
    prompt: str,
    add_generation_prompt: bool,
    bos: str | None,
) -> list[Region]:
    """Cut a whole prompt, in order and without gaps.

    Args:
        template: The template that wrote it.
        messages: The conversation.
        prompt: What was written.
        add_generation_prompt: Whether it ends with the opening of an assistant turn.
        bos: The tokenizer's BOS text, if it has one.
    """
    contents = _contents(template, messages, prompt, add_generation_prompt)
    ends = _block_ends(template, messages, prompt, contents)
    cut = _Cut()
    if bos and prompt.startswith(bos):
        cut.to(min(len(bos), contents[0][0]), "scaffold")
    injected = _injected_system(template, messages, prompt[: ends[0]])
    if injected is not None and injected[2] <= contents[0][0]:
        for end, section in zip(injected, ("header", "content", "footer"), strict=True):
            cut.to(end, section, role="system")
    for index, message in enumerate(messages):
        start, end = contents[index]
        cut.to(start, "header", index, message.role, message.channel)
        cut.to(end, "content", index, message.role, message.channel)
        cut.to(ends[index], "footer", index, message.role, message.channel)
    cut.to(len(prompt), "header", role="assistant")
    return cut.regions


class _Cut:
    """Regions so far; each new one starts where the last one ended."""

    def __init__(self) -> None:
        self.regions: list[Region] = []
        self._at = 0

    def to(
        self,
        end: int,
        section: Section,
        message_index: int | None = None,
        role: str | None = None,
        channel: str | None = None,
    ) -> None:
        """Add the region up to `end`, if that is any further."""
        if end > self._at:
            self.regions.append(Region(self._at, end, message_index, role, channel, section))
            self._at = end


def _contents(
    template: ChatTemplate, messages: Sequence[Message], prompt: str, add_generation_prompt: bool
) -> list[tuple[int, int]]:
    """Characters `[start, end)` of each message's content, in order and without overlaps."""
    marked = [Message(m.role, f"{_OPEN}{i}{_CLOSE}", m.channel) for i, m in enumerate(messages)]
    outline = template.attempt(marked, add_generation_prompt)
    found = None if outline is None else _fit(outline, messages, prompt)
    if found is not None:
        return found
    # The template looks at what is said. Swap one content at a time: what changes with it is the content.
    spans: list[tuple[int, int]] = []
    at = 0
    for index in range(len(messages)):
        swapped = template.attempt([*messages[:index], marked[index], *messages[index + 1 :]], add_generation_prompt)
        if swapped is not None and swapped != prompt:
            start = max(at, _shared(swapped, prompt))
            after = _shared(swapped[::-1], prompt[::-1])
            spans.append((start, max(start, len(prompt) - after)))
        else:
            spans.append((at, at))
        at = spans[-1][1]
    return spans


def _fit(outline: str, messages: Sequence[Message], prompt: str) -> list[tuple[int, int]] | None:
    """Lay the template's own text, as the markers show it, over the prompt; None if it does not fit."""
    pieces = _MARKER.split(outline)
    if pieces[1::2] != [str(index) for index in range(len(messages))] or not prompt.startswith(pieces[0]):
        return None
    spans: list[tuple[int, int]] = []
    at = len(pieces[0])
    for message, after in zip(messages, pieces[2::2], strict=True):
        is_last = len(spans) == len(messages) - 1
        end = _content_end(message.content, after, prompt, at, is_last)
        if end is None:
            return None
        spans.append((at, end))
        at = end + len(after)
    return spans


def _content_end(content: str, after: str, prompt: str, at: int, is_last: bool) -> int | None:
    """Where the content that starts at `at` ends, if the template's text `after` follows it."""
    for candidate in (content, content.strip(), content.lstrip(), content.rstrip()):
        end = at + len(candidate)
        if prompt.startswith(candidate + after, at) and (not is_last or end + len(after) == len(prompt)):
            return end
    if not after or after in content:
        return None
    # The template rewrote the content, as some drop the reasoning of earlier turns.
    end = len(prompt) - len(after) if is_last else prompt.find(after, at)
    return end if end >= at and prompt.startswith(after, end) else None


def _block_ends(
    template: ChatTemplate, messages: Sequence[Message], prompt: str, contents: Sequence[tuple[int, int]]
) -> list[int]:
    """Where each message's own text ends: its footer is how the conversation up to it ends."""
    last = contents[-1][1]
    closed = template.attempt(messages) or ""
    closing = prompt[last : last + _footer(closed, prompt, last, len(prompt))]
    footers: dict[tuple[str, str], int] = {}
    ends: list[int] = []
    for index, message in enumerate(messages[:-1]):
        start, end = contents[index][1], contents[index + 1][0]
        gap = prompt[start:end]
        key = (message.role, gap)
        if key not in footers:
            so_far = template.attempt(messages[: index + 1])
            if so_far is not None:
                footers[key] = _footer(so_far, prompt, start, end)
            else:  # some templates refuse a conversation without a user; turns mostly close alike
                footers[key] = len(closing) if gap.startswith(closing) else 0
        ends.append(start + footers[key])
    return [*ends, last + len(closing)]


def _footer(so_far: str, prompt: str, start: int, end: int) -> int:
    """Length of the footer that follows a content.

    Args:
        so_far: The conversation written out up to this message.
        prompt: The whole conversation.
        start: Where the content ends in `prompt`.
        end: Where the next content starts.
    """
    if prompt.startswith(so_far) and start <= len(so_far) <= end:
        return len(so_far) - start
    # Later messages changed how earlier ones are written. The footer is what both still have in common.
    longest = min(end - start, len(so_far), _LONGEST_FOOTER)
    return next((n for n in range(longest, 0, -1) if so_far.endswith(prompt[start : start + n])), 0)


def _shared(a: str, b: str) -> int:
    """Length of the longest common start."""
    shared, longest = 0, min(len(a), len(b))
    while shared < longest:
        half = (shared + longest + 1) // 2
        if a[shared:half] == b[shared:half]:
            shared = half
        else:
            longest = half - 1
    return shared


def _injected_system(
    template: ChatTemplate, messages: Sequence[Message], first_block: str
) -> tuple[int, int, int] | None:
    """Ends of the header, content and footer of a system turn that nobody sent, or None.

    The template is given a system message of ours. If the rest then equals what it wrote without, what it wrote before
    that rest was a system turn of its own.

    Args:
        template: The template.
        messages: The conversation.
        first_block: The prompt up to the end of the first message.
    """
    if messages[0].role == "system":
        return None
    probe = Message("system", f"{_OPEN}0{_CLOSE}")
    alone = template.attempt([probe])
    both = template.attempt([probe, messages[0]])
    if alone is None or both is None or not both.startswith(alone) or probe.content not in alone:
        return None
    first = both[len(alone) :]
    if not first or not first_block.endswith(first):
        return None
    injected = first_block.removesuffix(first)
    before, after = alone.split(probe.content, 1)
    header = _shared(before, injected)
    footer = _shared(after[::-1], injected[header:][::-1])
    return (header, len(injected) - footer, len(injected)) if footer else None


def assign(offsets: Sequence[tuple[int, int]], regions: Sequence[Region]) -> list[int]:
    """For each token, the region that it belongs to: the content that it touches, else the region of its start."""
    assigned: list[int] = []
    at = previous_end = 0
    for start, end in offsets:
        # Some tokenizers leave spaces out of a token's offsets; they belong to it all the same.
        first = min(start, previous_end)
        while at + 1 < len(regions) and regions[at].end <= first:
            at += 1
        if regions[at].section != "content" and at + 1 < len(regions):
            following = regions[at + 1]
            at += following.section == "content" and end > following.start
        assigned.append(at)
        previous_end = max(end, previous_end)
    return assigned
