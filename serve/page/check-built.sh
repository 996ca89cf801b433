#!/usr/bin/env bash
# Fails unless `dist` is exactly what the sources build.
set -euo pipefail
cd "$(dirname "$0")"

fresh=$(mktemp -d)
trap 'rm -rf "$fresh"' EXIT
node scripts/build.mjs "$fresh/dist"
if ! diff -r dist "$fresh/dist" > /dev/null; then
    echo "serve/page/dist differs from its sources: run \`npm ci && npm run build\` in serve/page and commit dist" >&2
    exit 1
fi
