#!/usr/bin/env python3
"""Generates C from the WIT packages in wit/.

    bindgen.py --wit wit --out DIR            host: bindings.h bindings.c abi_names.h
    bindgen.py --guest --wit wit --out DIR    guest: astrid_host.h
    bindgen.py --unavailable PKG... --out DIR host: unavailable.c, honest answers of those packages
    bindgen.py [--guest] --list-outputs       file names only, for the build system
    bindgen.py --facts --wit wit              signatures and layouts as JSON

Exit status 1 and `file:line: message` when the input is wrong.
"""

import argparse
import json
import sys
from pathlib import Path

sys.dont_write_bytecode = True  # the source tree stays clean

from bindgen import abi, guest, host, unavailable, wit  # noqa: E402


def write(path, content):
    """Leaves an unchanged file alone, so that nothing is rebuilt for it."""
    if not path.exists() or path.read_text(encoding="utf-8") != content:
        path.write_text(content, encoding="utf-8")


def main(argv):
    parser = argparse.ArgumentParser(prog="bindgen.py")
    parser.add_argument("--wit", default="wit", help="folder with the packages")
    parser.add_argument("--out", default=".", help="folder for the output")
    parser.add_argument("--guest", action="store_true", help="write the guest header")
    parser.add_argument("--unavailable", nargs="+", metavar="PKG",
                        help="write the bodies of packages, or of interfaces (io/streams), that "
                             "this build does not offer")
    parser.add_argument("--list-outputs", action="store_true")
    parser.add_argument("--facts", action="store_true", help="print signatures and layouts")
    args = parser.parse_args(argv)

    side = guest if args.guest else host
    if args.list_outputs:
        print("\n".join(side.OUTPUTS))
        return 0
    try:
        packages = wit.load(args.wit)
        if args.facts:
            json.dump(abi.facts(packages), sys.stdout, indent=1)
            print()
            return 0
        files = unavailable.generate(packages, args.unavailable) if args.unavailable \
            else side.generate(packages)
    except wit.WitError as error:
        print(error, file=sys.stderr)
        return 1
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        write(out / name, content)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
