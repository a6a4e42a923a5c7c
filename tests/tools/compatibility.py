"""docs/compatibility.md: tables that commands make, each between two markers of its own."""

from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "compatibility.md"

HEAD = """# Compatibility

Counts of the frameworks' own tests, run through rnncore. Each table is written by the command above it.
"""


def write_section(name, text):
    """Put a text between the markers of a section, which is added to a page without it."""
    page = PAGE.read_text() if PAGE.exists() else HEAD
    begin, end = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    if begin not in page:
        page = f"{page.rstrip()}\n\n## {name}\n\n{begin}{end}"
    before, rest = page.split(begin)
    _, after = rest.split(end)
    body = text.strip("\n")
    PAGE.write_text(f"{before}{begin}{body}\n{end}{after}")


def table(head, rows):
    """A table in Markdown, its numbers to the right."""
    lines = [head, ["---" if not isinstance(cell, int) else "---:" for cell in rows[0]], *rows]
    return "\n".join("| " + " | ".join(f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in line) + " |"
                     for line in lines)  # fmt: skip
