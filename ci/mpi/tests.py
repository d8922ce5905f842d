"""Runs the tests of mpi4py, and writes what came of each, for `verdicts.py`.

    tests.py FOLDER FILE ARGUMENT...

FOLDER has `main.py` of mpi4py's tests; FILE gets a line for each test when it ends, and `.RANK` added to its name.
"""

import os
import sys
import unittest

folder, file = sys.argv[1:3]
sys.dont_write_bytecode = True
sys.path.insert(0, folder)
import main  # noqa: E402

rank = os.environ.get("PMI_RANK") or os.environ.get("OMPI_COMM_WORLD_RANK") or "0"
verdicts = open(f"{file}.{rank}", "w", buffering=1)


class Result(unittest.TextTestResult):
    """Says in the file what became of a test: the worst of what was said of it and its parts."""

    def startTest(self, test):
        super().startTest(test)
        self.verdict = "passed"

    def stopTest(self, test):
        super().stopTest(test)
        verdicts.write(f"{self.verdict} {test.id()}\n")

    def addSkip(self, test, reason):
        super().addSkip(test, reason)
        if test.id().startswith(("setUpClass", "setUpModule")):
            verdicts.write(f"skipped {test.id()}\n")
        self.verdict = "skipped"

    def addFailure(self, test, err):
        super().addFailure(test, err)
        self.verdict = "failed"

    def addError(self, test, err):
        super().addError(test, err)
        # Of a whole class, too, which no test has begun for.
        verdicts.write(f"failed {test.id()}\n")
        self.verdict = "failed"

    def addSubTest(self, test, subtest, err):
        super().addSubTest(test, subtest, err)
        if err is not None:
            self.verdict = "failed"


main.TestProgram(module=None, argv=["tests", *sys.argv[3:]], testRunner=unittest.TextTestRunner(resultclass=Result))
