#!/usr/bin/env bash
# A headless Chromium for the tests of the viewer, into a directory: tools/chromium/install.sh DIR
# It is taken apart from Debian's packages, so that nothing is installed on the machine and no rights are needed.
set -euo pipefail
cd "$(dirname "$0")/../.."
into=$(realpath -m "${1:?a directory}")
[ -e "$into/.ready" ] && exit 0

if ! command -v apt-get >/dev/null || ! command -v dpkg-deb >/dev/null; then
    echo 'Debian packages are needed (apt-get, dpkg-deb). Elsewhere install Chromium and set CHROMIUM to its path.' >&2
    exit 1
fi
rm -rf "$into"
mkdir -p "$into/packages" "$into/root" "$into/state/lists/partial"

# The lists of packages in a directory of our own: the system's may be missing, and only root can fetch them.
apt=(apt-get -qq -o "Dir::State::lists=$into/state/lists" -o "Dir::Cache=$into/state" -o APT::Sandbox::User="$(id -un)")
"${apt[@]}" update
# What is not on this machine, as a simulated installation tells it.
mapfile -t packages < <(
    "${apt[@]}" --simulate --no-install-recommends install chromium-headless-shell fonts-dejavu-core |
        sed -n 's/^Inst \([^ ]*\).*/\1/p'
)
# These even where they are installed: the browser looks for its data beside itself.
own=(chromium-headless-shell chromium-common fonts-dejavu-core)
mapfile -t packages < <(printf '%s\n' "${own[@]}" "${packages[@]}" | sed '/^$/d' | sort -u)
(cd "$into/packages" && "${apt[@]}" download "${packages[@]}")
for package in "$into"/packages/*.deb; do
    dpkg-deb --extract "$package" "$into/root"
done
rm -rf "$into/packages" "$into/state"

cat >"$into/fonts.conf" <<END
<?xml version="1.0"?>
<!DOCTYPE fontconfig SYSTEM "urn:fontconfig:fonts.dtd">
<fontconfig>
  <dir>$into/root/usr/share/fonts</dir>
  <cachedir>$into/fonts</cachedir>
</fontconfig>
END
cat >"$into/chromium" <<END
#!/bin/sh
export LD_LIBRARY_PATH="$(find "$into/root" -name '*.so*' -printf '%h\n' | sort -u | paste -sd:)"
export FONTCONFIG_FILE="$into/fonts.conf"
exec "$into/root/usr/lib/chromium/chromium-headless-shell" "\$@"
END
chmod +x "$into/chromium"
"$into/chromium" --version
touch "$into/.ready"
