# Sourced by local.sh and test.sh. `make_venv EXTRAS [REQUIREMENT]` makes or reuses .venv in the repository, installs this
# package there with those extras (the one requirement before it), and puts its python first on PATH.
# .venv is made anew when setup.cfg or the interpreter changes. PYTHON names the interpreter.

die() { printf 'jaxdreamer: %s\n' "$*" >&2; exit 1; }

make_venv() {
  local extras=$1 first=${2:-} python=${PYTHON:-python3} root venv made
  root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
  venv=$root/.venv
  command -v "$python" >/dev/null || die "no '$python' here; install Python 3.11 or later, or set PYTHON=/path/to/python3.11"
  "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
    die "$("$python" --version 2>&1) is too old: Python 3.11 or later is needed (set PYTHON=/path/to/python3.11)"
  "$python" -c 'import venv, ensurepip' 2>/dev/null ||
    die "'$python' cannot make virtual environments (on Debian and Ubuntu: apt install python3-venv)"

  made=$venv/made-from-$("$python" -c 'import hashlib, sys
print(hashlib.sha256("\n".join([open(sys.argv[1]).read(), *sys.argv, sys.version]).encode()).hexdigest()[:16])' "$root/setup.cfg")
  if [ ! -d "$made" ]; then
    if [ -e "$venv" ] && ! compgen -G "$venv/made-from-*" >/dev/null; then
      die "$venv is not this script's: move it away, or use it (pip install -e ., then python -m jaxdreamer.train)"
    fi
    "$python" -m venv --clear "$venv" || die "could not make $venv"
    mkdir "$made"
  fi
  if [ ! -e "$made/plain$extras" ]; then
    printf 'jaxdreamer: installing into %s (some minutes, once)\n' "$venv"
    if [ -n "$first" ]; then "$venv/bin/python" -m pip install --quiet "$first"; fi
    "$venv/bin/python" -m pip install --quiet --editable "$root$extras" || die "the installation failed; see pip's words above"
    touch "$made/plain$extras"
  fi
  export PATH="$venv/bin:$PATH"
}
