#!/bin/sh
# Emacs 28 with eglot (Debian 12's packages, installed) and Emacs 30 (its backports, unpacked into $1/emacs-30).
# What is there already is kept. Prints a reason and leaves the rest where one of them cannot be had.
set -eu
root=$1
mkdir -p "$root"

if ! command -v apt-get >/dev/null || [ "$(uname -m)" != x86_64 ]; then
    echo "Emacs is not installed here: it comes from Debian's packages for x86-64"
    exit 0
fi
# The packages' names are those of Debian 12; a suite has one version of each, so there is nothing to pin.
missing=
for package in emacs-nox elpa-eglot elpa-company elpa-package-lint tmux librsvg2-bin; do
    dpkg -s "$package" 2>/dev/null | grep -q '^Status: install ok' || missing="$missing $package"
done
if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ]; then
        # shellcheck disable=SC2086
        { apt-get -qq update && apt-get -qq -y --no-install-recommends install $missing >/dev/null; } ||
            echo "these packages cannot be had:$missing"
    else
        echo "these packages are for root to install:$missing"
    fi
fi

if [ ! -x "$root/emacs-30/emacs" ]; then
    rm -rf "$root/emacs-30"
    # The newer Emacs uses the machine's libraries but for this one, which Emacs 28 does not have.
    "$(dirname "$0")/unpack-debian.sh" "bookworm bookworm-backports" "$root/emacs-30/root" \
        emacs-nox emacs-el libtree-sitter0 ||
        { echo "Emacs 30 cannot be had"; rm -rf "$root/emacs-30"; exit 0; }
    cat >"$root/emacs-30/emacs" <<'WRAPPER'
#!/bin/sh
# Emacs 30, unpacked beside the machine's own and not installed.
root=$(dirname "$(readlink -f "$0")")/root
lisp=$(echo "$root"/usr/share/emacs/30.*/lisp)
version=$(basename "$(dirname "$lisp")")
export EMACSDATA="$root/usr/share/emacs/$version/etc" EMACSDOC="$root/usr/share/emacs/$version/etc"
export EMACSPATH="$root/usr/libexec/emacs/$version/x86_64-linux-gnu"
folders=$(find "$lisp" -type d ! -name obsolete ! -name term | tr '\n' ':')
export EMACSLOADPATH="${folders%:}:$root/usr/share/emacs/$version/site-lisp:/usr/share/emacs/site-lisp"
export LD_LIBRARY_PATH="$root/usr/lib/x86_64-linux-gnu-own${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}"
exec "$root/usr/bin/emacs-nox" --dump-file="$(ls "$EMACSPATH"/emacs-*.pdmp)" "$@"
WRAPPER
    chmod +x "$root/emacs-30/emacs"
    # Only libraries that the machine lacks: its own C library stays in use.
    mkdir -p "$root/emacs-30/root/usr/lib/x86_64-linux-gnu-own"
    cp -a "$root"/emacs-30/root/usr/lib/x86_64-linux-gnu/libtree-sitter.so* "$root/emacs-30/root/usr/lib/x86_64-linux-gnu-own/"
fi
for program in emacs "$root/emacs-30/emacs"; do
    "$program" --version 2>/dev/null | sed -n 1p || true
done
