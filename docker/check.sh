#!/usr/bin/env bash
# Everything that can be checked of docker/ without a Docker engine; ends with 0 only where all of it was checked.
#
#   sudo docker/check.sh [WORK]          WORK: kept between calls, see clean_root.sh
#
# 1. tests/docker: hadolint, compose's schema, promtool (configuration, rules, the rules' tests), shellcheck, metric names.
# 2. clean_root.sh: the Dockerfile's steps in a clean root, and its server started there.
# Debian: apt-get install prometheus shellcheck buildah debootstrap curl. Python: the extra "docker".
set -euo pipefail
cd "$(dirname "$0")/.."
python=python3
[ ! -x .venv/bin/python ] || python=.venv/bin/python

# A skipped test is a check that was not made.
said=$("$python" -m pytest tests/docker -rs 2>&1) || { echo "$said"; exit 1; }
echo "$said"
if grep --quiet '^SKIPPED' <<<"$said"; then
    echo "check: a tool is missing, see above" >&2
    exit 1
fi
docker/clean_root.sh "$@"
