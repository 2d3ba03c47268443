"""Next edits on real commits: how often the one that is proposed is one that the author made, too.

    python -m bench.next_edit CLONE... [--episodes N] [--seed S] [--show]

CLONE is a folder with a git history. A commit's change of a file is split into the words and lines that it changed,
from the top. An episode gives the first ones (one to three) and asks for the next; of a kind called *done* all are
given, so that whatever is proposed is wrong. A proposal is right if it brings its line nearer to what the author wrote.
"""

from __future__ import annotations

import argparse
import difflib
import json
import random
import re
import subprocess
import time
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from codeclippy_ls.line_diff import find_changes
from codeclippy_ls.next_edit.history import EditHistory
from codeclippy_ls.next_edit.propose import NextEdit, propose
from codeclippy_ls.syntax.languages import language_of_file
from codeclippy_ls.syntax.tree import parse
from codeclippy_ls.text import Edit, split_lines

_TOKEN = re.compile(r"\w+|[^\w\s]|\s+")
_MAX_TEXT, _MIN_EDITS, _MAX_EDITS = 80_000, 2, 30
_GIVEN = (1, 2, 3)
_MIN_SIMILAR = 0.5  # of two lines, one of which became the other


@dataclass(frozen=True, slots=True)
class Episode:
    """A file while a commit is being written: the texts so far, and the text that it becomes."""

    name: str
    texts: tuple[str, ...]
    cursor: int
    after: str

    @property
    def is_done(self) -> bool:
        """Return whether nothing is left to do."""
        return self.texts[-1] == self.after


@dataclass
class Score:
    """The outcomes of the episodes of a kind."""

    episodes: int = 0
    proposed: int = 0
    right: int = 0
    seconds: list[float] = field(default_factory=list)


def run_git(clone: Path, *arguments: str) -> str:
    """Run git in a clone and return what it printed."""
    done = subprocess.run(["git", "-C", str(clone), *arguments], capture_output=True, check=True)
    return done.stdout.decode("utf-8", "replace")


def iter_changes(clone: Path, rng: random.Random) -> Iterator[tuple[str, str, str]]:
    """Yield name, text before and text after of files that commits without merges modified, in random order."""
    commits = run_git(clone, "log", "--no-merges", "--format=%H", "-n", "3000").split()
    rng.shuffle(commits)
    for commit in commits:
        listed = run_git(clone, "diff-tree", "-r", "--no-commit-id", "--diff-filter=M", "--name-only", commit)
        names = [name for name in listed.splitlines() if language_of_file(name) is not None]
        for name in names[:3]:
            try:
                yield name, run_git(clone, "show", f"{commit}^:{name}"), run_git(clone, "show", f"{commit}:{name}")
            except subprocess.CalledProcessError:
                continue


def split_change(before: str, after: str) -> list[Edit]:
    """Split a change into edits of words where lines correspond, else of lines; offsets are those of ``before``."""
    old, new = split_lines(before), split_lines(after)
    starts = [0]
    for line in old:
        starts.append(starts[-1] + len(line))
    found: list[Edit] = []
    for change in find_changes(old, new):
        olds, news = old[change.start : change.end], new[change.new_start : change.new_end]
        pairs = list(zip(olds, news, strict=False))
        if len(olds) == len(news) and all(is_similar(one, other) for one, other in pairs):
            for row, (one, other) in enumerate(pairs):
                found += split_line(one, other, starts[change.start + row])
        else:
            found.append(Edit(starts[change.start], starts[change.end], "".join(news)))
    return found


def is_similar(one: str, other: str) -> bool:
    """Return whether one line probably became the other."""
    return measure_similarity(one, other) >= _MIN_SIMILAR


def measure_similarity(one: str, other: str) -> float:
    """Return the share of tokens that two lines have in common."""
    return difflib.SequenceMatcher(None, _TOKEN.findall(one), _TOKEN.findall(other), autojunk=False).ratio()


def split_line(old: str, new: str, start: int) -> list[Edit]:
    """Split the change of a line into edits of its tokens."""
    olds, news = _TOKEN.findall(old), _TOKEN.findall(new)
    offsets = [start]
    for token in olds:
        offsets.append(offsets[-1] + len(token))
    matcher = difflib.SequenceMatcher(None, olds, news, autojunk=False)
    return [
        Edit(offsets[i], offsets[j], "".join(news[k:m])) for tag, i, j, k, m in matcher.get_opcodes() if tag != "equal"
    ]


def make_episodes(name: str, before: str, after: str) -> Iterator[Episode]:
    """Make the episodes of a change."""
    edits = split_change(before, after)
    if not _MIN_EDITS <= len(edits) <= _MAX_EDITS:
        return
    texts, shift, cursor, cursors = [before], 0, 0, [0]
    for edit in edits:
        text = texts[-1]
        cursor = edit.start + shift + len(edit.text)
        texts.append(text[: edit.start + shift] + edit.text + text[edit.end + shift :])
        cursors.append(cursor)
        shift += len(edit.text) - (edit.end - edit.start)
    assert texts[-1] == after
    for given in {*[count for count in _GIVEN if count < len(edits)], len(edits)}:
        yield Episode(name, tuple(texts[: given + 1]), cursors[given], after)


def ask(episode: Episode) -> tuple[NextEdit | None, float]:
    """Propose the next edit of an episode, and measure the seconds that it takes."""
    history = EditHistory()
    for one, other in zip(episode.texts, episode.texts[1:], strict=False):
        history.record(one, other)
    text = episode.texts[-1]
    tree = parse(text, language_of_file(episode.name))
    started = time.perf_counter()
    found = propose(text, tree, history, episode.cursor)
    return found, time.perf_counter() - started


def is_right(episode: Episode, edit: Edit) -> bool:
    """Return whether an edit brings its line nearer to what the author made of it."""
    text = episode.texts[-1]
    start, end = text.rfind("\n", 0, edit.start) + 1, text.find("\n", edit.end)
    end = len(text) if end < 0 else end + 1
    old, new = text[start:end], text[start : edit.start] + edit.text + text[edit.end : end]
    row = text.count("\n", 0, start)
    for change in find_changes(split_lines(text), split_lines(episode.after)):
        if change.start <= row < change.end:
            lines = split_lines(episode.after)[change.new_start : change.new_end]
            target = max(lines, key=lambda line: measure_similarity(old, line), default="")
            return measure_similarity(new, target) > measure_similarity(old, target)
    return False


def measure(episodes: list[Episode], show: bool) -> dict[str, Score]:
    """Ask for all episodes; scores by what the proposal was, and of those where nothing is left to do."""
    scores: dict[str, Score] = defaultdict(Score)
    for episode in episodes:
        found, seconds = ask(episode)
        kinds = ["done" if episode.is_done else "open"] + ([found.kind] if found is not None else [])
        right = found is not None and is_right(episode, found.edit)
        for kind in kinds:
            score = scores[kind]
            score.episodes += 1
            score.proposed += found is not None
            score.right += right
            score.seconds.append(seconds)
        if show and found is not None and not right:
            text, edit = episode.texts[-1], found.edit
            line = text[text.rfind("\n", 0, edit.start) + 1 : (text + "\n").find("\n", edit.end)]
            print(f"{kinds} {episode.name} {text[edit.start : edit.end]!r} -> {edit.text!r} in {line.strip()[:90]!r}")
    return scores


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("clones", type=Path, nargs="+", metavar="CLONE")
    parser.add_argument("--episodes", type=int, default=400, help="per clone")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--show", action="store_true", help="print the proposals that are wrong")
    options = parser.parse_args()
    episodes: list[Episode] = []
    languages: Counter[str] = Counter()
    for clone in options.clones:
        rng, own = random.Random(options.seed), list[Episode]()
        for name, before, after in iter_changes(clone, rng):
            if len(before) <= _MAX_TEXT and len(after) <= _MAX_TEXT:
                own += make_episodes(name, before, after)
            if len(own) >= options.episodes:
                break
        episodes += own
        languages.update(Path(episode.name).suffix for episode in own)
    print(f"{len(episodes)} episodes of {len(options.clones)} histories: {dict(languages.most_common(12))}\n")
    print(f"{'':8}{'episodes':>9}{'proposed':>9}{'right':>7}{'precision':>10}{'ms':>7}{'ms p99':>8}")
    scores = measure(episodes, options.show)
    for kind, score in scores.items():
        times = sorted(score.seconds)
        precision = f"{score.right / score.proposed:.1%}" if score.proposed else ""
        middle, last = 1000 * times[len(times) // 2], 1000 * times[int(len(times) * 0.99)]
        print(f"{kind:8}{score.episodes:9}{score.proposed:9}{score.right:7}{precision:>10}{middle:7.1f}{last:8.1f}")
    rows = {kind: (score.episodes, score.proposed, score.right) for kind, score in scores.items()}
    print(json.dumps({"seed": options.seed, "scores": rows}))


if __name__ == "__main__":
    main()
