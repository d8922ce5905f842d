"""Checks the documentation; see ci/docs.sh."""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HEADER = (ROOT / "include/gridnet.h").read_text()
API = ROOT / "docs/api"
GCC = ["gcc", "-std=c99", "-Wall", "-Wextra", "-Wpedantic", "-Werror", "-O1", f"-I{ROOT}/include", "-c", "-o", "/dev/null"]

# What a snippet that is no whole program may use without declaring it.
PRELUDE = """
#include <gridnet.h>
#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <unistd.h>
extern gridnet_fabric *fabric;
extern gridnet_cq *cq;
extern gridnet_endpoint *ep;
extern gridnet_group *group;
extern gridnet_message *message;
extern gridnet_address address, addresses[4];
extern gridnet_completion entry, entries[16];
extern gridnet_status status;
extern gridnet_op op;
extern unsigned char buf[4096];
extern size_t len;
extern uint64_t tag;
extern uint32_t source;
extern void *context;
"""


def pages():
    """Every page that is in git, or is new and not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT, capture_output=True, text=True, check=True)
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).exists()]


def calls_have_pages():
    """Each exported function has a page that declares it, and each page a function."""
    declared = set(re.findall(r"^[a-z][\w *]*\b(gridnet_[a-z0-9_]+)\(", HEADER, re.M))
    described = {page.stem for page in API.glob("gridnet_*.md")}
    for name in sorted(declared - described):
        yield f"docs/api/{name}.md is missing"
    for name in sorted(described - declared):
        yield f"docs/api/{name}.md: gridnet.h has no such function"
    index = (API / "README.md").read_text()
    for name in sorted(declared & described):
        text = (API / f"{name}.md").read_text()
        if not text.startswith(f"# {name}\n"):
            yield f"docs/api/{name}.md: the title is not {name}"
        first = re.search(r"```c\n(.*?)```", text, re.S)
        if not first or not re.search(rf"\b{name}\(", first[1]):
            yield f"docs/api/{name}.md: does not begin with the declaration"
        if f"({name}.md)" not in index:
            yield f"docs/api/README.md: does not list {name}"


def calls_are_refused():
    """Each function that takes a handle is among the calls that are made with handles that must be refused."""
    handles = "|".join(re.findall(r"^typedef struct (\w+) \1;", HEADER, re.M))
    taking = re.findall(rf"^[a-z]\w* (gridnet_\w+)\(struct (?:{handles}) \*\w+[,)]", HEADER, re.M)
    tested = (ROOT / "ci/c-tests/calls.h").read_text()
    for name in taking:
        if f" {name}(" not in tested:
            yield f"ci/c-tests/calls.h: does not call {name}"
    if not taking:
        yield "include/gridnet.h: no function that takes a handle was found"


def snippets(page):
    """Line, and text, of each piece of C in a page."""
    text = page.read_text()
    for found in re.finditer(r"^```c\n(.*?)^```", text, re.S | re.M):
        yield text.count("\n", 0, found.start(1)) + 1, found[1]


def code_compiles():
    """Whole programs one by one; all else together, each piece in a function of its own."""
    pieces = [PRELUDE]
    with tempfile.TemporaryDirectory() as folder:
        source = Path(folder) / "snippet.c"
        for page in pages():
            for line, text in snippets(page):
                place = f'#line {line} "{page.relative_to(ROOT)}"\n'
                if "#include" in text:
                    source.write_text(place + text)
                    yield from compile_errors(source)
                else:
                    name = f"snippet_{len(pieces)}"
                    pieces.append(f"void {name}(void);\nvoid {name}(void)\n{{\n{place}{text}}}\n")
        source.write_text("".join(pieces))
        yield from compile_errors(source)
    print(f"{len(pieces) - 1} snippets compiled")


def compile_errors(source):
    result = subprocess.run([*GCC, str(source)], capture_output=True, text=True)
    if result.returncode != 0:
        yield result.stderr.strip()


def statuses_are_listed():
    errors = (ROOT / "docs/errors.md").read_text()
    for name, number in re.findall(r"^#define (GRIDNET_(?:OK|IN_PROGRESS|BUSY|ERR_\w+)) (-?\d+)$", HEADER, re.M):
        if f"| {number} | `{name}` |" not in errors:
            yield f"docs/errors.md: does not list {name} as {number}"


def variables_are_listed():
    """The table of the source, in both pages that copy it: name, default, sentence."""
    table = (ROOT / "fabric/src/config/table.rs").read_text()
    rows = re.findall(r'= "(GRIDNET_\w+)" "([^"]*)".*?"([^"]*\.)";', table, re.S)
    if not rows:
        yield "fabric/src/config/table.rs: no variables found"
    for page in ("README.md", "docs/configuration.md"):
        text = (ROOT / page).read_text()
        for name, default, sentence in rows:
            shown = f"`{default}`" if default else "empty"
            if not re.search(rf"^\| `{name}` \| {re.escape(shown)} \|.*{re.escape(sentence)}", text, re.M):
                yield f"{page}: no row that says: {name} {shown} {sentence}"
        for name in set(re.findall(r"^\| `(GRIDNET_\w+)` \|", text, re.M)) - {row[0] for row in rows}:
            yield f"{page}: there is no variable {name}"


def anchors(page):
    """The anchors of a page's headings, as forges make them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
    for heading in re.findall(r"^#+ (.*)$", text, re.M):
        yield re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def links_lead_somewhere():
    for page in pages():
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M)
        for target in re.findall(r"\]\(([^)\s]+)\)", text):
            if re.match(r"[a-z]+:", target):
                continue
            path, _, anchor = target.partition("#")
            aim = (page.parent / path).resolve() if path else page
            if not aim.exists():
                yield f"{page.relative_to(ROOT)}: {target} leads nowhere"
            elif anchor and aim.suffix == ".md" and anchor not in anchors(aim):
                yield f"{page.relative_to(ROOT)}: {target} names no heading"


def main():
    checks = (calls_have_pages, calls_are_refused, code_compiles, statuses_are_listed, variables_are_listed,
              links_lead_somewhere)
    faults = [fault for check in checks for fault in check()]
    print(*faults, sep="\n", file=sys.stderr, end="\n" if faults else "")
    if not faults:
        print("every call has its page, the code compiles, tables and links are right")
    return bool(faults)


sys.exit(main())
