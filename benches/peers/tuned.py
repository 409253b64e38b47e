#!/usr/bin/env python3
"""Builds what ships: profile `dist`, optimised by a profile of Sidestep's own traffic. Prints the path of the program.

A first build counts which ways its code takes while it serves half a minute of JSON, streams, 429s, long prompts, TLS
and HTTP/2 on 127.0.0.1; the compiler then lays the ways that requests take side by side, and keeps the rest small.
"""

import argparse
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile

from load import Tool
from machine import STARTED, install, note, stop
from proxies import UPSTREAM_KEY, Layout, Sidestep

ROOT = pathlib.Path(__file__).resolve().parents[2]
TARGET = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")).resolve()
# Of all LLVMs in Debian the one whose profiles have the format of rustc 1.95's (LLVM 22), which is version 10.
DEBIANS = "llvm-profdata-19"


def cargo(profile, *what, folder=TARGET, flags="", triple=None):
    """Builds; the folder where the programs are."""
    environment = {**os.environ, "CARGO_TARGET_DIR": str(folder)}
    command = ["cargo", "build", "--quiet", "--locked", "--profile", profile, *what]
    if triple:
        # Named, so that the flags are not those of build scripts too.
        command += ["--target", triple]
        environment["RUSTFLAGS"] = f"{os.environ.get('RUSTFLAGS', '')} {flags}".strip()
    if subprocess.run(command, cwd=ROOT, env=environment, stdout=sys.stderr).returncode != 0:
        raise SystemExit("the build failed")
    return folder / (triple or "") / ("debug" if profile == "dev" else profile)


def build(profile):
    # Not in one build with the load: that wants more of tokio, and the program would get it too.
    return str(cargo(profile, "--bin", "sidestep") / "sidestep")


def load_program(profile):
    return str(cargo(profile, "--example", "peers_load") / "examples" / "peers_load")


def merge(counted, profile):
    sysroot = pathlib.Path(subprocess.check_output(["rustc", "--print", "sysroot"], text=True).strip())
    program = next(map(str, sysroot.glob("lib/rustlib/*/bin/llvm-profdata")), None)
    if not program:
        install({DEBIANS: "llvm-19"})
        program = shutil.which(DEBIANS)
    raw = sorted(counted.glob("*.profraw"))
    if not raw:
        raise SystemExit("the counting build wrote no profile")
    subprocess.run([program, "merge", "--output", profile, *raw], check=True, stdout=sys.stderr)


def train(program, folder):
    """Serves what callers ask for, in about the shares in which they do."""
    tool = Tool(load_program("dev"), folder)
    tool.run("certificate", 0, 1, folder=folder / "tls")
    pair = {name: str(folder / "tls" / f"{name}.pem") for name in ["certificate", "key"]}
    callers_tls = 'tls = {{ certificate = "{certificate}", key = "{key}" }}'.format(**pair)
    upstream = {"core": None}
    ports = tool.upstream(8, **upstream)
    some_throttled = tool.upstream(8, throttled=2, retry_after_ms=200, **upstream)
    over_tls = tool.upstream(2, tls=True, **upstream)

    def peer(ports, **layout):
        return Sidestep(folder, Layout(ports, core=None, **layout), program)

    def serve(peer):
        for seconds, mode, options in [
            (3, "load", {"connections": 64}),
            (2, "load", {"connections": 8, "rate": 200, "bytes": 6_000}),
            (2, "stream", {"connections": 50}),
        ]:
            report = tool.run(mode, peer.port, seconds, core=None, **options)
            if report["statuses"].keys() != {"200"}:
                raise SystemExit(f"in training: {report}\n{(peer.folder / 'error.log').read_text()}")

    trust = {"authority": tool.authority()}
    # The second of a chain is the only one here that speaks TLS, or HTTP/2, to its callers.
    second = peer(ports, server=callers_tls, caller=UPSTREAM_KEY)
    for first in [
        peer(ports),
        peer(some_throttled),
        peer(over_tls, **trust),
        peer([second.port], **trust),
        peer([second.port], backend="http2 = true", **trust),
    ]:
        serve(first)
        first.stop()
    second.stop()
    prompts = peer(ports, large=True)
    tool.run("load", prompts.port, 2, core=None, connections=4, bytes=100_000)
    prompts.stop()
    for process in STARTED:
        stop(process)


def tuned(static):
    version = subprocess.check_output(["rustc", "-vV"], text=True)
    triple = next(line.split()[1] for line in version.splitlines() if line.startswith("host:"))
    flags = "-C target-feature=+crt-static" if static else ""
    counting, shipping = (TARGET / f"{name}{'-static' if static else ''}" for name in ["counting", "tuned"])
    # Cargo does not see that a profile is another one, and would keep what was built by the last.
    shutil.rmtree(shipping, ignore_errors=True)
    shipping.mkdir(parents=True)
    profile = shipping / "sidestep.profdata"
    with tempfile.TemporaryDirectory(prefix="training-") as scratch:
        scratch = pathlib.Path(scratch)
        note("building what counts")
        # The same flags each time, so that a second build need not begin anew; the variable below says where to.
        counts = f"{flags} -C profile-generate=/nonexistent"
        program = cargo("dist", "--bin", "sidestep", folder=counting, flags=counts, triple=triple) / "sidestep"
        note("training")
        os.environ["LLVM_PROFILE_FILE"] = str(scratch / "counted" / "%p.profraw")
        train(program, scratch)
        merge(scratch / "counted", profile)
    note("building what ships")
    uses = f"{flags} -C profile-use={profile}"
    return str(cargo("dist", "--bin", "sidestep", folder=shipping, flags=uses, triple=triple) / "sidestep")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--static", action="store_true", help="needs nothing else to run, not even a C library")
    print(tuned(parser.parse_args().static))
