"""Record the demo as docs/demo.svg: ``python docs/record.py`` in an environment with ``pip install -e .[docs]``."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text


def main() -> None:
    """Run the demo in colour and write what it printed as a picture."""
    done = subprocess.run(
        [sys.executable, "-m", "codeclippy_ls", "demo"],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "FORCE_COLOR": "1"},
    )
    console = Console(record=True, width=100, file=io.StringIO(), force_terminal=True)
    console.print(Text.from_ansi("$ codeclippy-ls demo\n" + done.stdout), highlight=False)
    picture = console.export_svg(title="codeclippy-ls demo")
    # The fonts are asked for from the web otherwise, each time somebody looks at the picture.
    picture = re.sub(r"@font-face \{.*?\}", "", picture, flags=re.DOTALL)
    (Path(__file__).parent / "demo.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
