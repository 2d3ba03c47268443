"""The table of languages: LSP ids, file suffixes, grammar, comment prefix, block style, bracket pairs.

Grammars are tree-sitter's packages on PyPI. Those of the common languages come with the package, the others with the
extra ``languages``; without a grammar a language still has its comment prefix. A language that is not in the table is
not judged at all.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from importlib import import_module

from tree_sitter import Language as Grammar


class BlockStyle(enum.Enum):
    """Delimiters of a language's blocks."""

    BRACES = "braces"
    INDENTATION = "indentation"
    KEYWORDS = "keywords"  # up to `end`, `fi`, `done`
    TAGS = "tags"
    NONE = "none"  # data and prose


@dataclass(frozen=True, slots=True)
class Language:
    """One row of the table.

    Attributes:
        id: the LSP id.
        ids: further LSP ids of the same language.
        suffixes: of file names.
        grammar: the package and its function; empty if there is none.
        comment: prefix of a line comment; empty if there is none.
        block_comment: what begins and what ends a comment within a line or over several; empty if there is none.
        pairs: the pairs that editors close as they are opened.
    """

    id: str
    suffixes: tuple[str, ...]
    grammar: str
    comment: str
    style: BlockStyle = BlockStyle.BRACES
    ids: tuple[str, ...] = ()
    pairs: tuple[str, ...] = ("()", "[]", "{}", '""', "''")
    block_comment: tuple[str, str] | None = None


_NO_QUOTE = ("()", "[]", "{}", '""')
_BACKTICK = ("()", "[]", "{}", '""', "''", "``")
_TAG = ("()", "[]", "{}", '""', "''", "``", "<>")
_STYLES = BlockStyle
_STARS, _MARKUP = ("/*", "*/"), ("<!--", "-->")

LANGUAGES: tuple[Language, ...] = (
    Language("python", (".py", ".pyi"), "python", "#", _STYLES.INDENTATION),
    Language(
        "javascript",
        (".js", ".mjs", ".cjs", ".jsx"),
        "javascript",
        "//",
        ids=("javascriptreact",),
        pairs=_BACKTICK,
        block_comment=_STARS,
    ),
    Language(
        "typescript",
        (".ts", ".mts", ".cts"),
        "typescript.language_typescript",
        "//",
        pairs=_BACKTICK,
        block_comment=_STARS,
    ),
    Language("typescriptreact", (".tsx",), "typescript.language_tsx", "//", pairs=_BACKTICK, block_comment=_STARS),
    Language("rust", (".rs",), "rust", "//", pairs=_NO_QUOTE, block_comment=_STARS),
    Language("go", (".go",), "go", "//", pairs=_BACKTICK, block_comment=_STARS),
    Language("c", (".c", ".h"), "cpp", "//", block_comment=_STARS),
    Language(
        "cpp",
        (".cpp", ".cc", ".cxx", ".hpp", ".hh"),
        "cpp",
        "//",
        ids=("cuda-cpp", "objective-cpp"),
        block_comment=_STARS,
    ),
    Language("java", (".java",), "java", "//", block_comment=_STARS),
    Language("csharp", (".cs",), "c_sharp", "//", block_comment=_STARS),
    Language("ruby", (".rb",), "ruby", "#", _STYLES.KEYWORDS),
    Language("php", (".php",), "php.language_php", "//", block_comment=_STARS),
    Language("html", (".html", ".htm"), "html", "", _STYLES.TAGS, pairs=_TAG, block_comment=_MARKUP),
    Language("css", (".css",), "css", "", block_comment=_STARS),
    Language("json", (".json",), "json", "", _STYLES.NONE, ids=("jsonc",), pairs=("[]", "{}", '""')),
    Language(
        "shellscript", (".sh", ".bash"), "bash", "#", _STYLES.KEYWORDS, ids=("sh", "bash", "zsh"), pairs=_BACKTICK
    ),
    Language("yaml", (".yaml", ".yml"), "yaml", "#", _STYLES.NONE),
    Language("toml", (".toml",), "toml", "#", _STYLES.NONE),
    Language("markdown", (".md",), "markdown", "", _STYLES.NONE, pairs=("()", "[]", "``"), block_comment=_MARKUP),
    Language("lua", (".lua",), "lua", "--", _STYLES.KEYWORDS),
    Language("sql", (".sql",), "", "--", _STYLES.NONE),
    Language("kotlin", (".kt", ".kts"), "kotlin", "//", block_comment=_STARS),
    Language("scala", (".scala",), "scala", "//", block_comment=_STARS),
    Language("haskell", (".hs",), "haskell", "--", _STYLES.INDENTATION, pairs=_NO_QUOTE),
    Language("elixir", (".ex", ".exs"), "elixir", "#", _STYLES.KEYWORDS),
    Language("swift", (".swift",), "swift", "//", pairs=_NO_QUOTE, block_comment=_STARS),
    Language("zig", (".zig",), "zig", "//"),
    Language("dart", (".dart",), "dart", "//", block_comment=_STARS),
    # No grammar is used for these: only their comments are known.
    Language(
        "emacs-lisp",
        (".el",),
        "",
        ";;",
        _STYLES.NONE,
        ids=("elisp", "lisp", "clojure", "scheme", "racket"),
        pairs=("()", "[]", '""'),
    ),
    Language("perl", (".pl", ".pm"), "", "#"),
    Language("r", (".r", ".R"), "", "#"),
    Language("julia", (".jl",), "", "#", _STYLES.KEYWORDS),
    Language("makefile", ("Makefile", ".mk"), "", "#", _STYLES.NONE),
    Language("dockerfile", ("Dockerfile",), "", "#", _STYLES.NONE),
    Language("tex", (".tex",), "", "%", _STYLES.NONE, ids=("latex", "matlab", "erlang", "prolog")),
    Language("cmake", ("CMakeLists.txt", ".cmake"), "", "#", _STYLES.NONE, ids=("nix", "gdscript", "awk", "tcl")),
    Language("vb", (".vb", ".bas"), "", "'", _STYLES.KEYWORDS, ids=("vbscript", "vba"), pairs=_NO_QUOTE),
    Language("ada", (".adb", ".ads"), "", "--", _STYLES.KEYWORDS, ids=("elm", "vhdl"), pairs=_NO_QUOTE),
    Language("xml", (".xml", ".xsl", ".svg"), "", "", _STYLES.TAGS, pairs=_TAG, block_comment=_MARKUP),
    Language("scss", (".scss",), "", "//", ids=("less",), block_comment=_STARS),
)
_CLOSING_WORDS = {"end", "fi", "done", "esac", "else", "endif", "#endif", "#else", "break"}
_BY_ID = {id: language for language in LANGUAGES for id in (language.id, *language.ids)}
_BY_SUFFIX = {suffix: language for language in LANGUAGES for suffix in language.suffixes}


def find_language(id: str) -> Language | None:
    """Return the row of an LSP language id, or None."""
    return _BY_ID.get(id)


def language_of_file(name: str) -> Language | None:
    """Return the row of a file by its name, or None."""
    name = name.replace("\\", "/").rpartition("/")[2]
    if name in _BY_SUFFIX:
        return _BY_SUFFIX[name]
    suffix = "." + name.rpartition(".")[2]
    return _BY_SUFFIX.get(suffix) or _BY_SUFFIX.get(suffix.lower())


def write_comment(lines: Iterable[str], language: Language | None) -> str:
    """Write lines as a comment; nothing if the language is not known, has none, or a line would end it."""
    if language is not None and language.comment:
        return "".join(f"{language.comment} {line}".rstrip() + "\n" for line in lines)
    if language is None or language.block_comment is None:
        return ""
    start, end = language.block_comment
    text = "\n".join((start, *lines, end)) + "\n"
    return text if text.count(end) == 1 and text.count(start) == 1 else ""


def is_closing_line(line: str) -> bool:
    """Return whether a line only closes something, in any language: a bracket, a tag, a keyword."""
    text = line.strip()
    return text.startswith((")", "]", "}", "</")) or text.rstrip(";") in _CLOSING_WORDS


@cache
def load_grammar(language: Language) -> Grammar | None:
    """Return the grammar of a language, or None if there is none or its package is not installed."""
    if not language.grammar:
        return None
    package, _, function = language.grammar.partition(".")
    try:
        module = import_module(f"tree_sitter_{package}")
    except ImportError:
        return None
    return Grammar(getattr(module, function or "language")())
