#!/bin/sh
# unpack-debian.sh SUITE FOLDER PACKAGE...: a package of another Debian suite with all it depends on, unpacked into FOLDER.
# SUITE may be several, as for backports ("bookworm bookworm-backports"): the last is preferred.
# Nothing is installed: apt works on a state of its own, with the mirror and keys of the machine's own sources.
set -eu
suites=$1
suite=${suites##* }
folder=$2
shift 2
source=$(grep -lsE '^(Suites:|deb )' /etc/apt/sources.list.d/debian.sources /etc/apt/sources.list.d/*.sources |
    xargs grep -lE '^Suites:.*(bookworm|trixie|stable)' | head -n 1)
[ -n "$source" ] || { echo "no Debian source is configured"; exit 1; }
mirror=$(sed -n 's/^URIs: *\([^ ]*\).*/\1/p' "$source" | head -n 1)
key=$(sed -n 's/^Signed-By: *//p' "$source" | head -n 1)
state=$(mktemp -d)
trap 'rm -rf "$state"' EXIT
mkdir -p "$state/lists/partial" "$state/cache/archives/partial" "$state/preferences"
: >"$state/status"
for each in $suites; do
    echo "deb ${key:+[signed-by=$key]} $mirror $each main"
done >"$state/sources.list"
apt() {
    apt-get -qq -y \
        -o Dir::Etc::SourceList="$state/sources.list" -o Dir::Etc::SourceParts=- \
        -o Dir::Etc::PreferencesParts="$state/preferences" -o Dir::State::Lists="$state/lists" \
        -o Dir::State::Status="$state/status" -o Dir::Cache="$state/cache" \
        -o APT::Install-Recommends=0 -o APT::Sandbox::User=root -o Debug::NoLocking=1 "$@"
}
apt update
apt -t "$suite" --download-only install "$@" >/dev/null
mkdir -p "$folder"
for package in "$state"/cache/archives/*.deb; do
    dpkg-deb -x "$package" "$folder"
done
