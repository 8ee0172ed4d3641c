"""Write the tables of the README and the cards from the files under results/, between their markers.

python -m benchmarks.readme [--check]
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path

from benchmarks.views.registry import written

_ROOT = Path(__file__).parent.parent
PAGES = [_ROOT / "README.md", *sorted((_ROOT / "docs").glob("*.md"))]
_BLOCK = re.compile(r"(<!-- results: (\S+) -->\n)(.*?)(<!-- end -->)", re.DOTALL)


def filled(text: str) -> str:
    """A page with every block written anew."""
    return _BLOCK.sub(lambda m: f"{m[1]}{written(m[2], m[3])}\n{m[4]}", text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="exit 1 if a page is out of date")
    args = parser.parse_args()
    for page in PAGES:
        text = page.read_text()
        new = filled(text)
        if args.check and new != text:
            raise SystemExit(f"{page.name} differs from benchmarks/results: run python -m benchmarks.readme")
        if new != text:
            page.write_text(new)


if __name__ == "__main__":
    main()
