#!/bin/sh
# The drills at length: each under one seed, its table and its ledger kept in a folder of their own
# under loadtest/runs/. Fails if any promise was broken, but runs all of them first.
#
#   soak.sh BINARY [SEED]
set -u

binary=$1
seed=${2:-$(date +%s)}
runs=$(dirname "$0")/runs
date=$(date +%F)
folder=$runs/$date-soak
n=2
while [ -e "$folder" ]; do
    folder=$runs/$date-soak-$n
    n=$((n + 1))
done
mkdir -p "$folder" || exit 1

commit=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
if [ -n "$(git status --porcelain 2>/dev/null)" ]; then
    commit="$commit, with uncommitted changes"
fi
model=$(sed -n 's/^model name[^:]*: *//p' /proc/cpuinfo | head -n 1)

cat >"$folder/README.md" <<END
# $date, soak

- Commit: $commit
- Command: \`make soak SEED=$seed\`
- Machine: $(nproc) cores (${model:-of an unknown model}), Linux $(uname -r)
- \`*.json\`: the whole ledger of each drill, with every fault and every attempt that failed or took long.
END

failed=''
drill() {
    name=$1
    shift
    {
        printf '\n## %s\n\n`pointsman drill %s --seed %s`\n\n```\n' "$name" "$*" "$seed"
        "$binary" drill "$@" --seed "$seed" --save "$folder/$name.json" || failed="$failed $name"
        printf '```\n'
    } >>"$folder/README.md"
}

drill kill kill --count 1000
drill stop stop --count 200
drill healthy stop --healthy 600
drill restart restart --count 300
drill reload reload --count 300
drill upgrade upgrade --count 200
drill switch switch --count 2000

echo "$folder/README.md"
if [ -n "$failed" ]; then
    echo "promises were broken in:$failed" >&2
    exit 1
fi
