#!/usr/bin/env python3
"""Runs the command GRIDNET, and the test program ROLES as members, under strace, and compares every listen() with ci/listens/list.txt."""

import collections
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

LIST = pathlib.Path(__file__).parent / "listens" / "list.txt"
# Far longer than anything here takes on a busy machine.
LONG = 60
# strace puts results into a column: how many blanks come before one depends on the numbers.
BIND = re.compile(r"bind\((\d+)<[^>]*:\[(\d+)\]>, \{sa_family=(\w+), (.*)\}, \d+\)\s+= 0")
LISTEN = re.compile(r"listen\((\d+)<[^>]*:\[(\d+)\]>, -?\d+\)\s+= 0")
RESUMED = re.compile(r"\d+\s+<\.\.\. \w+ resumed>(.*)")
INET = re.compile(r'sin6?_port=htons\((\d+)\).*"([^"]*)"')


class Run:
    """A command under strace, which writes down what it and its children bind and listen at."""

    def __init__(self, scene, what, args, env=None, command=None):
        self.trace = scene.dir / f"{what}.{len(scene.runs)}.trace"
        self.what, self.scene = what, scene
        # The tracer is the grandchild, so that signals reach the command.
        strace = ["strace", "-D", "-f", "-y", "--seccomp-bpf", "-e", "trace=bind,listen", "-e", "signal=none", "-o", self.trace]
        env = {**os.environ, "GRIDNET_RUN_DIR": str(scene.run_dir), **(env or {})}
        self.process = subprocess.Popen([*strace, command or scene.gridnet, *args], env=env, stdout=subprocess.PIPE, text=True)
        scene.runs.append(self)

    def line(self):
        # Who says nothing for too long is ended, and so is what it says.
        guard = threading.Timer(LONG, self.process.kill)
        guard.start()
        line = self.process.stdout.readline()
        guard.cancel()
        if not line:
            sys.exit(f"FAILED: {self.what} ended, or was ended after {LONG} s, before it was ready")
        return line

    def end(self, how=None):
        """Waits until it, and who traces it, have ended."""
        if how:
            self.process.send_signal(how)
        said, _ = self.process.communicate(timeout=LONG)
        if self.process.returncode not in (0, 130):
            sys.exit(f"FAILED: {self.what}: exit {self.process.returncode}: {said}")
        return said

    def listens(self):
        """Where it has listened, in words."""
        bound, found = {}, []
        for line in joined(self.trace.read_text().splitlines()):
            if (bind := BIND.search(line)) and bind[3] in ("AF_UNIX", "AF_INET", "AF_INET6"):
                bound[bind[2]] = place(bind[3], bind[4], self.scene.dir)
            elif listen := LISTEN.search(line):
                found.append(bound.get(listen[2], "tcp all addresses: listens without an address"))
        return found


def joined(lines):
    """Lines of strace, each whole, where calls of several threads have met."""
    begun = {}
    for line in lines:
        pid = line.split(maxsplit=1)[0]
        if line.endswith("<unfinished ...>"):
            begun[pid] = line.removesuffix("<unfinished ...>").rstrip()
        elif resumed := RESUMED.match(line):
            # strace puts the result into a column.
            yield begun.pop(pid, "") + re.sub(r"\)\s+= ", ") = ", resumed[1])
        else:
            yield line


def place(family, address, folder):
    if family == "AF_UNIX":
        path = re.search(r'sun_path=(@?)"([^"]*)"', address)
        if path[1]:
            return "unix @" + re.sub(r"^(gridnet-line-)[0-9a-f]{32}$", r"\1*", path[2])
        name = os.path.basename(path[2])
        if not pathlib.Path(path[2]).is_relative_to(folder):
            return f"unix {path[2]}"
        return f"unix DIR/{'*.new' if name.endswith('.new') else name}"
    port, ip = INET.search(address).groups()
    where = "all addresses" if ip in ("0.0.0.0", "::") else ip
    return f"tcp {where} {'chosen' if port == '0' else 'given'}"


class Scene:
    """What runs: a session of one host, and programs in it and outside."""

    def __init__(self, gridnet, roles, folder):
        self.gridnet, self.roles, self.dir, self.runs = gridnet, roles, folder, []
        self.run_dir = folder / "run"
        self.run_dir.mkdir(mode=0o700)
        self.session = str(folder / "session")
        self.ticket = self.session + "/ticket"

    def run(self, what, *args, env=None):
        return Run(self, what, args, env).end()

    def status(self):
        said = subprocess.run([self.gridnet, "session", "status", "--json", "--dir", self.session], capture_output=True, text=True)
        return json.loads(said.stdout)

    def play(self):
        self.run("session-new", "session", "new", "--listen", f"127.0.0.1:{free_port()}", "--dir", self.session)
        serving = Run(self, "session-serve", ["session", "serve", "--dir", self.session])
        serving.line()
        members = [self.start_member() for _ in range(2)]
        wait_for(lambda: any(leader["nodes"] == 1 for leader in self.status()["leaders"]), "one leads the other")
        self.run("session-status", "session", "status", "--dir", self.session)
        short = ["--op", "tag_lat", "--size", "8", "--iters", "10", "--pin", "none"]
        self.run("perf-shm", "perf", "--rails", "shm", *short)
        member = {"GRIDNET_SESSION": self.ticket, "GRIDNET_NET_INTERFACES": "127.0.0.1"}
        self.run("perf-member", "perf", "--rails", "tcp", *short, env=member)
        self.between(short, member)
        rules = self.dir / "plain.toml"
        rules.write_text("[[rule]]\nmin_security = 'plain'\nuse = ['tcp', 'tls/tcp']\n")
        # The rail tcp listens, too; by an address nobody is reached over it where there are rules.
        self.run("perf-plain", "perf", "--rails", "shm,tcp", *short, env={**member, "GRIDNET_SESSION_RULES": str(rules)})
        self.line("line")
        self.line("tcp-line", "[[rule]]\nservice = 'meta'\nuse = ['tls/tcp']\n")
        members.extend(self.passing())
        lo = {"GRIDNET_NET_INTERFACES": "127.0.0.1"}
        self.run("session-quick", "session", "quick", "--", self.gridnet, "perf", "--rails", "tcp", *short, env=lo)
        for one in [*members, serving]:
            one.end(signal.SIGINT)

    def start_member(self):
        member = Run(self, "session-members", ["session", "join", self.ticket, "--watch"])
        member.line()
        return member

    def line(self, what, rules=None):
        """Two members of which one asks the other something again and again, until they have a line; it goes by these rules."""
        called, caller = [self.start_role("child_line", f"{what}-{label}", label, rules) for label in ("called", "caller")]
        said = caller.end()
        if f"line over {'tls/tcp' if rules else 'unix'}" not in said:
            sys.exit(f"FAILED: {what}: the line is another one: {said}")
        called.end()

    def start_role(self, role, what, label, rules):
        env = {"SESSION_TEST_TICKET": self.ticket, "SESSION_TEST_LABEL": label, "SESSION_TEST_CLUSTER": label}
        if rules:
            env["SESSION_TEST_RULES"] = rules
        return Run(self, what, [role, "--exact", "--ignored", "--nocapture"], env, self.roles)

    def passing(self):
        """A leader that passes joins on, one below it, and one that joins through it."""
        at, through = f"127.0.0.1:{free_port()}", str(self.dir / "through")
        join = ["session", "join", self.ticket, "--cluster", "passing", "--watch"]
        leader = Run(self, "leader-passing", [*join, "--lead", "always", "--listen", at, "--pass-joins"])
        leader.line()
        below = Run(self, "session-below", [*join, "--lead", "never"])
        below.line()
        wait_for(lambda: any(leader["addresses"] == [at] for leader in self.status()["leaders"]), "it leads where it was told to")
        self.run("session-ticket", "session", "ticket", through, "--via", at, "--dir", self.session)
        text = re.sub(r'^addresses = .*$', f'addresses = ["127.0.0.1:{free_port()}"]', pathlib.Path(through).read_text(), flags=re.M)
        pathlib.Path(through).write_text(text)
        self.run("session-through", "session", "join", through, "--cluster", "passing", "--lead", "never")
        return [below, leader]

    def between(self, short, env):
        key, at = str(self.dir / "key"), f"127.0.0.1:{free_port()}"
        server = Run(self, "perf-serve", ["perf", "--serve", "--listen", at, "--key", key], env)
        end = time.monotonic() + LONG
        while "perf --connect" not in server.line():
            if time.monotonic() > end:
                sys.exit(f"FAILED: perf-serve does not say in {LONG} s how to connect")
        self.run("perf-connect", "perf", "--connect", at, "--key", key, "--rails", "tcp", *short, env=env)
        server.end()


def free_port():
    """Below those that the system gives to connections."""
    for port in range(10_000 + os.getpid() % 8_000, 20_000):
        with socket.socket() as one:
            try:
                one.bind(("127.0.0.1", port))
                return port
            except OSError:
                continue
    sys.exit("FAILED: no port is free")


def wait_for(holds, what):
    end = time.monotonic() + LONG
    while not holds():
        if time.monotonic() > end:
            sys.exit(f"FAILED: {what}: not in {LONG} s")
        time.sleep(0.05)


def allowed():
    """What may listen, by what runs: each place with how often."""
    rows = collections.defaultdict(collections.Counter)
    for line in LIST.read_text().splitlines():
        if line and not line.startswith("#"):
            what, times, where, _who = re.split(r"\s{2,}", line, maxsplit=3)
            rows[what].update({where: int(times)} if int(times) else {})
    return rows


def main():
    folder = pathlib.Path(tempfile.mkdtemp(prefix="gridnet-listens-"))
    scene = Scene(*sys.argv[1:3], folder)
    try:
        scene.play()
        seen = collections.defaultdict(collections.Counter)
        for run in scene.runs:
            seen[run.what].update(run.listens())
    finally:
        for run in scene.runs:
            if run.process.poll() is None:
                run.process.kill()
        shutil.rmtree(folder, ignore_errors=True)
    wanted, faults = allowed(), []
    for what in sorted(set(seen) | set(wanted)):
        for where in sorted(set(seen[what]) | set(wanted[what])):
            if seen[what][where] != wanted[what][where]:
                faults.append(f"{what}: {where}: {seen[what][where]} times, the list says {wanted[what][where]}")
            if "all addresses" in where:
                faults.append(f"{what}: listens at all addresses")
    for fault in faults:
        print(f"FAILED: {fault}")
    if not faults:
        print(f"all {sum(map(collections.Counter.total, seen.values()))} listens of {len(scene.runs)} runs are on the list")
    sys.exit(bool(faults))


main()
