"""``python -m codeclippy_ls``."""

from codeclippy_ls.cli import main

raise SystemExit(main())
