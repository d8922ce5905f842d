"""What came of a run of `tests.py`, and whether it is as good as another.

    verdicts.py FILE RANKS SECONDS [OTHER [NAME...]]

Fails when a rank did not come to its end, or a test failed that passed in OTHER; without OTHER, when any test failed. Tests of
these names are not asked for.
"""

import collections
import pathlib
import sys

MOST_NAMES = 20
ORDER = ("passed", "skipped", "failed")


def read(file):
    """The worst verdict of each test over all ranks; an empty table where there are none."""
    table = {}
    for part in sorted(pathlib.Path(file).parent.glob(pathlib.Path(file).name + ".*")):
        for line in part.read_text().splitlines():
            verdict, _, name = line.partition(" ")
            table[name] = max(table.get(name, "passed"), verdict, key=ORDER.index)
    return table


def main():
    file, ranks, seconds = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    table = read(file)
    counts = collections.Counter(table.values())
    print(f"{counts['passed']} passed, {counts['skipped']} skipped, {counts['failed']} failed, {seconds} s")
    failed = sorted(name for name, verdict in table.items() if verdict == "failed")
    if len(sys.argv) > 4:
        other = read(sys.argv[4])
        known = [name for name in failed if other.get(name) == "failed"]
        for name in known:
            print(f"failed there, too: {name}")
        failed = [name for name in failed if name not in known]
        missing = (name for name, verdict in other.items() if verdict == "passed" and name not in table)
        failed += sorted(name for name in missing if name.rpartition(".")[2] not in sys.argv[5:])
    for name in failed[:MOST_NAMES]:
        print(f"failed, or was not run: {name}")
    if len(failed) > MOST_NAMES:
        print(f"and {len(failed) - MOST_NAMES} more")
    if failed or not table or len(list(pathlib.Path(file).parent.glob(pathlib.Path(file).name + ".*"))) != ranks:
        sys.exit("error: not as good as it has to be")


main()
