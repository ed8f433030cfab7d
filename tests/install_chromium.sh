#!/usr/bin/env bash
# Make sure that a chromium is here for the tests of the site: found, or on Debian (as root) installed.
# Where neither works this says so and leaves with 0, and the tests that need it are skipped (they fail if CI is set).
set -uo pipefail

for name in "${CHROMIUM:-}" chromium-headless-shell chromium chromium-browser google-chrome; do
  if [ -n "$name" ] && command -v "$name" >/dev/null; then
    exit 0
  fi
done
if command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
  echo "eelit: installing chromium, for the tests of the site (about 100 MB)" >&2
  export DEBIAN_FRONTEND=noninteractive
  # The one without windows takes a third of the time to open a page; not every release has it.
  apt-get update -qq && for name in chromium-headless-shell chromium; do
    apt-get install -y -qq --no-install-recommends "$name" >/dev/null && exit 0
  done
fi
echo "eelit: no chromium here and none could be installed: the browser tests are skipped; set CHROMIUM to its path" >&2
