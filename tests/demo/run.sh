#!/bin/bash
# The demo, on a machine whose kernel can enforce, as root. Ends with 1 as soon as something is
# not as it says. `cargo xtask demo` runs it and sets:
#   DEMO       this directory, with the policies in $DEMO/policies
#   MCP_HOME   where node_modules with the packages from npm is
#   DEMO_OUT   where the trail is left, as audit.jsonl
# DEMO_USER names whom the servers run as: an ordinary user with a home directory.
set -euo pipefail
: "${DEMO:?}" "${MCP_HOME:?}" "${DEMO_OUT:?}"

fail() {
    printf '\nThe demo has failed: %s\n' "$*" >&2
    exit 1
}
heading() { printf '\n== %s\n' "$*"; }

[ "$(id -u)" = 0 ] || fail 'it must run as root, for that is who loads programs into the kernel'
user=${DEMO_USER:-${SUDO_USER:-user}}
entry=$(getent passwd "$user") || fail "there is no user $user: name one with DEMO_USER=NAME"
IFS=: read -r _ _ uid gid _ home _ <<<"$entry"
[ "$uid" != 0 ] || fail 'the servers must not run as root: name an ordinary user with DEMO_USER=NAME'
[ -d "$home" ] || fail "$user has no home directory at $home"

# A project with a secret in it, and a key in the home directory. Both belong to the user: nothing
# but guard's policy keeps them from what the user starts.
base=/srv/guard-demo
[ ! -e "$base" ] || fail "$base is in the way: remove it"
planted=()
tidy() { rm -rf "$base" "${planted[@]}"; }
trap tidy EXIT
mkdir -p "$base/project"
chmod 755 "$base"
printf '# Payments\nTakes orders, sends invoices.\n' >"$base/project/README.md"
printf 'API_TOKEN=tok-0123456789abcdef\n' >"$base/project/.env"
chown -R "$uid:$gid" "$base/project"
key=$home/.ssh/id_ed25519
# The control run, without guard, really reads and sends the key.
[ ! -e "$key" ] || fail "$user has a key of their own at $key, which the demo must not touch: name another user with DEMO_USER=NAME"
if [ ! -e "$home/.ssh" ]; then
    install -d -m 700 -o "$uid" -g "$gid" "$home/.ssh"
    planted+=("$home/.ssh")
fi
planted+=("$key")
printf 'a private key, for the demo\n' >"$key"
chown "$uid:$gid" "$key"
chmod 600 "$key"

trail=$DEMO_OUT/audit.jsonl
export DEMO_TRAIL=$trail DEMO_PROJECT=$base/project DEMO_KEY=$key DEMO_AS=$user
node "$DEMO/main.mjs" || fail 'see above'

heading 'The trail: what happened during which call'
COLUMNS=${COLUMNS:-130} guard audit --file "$trail" || fail 'guard audit cannot read the trail'

heading 'Is the trail intact?'
guard audit verify "$trail" || fail 'the trail is not accepted'

heading 'And a copy in which one byte was changed (.env has become .enw)?'
copy=$base/changed.jsonl
sed '0,/project\/\.env"/s//project\/.enw"/' "$trail" >"$copy"
changed=$(cmp -l "$trail" "$copy" | wc -l) || true
[ "$changed" = 1 ] || fail "the copy differs in $changed bytes, not in one"
if guard audit verify "$copy"; then
    fail 'the changed copy was accepted'
fi
printf '\nAll as it should be.\n'
