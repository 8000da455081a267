#!/usr/bin/env bash
# A free-threaded CPython 3.14 into a directory: tools/threads/install.sh DIR
# No package index has one, but Debian has the sources. They are compiled without optimising by profile: six minutes on two
# cores, 200 MB. Nothing is installed on the machine and no rights are needed.
set -euo pipefail
cd "$(dirname "$0")/../.."
into=$(realpath -m "${1:?a directory}")
source=python3.14
advice="With an interpreter from elsewhere: make test-threads PYTHON=${source}t"
[ -e "$into/.ready" ] && exit 0
. tools/threads/debian.sh

for program in "${CC:-cc}" make; do
    command -v "$program" >/dev/null || stop "There is no $program: apt-get install gcc make. $advice"
done
for header in openssl/ssl.h ffi.h zlib.h; do
    "${CC:-cc}" -E -include "$header" -x c /dev/null >/dev/null 2>&1 ||
        stop "There is no $header: apt-get install libssl-dev libffi-dev zlib1g-dev. $advice"
done
rm -rf "$into"
mkdir -p "$into/source" "$into/build"
debian "$into/state" deb-src unstable testing

# The newest version that the mirror has: its list may be ahead of its files.
cd "$into/source"
for version in $(apt-cache "${own[@]}" showsrc --only-source $source | sed -n 's/^Version: //p' | sort -ruV); do
    apt-get "${own[@]}" source --download-only --only-source "$source=$version" 2>>"$into/apt.log" && break
done
compgen -G '*.orig.tar.*z' >/dev/null || { cat "$into/apt.log" >&2; stop "The sources of $source cannot be had. $advice"; }
tar -xf *.orig.tar.*z --strip-components=1 -C "$into/build"

cd "$into/build"
./configure --quiet --prefix="$into" --disable-gil --disable-test-modules >/dev/null
nice -n 10 make --silent -j"$(nproc)" install >"$into/build.log" 2>&1 ||
    { tail -n 20 "$into/build.log" >&2; stop "CPython was not built. $advice"; }
cd "$into"
rm -rf build source state
"bin/${source}t" -c 'import ctypes, ssl, sys, zlib; sys.exit(sys._is_gil_enabled())'
"bin/${source}t" -VV
touch .ready
