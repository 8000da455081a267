# To be sourced. `debian STATE TYPE SUITE...` gives apt lists of its own, of these suites of Debian, in the directory STATE: from
# then on `apt-get "${own[@]}"` reads them. The lists of the system stay as they are. `stop` ends the script with advice.
# shellcheck shell=bash

stop() {
    echo "$1" >&2
    exit 1
}

debian() {
    local state=$1 type=$2 mirror keys
    shift 2
    command -v apt-get >/dev/null || stop "Debian is needed: there is no apt-get. $advice"
    mkdir -p "$state/lists/partial"
    own=(-qq -o "Dir::State::lists=$state/lists" -o "Dir::Cache=$state" -o APT::Sandbox::User="$(id -un)")
    apt-get "${own[@]}" update
    # The mirror that the system uses.
    mirror=$(apt-get "${own[@]}" indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Label: Debian' | sed -n 1p)
    [ -n "$mirror" ] || stop "No mirror of Debian is among the sources of apt. $advice"
    keys=(/usr/share/keyrings/debian-archive-keyring.*)
    printf "$type [signed-by=${keys[0]}] $mirror %s main\n" "$@" >"$state/sources.list"
    own+=(-o "Dir::Etc::sourcelist=$state/sources.list" -o Dir::Etc::sourceparts=-)
    apt-get "${own[@]}" update
}
