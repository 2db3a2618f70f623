"""A command where nothing but this machine can be reached, and what was tried all the same.

Where the kernel lets one, `enter` runs the command again in a network namespace that has a loopback
and no route: whatever it starts lives there too, and the kernel counts each connection or datagram
that finds no route, or nobody who takes it. Elsewhere a guard in each Python process of the factory
refuses; a library's own sockets, and processes that are not Python, are past it. In both, the guard
notes who tried.

`python -m factory.workspace.airgap enter ARGUMENTS` is `factory ARGUMENTS` in there, `… run MODULE
ARGUMENTS` a child under the guard, and `… alone COMMAND` any command in such a namespace.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import fcntl
import ipaddress
import json
import os
import runpy
import socket
import struct
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

MODE = "FACTORY_AIRGAP"
"""Variable of a command that is in there: `namespace` or `guard`."""
START = "FACTORY_AIRGAP_START"
"""Variable with what the kernel had counted when it began."""
TRIED = "FACTORY_AIRGAP_TRIED"
"""Variable with the file in which the guard notes attempts, a JSON object a line."""
CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
SIOCSIFFLAGS = 0x8914
IFF_UP = 0x1
NEAR = ("localhost", "ip6-localhost", "")
"""Hosts that are this machine, besides loopback addresses."""
COUNTERS = (
    ("snmp", "Ip:", "OutNoRoutes"),
    ("snmp", "Udp:", "NoPorts"),
    ("snmp6", "", "Ip6OutNoRoutes"),
    ("snmp6", "", "Udp6NoPorts"),
)
"""What the kernel counts of a namespace without routes: connections and datagrams that went
nowhere, and datagrams for the loopback that nobody took: names are asked of 127.0.0.53 by them."""
SENDING = ("socket.connect", "socket.sendto", "socket.sendmsg")
"""Events of Python that come with a socket and an address."""
NAMING = {
    "socket.getaddrinfo": True,
    "socket.gethostbyname": True,
    "socket.gethostbyaddr": False,
    "socket.getnameinfo": False,
}
"""Events that begin with a host, and whether an address in numbers asks nobody there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempts:
    """What was tried from in there."""

    mode: str
    """`namespace` or `guard`."""
    counted: int | None
    """By the kernel; None where there was no namespace, or it does not tell."""
    tried: tuple[str, ...]
    """Who tried, and what, as the guard noted."""

    def __str__(self) -> str:
        noted = f"{len(self.tried)} noted by the guard of Python processes"
        if self.mode == "namespace" and self.counted is None:
            return f"{noted}; the kernel does not tell what a namespace without routes stopped"
        if self.counted is None:
            told = f"{len(self.tried)} refused by the guard of Python processes"
            return f"{told}; no network namespace here: others were not watched"
        if not self.counted and not self.tried:
            return "no connection was tried: the kernel counts 0 of a namespace without routes"
        return f"{self.counted} connections or datagrams were tried and went nowhere, {noted}"


def mode() -> str:
    """`namespace`, `guard`, or nothing where the command is not air-gapped."""
    return os.environ.get(MODE, "")


def enter() -> None:
    """Go on in there: the command is run again from its beginning, unless it is there already.

    The guard's file is a temporary one of this command. Call it before threads and locks.
    """
    if mode():
        opened, file = tempfile.mkstemp(prefix="factory-airgap-", suffix=".jsonl")
        os.close(opened)
        atexit.register(Path(file).unlink, missing_ok=True)
        os.environ[TRIED] = file
        _guard()
        return
    paths = os.environ.get("PYTHONPATH", ""), str(Path(__file__).resolve().parents[2])
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, paths))
    launch = [sys.executable, "-P", "-m", __spec__.name, "enter", *sys.argv[1:]]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execv(sys.executable, launch)


def attempts() -> Attempts:
    """What was tried so far; only within `enter`."""
    lines = Path(os.environ[TRIED]).read_text("utf-8", errors="replace").splitlines()
    notes = (json.loads(line) for line in lines)
    tried = tuple(f"{note['what']} by {note['process']}, {note['where']}" for note in notes)
    start, now = os.environ[START], _count() if mode() == "namespace" else None
    counted = now - int(start) if start and now is not None else None
    return Attempts(mode=mode(), counted=counted, tried=tried)


def launcher() -> list[str]:
    """What stands between `python -m` and a child's module, so that the guard is there first."""
    return [__spec__.name, "run"] if mode() else []


def _count(folder: Path = Path("/proc/self/net")) -> int | None:
    """Of this namespace, since it was made; None where the kernel does not tell. A kernel without
    IPv6 has no counters of it."""
    total = 0
    for name, group, key in COUNTERS:
        try:
            text = (folder / name).read_text("ascii")
        except OSError:
            if name == "snmp":
                return None
            continue
        for names, values in _rows(text, group):
            total += dict(zip(names, map(int, values), strict=True)).get(key, 0)
    return total


def _rows(text: str, group: str) -> Iterator[tuple[list[str], list[str]]]:
    """Names and values: of snmp two lines a group, of snmp6 a line each."""
    lines = [line.split() for line in text.splitlines()]
    if not group:
        yield from (([line[0]], [line[1]]) for line in lines)
        return
    for names, values in zip(lines[::2], lines[1::2], strict=True):
        if names[0] == group:
            yield names[1:], values[1:]


def _unshare() -> None:
    """Give this process a network of its own, and where that takes rights that it lacks, a user
    namespace too, in which others' files are nobody's. Raises OSError where the kernel lets it not.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    user, group = os.getuid(), os.getgid()
    if libc.unshare(CLONE_NEWNET) != 0:
        if libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "unshare")
        for file, text in (
            ("setgroups", "deny"),
            ("uid_map", f"{user} {user} 1"),
            ("gid_map", f"{group} {group} 1"),
        ):
            Path(f"/proc/self/{file}").write_text(text, "ascii")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as device:
        fcntl.ioctl(device, SIOCSIFFLAGS, struct.pack("16sh14x", b"lo", IFF_UP))


def _guard() -> None:
    """Note each attempt to reach another machine from this process, and refuse it where the kernel
    does not."""
    file = os.environ[TRIED]

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if tried := _find_far(event, arguments):
            what = f"{event.removeprefix('socket.')} {tried}"
            _note(file, what)
            if mode() == "guard":
                raise PermissionError(f"air-gapped: {what} is refused")

    sys.addaudithook(watch)


def _find_far(event: str, arguments: tuple[object, ...]) -> str:
    """The host of another machine that an event of Python asks for, with its port; else nothing."""
    if event in SENDING:
        # Others are of this machine: sockets of the file system, of the kernel.
        if getattr(arguments[0], "family", None) not in (socket.AF_INET, socket.AF_INET6):
            return ""
        place, numbers = arguments[1], False
    elif event in NAMING:
        numbers = NAMING[event]
        place = arguments[0] if event == "socket.getnameinfo" else arguments[:2]
    else:
        return ""
    if not isinstance(place, tuple) or _is_near(place[0], numbers):
        return ""
    return ":".join(map(str, place[:2]))


def _is_near(host: object, numbers: bool = False) -> bool:
    """Whether this is a name of this machine, or with `numbers` any address, which asks nobody."""
    text = host.decode("ascii", "replace") if isinstance(host, bytes | bytearray) else str(host)
    if host is None or text in (*NEAR, socket.gethostname()):
        return True
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return False
    return numbers or address.is_loopback or address.is_unspecified


def _note(file: str, what: str) -> None:
    """Who: the module that runs, and the line outside the standard library that led here."""
    frames = [frame for frame in traceback.extract_stack() if frame.filename != __file__]
    foreign = [frame for frame in frames if "/lib/python" not in frame.filename] or frames
    packaged = [frame for frame in frames if "site-packages" in frame.filename] or foreign
    where = f"{packaged[-1].filename}:{packaged[-1].lineno}" if packaged else "no line of Python"
    spec = getattr(sys.modules.get("__main__"), "__spec__", None)
    process = spec.name if spec is not None else Path(sys.argv[0]).name
    line = {"what": what, "process": process, "where": where}
    with contextlib.suppress(OSError), open(file, "a", encoding="utf-8") as notes:
        notes.write(json.dumps(line) + "\n")


def _alone(command: Sequence[str]) -> int:
    """Run a command in a namespace and print what the kernel counted of it; its exit code, or 1
    where something was tried. Without namespaces it runs as it is, which is said."""
    try:
        _unshare()
    except OSError as error:
        print(f"no network namespace can be made here ({error}): nothing was counted")
        return subprocess.run(command).returncode
    start = _count()
    code, now = subprocess.run(command).returncode, _count()
    counted = None if start is None or now is None else now - start
    print(Attempts(mode="namespace", counted=counted, tried=()))
    return code or int(bool(counted))


def _main(action: str, *arguments: str) -> None:
    if action == "alone":
        sys.exit(_alone(arguments))
    if action == "run":
        _guard()
        sys.argv = list(arguments)
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        return
    os.environ[MODE] = "namespace"
    try:
        _unshare()
    except OSError:
        os.environ[MODE] = "guard"
    count = _count()
    os.environ[START] = "" if count is None else str(count)
    os.execv(sys.executable, [sys.executable, "-P", "-m", "factory", *arguments])


if __name__ == "__main__":
    _main(*sys.argv[1:])
