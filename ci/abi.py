"""Describes the C interface and compares descriptions; see ci/abi.sh.

    abi.py describe HEADER [LIBRARY]     prints a description, with the symbols of the library if it is given
    abi.py compare OLD NEW               says what would break programs (exit 1), and what is not in OLD (exit 2)
    abi.py test HEADER                   changes a copy of the header in many ways, and sees each change judged

A description has one fact a line, so that a change of the interface is a change of lines:

    constant NAME VALUE
    type NAME = TYPE
    function NAME: RESULT (PARAMETERS)
    struct NAME: size N, align N[, sized]
    field STRUCT.NAME: at N, N bytes, TYPE
    symbol NAME@@VERSION
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

# These follow the release, not the interface.
VERSIONS = re.compile(r"GRIDNET_VERSION(_\w+)?$|GRIDNET_H$")
STRUCT = re.compile(r"typedef struct (\w+) \{(.*?)\} \1;", re.S)
FIELD = re.compile(r"^\s*(.+?)(\w+)((?:\[\w+\])*);", re.M)
ALIAS = re.compile(r"^typedef (?!struct \w+ \{)(.+?)(\w+);", re.M)
FUNCTION = re.compile(r"^(\w[\w \t*]*?)\b(gridnet_\w+)\(([^;{}]*)\);", re.M)
CONSTANT = re.compile(r"^#define (GRIDNET_\w+)[ \t]+\S", re.M)


def main():
    match sys.argv[1:]:
        case ["describe", header, *library]:
            print("\n".join(describe(Path(header).read_text(), *library)))
        case ["compare", old, new]:
            sys.exit(report(*compare(read(old), read(new))))
        case ["test", header]:
            test(Path(header).read_text())
        case _:
            sys.exit(__doc__)


def read(path):
    return [line for line in Path(path).read_text().splitlines() if line and not line.startswith("#")]


# --- describing ---


def describe(header, library=None):
    text = re.sub(r"/\*.*?\*/", "", header, flags=re.S)
    structs = {name: FIELD.findall(body) for name, body in STRUCT.findall(text)}
    constants = sorted(name for name in set(CONSTANT.findall(text)) if not VERSIONS.match(name))
    lines = layout(header, constants, structs)
    for target, name in sorted(ALIAS.findall(text), key=lambda alias: alias[1]):
        lines.append(f"type {name} = {plain(target)}")
    for result, name, parameters in sorted(FUNCTION.findall(text), key=lambda function: function[1]):
        types = ", ".join(unnamed(parameter) for parameter in parameters.split(","))
        lines.append(f"function {name}: {plain(result)} ({types})")
    if library:
        lines += symbols(library)
    return lines


def layout(header, constants, structs):
    """Values, sizes and positions, as the compiler has them."""
    probes = [f'printf("constant {name} %lld\\n", (long long){name});' for name in constants]
    for struct, fields in sorted(structs.items()):
        sized = ", sized" if fields and fields[0][1] == "size" else ""
        probes.append(
            f'printf("struct {struct}: size %zu, align %zu{sized}\\n", sizeof({struct}), '
            f"offsetof(struct {{ char c; {struct} s; }}, s));"
        )
        for target, field, bounds in fields:
            probes.append(
                f'printf("field {struct}.{field}: at %zu, %zu bytes, {plain(target)}{bounds}\\n", '
                f"offsetof({struct}, {field}), sizeof((({struct} *)0)->{field}));"
            )
    with tempfile.TemporaryDirectory() as scratch:
        here = Path(scratch)
        (here / "gridnet.h").write_text(header)
        body = "\n".join(probes)
        (here / "probe.c").write_text(
            f'#include "gridnet.h"\n#include <stdio.h>\nint main(void) {{\n{body}\nreturn 0;\n}}\n'
        )
        subprocess.run(["gcc", "-std=c11", "-o", here / "probe", here / "probe.c"], check=True)
        return subprocess.run([here / "probe"], check=True, capture_output=True, text=True).stdout.splitlines()


def symbols(library):
    command = ["nm", "-D", "--defined-only", "--with-symbol-versions", library]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split("\n")
    entries = [line.split() for line in listing if line]
    return sorted(f"symbol {name}" for *_, kind, name in entries if kind != "A")


def plain(text):
    return re.sub(r"\s*\*\s*", " *", re.sub(r"\s+", " ", text)).strip()


def unnamed(parameter):
    """The type of a parameter: its name means nothing to a program that is built already."""
    parameter = plain(parameter)
    return parameter if parameter == "void" else plain(re.sub(r"\w+((?:\[\w*\])*)$", r"\1", parameter))


# --- comparing ---


def compare(old, new):
    """What breaks programs that were built against the old description; and what the old one does not have."""
    before, after = facts(old), facts(new)
    broken = []
    for key, fact in before.items():
        now = after.get(key)
        if now is None:
            broken.append(f"{key} is gone")
        elif now != fact and not (key.startswith("struct ") and grew(fact, now)):
            broken.append(f"{key} was `{fact}`, is `{now}`")
    for key in after.keys() - before.keys():
        if key.startswith("field "):
            broken += misplaced(key, before, after)
    changed = sum(before.get(key) != fact for key, fact in after.items())
    return sorted(broken), changed


def facts(lines):
    """The subject of each line, and what is said of it."""
    pairs = {}
    for line in lines:
        kind, name, rest = (line.split(" ", 2) + [""])[:3]
        pairs[f"{kind} {name.rstrip(':')}"] = rest
    return pairs


def grew(old, new):
    """A struct that begins with its size may grow: the library reads of it what the program has."""
    (old_size, old_align), (new_size, new_align) = numbers(old), numbers(new)
    return "sized" in old and "sized" in new and new_size >= old_size and new_align == old_align


def misplaced(key, before, after):
    """A new field may take what was behind all others."""
    struct = key.removeprefix("field ").split(".")[0]
    if f"struct {struct}" not in before:
        return []
    ends = [sum(numbers(fact)) for old, fact in before.items() if old.startswith(f"field {struct}.")]
    return [f"{key} lies before older ones"] if numbers(after[key])[0] < max(ends, default=0) else []


def numbers(fact):
    return [int(number) for number in re.findall(r"\b\d+\b", fact)[:2]]


def report(broken, changed):
    if broken:
        print("programs that were built before would break:")
        print("\n".join(f"  {line}" for line in broken))
        return 1
    if changed:
        print(f"{changed} lines of the interface are new: ci/abi.sh --update writes them to the list")
        return 2
    return 0


# --- the test of the check ---

# What is replaced in the header, and whether that breaks programs (1), extends the interface (2), or neither (0).
EDITS = [
    ("a function is lost", r"gridnet_status gridnet_cq_destroy\([^;]*\);", "", 1),
    ("a parameter changes its width", r"(gridnet_cq_poll\([^;]*)size_t count", r"\1uint32_t count", 1),
    ("a parameter is added", r"(gridnet_cq_destroy\(struct gridnet_cq \*cq)\)", r"\1, int how)", 1),
    ("a result changes", r"gridnet_status (gridnet_fabric_close)", r"void \1", 1),
    ("a constant is renumbered", r"(#define GRIDNET_ERR_HANDLE) -3", r"\1 -63", 1),
    ("a constant is lost", r"#define GRIDNET_BUSY 2", "", 1),
    ("a type changes its width", r"typedef uint64_t gridnet_op;", "typedef uint32_t gridnet_op;", 1),
    ("a field is lost", r"uint32_t numa_node;", "", 1),
    ("a field changes its type, not its size", r"uint32_t numa_node;", "int32_t numa_node;", 1),
    ("a field comes first", r"(typedef struct gridnet_iov \{)", r"\1 uint64_t colour;", 1),
    ("a struct of fixed size grows", r"(uint32_t numa_node;)(\s*\} gridnet_iov;)", r"\1 uint64_t colour;\2", 1),
    ("a struct is lost", r"typedef struct gridnet_probe_info \{.*?\} gridnet_probe_info;", "struct gridnet_probe_info;", 1),
    ("a parameter struct grows at its end", r"(const char \*const \*options;)", r"\1 uint64_t colour;", 2),
    ("a parameter struct grows in the middle", r"(const char \*name;)", r"\1 uint64_t colour;", 1),
    ("a struct that programs have arrays of grows", r"(uint32_t flags;)(\s*\} gridnet_completion;)", r"\1 int colour;\2", 1),
    ("a function is new", r"(gridnet_status gridnet_cq_destroy)", r"void gridnet_paint(int colour);\n\1", 2),
    ("a constant is new", r"(#define GRIDNET_BUSY 2)", r"\1\n#define GRIDNET_COLOUR 7", 2),
    ("a parameter is renamed", r"(gridnet_cq_destroy\(struct gridnet_cq \*)cq\)", r"\1queue)", 0),
    ("a comment changes", r"/\*", "/* hello", 0),
]


def test(header):
    old = describe(header)
    for what, pattern, replacement, verdict in EDITS:
        changed, count = re.subn(pattern, replacement, header, count=1, flags=re.S)
        assert count == 1 and changed != header, f"the header has no place for: {what}"
        broken, additions = compare(old, describe(changed))
        found = 1 if broken else 2 if additions else 0
        assert found == verdict, f"{what}: judged {found}, not {verdict}: {broken}"
    listed = [*old, "symbol gridnet_cq_poll@@GRIDNET_0"]
    assert compare(listed, old)[0] == ["symbol gridnet_cq_poll@@GRIDNET_0 is gone"]
    assert compare(listed, [*old, "symbol gridnet_cq_poll@@GRIDNET_1"])[0], "a symbol changed its version"
    print(f"the check knows {len(EDITS) + 2} changes for what they are")


main()
