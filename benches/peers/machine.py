"""What is measured of processes, and how they are started and ended."""

import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import time

TICK = os.sysconf("SC_CLK_TCK")
STARTED = []
SEARCH = os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def note(text):
    print(text, file=sys.stderr, flush=True)


def free_ports(count):
    sockets = [socket.socket() for _ in range(count)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports


def start(command, core, **more):
    """On these cores; `None`: on any. What it prints goes nowhere, unless told: who reads our output reads ours only."""
    more.setdefault("stdout", subprocess.DEVNULL)
    pinned = ["taskset", "-c", core] if core else []
    process = subprocess.Popen([*pinned, *map(str, command)], stdin=subprocess.DEVNULL, **more)
    STARTED.append(process)
    return process


def stop(process, patience=2):
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(patience)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def await_port(port, process):
    for _ in range(5000):
        if process.poll() is not None:
            raise SystemExit(f"{process.args} ended with {process.returncode} before it listened")
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.001)
    raise SystemExit(f"{process.args} never listened on {port}")


def install(commands):
    missing = [package for command, package in commands.items() if not shutil.which(command, path=SEARCH)]
    if missing:
        note(f"installing {' '.join(missing)}")
        # Debian starts a freshly installed nginx; RUNLEVEL=1 tells its script that this is not the moment.
        quiet = {"stdout": subprocess.DEVNULL, "env": {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}}
        apt = [*([] if os.geteuid() == 0 else ["sudo", "--preserve-env=DEBIAN_FRONTEND,RUNLEVEL"]), "apt-get"]
        subprocess.run([*apt, "update", "-qq"], check=True, **quiet)
        subprocess.run([*apt, "install", "-qq", "-y", "--no-install-recommends", *missing], check=True, **quiet)


def processes(pid):
    """A process and its descendants."""
    found = [pid]
    for task in pathlib.Path(f"/proc/{pid}/task").glob("*/children"):
        for child in task.read_text().split():
            found += processes(int(child))
    return found


def cpu_seconds(pid):
    """User and system time of a process and its children, in seconds."""
    user = system = 0
    for each in processes(pid):
        fields = pathlib.Path(f"/proc/{each}/stat").read_text().rsplit(")", 1)[1].split()
        user, system = user + int(fields[11]), system + int(fields[12])
    return user / TICK, system / TICK


def resident_kib(pid):
    return sum(
        int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{each}/status").read_text())[1]) for each in processes(pid)
    )


def wake_ups(pid):
    """How often all threads of a process and its children went to sleep so far."""
    total = 0
    for each in processes(pid):
        for task in pathlib.Path(f"/proc/{each}/task").iterdir():
            total += int(re.search(r"\nvoluntary_ctxt_switches:\s+(\d+)", (task / "status").read_text())[1])
    return total
