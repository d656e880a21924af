#!/usr/bin/env bash
# Asks a server of its own everything that its OpenAPI document allows and much that it does not, in a fixed order
# (schemathesis, from PyPI): no answer may be a 5xx or one that the document does not name, and none may be given
# without the key that it needs.
#
#   scripts/fuzz-api.sh [EXAMPLES]    examples of an operation and phase; 20, the default, are over 2,000 requests, 300 over 20,000
#
# HANDCLIP is the binary (default target/release/handclip).
set -euo pipefail
cd "$(dirname "$0")/.."

examples=${1:-20}
handclip=${HANDCLIP:-target/release/handclip}
tools=target/fuzz-api
if [ ! -x "$tools/bin/schemathesis" ]; then
    python3 -m venv "$tools"
    "$tools/bin/pip" install --quiet "schemathesis==4.32.5"
fi

data=$(mktemp -d)
trap 'kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; rm -rf "$data"' EXIT
token=$("$handclip" keys create --data-dir "$data/store" --name fuzz --scope admin 2>/dev/null)
"$handclip" serve --data-dir "$data/store" --listen 127.0.0.1:0 --max-upload-bytes 1048576 \
    >"$data/address" 2>"$data/log" &
server=$!
for _ in $(seq 100); do
    grep -q listening "$data/address" && break
    sleep 0.1
done
url=$(sed 's/^listening on //' "$data/address")
for gallery in 0 g1; do
    curl --silent --show-error --fail -o /dev/null "$url/v1/galleries" \
        -H "authorization: Bearer $token" -H 'content-type: application/json' -d "{\"id\":\"$gallery\"}"
done

# Keys are left alone, so that the one that asks is not revoked on the way; uploads are archives, which it cannot write.
"$tools/bin/schemathesis" run "$url/openapi.json" --seed 7 --max-examples "$examples" \
    --generation-database none --no-color --warnings off \
    --checks not_a_server_error,status_code_conformance,content_type_conformance,response_headers_conformance,response_schema_conformance,ignored_auth,unsupported_method,allow_header_conformance,missing_required_header,use_after_free \
    --exclude-path-regex '^/v1/(keys/|datasets$)' \
    -H "Authorization: Bearer $token"

if grep -q 'panicked' "$data/log"; then
    echo "the server panicked:" >&2
    grep -m 5 'panicked' "$data/log" >&2
    exit 1
fi
kill -TERM "$server"
wait "$server" || { echo "the server did not stop in good order" >&2; exit 1; }
