"""Reads the guides: their blocks, files, commands, links and the names that they use.

It runs nothing and judges nothing. Invariant: a block is either read as a whole or is an error.
"""

import pathlib
import re
import shlex
from dataclasses import dataclass, field

ROOT = pathlib.Path(__file__).resolve().parents[2]
FENCE = re.compile(r"^(\s*)```(.*)$")
LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)|!\[[^\]]*\]\(([^)\s]+)\)")
SPAN = re.compile(r"`([^`]+)`")
FOLDERS = ("bench", "charts", "deploy", "docs", "integration", "src", "tests")
PATH = re.compile(rf"^(?:{'|'.join(FOLDERS)})/[\w./-]*$")
NAMED = re.compile(r"^# ([\w./-]+\.ya?ml)$")
ASSIGNMENT = re.compile(r"^([A-Z][A-Z0-9_]*)=(.*)$", re.DOTALL)
ASSIGNMENTS = re.compile(r"^(?:[A-Z][A-Z0-9_]*=[^\s$`'\"()]+\s+)+[A-Z][A-Z0-9_]*=[^\s$`'\"()]+$")
OPERATORS = {"|", "||", "&&", ";"}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the rest of its opening line, its text, and where it begins."""

    language: str
    more: str
    text: str
    line: int

    @property
    def name(self):
        """The file that it shows: the second word of its fence, or the comment in its first line."""
        if self.more:
            return self.more
        match = NAMED.match(self.text.split("\n", 1)[0])
        return match[1] if match else None


@dataclass(frozen=True)
class Guide:
    """One document."""

    path: pathlib.Path
    blocks: list = field(default_factory=list)
    prose: str = ""

    @property
    def name(self):
        return str(self.path.relative_to(ROOT))

    def files(self):
        """What is shown of files, by name, in the order in which they are shown."""
        return [(block.name, block.text) for block in self.blocks if block.name]

    def commands(self):
        """Every command of every `sh` block with the line that it begins in, continued lines joined."""
        found = []
        for block in self.blocks:
            if block.language == "sh":
                found.extend(commands(block))
        return found

    def links(self):
        return [first or second for first, second in LINK.findall(self.prose)]

    def spans(self):
        """What the prose sets as code."""
        assert self.prose.count("`") % 2 == 0, f"{self.name}: a piece of code that does not end"
        return [" ".join(span.split()) for span in SPAN.findall(self.prose)]

    def paths(self):
        """Files and folders of the repository that the prose names."""
        return [span for span in self.spans() if PATH.match(span)]

    def headings(self):
        titles = re.findall(r"^#+ (.+)$", self.prose, re.MULTILINE)
        return {anchor(title) for title in titles}


def anchor(title):
    """What a heading is linked by."""
    bare = re.sub(r"[^\w\s-]", "", title.lower())
    return re.sub(r"\s", "-", bare.strip())


def guides():
    """Every document whose commands are run."""
    found = sorted(ROOT.glob("docs/**/*.md"))
    for folder in ("deploy", "charts"):
        found += sorted((ROOT / folder).glob("**/*.md"))
    return [read(path) for path in found]


def read(path):
    blocks, prose, inside = [], [], None
    for number, line in enumerate(path.read_text().splitlines(), 1):
        fence = FENCE.match(line)
        if inside is None and fence:
            language, _, more = fence[2].strip().partition(" ")
            inside = (language, more.strip(), number, len(fence[1]), [])
        elif inside is None:
            prose.append(line)
        elif fence and not fence[2].strip():
            language, more, begin, indent, lines = inside
            text = "".join(f"{line[indent:] if not line[:indent].strip() else line}\n" for line in lines)
            blocks.append(Block(language, more, text, begin))
            inside = None
        else:
            inside[4].append(line)
    assert inside is None, f"{path}: the block of line {inside[2]} does not end"
    return Guide(path, blocks, "\n".join(prose))


def commands(block):
    found, open_lines = [], []
    for number, line in enumerate(block.text.splitlines(), block.line + 1):
        if not open_lines and (not line.strip() or line.lstrip().startswith("#")):
            continue
        open_lines.append((number, line))
        text = "\n".join(line for _, line in open_lines)
        if line.endswith("\\") or not is_whole(text):
            continue
        joined = re.sub(r"\s*\\\n\s*", " ", text)
        found.append((open_lines[0][0], re.sub(r"\s+#\s.*$", "", joined).strip()))
        open_lines = []
    assert not open_lines, f"line {open_lines[0][0]}: a command that does not end"
    return found


def is_whole(text):
    """Whether every quotation in a command is closed."""
    try:
        shlex.split(text)
    except ValueError:
        return False
    return True


def assignments(command):
    """Names and values, where a command sets variables and does nothing else."""
    if ASSIGNMENTS.match(command):
        return [tuple(word.split("=", 1)) for word in command.split()]
    match = ASSIGNMENT.match(command)
    return [(match[1], match[2])] if match else []


def programs(command):
    """The programs that a command calls, in its pipes and in its `$(...)` too."""
    assigned = assignments(command)
    if assigned:
        inner = re.match(r"^\"?\$\((.*)\)\"?$", assigned[0][1], re.DOTALL)
        return programs(inner[1]) if inner else []
    lexer = shlex.shlex(command, posix=True, punctuation_chars="|&;")
    lexer.whitespace_split = True
    called, at_start = [], True
    for word in lexer:
        if word in OPERATORS:
            at_start = True
        elif at_start and not re.match(r"^\w+=", word):
            called.append(word.rsplit("/", 1)[-1])
            at_start = False
    return called


def words(command):
    """The words of one program's call, without what is redirected."""
    plain = shlex.split(command)
    return plain[: plain.index(">")] if ">" in plain else plain
