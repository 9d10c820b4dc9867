#!/usr/bin/env bash
# Asks a public advisory service about every package in the lock. `make audit` calls it; PIP_AUDIT names another auditor.
# Known vulnerabilities fail it. Where the service cannot be reached it says so, proves nothing, and passes: a build
# behind a wall must not depend on it.
set -euo pipefail
cd "$(dirname "$0")/.."

answer=$(mktemp -d)
trap 'rm -rf "$answer"' EXIT
locks=(-r requirements/lock.txt -r requirements/bootstrap.txt)

status=0
"${PIP_AUDIT:-.venv/bin/pip-audit}" --vulnerability-service osv --disable-pip --require-hashes --timeout 15 \
    --progress-spinner off --format json --output "$answer/found.json" "${locks[@]}" \
    >"$answer/out" 2>"$answer/err" || status=$?

if ((status == 0)); then
    echo "audit: no known vulnerability in any package of the lock"
elif [[ -s $answer/found.json ]]; then
    python3 - "$answer/found.json" >&2 <<'PYTHON'
import json, sys
for package in json.load(open(sys.argv[1]))["dependencies"]:
    for flaw in package.get("vulns", ()):
        mended = ", ".join(flaw["fix_versions"]) or "no version yet"
        print(f"audit: {package['name']} {package['version']}: {flaw['id']}, mended by {mended}")
PYTHON
    echo "audit: FAILED, there are known vulnerabilities; run make lock" >&2
    exit 1
elif grep -qE 'ConnectionError|ServiceError|Timeout|NameResolution|ProxyError|SSLError' "$answer/err"; then
    echo "audit: could not reach the advisory service, so nothing was proved"
else
    cat "$answer/out" "$answer/err" >&2
    echo "audit: FAILED, the auditor itself did" >&2
    exit 1
fi
