#!/bin/sh
# Entry point of the image: `facemargin` with the arguments of the container. A password that only an environment
# variable can carry may come from a file, as container platforms give it: NAME_FILE names the file.
set -eu

for name in PGPASSWORD FACEMARGIN_MILVUS_TOKEN; do
    eval "file=\${${name}_FILE:-}"
    [ -n "$file" ] || continue
    if [ ! -f "$file" ] || [ ! -r "$file" ]; then
        echo "error: ${name}_FILE names $file, which is no file that user $(id -u) can read" >&2
        exit 2
    fi
    value=$(cat "$file")
    if [ -z "$value" ]; then
        echo "error: ${name}_FILE names $file, which is empty" >&2
        exit 2
    fi
    unset "${name}_FILE"
    export "$name=$value"
done

exec facemargin "$@"
