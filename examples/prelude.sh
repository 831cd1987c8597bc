# For the commands in the examples and guides: `as NAME ROLE URL [curl's options]` calls the API in somebody's name, and
# `id` picks the id from an answer. Source it from the project's root, with the virtual environment's bin on PATH, in any
# shell that POSIX would know.

export HOLDFAST_URL=${HOLDFAST_URL:-http://127.0.0.1:8000}

as() {
  bearer=$(holdfast token --sub "$1" --role "$2") || return
  shift 2
  curl --fail-with-body -sS -w '\n' -H "Authorization: Bearer $bearer" -H 'Content-Type: application/json' "$@"
}

id() {
  python3 -c '
import json, sys
said = sys.stdin.read()
try:
    print(json.loads(said)["id"])
except (ValueError, KeyError, TypeError):
    sys.exit("there is no id in the answer: " + (said.strip() or "it is empty"))'
}
