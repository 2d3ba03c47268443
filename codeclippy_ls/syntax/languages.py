"""The table of languages: LSP ids, file suffixes, grammar, comment prefix, block style, bracket pairs.

Grammars are tree-sitter's packages on PyPI. Those of the common languages come with the package, the others with the
extra ``languages``; without a grammar a language still has its comment prefix. A language that is not in the table is
not judged at all.
"""

from __future__ import annotations

import enum
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
        pairs: the pairs that editors close as they are opened.
    """

    id: str
    suffixes: tuple[str, ...]
    grammar: str
    comment: str
    style: BlockStyle = BlockStyle.BRACES
    ids: tuple[str, ...] = ()
    pairs: tuple[str, ...] = ("()", "[]", "{}", '""', "''")


_NO_QUOTE = ("()", "[]", "{}", '""')
_BACKTICK = ("()", "[]", "{}", '""', "''", "``")
_TAG = ("()", "[]", "{}", '""', "''", "``", "<>")
_STYLES = BlockStyle

LANGUAGES: tuple[Language, ...] = (
    Language("python", (".py", ".pyi"), "python", "#", _STYLES.INDENTATION),
    Language(
        "javascript", (".js", ".mjs", ".cjs", ".jsx"), "javascript", "//", ids=("javascriptreact",), pairs=_BACKTICK
    ),
    Language("typescript", (".ts", ".mts", ".cts"), "typescript.language_typescript", "//", pairs=_BACKTICK),
    Language("typescriptreact", (".tsx",), "typescript.language_tsx", "//", pairs=_BACKTICK),
    Language("rust", (".rs",), "rust", "//", pairs=_NO_QUOTE),
    Language("go", (".go",), "go", "//", pairs=_BACKTICK),
    Language("c", (".c", ".h"), "cpp", "//"),
    Language("cpp", (".cpp", ".cc", ".cxx", ".hpp", ".hh"), "cpp", "//", ids=("cuda-cpp", "objective-cpp")),
    Language("java", (".java",), "java", "//"),
    Language("csharp", (".cs",), "c_sharp", "//"),
    Language("ruby", (".rb",), "ruby", "#", _STYLES.KEYWORDS),
    Language("php", (".php",), "php.language_php", "//"),
    Language("html", (".html", ".htm"), "html", "", _STYLES.TAGS, pairs=_TAG),
    Language("css", (".css",), "css", ""),
    Language("json", (".json",), "json", "", _STYLES.NONE, pairs=("[]", "{}", '""')),
    Language(
        "shellscript", (".sh", ".bash"), "bash", "#", _STYLES.KEYWORDS, ids=("sh", "bash", "zsh"), pairs=_BACKTICK
    ),
    Language("yaml", (".yaml", ".yml"), "yaml", "#", _STYLES.NONE),
    Language("toml", (".toml",), "toml", "#", _STYLES.NONE),
    Language("markdown", (".md",), "markdown", "", _STYLES.NONE, pairs=("()", "[]", "``")),
    Language("lua", (".lua",), "lua", "--", _STYLES.KEYWORDS),
    Language("sql", (".sql",), "", "--", _STYLES.NONE),
    Language("kotlin", (".kt", ".kts"), "kotlin", "//"),
    Language("scala", (".scala",), "scala", "//"),
    Language("haskell", (".hs",), "haskell", "--", _STYLES.INDENTATION, pairs=_NO_QUOTE),
    Language("elixir", (".ex", ".exs"), "elixir", "#", _STYLES.KEYWORDS),
    Language("swift", (".swift",), "swift", "//", pairs=_NO_QUOTE),
    Language("zig", (".zig",), "zig", "//"),
    Language("dart", (".dart",), "dart", "//"),
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
    suffix = "." + name.rpartition(".")[2] if "." in name else name
    return _BY_SUFFIX.get(suffix) or _BY_SUFFIX.get(suffix.lower())


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
