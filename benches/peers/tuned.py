#!/usr/bin/env python3
"""Builds what ships: profile `dist`, static, optimised by a profile of Sidestep's own traffic. Prints the program's path.

A first build counts which ways its code takes while it serves forty seconds of JSON, streams, 429s, long prompts, TLS and
HTTP/2 on 127.0.0.1; the compiler then lays the ways that requests take side by side, and the rest apart.
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


def cargo(profile, *what, folder=TARGET, flags=None):
    """Builds; the folder where the programs are. With `flags`: for this machine's target by name, so that they are not
    those of build scripts too."""
    environment, triple = {**os.environ, "CARGO_TARGET_DIR": str(folder)}, ""
    command = ["cargo", "build", "--quiet", "--locked", "--profile", profile, *what]
    if flags:
        version = subprocess.check_output(["rustc", "-vV"], text=True, cwd=ROOT)
        triple = next(line.split()[1] for line in version.splitlines() if line.startswith("host:"))
        command += ["--target", triple]
        # Not RUSTFLAGS: those are cut at spaces, and a path may have one.
        environment["CARGO_ENCODED_RUSTFLAGS"] = "\x1f".join([*os.environ.get("RUSTFLAGS", "").split(), *flags])
    if subprocess.run(command, cwd=ROOT, env=environment, stdout=sys.stderr).returncode != 0:
        raise SystemExit("the build failed")
    return folder / triple / ("debug" if profile == "dev" else profile)


def build(profile):
    # Not in one build with the load: that wants more of tokio, and the program would get it too.
    return str(cargo(profile, "--bin", "sidestep") / "sidestep")


def load_program(profile):
    return str(cargo(profile, "--example", "peers_load") / "examples" / "peers_load")


def merger():
    """The tool for profiles that belongs to the compiler, else Debian's."""
    sysroot = pathlib.Path(subprocess.check_output(["rustc", "--print", "sysroot"], text=True, cwd=ROOT).strip())
    own = next(map(str, sysroot.glob("lib/rustlib/*/bin/llvm-profdata")), None)
    if not own:
        install({DEBIANS: "llvm-19"})
    return own or shutil.which(DEBIANS)


class Training:
    """Ways that callers' traffic takes, each served by a process of its own, which writes down what it did as it ends."""

    def __init__(self, program, load, folder):
        self.program, self.tool, self.folder, self.served = program, Tool(load, folder), folder, 0

    def peer(self, ports, **layout):
        self.served += 1
        return Sidestep(self.folder, Layout(ports, core=None, **layout), self.program)

    def end(self, peer):
        # It drains first, and a machine that builds besides may be slow.
        stop(peer.process, patience=60)
        if code := peer.process.returncode:
            raise SystemExit(f"in training, ended with {code}:\n{(peer.folder / 'error.log').read_text()}")

    def serve(self, peer, *loads, expected=("200",)):
        for seconds, mode, options in loads:
            report = self.tool.run(mode, peer.port, seconds, core=None, **options)
            if tuple(report["statuses"]) != expected or report["broken"]:
                raise SystemExit(f"in training: {report}\n{(peer.folder / 'error.log').read_text()}")
        self.end(peer)

    def run(self):
        tool = self.tool
        tool.run("certificate", 0, 1, folder=self.folder / "tls")
        pair = ", ".join(f'{name} = "{self.folder}/tls/{name}.pem"' for name in ["certificate", "key"])
        upstream, trust = {"core": None}, {"authority": tool.authority()}
        ports, over_tls = tool.upstream(8, **upstream), tool.upstream(2, tls=True, **upstream)
        some, all_throttled = (tool.upstream(8, n, retry_after_ms=200, **upstream) for n in [2, 8])
        usual = [
            (3, "load", {"connections": 64}),
            (2, "load", {"connections": 8, "rate": 200, "bytes": 6_000}),
            (2, "stream", {"connections": 50}),
        ]
        self.serve(self.peer(ports), *usual)
        self.serve(self.peer(some), *usual)
        if not tool.counters(some[0])["throttled"]:
            raise SystemExit("in training: nobody was throttled")
        self.serve(self.peer(over_tls, **trust), *usual)
        # A chain's second is the only one here that speaks TLS, or HTTP/2, to its callers.
        second = self.peer(ports, server=f"tls = {{ {pair} }}", caller=UPSTREAM_KEY)
        for backend in ["", "http2 = true"]:
            self.serve(self.peer([second.port], backend=backend, **trust), *usual)
        self.end(second)
        self.serve(self.peer(ports, large=True), (2, "load", {"connections": 4, "bytes": 100_000}))
        self.serve(self.peer(all_throttled), (1, "load", {"connections": 8, "rate": 500}), expected=("429",))


def trained(program, load, scratch):
    """The folder with what the processes wrote down."""
    counted = scratch / "counted"
    training = Training(program, load, scratch)
    os.environ["LLVM_PROFILE_FILE"] = f"{counted}/%p.profraw"
    try:
        training.run()
    finally:
        del os.environ["LLVM_PROFILE_FILE"]
        for process in STARTED:
            stop(process)
    found = len(list(counted.glob("*.profraw")))
    if found != training.served:
        raise SystemExit(f"{training.served} processes served in training, and {found} wrote down what they did")
    return counted


def tuned():
    merge, static = merger(), ["-C", "target-feature=+crt-static"]
    counting, shipping = TARGET / "counting", TARGET / "tuned"
    # Cargo does not see that a profile is another one, and would keep what was built by the last.
    shutil.rmtree(shipping, ignore_errors=True)
    shipping.mkdir(parents=True)
    profile = shipping / "sidestep.profdata"
    with tempfile.TemporaryDirectory(prefix="training-") as scratch:
        scratch = pathlib.Path(scratch)
        note("building what counts")
        # The same flags each time, so that a second build need not begin anew: the variable above says where to.
        counts = [*static, "-C", f"profile-generate={counting}/unused"]
        program = cargo("dist", "--bin", "sidestep", folder=counting, flags=counts) / "sidestep"
        load = load_program("dev")
        note("training")
        counted = trained(program, load, scratch)
        if subprocess.run([merge, "merge", "--output", profile, counted], stdout=sys.stderr).returncode != 0:
            raise SystemExit(f"{merge} cannot read this compiler's profiles; `rustup component add llvm-tools` brings its own")
    note("building what ships")
    uses = [*static, "-C", f"profile-use={profile}"]
    return str(cargo("dist", "--bin", "sidestep", folder=shipping, flags=uses) / "sidestep")


if __name__ == "__main__":
    argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter).parse_args()
    print(tuned())
