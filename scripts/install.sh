#!/usr/bin/env bash
# Installs this package with the versions of constraints.txt: [PYTHON=python3.12] scripts/install.sh FOLDER [EXTRA]
#
# FOLDER is the environment. It is made where it is missing or does not run, and made anew where PYTHON names another version.
# What has been done is not done again. Uses uv where it is there, else pip.
#
# Torch's ordinary build brings CUDA, 3 GB of it. Without an NVIDIA GPU, and for the tests (vLLM's CPU build wants it), torch's
# CPU build comes from PyTorch's own index. Where that does not answer, pip installs from wherever it is configured to.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=${1:?usage: scripts/install.sh FOLDER [EXTRA]}
extra=${2:-}
index=https://download.pytorch.org/whl/cpu
stamp=$folder/.ready${extra:+-to-$extra}
inputs=$(cat pyproject.toml constraints.txt scripts/install.sh | sha256sum)

say() { echo "install: $*" >&2; }
have() { command -v "$1" >/dev/null; }
version_of() { "$1" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null; }
answers() { "$folder/bin/python" -c 'import sys, urllib.request as u; u.urlopen(sys.argv[1], timeout=5)' "$1/" 2>/dev/null; }

make_environment() {
  if have uv; then
    uv venv --quiet --seed --clear --python "${PYTHON:->=3.11,<3.14}" "$folder"
    return
  fi
  for python in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    if [[ $(version_of "$python") =~ ^3\.1[123]$ ]]; then
      "$python" -m venv --clear "$folder"
      return
    fi
  done
  say "${PYTHON:-python3} is not Python 3.11, 3.12 or 3.13: set PYTHON to one, or install uv, which fetches one"
  exit 2
}

# The tests of pages drive a browser: the machine's own, Debian's where we may install it, or the one that playwright fetches.
ensure_browser() {
  have chromium || have google-chrome && return
  say "Chromium, for the tests of pages"
  [[ $(id -u) == 0 ]] && have apt-get && apt-get update -qq && apt-get install -y -qq chromium && return
  "$folder/bin/python" -m playwright install --only-shell chromium && return
  say "no browser for the tests of pages: install chromium or google-chrome, and start again"
  exit 2
}

there=$(version_of "$folder/bin/python" || true)
wanted=${PYTHON:+$(version_of "$PYTHON" || echo "${PYTHON#python}")}
if [[ -z $there ]]; then
  make_environment
elif [[ -n $wanted && $wanted != "$there" ]]; then
  say "$folder has Python $there and is rebuilt with $wanted"
  make_environment
elif [[ -f $stamp && $(<"$stamp") == "$inputs" ]]; then
  exit 0
fi

torch=cpu
[[ $extra != test ]] && nvidia-smi -L >/dev/null 2>&1 && torch=auto
what=(--constraint constraints.txt --editable ".${extra:+[$extra]}")
if ! answers "$index"; then
  say "$index does not answer: pip takes torch from where it is configured to${extra:+; .[$extra] wants the CPU build}"
elif have uv; then
  say "uv into $folder, torch's build: $torch"
  uv pip install --python "$folder/bin/python" --torch-backend "$torch" "${what[@]}"
  what=()
elif [[ $torch == cpu ]]; then
  say "pip into $folder, torch's CPU build from $index"
  what+=(--extra-index-url "$index")
else
  say "pip into $folder, torch with CUDA"
fi
if [[ ${#what[@]} -gt 0 ]]; then
  "$folder/bin/python" -m pip --version >/dev/null 2>&1 || "$folder/bin/python" -m ensurepip >/dev/null
  "$folder/bin/python" -m pip install "${what[@]}"
fi
if [[ $extra == test || $extra == benchmarks ]]; then
  say "lmms-eval without the packages that its tasks do not need"
  "$folder/bin/python" -m pip install --no-deps lmms-eval==0.7.3
fi
if [[ $extra == test ]]; then ensure_browser; fi
echo "$inputs" >"$stamp"
