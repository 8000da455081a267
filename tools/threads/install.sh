#!/usr/bin/env bash
# A free-threaded CPython 3.14 into a directory: tools/threads/install.sh DIR
# No package index has one, but Debian has the sources. They are compiled without optimising by profile: six minutes on two
# cores, 200 MB. Nothing is installed on the machine and no rights are needed.
set -euo pipefail
cd "$(dirname "$0")/../.."
into=$(realpath -m "${1:?a directory}")
source=python3.14
[ -e "$into/.ready" ] && exit 0

stop() {
    echo "$1. With an interpreter from elsewhere: make test-threads PYTHON=${source}t" >&2
    exit 1
}
for program in apt-get "${CC:-cc}" make; do
    command -v "$program" >/dev/null || stop "Debian is needed, with gcc and make: there is no $program"
done
for header in openssl/ssl.h ffi.h zlib.h; do
    "${CC:-cc}" -E -include "$header" -x c /dev/null >/dev/null 2>&1 ||
        stop "There is no $header: apt-get install libssl-dev libffi-dev zlib1g-dev"
done
rm -rf "$into"
mkdir -p "$into/state/lists/partial" "$into/source" "$into/build"

# Lists of our own: the system's name no sources, and stay as they are.
own=(-qq -o "Dir::State::lists=$into/state/lists" -o "Dir::Cache=$into/state" -o APT::Sandbox::User="$(id -un)")
apt-get "${own[@]}" update
mirror=$(apt-get "${own[@]}" indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | sed -n 1p)
[ -n "$mirror" ] || stop "No mirror of Debian is among the sources of apt"
keys=(/usr/share/keyrings/debian-archive-keyring.*)
printf "deb-src [signed-by=${keys[0]}] $mirror %s main\n" unstable testing >"$into/state/sources.list"
own+=(-o "Dir::Etc::sourcelist=$into/state/sources.list" -o Dir::Etc::sourceparts=-)
apt-get "${own[@]}" update

# The newest version that the mirror has: its list may be ahead of its files.
cd "$into/source"
for version in $(apt-cache "${own[@]}" showsrc --only-source $source | sed -n 's/^Version: //p' | sort -ruV); do
    apt-get "${own[@]}" source --download-only --only-source "$source=$version" 2>>"$into/apt.log" && break
done
compgen -G '*.orig.tar.*z' >/dev/null || { cat "$into/apt.log" >&2; stop "The sources of $source cannot be had"; }
tar -xf *.orig.tar.*z --strip-components=1 -C "$into/build"

cd "$into/build"
./configure --quiet --prefix="$into" --disable-gil --disable-test-modules >/dev/null
nice -n 10 make --silent -j"$(nproc)" install >"$into/build.log" 2>&1 ||
    { tail -n 20 "$into/build.log" >&2; stop "CPython was not built"; }
cd "$into"
rm -rf build source state
"bin/${source}t" -c 'import ctypes, ssl, sys, zlib; sys.exit(sys._is_gil_enabled())'
"bin/${source}t" -VV
touch .ready
